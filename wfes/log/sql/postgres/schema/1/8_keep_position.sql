-- A position is never used again, whoever deletes the newest events.
CREATE FUNCTION wfes_keep_position() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE wfes_head SET position = newest.position
    FROM (SELECT max(notification_id) AS position FROM wfes_events) AS newest
    WHERE wfes_head.position < newest.position;
    RETURN NULL;
END
$$
