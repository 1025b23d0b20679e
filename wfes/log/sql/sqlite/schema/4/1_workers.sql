CREATE TABLE IF NOT EXISTS wfes_workers (
    id TEXT PRIMARY KEY,
    name TEXT,
    host TEXT NOT NULL,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    beat BIGINT NOT NULL,
    locked BIGINT NOT NULL,
    code TEXT NOT NULL
)
