-- The lock of optimistic concurrency: the second insert of a version fails.
CREATE UNIQUE INDEX wfes_streams ON wfes_events (originator_id, originator_version)
