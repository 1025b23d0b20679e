-- Large values by the SHA-256 of their content.
CREATE TABLE wfes_blobs (
    sha256 TEXT PRIMARY KEY NOT NULL,
    content BLOB NOT NULL
)
