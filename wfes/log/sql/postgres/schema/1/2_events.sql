-- Positions are given by whoever holds the write lock, so that they are in the order of commits and without gaps.
CREATE TABLE wfes_events (
    notification_id BIGINT PRIMARY KEY,
    originator_id TEXT COLLATE "C" NOT NULL,
    originator_version BIGINT NOT NULL,
    topic TEXT COLLATE "C" NOT NULL,
    state BYTEA NOT NULL
)
