"""Connections to PostgreSQL: one for writing, a pool for reading, on the eventsourcing library's datastore.

All of them are in autocommit mode: a transaction begins and ends where a statement says so. Numbers come back as the
other logs give them: ``sum`` of whole numbers is an ``int``, an average a ``float``.
"""

from __future__ import annotations

import select
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import PoolClosed, PoolTimeout

from wfes.errors import LogUnavailable
from wfes.log.postgres_errors import unavailable

Connection = psycopg.Connection[TupleRow]

POOL_MAX = 10
"""How many reads can go on at once."""
WAIT_SECONDS = 5.0
"""How long a read waits for a connection before the log counts as unavailable."""
_RECONNECT_SECONDS = 2.0


class _Number(Loader):
    def load(self, data: Buffer) -> int | float:
        text = bytes(data)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("numeric", _Number)
    return adapters


_ADAPTERS = _adapters()


def connected(url: str, connect: dict[str, Any]) -> Connection:
    """A new connection.

    Raises:
        LogUnavailable: there is none to be had.
    """
    try:
        # A context for adapters only: nothing else is taken from it.
        return psycopg.connect(**connect, autocommit=True, context=_Context(), row_factory=tuple_row)
    except psycopg.Error as error:
        raise unavailable(url, error) or error from error


class _Context:
    adapters = _ADAPTERS
    connection = None


class _Pool(ConnectionPool[Connection]):
    """Keeps why it could not connect, for whoever waits in vain."""

    trouble: psycopg.Error | None = None

    def _connect(self, timeout: float | None = None) -> Connection:
        try:
            connection = super()._connect(timeout)
        except psycopg.Error as error:
            self.trouble = error
            raise
        self.trouble = None
        return connection


def _reading(connect: dict[str, Any]) -> dict[str, Any]:
    given = connect.get("options")
    read_only = "-cdefault_transaction_read_only=on"
    return {**connect, "options": f"{given} {read_only}" if given else read_only}


class ReadDatastore(PostgresDatastore):
    """The library's datastore over connections for reading.

    Args:
        url: what errors call the log.
        connect: what `psycopg.connect` is given.
        pooled: whether nothing may be asked for that belongs to a session.
        writes: whether they are for writing, too.
    """

    def __init__(
        self, url: str, connect: dict[str, Any], *, pooled: bool = False, writes: bool = False
    ) -> None:
        super().__init__("", "", "", "", "", originator_id_type="text")
        self._url = url
        self._is_closed = False
        self.pool: Any = _Pool(
            kwargs={
                **(connect if pooled or writes else _reading(connect)),
                "autocommit": True,
                "context": _Context(),
                "row_factory": tuple_row,
            },
            connection_class=psycopg.Connection[TupleRow],
            min_size=0,
            max_size=POOL_MAX,
            open=False,
            timeout=WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            num_workers=1,
        )

    def close(self) -> None:
        self._is_closed = True
        super().close()

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A connection that nobody else uses meanwhile. An open transaction is ended afterwards.

        Raises:
            LogUnavailable: there is none, or it broke within the block.
        """
        if self._is_closed:
            raise LogUnavailable(self._url, "it is closed")
        try:
            self.pool.open()
            while True:
                with self.pool.connection() as connection:
                    if not is_cut(connection):
                        yield connection
                        return
                    connection.close()  # the pool makes another one
        except PoolClosed as error:
            raise LogUnavailable(self._url, "it is closed") from error
        except PoolTimeout as error:
            cause = self.pool.trouble or error
            raise unavailable(self._url, cause) or cause from error
        except psycopg.Error as error:
            raise unavailable(self._url, error) or error from error


def is_cut(connection: Connection) -> bool:
    """Whether a connection that nobody uses has ended, as far as this machine knows; costs no round trip.

    A server that has nothing to answer says nothing, but for its last words and rare notices.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
