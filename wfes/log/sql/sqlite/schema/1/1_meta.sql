-- What this log is: the version of its schema, the versions of the inline projections.
CREATE TABLE IF NOT EXISTS wfes_meta (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID
