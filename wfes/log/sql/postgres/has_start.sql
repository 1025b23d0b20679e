SELECT 1 FROM wfes_outbox WHERE kind = 'start' AND id = %s AND refused IS NULL
