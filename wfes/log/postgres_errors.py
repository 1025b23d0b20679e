"""What PostgreSQL's errors mean for a log: the reason to tell, and whether waiting may help.

One table, by SQLSTATE: the whole code, or its class of two characters. What is not in it is a mistake in a statement or
a value that a column cannot hold, and is raised as it is. Errors without a code come from the connection itself.
"""

from __future__ import annotations

import re

import psycopg
import psycopg_pool

from wfes.errors import LogUnavailable

_BUSY = "another process has kept it locked for too long"
_CUT = "the server ended the connection"
_DAMAGED = "the database is damaged; restore it from a backup"

POOLED = (
    "what answers is a pooler, which keeps no session that could have a schema or options of its own: leave them out "
    "of the URL (ALTER ROLE … SET search_path chooses the schema)"
)
NO_OPTIONS = "unsupported startup parameter"
"""How a pooler refuses what is asked for a session."""

_REASONS: dict[str, tuple[str, bool]] = {
    "08": ("the connection to the server broke", True),
    "0A000": ("its tables were changed while it was open", True),
    "25006": ("the server takes no writes at the moment (a standby, or default_transaction_read_only)", True),
    "25P03": ("a transaction was left open for too long", True),
    "25P04": ("a transaction took longer than transaction_timeout allows", True),
    "URL": ("an option of its URL is wrong", False),
    "POOL": (POOLED, False),
    "TLS": ("the connection cannot be encrypted as the URL asks for; see its sslmode and sslrootcert", False),
    "28000": ("the server does not let this user in; check the user's name and pg_hba.conf", False),
    "28P01": ("the server does not accept this user's password", False),
    "3D000": ("there is no such database on the server; create it, or give the name of another one", False),
    "3F000": ("there is no such schema in the database", False),
    "40": ("the transaction collided with another one", True),
    "42501": ("its user lacks a right that is needed", False),
    "53100": ("no space is left on the server's disk; it goes on by itself when there is some", True),
    "53200": ("the server has not enough memory", True),
    "53300": ("the server has no connection left; raise max_connections, or run fewer engines", True),
    "53": ("the server is short of something it needs", True),
    "55P03": (_BUSY, True),
    "57014": ("a statement took longer than statement_timeout allows, or was cancelled", True),
    "57P01": (f"{_CUT}: it is shutting down, or an administrator did", True),
    "57P02": (f"{_CUT}: it crashed, and restarts", True),
    "57P03": ("the server is starting up or shutting down", True),
    "57P04": ("the database was dropped", False),
    "57P05": (f"{_CUT}, which was idle for too long", True),
    "57": (_CUT, True),
    "58030": ("the server's disk does not read or write", True),
    "58": ("the server has trouble with its system", True),
    "XX001": (_DAMAGED, False),
    "XX002": (_DAMAGED, False),
}

# A server that refuses somebody while connecting tells it in its message alone.
_REFUSED: tuple[tuple[str, str], ...] = (
    ("connection is bad: invalid ", "URL"),
    ("does not support SSL", "TLS"),
    (NO_OPTIONS, "POOL"),
    ("certificate", "TLS"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("pg_hba.conf", "28000"),
    ("authentication failed", "28000"),
    ("is not permitted to log in", "28000"),
    ("permission denied for database", "42501"),
    ("too many clients", "53300"),
    ("remaining connection slots", "53300"),
    ("too many connections", "53300"),
    ("is starting up", "57P03"),
    ("is shutting down", "57P03"),
    ("in recovery mode", "57P03"),
    ("not yet accepting connections", "57P03"),
)
_NO_ROLE = re.compile(r'role ".*" does not exist')
_NO_DATABASE = re.compile(r'database ".*" does not exist')
_RIGHT = re.compile(r"permission denied for (?P<kind>database|schema|table) (?P<name>\S+)")
_GRANTS = {
    "database": "GRANT CREATE ON DATABASE {} to it, or let a user who has that right open the log first",
    "schema": "GRANT USAGE, CREATE ON SCHEMA {} to it, or let a user who has that right make them first",
    "table": "GRANT SELECT, INSERT, UPDATE, DELETE ON {} and the log's other tables to it",
}
_PREFIX = re.compile(
    r"connection is bad: |connection to server at .*? failed: |^connection failed: |FATAL:\s+|ERROR:\s+"
)
_AWAY = "the server cannot be reached"


def unavailable(url: str, error: BaseException) -> LogUnavailable | None:
    """The error to tell for one of psycopg's, or None where the database itself is well."""
    if isinstance(error, LogUnavailable):
        return error
    if not isinstance(error, psycopg.Error):
        return None
    code = _code(error)
    if code is None:
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return LogUnavailable(url, f"{_AWAY} ({_said(error)})", retryable=True)
        return None
    found = _REASONS.get(code) or _REASONS.get(code[:2])
    if found is None or (code == "0A000" and "cached plan" not in str(error)):
        return None
    reason, retryable = found
    if (right := _RIGHT.search(str(error))) is not None:
        reason += "; " + _GRANTS[right["kind"]].format(right["name"])
    read_only = code in ("25006", "42501")
    return LogUnavailable(url, f"{reason} ({_said(error)})", retryable=retryable, read_only=read_only)


def ends_connection(connection: psycopg.Connection[object], error: BaseException) -> bool:
    """Whether a connection is of no more use after an error: it is gone, or leads to a server that takes no writes."""
    code = getattr(error, "sqlstate", None)
    return connection.closed or connection.broken or code in ("25006", "0A000")


def is_repeatable(connection: psycopg.Connection[object], error: psycopg.Error) -> bool:
    """Whether a read that failed so may well be done on another connection: it was this one's fault, or a collision."""
    if connection.closed:
        return True
    code = error.sqlstate or ""
    return code.startswith("40") or (code == "0A000" and "cached plan" in str(error))


def _code(error: psycopg.Error) -> str | None:
    if error.sqlstate is not None or isinstance(error, psycopg_pool.PoolTimeout):
        return error.sqlstate
    text = str(error)
    if _NO_ROLE.search(text):
        return "28000"
    if _NO_DATABASE.search(text):
        return "3D000"
    return next((code for words, code in _REFUSED if words in text), None)


def _said(error: BaseException) -> str:
    """What the server or the library said, in one line; without the statement that the server points at."""
    diag = getattr(error, "diag", None)
    text = getattr(diag, "message_primary", None) or str(error)
    lines = [_PREFIX.sub("", line).strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line)[:500] or type(error).__name__
