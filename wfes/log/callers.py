"""Whose connection a caller passes: the driver's own, also where a library such as SQLAlchemy stands around it."""

from __future__ import annotations

from typing import Any


def driver_connection(connection: object) -> object:
    """The driver's own connection inside what SQLAlchemy hands out; any other object as it is.

    SQLAlchemy's `Connection` and `AsyncConnection` are taken, and what their `connection`, `get_raw_connection()` and
    `raw_connection()` give.
    """
    found: Any = connection
    if type(found).__module__.partition(".")[0] == "sqlalchemy":
        found = getattr(found, "sync_connection", None) or found
        if not hasattr(found, "driver_connection"):
            found = getattr(found, "connection", found)
    return getattr(found, "driver_connection", None) or found


def described(connection: object) -> str:
    """What it is, for an error."""
    kind = type(connection)
    return f"{kind.__module__}.{kind.__qualname__}"
