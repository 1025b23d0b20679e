"""Connections to PostgreSQL: one for writing, a pool for reading, on the eventsourcing library's datastore.

All of them are in autocommit mode: a transaction begins and ends where a statement says so, and at the isolation that
the log is written for, whatever the database's own default is. Numbers come back as the other logs give them: ``sum``
of whole numbers is an ``int``, an average a ``float``.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import PoolClosed, PoolTimeout

from wfes.errors import LogUnavailable
from wfes.log.postgres_errors import NO_OPTIONS, POOLED, is_repeatable, unavailable

T = TypeVar("T")

Connection = psycopg.Connection[TupleRow]

POOL_MAX = 10
"""How many reads can go on at once."""
WAIT_SECONDS = 5.0
"""How long a read waits for a connection before the log counts as unavailable."""
_RECONNECT_SECONDS = 2.0
READS_MAX = 5
"""How often a read is begun whose connection turns out to be cut."""
REPEAT_SECONDS = 5.0
"""How long after its first beginning a read is still begun again."""

BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
"""Begins a transaction: each of its statements sees what was committed before it, those behind a lock what was
committed before the lock was had. Without READ WRITE: a database that is made read-only is not to be written to."""
BEGIN_WRITE = BEGIN + b", READ WRITE"
"""The same on a connection that is for reading by this side's own wish."""
BEGIN_SNAPSHOT = b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
"""Begins a transaction whose reads all see one moment."""
_STATEMENTS = r"-cdefault_transaction_isolation=read\ committed"
"""The same for a statement by itself, where a connection is a session. A snapshot is one anyway; it shall not
collide."""


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
        connection = psycopg.connect(**connect, autocommit=True, context=_Context(), row_factory=tuple_row)
    except psycopg.Error as error:
        raise unavailable(url, error) or error from error
    # What `connection.transaction()` begins.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    try:
        if not _is_session(connection) and "options" in connect:
            raise LogUnavailable(url, POOLED)
    except psycopg.Error as error:
        connection.close()
        raise unavailable(url, error) or error from error
    except LogUnavailable:
        connection.close()
        raise
    return connection


def _is_session(connection: Connection) -> bool:
    """Whether this is a connection to the server itself; else a pooler is between, and nothing is prepared on it.

    A pooler tells its own number of the server's process: it cannot know which one a transaction will have.
    """
    if connection.prepare_threshold is None:
        return True  # said in the URL
    ((backend,),) = connection.execute(b"SELECT pg_backend_pid()").fetchall()
    if backend == connection.info.backend_pid:
        return True
    connection.prepare_threshold = None
    return False


class _Context:
    adapters = _ADAPTERS
    connection = None


class _Pool(ConnectionPool[Connection]):
    """Keeps why it could not connect, for whoever waits in vain.

    Attributes:
        trouble: why; None: it could.
        bare: how to connect without what a session is asked for, where a pooler lets nobody ask.
    """

    trouble: psycopg.Error | None = None
    bare: dict[str, Any] | None = None

    def _connect(self, timeout: float | None = None) -> Connection:
        try:
            try:
                connection = super()._connect(timeout)
            except psycopg.OperationalError as error:
                if self.bare is None or NO_OPTIONS not in str(error):
                    raise
                self.kwargs = self.bare
                connection = super()._connect(timeout)
            _is_session(connection)
        except psycopg.Error as error:
            self.trouble = error
            raise
        self.trouble = None
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        return connection


def _as_session(connect: dict[str, Any], *, writes: bool) -> dict[str, Any]:
    """How to connect where the connection is a session, whose statements without a transaction are looked after too."""
    given = connect.get("options")
    options = _STATEMENTS if writes else f"{_STATEMENTS} -cdefault_transaction_read_only=on"
    return {**connect, "options": f"{given} {options}" if given else options}


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
        how = {"autocommit": True, "context": _Context(), "row_factory": tuple_row}
        self.pool: Any = _Pool(
            kwargs={**(connect if pooled else _as_session(connect, writes=writes)), **how},
            connection_class=psycopg.Connection[TupleRow],
            min_size=0,
            max_size=POOL_MAX,
            open=False,
            timeout=WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            num_workers=1,
        )
        if "options" not in connect:
            self.pool.bare = {**connect, **how}

    def close(self) -> None:
        self._is_closed = True
        super().close()

    @contextmanager
    def reading(self, first: Callable[[Connection], T]) -> Generator[T]:
        """A connection that nobody else uses meanwhile. An open transaction is ended afterwards.

        A connection that was idle may have been cut without this side knowing: that shows at its first statement. So
        what comes first is done again on another one, a few times, before the log counts as unavailable.

        Args:
            first: the first thing that is done, which can be repeated: a read, or the beginning of a transaction. The
                block gets what it returns.

        Raises:
            LogUnavailable: there is no connection, or it broke within the block.
        """
        if self._is_closed:
            raise LogUnavailable(self._url, "it is closed")
        begins, limit = 1, time.monotonic() + REPEAT_SECONDS
        try:
            self.pool.open()
            while True:
                with self.pool.connection() as connection:
                    if is_cut(connection):
                        connection.close()  # the pool makes another one
                        continue
                    try:
                        found = first(connection)
                    except psycopg.Error as error:
                        if (
                            not is_repeatable(connection, error)
                            or begins >= READS_MAX
                            or time.monotonic() > limit
                        ):
                            raise
                        begins += 1
                        connection.close()
                        continue
                    yield found
                    return
        except PoolClosed as error:
            raise LogUnavailable(self._url, "it is closed") from error
        except PoolTimeout as error:
            cause = self.pool.trouble or error
            raise unavailable(self._url, cause) or cause from error
        except psycopg.Error as error:
            raise unavailable(self._url, error) or error from error

    def read(self, work: Callable[[Connection], T]) -> T:
        """What a read returns, begun again as in `reading`.

        Raises:
            LogUnavailable: there is no connection.
        """
        with self.reading(work) as found:
            return found


def is_cut(connection: Connection) -> bool:
    """Whether a connection that nobody uses has ended, as far as this machine knows; costs no round trip.

    A server that has nothing to answer says nothing, but for its last words and rare notices.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
