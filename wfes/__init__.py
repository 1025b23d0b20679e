"""Durable workflows: plain async Python functions whose every action is an event on an append-only log."""

from __future__ import annotations

__version__ = "0.1.0"
