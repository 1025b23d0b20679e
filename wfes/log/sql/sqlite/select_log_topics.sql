SELECT originator_id, originator_version, topic, state, notification_id
FROM wfes_events
WHERE notification_id >= :start
  AND notification_id <= coalesce(:stop, 9223372036854775807)
  AND topic IN (SELECT value FROM json_each(:topics))
ORDER BY notification_id
LIMIT :limit
