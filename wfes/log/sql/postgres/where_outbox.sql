SELECT to_regclass(%s)::oid::bigint, current_database(), (SELECT system_identifier FROM pg_control_system()),
    has_table_privilege(to_regclass(%s), 'INSERT'), has_table_privilege(to_regclass(%s), 'SELECT')
