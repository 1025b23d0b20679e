SELECT greatest((SELECT max(notification_id) FROM wfes_events), position), changes,
    EXISTS (SELECT 1 FROM wfes_outbox WHERE refused IS NULL)
FROM wfes_head
