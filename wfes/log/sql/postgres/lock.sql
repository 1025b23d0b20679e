SELECT pg_advisory_xact_lock(2003199347, hashtext(current_schema()))
