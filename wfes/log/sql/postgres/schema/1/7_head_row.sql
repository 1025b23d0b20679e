INSERT INTO wfes_head (position, changes) VALUES (0, 0)
