SELECT value FROM wfes_meta WHERE name = %s
