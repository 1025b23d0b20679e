SELECT 1 FROM wfes_outbox WHERE kind = 'start' AND id = ? AND refused IS NULL
