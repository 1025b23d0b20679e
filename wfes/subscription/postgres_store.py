"""Rows in a PostgreSQL database of their own.

Rows and checkpoint are one transaction on the eventsourcing library's tracking recorder. Writers take turns: the lock
is on the table of projections, which readers do not mind, and ends with the transaction. Nothing rests on a session.

A schema that holds a log is refused: its tables about projections are those of the log's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from eventsourcing.persistence import IntegrityError, PersistenceError, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from psycopg import sql as composing
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from wfes.errors import LogUnavailable
from wfes.log.port import Tx
from wfes.log.postgres_connection import BEGIN, BEGIN_SNAPSHOT, Connection, ReadDatastore
from wfes.log.postgres_errors import unavailable
from wfes.log.postgres_sql import defined, made_if_missing, own, translated
from wfes.log.postgres_url import Place, place
from wfes.subscription import registry
from wfes.subscription.stores import Overtaken, Params, Row, Target, View
from wfes.subscription.table import POSTGRESQL

T = TypeVar("T")

LOCK_SECONDS = 5
"""How long a write waits for another process's."""
IDLE_SECONDS = 15
"""How long a process that was stopped in the middle of a write keeps the others waiting."""
_LIMITS = (
    f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; "
    f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"
).encode()
# The lock is taken before anything is read: what is decided upon stays true until the commit.
_WRITE = b"; ".join([BEGIN, _LIMITS, b"LOCK TABLE wfes_projections IN SHARE ROW EXCLUSIVE MODE"])
_LOG = "wfes_events"
_TRACKING = "notification_tracking"


class _Recorder(PostgresTrackingRecorder):
    """The library's tracking recorder; its table has the library's own name."""

    def __init__(self, datastore: ReadDatastore) -> None:
        super().__init__(datastore, tracking_table_name=_TRACKING)

    def track(self, cursor: psycopg.Cursor[Any], name: str, position: int | None) -> None:
        """Notes a checkpoint in an open transaction.

        Raises:
            IntegrityError: it would go back.
        """
        if position is None:
            table = composing.Identifier(self.datastore.schema, self.tracking_table_name)
            cursor.execute(composing.SQL("DELETE FROM {} WHERE application_name = %s").format(table), (name,))
        elif position:
            self._insert_tracking(cursor, Tracking(name, position))


def _run(cursor: psycopg.Cursor[Any], sql: str, params: Params) -> list[Row]:
    if params:
        cursor.execute(translated(sql), params)
    else:
        name = made_if_missing(sql)
        if name is not None and _exists(cursor, name):
            return []
        cursor.execute(defined(sql))
    return [] if cursor.description is None else cursor.fetchall()


def _exists(cursor: psycopg.Cursor[Any], name: str) -> bool:
    return bool(cursor.execute(own("exists"), (name,)).fetchall()[0][0])


class _View:
    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        """Runs one query."""
        return _run(self._cursor, sql, params)


class _Target:
    """A store's write transaction."""

    def __init__(self, recorder: _Recorder, cursor: psycopg.Cursor[Any]) -> None:
        self.tx: Tx | None = None
        self._recorder = recorder
        self._cursor = cursor

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        """Runs one statement."""
        return _run(self._cursor, sql, params)

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        """Runs one statement for many rows."""
        if params:
            self._cursor.executemany(translated(sql), params)

    def moved(self, name: str, position: int | None) -> None:
        """The checkpoint of these rows is this one from now on."""
        self._recorder.track(self._cursor, name, position)


class PostgresStore:
    """Rows in a PostgreSQL database of their own.

    Args:
        url: the database's, as a log's.

    Raises:
        ValueError: the URL cannot be read.
    """

    dialect = POSTGRESQL

    def __init__(self, url: str) -> None:
        self.url = url
        self.place: Place = place(url)
        self._recorder: _Recorder | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        with self._lock:
            if self._recorder is not None:
                return
            datastore = ReadDatastore(self.url, self.place.connect, pooled=self.place.pooled, writes=True)
            try:
                with self._errors():
                    self._recorder = self._made(datastore)
            except BaseException:
                datastore.close()
                raise

    def _made(self, datastore: ReadDatastore) -> _Recorder:
        """The recorder, with all tables there are beside those of projections."""
        begin = BEGIN + b"; " + _LIMITS
        with datastore.reading(lambda connection: connection.cursor().execute(begin)) as cursor:
            connection = cursor.connection
            cursor.execute(own("lock_database"))  # whoever else makes them waits
            schema = self.place.schema
            if schema is not None:
                cursor.execute(
                    composing.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(composing.Identifier(schema))
                )
            if _exists(cursor, _LOG):
                raise LogUnavailable(
                    self.url,
                    "its schema holds a log; name one for projections by ?schema=, or leave url= out",
                )
            schema = cursor.execute("SELECT current_schema()").fetchall()[0][0]
            if schema is None:
                raise LogUnavailable(
                    self.url, "its search_path names no schema that exists; give one with ?schema="
                )
            for statement in (registry.CREATE, registry.CREATE_TABLES):
                _run(cursor, statement, ())
            datastore.schema = schema
            recorder = _Recorder(datastore)
            if not _exists(cursor, _TRACKING):
                # The library's own way to make it has a transaction of its own, and waits a minute for a server.
                recorder._create_table(connection.cursor(row_factory=dict_row))
            connection.commit()
        return recorder

    def close(self) -> None:
        with self._lock:
            recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.datastore.close()

    def exists(self) -> bool:
        """Whether anything was ever written there; makes nothing.

        Raises:
            LogUnavailable: it cannot be asked.
        """
        if self._recorder is not None:
            return True
        datastore = ReadDatastore(self.url, self.place.connect, pooled=self.place.pooled)
        try:
            with self._errors():
                return datastore.read(lambda connection: _exists(connection.cursor(), "wfes_projections"))
        finally:
            datastore.close()

    @contextmanager
    def snapshot(self) -> Generator[View]:
        with self._transaction(BEGIN_SNAPSHOT) as (_, cursor):
            yield _View(cursor)

    def write(self, work: Callable[[Target], T]) -> T:
        with self._transaction(_WRITE) as (recorder, cursor):
            return work(_Target(recorder, cursor))

    @contextmanager
    def _transaction(self, begin: bytes) -> Generator[tuple[_Recorder, psycopg.Cursor[Any]]]:
        """A transaction that is rolled back if the block raises, and committed at its end."""
        recorder = self._opened()
        datastore = recorder.datastore
        assert isinstance(datastore, ReadDatastore)
        with (
            self._errors(),
            datastore.reading(lambda connection: connection.cursor().execute(begin)) as cursor,
        ):
            yield recorder, cursor
            _check_whole(cursor.connection)
            cursor.connection.commit()

    def _opened(self) -> _Recorder:
        if self._recorder is None:
            self.open()
        recorder = self._recorder
        assert recorder is not None
        return recorder

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise unavailable(self.url, error) or error from error
        except IntegrityError as error:
            raise Overtaken(None) from error  # the library's tracking refused to go back
        except PersistenceError as error:
            cause = error.__cause__
            if isinstance(cause, psycopg.Error):
                raise unavailable(self.url, cause) or cause from error
            raise


def _check_whole(connection: Connection) -> None:
    """PostgreSQL rolls back what a failed statement left behind, and calls that no error."""
    if connection.info.transaction_status == TransactionStatus.INERROR:
        raise psycopg.errors.InFailedSqlTransaction("the transaction had failed before its commit")
