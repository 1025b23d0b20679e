INSERT INTO wfes_events (notification_id, originator_id, originator_version, topic, state)
VALUES (?, ?, ?, ?, ?)
