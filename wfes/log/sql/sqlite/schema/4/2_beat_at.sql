ALTER TABLE wfes_workers ADD COLUMN beat_at BIGINT
