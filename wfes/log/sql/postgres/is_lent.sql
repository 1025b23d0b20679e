SELECT current_setting('wfes.lent', true) = 'yes'
