SELECT current_schema(), to_regclass('wfes_outbox')::oid::bigint, current_database(), system_identifier
FROM pg_control_system()
