SELECT notification_id, originator_id, originator_version, topic, state
FROM wfes_events
WHERE originator_id = ANY(%(streams)s::text[])
ORDER BY originator_id, originator_version
LIMIT %(limit)s
