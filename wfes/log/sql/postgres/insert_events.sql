INSERT INTO wfes_events (notification_id, originator_id, originator_version, topic, state)
SELECT * FROM unnest(%b::bigint[], %b::text[], %b::bigint[], %b::text[], %b::bytea[])
