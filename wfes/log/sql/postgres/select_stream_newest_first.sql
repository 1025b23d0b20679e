SELECT originator_id, originator_version, topic, state, notification_id
FROM wfes_events
WHERE originator_id = %(stream)s
  AND originator_version > %(gt)s
  AND originator_version <= %(lte)s
ORDER BY originator_version DESC
LIMIT %(limit)s
