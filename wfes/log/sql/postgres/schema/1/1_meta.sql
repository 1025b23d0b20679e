-- What this log is: the version of its schema.
CREATE TABLE wfes_meta (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
)
