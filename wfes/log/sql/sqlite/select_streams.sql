SELECT notification_id, originator_id, originator_version, topic, state
FROM wfes_events
WHERE originator_id IN (SELECT value FROM json_each(?))
ORDER BY originator_id, originator_version
