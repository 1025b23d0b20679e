INSERT INTO wfes_blobs (sha256, content) VALUES (?, ?) ON CONFLICT (sha256) DO NOTHING
