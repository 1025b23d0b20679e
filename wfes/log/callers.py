"""Whose connection a caller passes: the driver's own, also where SQLAlchemy stands around it.

SQLAlchemy is not imported: its objects are known by the names of their classes. What it calls a connection is taken as
it is, once it has begun a transaction: it would not commit what was written past it before. What is no connection yet
(a session, an engine) is refused with what to pass instead.
"""

from __future__ import annotations

from typing import Any

_LIBRARY = "sqlalchemy"
_INSTEAD = {
    "AsyncSession": "connection=await session.connection()",
    "async_scoped_session": "connection=await session.connection()",
    "Session": "connection=session.connection()",
    "scoped_session": "connection=session.connection()",
    "AsyncEngine": "connection= what `async with engine.begin() as connection:` gives",
    "Engine": "connection= what `with engine.begin() as connection:` gives",
    "async_sessionmaker": "connection=await session.connection() of one of its sessions",
    "sessionmaker": "connection=session.connection() of one of its sessions",
}


def driver_connection(connection: object) -> object:
    """The driver's own connection inside what SQLAlchemy hands out; any other object as it is.

    SQLAlchemy's `Connection` and `AsyncConnection` are taken, and what their `connection`, `get_raw_connection()` and
    `raw_connection()` give.

    Raises:
        TypeError: it is an object of SQLAlchemy's that is no connection.
        ValueError: it has begun no transaction.
    """
    kinds = [base.__name__ for base in type(connection).__mro__ if _is_sqlalchemy(base)]
    instead = next((_INSTEAD[kind] for kind in kinds if kind in _INSTEAD), None)
    if instead is not None:
        raise TypeError(f"connection= is a {described(connection)}, which is no connection; pass {instead}")
    found: Any = connection
    if "AsyncConnection" in kinds:
        found = found.sync_connection
        if found is None:
            raise ValueError(
                "connection= is an AsyncConnection that is not open yet; await it, or use async with"
            )
    if "AsyncConnection" in kinds or "Connection" in kinds:
        if not found.in_transaction():
            raise ValueError(
                "connection= has begun no transaction that its commit() would commit, and what is handed over would be "
                "lost: run a statement of your own on it first, or begin with engine.begin() or connection.begin()"
            )
        found = found.connection
    return getattr(found, "driver_connection", None) or found


def _is_sqlalchemy(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == _LIBRARY


def described(connection: object) -> str:
    """What it is, for an error."""
    kind = type(connection)
    return f"{kind.__module__}.{kind.__qualname__}"
