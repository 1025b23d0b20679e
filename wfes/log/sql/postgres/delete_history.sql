DELETE FROM wfes_events WHERE originator_id = %s AND originator_version <= %s
