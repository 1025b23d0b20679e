INSERT INTO wfes_blobs (sha256, content) VALUES (%s, %b) ON CONFLICT (sha256) DO NOTHING
