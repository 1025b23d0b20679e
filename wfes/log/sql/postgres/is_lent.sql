SELECT
    current_setting('wfes.lent', true) = 'yes',
    current_setting('transaction_read_only') = 'on',
    current_setting('transaction_isolation')
