INSERT INTO wfes_outbox (kind, id, at, command, content) VALUES (?, ?, ?, ?, ?)
