"""The imperative shell: commands, reactions, values beside the log, the worker, its clock and its leases."""
