SELECT originator_id, originator_version, topic, state, notification_id
FROM wfes_events
WHERE notification_id >= %(start)s
  AND notification_id <= %(stop)s
ORDER BY notification_id
LIMIT %(limit)s
