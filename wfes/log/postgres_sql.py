"""The port's SQL for PostgreSQL: parameters as psycopg wants them, columns that compare as in any other log.

Whoever writes rows beside a log writes standard SQL with ``?`` or ``:name`` for parameters. Here each statement is
translated once. Text columns get the collation ``C``, so that text is in the order of its code points, as Python and
SQLite have it and whatever the database's own collation is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

from wfes.log.statements import statement

STATEMENTS_MAX = 2_000
"""How many translated statements are remembered."""

_TOKEN = re.compile(
    r"""(?P<kept>'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|::)|(?P<percent>%)|(?P<mark>\?)"""
    r"""|:(?P<name>[A-Za-z_]\w*)""",
    re.DOTALL,
)
_CREATE = re.compile(
    r'\s*CREATE\s+(?:TABLE|(?:UNIQUE\s+)?INDEX)\s+IF\s+NOT\s+EXISTS\s+"?(?P<name>\w+)"?', re.IGNORECASE
)
_COLUMN_TYPES = (
    (re.compile(r"\bTEXT\b(?!\s+COLLATE)", re.IGNORECASE), 'TEXT COLLATE "C"'),
    (re.compile(r"\bINTEGER\b", re.IGNORECASE), "BIGINT"),
    (re.compile(r"\bBLOB\b", re.IGNORECASE), "BYTEA"),
    (re.compile(r"\bREAL\b", re.IGNORECASE), "DOUBLE PRECISION"),
)
_TABLE = re.compile(r"\s*CREATE\s+TABLE\b", re.IGNORECASE)

Params = Sequence[object] | Mapping[str, object]


@cache
def own(name: str) -> bytes:
    """One of the adapter's own statements."""
    return statement("postgres", name).encode()


@lru_cache(STATEMENTS_MAX)
def translated(sql: str) -> bytes:
    """A statement with ``?`` or ``:name`` for parameters, with psycopg's placeholders instead.

    >>> translated("SELECT '?' FROM t WHERE a = ? AND b LIKE '%x'")
    b"SELECT '?' FROM t WHERE a = %s AND b LIKE '%%x'"
    >>> translated("SELECT a::text FROM t WHERE a > :least")
    b'SELECT a::text FROM t WHERE a > %(least)s'
    """
    return _TOKEN.sub(_placeholder, sql).encode()


def _placeholder(found: re.Match[str]) -> str:
    if name := found["name"]:
        return f"%({name})s"
    if found["mark"]:
        return "%s"
    return found[0].replace("%", "%%")


@lru_cache(STATEMENTS_MAX)
def defined(sql: str) -> bytes:
    """A statement that makes something, with PostgreSQL's types; any other as it is."""
    if _TABLE.match(sql):
        for pattern, type_ in _COLUMN_TYPES:
            sql = pattern.sub(type_, sql)
    return sql.encode()


@lru_cache(STATEMENTS_MAX)
def made_if_missing(sql: str) -> str | None:
    """The name of the table or index that ``CREATE … IF NOT EXISTS`` makes; None: the statement is none of that.

    PostgreSQL asks for the right to create before it looks whether there is anything to create, and an engine whose
    user may only read and write rows has to be able to open a log that somebody else has made.
    """
    found = _CREATE.match(sql)
    return None if found is None else found["name"]
