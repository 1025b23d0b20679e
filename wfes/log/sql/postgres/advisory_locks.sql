SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
    (locks.classid::bigint << 32) | locks.objid::bigint
FROM (SELECT 1) AS one
LEFT JOIN pg_locks AS locks ON locks.locktype = 'advisory' AND locks.objsubid = 1 AND locks.granted
    AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
