SELECT current_schema(), pg_is_in_recovery(), current_setting('transaction_read_only'),
    current_setting('server_encoding'), current_setting('synchronous_commit'),
    current_setting('server_version_num')::int
