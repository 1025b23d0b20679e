SELECT CAST(originator_id AS BLOB), originator_version, CAST(topic AS BLOB), CAST(state AS BLOB), notification_id
FROM wfes_events
WHERE (originator_id, originator_version) > (:stream, :version)
ORDER BY originator_id, originator_version
LIMIT 1
