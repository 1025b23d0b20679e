-- Commands that callers commit with rows of their own, until they are appended; and those that were refused then.
CREATE TABLE wfes_outbox (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    command TEXT NOT NULL,
    content BYTEA,
    refused TEXT
)
