SELECT originator_id, originator_version, topic, state, notification_id
FROM wfes_events
WHERE originator_id = :stream
  AND originator_version > coalesce(:gt, 0)
  AND originator_version <= coalesce(:lte, 9223372036854775807)
ORDER BY originator_version DESC
LIMIT coalesce(:limit, -1)
