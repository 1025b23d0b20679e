CREATE TRIGGER wfes_keep_position BEFORE DELETE ON wfes_events
    FOR EACH STATEMENT EXECUTE FUNCTION wfes_keep_position()
