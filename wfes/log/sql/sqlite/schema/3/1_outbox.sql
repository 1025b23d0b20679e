-- Commands that callers commit with rows of their own, until they are appended; and those that were refused then.
CREATE TABLE wfes_outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    command TEXT NOT NULL,
    content BLOB,
    refused TEXT
)
