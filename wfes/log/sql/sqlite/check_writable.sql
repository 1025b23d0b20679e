DELETE FROM wfes_meta WHERE false
