-- Of what was restarted as new: the id that the first of its restarts had, or NULL.
ALTER TABLE _invocations ADD COLUMN origin TEXT;
