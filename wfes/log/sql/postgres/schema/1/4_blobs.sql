-- Large values by the SHA-256 of their content.
CREATE TABLE wfes_blobs (
    sha256 TEXT COLLATE "C" PRIMARY KEY,
    content BYTEA NOT NULL
)
