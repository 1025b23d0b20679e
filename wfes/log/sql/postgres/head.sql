SELECT greatest((SELECT max(notification_id) FROM wfes_events), position), changes FROM wfes_head
