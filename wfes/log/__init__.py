"""The append-only log: its port, its adapters, and the writer that owns all writing."""
