-- AUTOINCREMENT: a position is never used again, whatever is deleted or vacuumed.
CREATE TABLE wfes_events (
    notification_id INTEGER PRIMARY KEY AUTOINCREMENT,
    originator_id TEXT NOT NULL,
    originator_version INTEGER NOT NULL,
    topic TEXT NOT NULL,
    state BLOB NOT NULL
)
