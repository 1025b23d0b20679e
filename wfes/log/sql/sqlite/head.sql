SELECT seq FROM sqlite_sequence WHERE name = 'wfes_events'
