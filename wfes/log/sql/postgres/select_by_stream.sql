SELECT originator_id, originator_version, topic, state, notification_id
FROM wfes_events
WHERE (originator_id, originator_version) > (%(stream)s, %(version)s)
ORDER BY originator_id, originator_version
LIMIT %(limit)s
