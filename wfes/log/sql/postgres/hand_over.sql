WITH handed AS (
    INSERT INTO wfes_outbox (kind, id, at, command, content) VALUES (%s, %s, %s, %s, %s) RETURNING number
)
SELECT pg_notify(%s, '') FROM handed
