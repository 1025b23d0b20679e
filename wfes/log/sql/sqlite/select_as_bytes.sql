SELECT CAST(stored.originator_id AS BLOB), stored.originator_version, CAST(stored.topic AS BLOB),
    CAST(stored.state AS BLOB), stored.notification_id,
    CAST(entry.originator_id AS BLOB), entry.originator_version
FROM wfes_events AS entry INDEXED BY wfes_streams
CROSS JOIN wfes_events AS stored NOT INDEXED ON stored.notification_id = entry.notification_id
WHERE (entry.originator_id, entry.originator_version) > (:stream, :version)
ORDER BY entry.originator_id, entry.originator_version
LIMIT 1
