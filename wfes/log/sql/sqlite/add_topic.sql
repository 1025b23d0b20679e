INSERT INTO wfes_topics (topic) VALUES (?) ON CONFLICT (topic) DO NOTHING
