DELETE FROM wfes_events WHERE originator_id = ? AND originator_version <= ?
