SELECT stored.originator_id, stored.originator_version, stored.topic, stored.state, stored.notification_id,
    entry.originator_id, entry.originator_version
FROM wfes_events AS entry INDEXED BY wfes_streams
CROSS JOIN wfes_events AS stored NOT INDEXED ON stored.notification_id = entry.notification_id
WHERE (entry.originator_id, entry.originator_version) > (:stream, :version)
ORDER BY entry.originator_id, entry.originator_version
LIMIT :limit
