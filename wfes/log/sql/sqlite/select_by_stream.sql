SELECT originator_id, originator_version, topic, state, notification_id
FROM wfes_events
WHERE (originator_id, originator_version) > (:stream, :version)
ORDER BY originator_id, originator_version
LIMIT :limit
