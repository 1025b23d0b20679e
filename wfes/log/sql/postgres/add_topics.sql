INSERT INTO wfes_topics (topic) SELECT unnest(%s::text[]) ON CONFLICT (topic) DO NOTHING
