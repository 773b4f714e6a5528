-- What keys and calls determine the ids of was once all of 64 and 128 bits; Restate's clients cannot read the largest of
-- those. A file that has such ids keeps deriving them as before: its keys name what they named.
INSERT INTO meta (name, value)
SELECT 'full_ids', 1 WHERE EXISTS (SELECT 1 FROM _invocations WHERE substr(id, 6, 1) >= 'A' OR substr(id, 17, 1) >= '7');
