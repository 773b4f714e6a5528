"""The schema, one numbered file a version; `PRAGMA user_version` says how many are applied."""
