"""Audit: a history that proves itself."""
