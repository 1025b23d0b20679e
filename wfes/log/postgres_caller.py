"""A caller's own PostgreSQL connection, sync or async, to the log's database.

Nothing is run on it that could fail for the caller's transaction if the connection is the wrong one: it is only asked
where it leads, until that is known to be right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from wfes.errors import LogUnavailable
from wfes.log.callers import described
from wfes.log.port import Handed
from wfes.log.postgres_errors import unavailable
from wfes.log.postgres_sql import own

Where = tuple[str, int, str, int]
"""A schema's name, the number of the outbox in it, the database's name, the server's own number."""


class PostgresCaller:
    """The port's Caller.

    Args:
        url: what errors call the log.
        where: asks where the log's outbox is.
        channel: how whoever listens is told that something was committed.
        connection: the caller's connection.

    Raises:
        TypeError: it is no psycopg connection.
    """

    def __init__(self, url: str, where: Callable[[], Where], channel: str, connection: object) -> None:
        if not isinstance(connection, (psycopg.Connection, psycopg.AsyncConnection)):
            raise TypeError(
                f"connection= is a {described(connection)}; the log is in PostgreSQL, so it must be a connection of "
                "psycopg 3, sync or async (with SQLAlchemy: an engine for postgresql+psycopg://)"
            )
        self._url = url
        self._where = where
        self._channel = channel
        self._connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any] = connection
        self._schema = ""

    async def _run(self, sql: bytes, params: Sequence[object], *, asks: bool = True) -> list[Any]:
        """Its rows, where it asks for any. (In a pipeline of the caller's nothing else tells whether it has any.)"""
        connection = self._connection
        self._check_open()
        try:
            if isinstance(connection, psycopg.AsyncConnection):
                async with connection.cursor(row_factory=tuple_row) as cursor:
                    await cursor.execute(sql, params)
                    return await cursor.fetchall() if asks else []
            # A round trip to the server is none of the event loop's business.
            return await asyncio.to_thread(_run, connection, sql, params, asks)
        except psycopg.OperationalError as error:
            found = unavailable(self._url, error)
            if found is not None and connection.closed:
                raise LogUnavailable(
                    self._url,
                    f"connection= has broken, and its transaction is undone with all that was in it; begin it again on "
                    f"a new one: {found.reason}",
                    retryable=True,
                ) from error
            raise found or error from error

    def _check_open(self) -> None:
        if self._connection.closed:
            how = "has broken" if self._connection.broken else "is closed"
            raise ValueError(
                f"connection= {how}; it must be an open connection to the log's database: what is handed over on it is "
                "part of its transaction"
            )

    async def check(self) -> None:
        self._check_open()
        schema, number, database, server = await asyncio.to_thread(self._where)
        outbox = _quoted(schema, "wfes_outbox")
        found = await self._run(own("where_outbox"), (outbox, outbox, outbox))
        there, there_database, there_server, may_insert, may_select = found[0]
        if (there, there_database, there_server) != (number, database, server):
            raise ValueError(
                f"connection= leads to the database {there_database!r}, and the log is in the schema {schema!r} of the "
                f"database {database!r} of {'another' if there_server != server else 'this'} server: only rows of one "
                "and the same database can be committed together"
            )
        if not (may_insert and may_select):
            raise ValueError(
                f"the user of connection= may not use the log's outbox; GRANT SELECT, INSERT ON {outbox} to it"
            )
        self._schema = schema

    def _statement(self, name: str) -> bytes:
        return own(name).replace(b"wfes_outbox", _quoted(self._schema, "wfes_outbox").encode())

    async def has_start(self, id: str) -> bool:
        return bool(await self._run(self._statement("has_start"), (id,)))

    async def insert(self, handed: Handed) -> None:
        row = (handed.kind, handed.id, handed.at, handed.command, handed.content)
        await self._run(self._statement("hand_over"), (*row, self._channel), asks=False)


def _run(connection: psycopg.Connection[Any], sql: bytes, params: Sequence[object], asks: bool) -> list[Any]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if asks else []


def _quoted(schema: str, table: str) -> str:
    return '"' + schema.replace('"', '""') + f'".{table}'
