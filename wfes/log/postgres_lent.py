"""What PostgreSQL lends to a step's function: a connection of its own, in a transaction that holds none of the log's
locks until the step's completion is appended.

The function gets a real psycopg connection. What would end its transaction, or write to the log's own tables, is
refused by what the connection's cursors are asked to run. That is a guard against mistakes; against the rest there is
a mark that ends with the transaction, and is looked for before the completion is appended.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg.pq import TransactionStatus

from wfes.errors import ForbiddenInTransaction
from wfes.log import lent
from wfes.log.postgres_errors import unavailable
from wfes.log.postgres_sql import own
from wfes.log.postgres_write import PostgresWrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn

    from wfes.log.port import WriteTransaction
    from wfes.log.postgres_connection import Connection

_ENDS = re.compile(
    r"(?:^|;)\s*(COMMIT|END|ABORT|BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION|ROLLBACK(?!(\s+\w+)?\s+TO\b))\b",
    re.IGNORECASE,
)
_CHANGES = re.compile(
    r"\b(INSERT\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO|TRUNCATE(?:\s+TABLE)?|COPY|ALTER\s+TABLE|DROP\s+TABLE"
    r"|LOCK(?:\s+TABLE)?|CREATE\s+TRIGGER\s+\w+\s+.*?\bON)\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?"
    r'(?:"?\w+"?\s*\.\s*)?"?(?P<table>wfes_\w+)',
    re.IGNORECASE | re.DOTALL,
)
ISOLATION = "read committed"
"""What a transaction of the log begins with: the completion is appended behind what others have committed by then."""
_SEES = "the step's completion has to see what others have committed meanwhile, so the isolation is READ COMMITTED"
_WRITES = "the step's completion is written in the same transaction"
_BESIDE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|(\$\w*\$).*?\1", re.DOTALL)
"""Comments and quoted text."""


class ForbiddenStatement(ForbiddenInTransaction, psycopg.ProgrammingError):
    """As psycopg raises what is wrong in a program."""


class Guard:
    """What the function of one transaction tried and must not."""

    def __init__(self) -> None:
        self.refused: str | None = None

    def refuse(self, reason: str) -> NoReturn:
        """Raises `ForbiddenStatement`."""
        self.refused = self.refused or reason
        raise ForbiddenStatement(reason)

    def check(self, query: Any, connection: Any) -> None:
        """Looks at what is about to be run."""
        if isinstance(query, bytes):
            text = query.decode(errors="replace")
        elif isinstance(query, str):
            text = query
        else:
            make = getattr(query, "as_string", None)
            text = make(connection) if make is not None else str(query)
        text = _BESIDE.sub(" ", text)
        if found := _ENDS.search(text):
            self.refuse(lent.ending(found[1].upper()))
        for found in _CHANGES.finditer(text):
            what, table = " ".join(found[1].split()).upper(), found["table"]
            if what != "INSERT INTO" or table.lower() != lent.OUTBOX:
                self.refuse(lent.own_table(what, table))


class LentCursor(psycopg.Cursor[Any]):
    """A cursor that asks first."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        _guard(self).check(query, self.connection)
        return super().execute(query, *args, **kwargs)

    def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        _guard(self).check(query, self.connection)
        super().executemany(query, *args, **kwargs)

    def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        _guard(self).check(query, self.connection)
        return super().stream(query, *args, **kwargs)

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        _guard(self).check(statement, self.connection)
        return super().copy(statement, *args, **kwargs)


class AsyncLentCursor(psycopg.AsyncCursor[Any]):
    """As `LentCursor`."""

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        _guard(self).check(query, self.connection)
        return await super().execute(query, *args, **kwargs)

    async def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        _guard(self).check(query, self.connection)
        await super().executemany(query, *args, **kwargs)

    def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        _guard(self).check(query, self.connection)
        return super().stream(query, *args, **kwargs)

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        _guard(self).check(statement, self.connection)
        return super().copy(statement, *args, **kwargs)


def _guard(cursor: Any) -> Guard:
    guard: Guard = cursor.connection.guard
    return guard


class LentConnection(psycopg.Connection[Any]):
    """A connection that a step's function may use, and only the engine can end."""

    guard: Guard

    def commit(self) -> None:
        self.guard.refuse(lent.ending("commit()"))

    def rollback(self) -> None:
        self.guard.refuse(lent.ending("rollback()"))

    def close(self) -> None:
        self.guard.refuse(lent.not_inside("close()"))

    def __enter__(self) -> Any:
        self.guard.refuse(lent.ending("`with connection:`, which commits,"))


class AsyncLentConnection(psycopg.AsyncConnection[Any]):
    """As `LentConnection`."""

    guard: Guard

    async def commit(self) -> None:
        self.guard.refuse(lent.ending("commit()"))

    async def rollback(self) -> None:
        self.guard.refuse(lent.ending("rollback()"))

    async def close(self) -> None:
        self.guard.refuse(lent.not_inside("close()"))

    async def __aenter__(self) -> Any:
        self.guard.refuse(lent.ending("`async with connection:`, which commits,"))


class PostgresLent:
    """The port's Lent.

    Args:
        url: what errors call the log.
        connection: a connection of its own, in a transaction.
        begin: begins the transaction.
        write: makes the log's write transaction of the one that a connection is in; it calls what it is given when
            that is over.
    """

    def __init__(
        self,
        url: str,
        connection: Connection,
        begin: bytes,
        write: Callable[[Connection, Callable[[], None]], WriteTransaction],
    ) -> None:
        self._url = url
        self._engine = connection
        self._pgconn: PGconn = connection.pgconn
        self._write = write
        self._guard = Guard()
        try:
            connection.execute(begin)
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        except BaseException as error:
            connection.close()
            raise unavailable(url, error) or error from error

    @property
    def connection(self) -> LentConnection:
        """What a plain function is given."""
        made = LentConnection(self._pgconn)
        made.cursor_factory = LentCursor
        self._guarded(made)
        return made

    @property
    def asynchronous(self) -> AsyncLentConnection:
        """What an ``async`` function is given."""
        made = AsyncLentConnection(self._pgconn)
        made.cursor_factory = AsyncLentCursor
        self._guarded(made)
        return made

    def _guarded(self, made: Any) -> None:
        # Statements prepared by one would be in the way of another's on the same connection.
        made.prepare_threshold = None
        made._pool = None  # it is not its own to close, and nobody is to be warned of that
        made.guard = self._guard

    @property
    def is_lost(self) -> bool:
        return self._engine.closed

    @property
    def refused(self) -> str | None:
        return self._guard.refused

    def settle(self) -> None:
        if self.refused is not None:
            raise ForbiddenStatement(self.refused)
        if self._engine.info.transaction_status is TransactionStatus.IDLE:
            raise ForbiddenStatement(lent.ending("the end of its transaction"))
        is_lent, reads_only, isolation = self._engine.execute(own("is_lent")).fetchall()[0]
        if not is_lent:
            raise ForbiddenStatement(lent.ending("the end of its transaction"))
        if reads_only:
            raise ForbiddenStatement(lent.not_inside("SET TRANSACTION READ ONLY", why=_WRITES))
        if isolation != ISOLATION:
            raise ForbiddenStatement(
                lent.not_inside(f"SET TRANSACTION ISOLATION LEVEL {isolation.upper()}", why=_SEES)
            )
        # What a commit would check is checked here, where it is the function's own failure.
        self._engine.execute(own("settle_lent"))

    def write(self) -> WriteTransaction:
        try:
            return self._write(self._engine, self.close)
        except psycopg.Error as error:
            raise unavailable(self._url, error) or error from error

    def rollback(self) -> None:
        # The connection may be in use by another thread: nothing is done to it but what may be done meanwhile.
        with suppress(Exception):
            self._engine.cancel_safe(timeout=1.0)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        self._engine.close()


class LentWrite(PostgresWrite):
    """A write transaction whose connection goes with it; ``close`` is called when it is over."""

    def __init__(self, *args: Any, close: Callable[[], None]) -> None:
        self._close = close
        super().__init__(*args)

    def commit(self) -> None:
        super().commit()
        self._close()

    def rollback(self) -> None:
        super().rollback()
        self._close()
