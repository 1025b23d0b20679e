"""The PostgreSQL adapter of the Log port, on the eventsourcing library's recorder and datastore.

The library's own recorder gives positions from a sequence, retries a commit whose answer was lost, and cannot write
rows beside the events. So this recorder has a table of its own, with positions given under the write lock: they are in
the order of commits, and readers never miss one.

All writing goes through one connection, at the server's own durability. Reading goes through a pool of others. No
guarantee rests on a session: where a pooler gives every transaction another connection, it works as well. Everything
of the log's own is named ``wfes_…``, because a user's tables may lie in the same schema.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from eventsourcing.persistence import ApplicationRecorder, Notification, StoredEvent, Subscription
from eventsourcing.postgres import PostgresRecorder
from psycopg import sql as composing
from psycopg.pq import TransactionStatus

from wfes.errors import LogUnavailable
from wfes.log.application import chained
from wfes.log.archive import Archive, FileArchive
from wfes.log.callers import driver_connection
from wfes.log.port import Row
from wfes.log.postgres_caller import PostgresCaller, Where
from wfes.log.postgres_connection import (
    BEGIN,
    BEGIN_SNAPSHOT,
    Connection,
    ReadDatastore,
    connected,
    is_cut,
)
from wfes.log.postgres_errors import ends_connection, is_repeatable, unavailable
from wfes.log.postgres_lent import LentWrite, PostgresLent
from wfes.log.postgres_session import AdvisoryLocks, Session, SessionHints, channel
from wfes.log.postgres_sql import Params, defined, made_if_missing, own, translated
from wfes.log.postgres_url import Place, place
from wfes.log.postgres_write import (
    IDLE_SECONDS,
    LAST,
    LOCK_SECONDS,
    Counted,
    Looked,
    PostgresWrite,
    log_params,
    looked,
)
from wfes.log.statements import schema, statement

_SCHEMA = "schema"
_SERVER_MIN = 13
_ITS_OWN = (b"RESET SESSION AUTHORIZATION", b"RESET ROLE", b"RESET ALL")
"""Ends what a function has set in the transaction that it was lent."""
TO_READ = "it was opened for reading alone, for this process may not write to it"


class PostgresSnapshot:
    """The port's Snapshot in one read transaction."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._url = url
        self._cursor = connection.cursor()
        # The first read is what fixes the moment.
        self._cursor.execute(BEGIN_SNAPSHOT + b"; " + own("head"))
        self._cursor.nextset()
        self.position: int = self._cursor.fetchall()[0][0]

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        try:
            return _run(self._cursor, sql, params)
        except psycopg.Error as error:
            # Not only where the snapshot ends: whoever reads within it has to know whose failure it was.
            raise unavailable(self._url, error) or error from error


class PostgresLog(PostgresRecorder, ApplicationRecorder):
    """A log in a schema of a PostgreSQL database.

    Args:
        url: ``postgresql://…``, with what libpq knows as options, and ``schema`` and ``archive``.

    Raises:
        ValueError: the URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.dialect = "postgresql"
        self.lends_seconds: float | None = None
        self.place: Place = place(url)
        self.archive: Archive = FileArchive(self.place.archive)
        self._reads = ReadDatastore(url, self.place.connect, pooled=self.place.pooled)
        super().__init__(self._reads)
        self._writing: Connection | None = None
        self._session: Session | None = None
        self._is_open = False
        self._reads_only = False
        self._write: PostgresWrite | None = None
        self._known: Counted | None = None
        self._looked: PostgresWrite | Looked | None = None
        """What has looked last whether a command waits to be appended; used up by asking."""
        self._begin = b""
        self._begin_lent = b""
        self._take_lock = b""
        self._topics: set[str] = set()
        """Topics known to be in the table of topics."""

    # ------------------------------------------------------------------------------------ opening

    def open(self, statements: Sequence[str]) -> None:
        self._is_open = True
        try:
            with self._errors():
                self._make(self._connection(), statements)
        except BaseException:
            self.close()
            raise

    def open_to_read(self) -> bool:
        self._is_open = self._reads_only = True
        self._reads = self.datastore = ReadDatastore(self.url, self.place.connect, pooled=self.place.pooled)
        try:
            with self._errors():
                version, known = self._version(self._connection().cursor()), len(schema("postgres"))
            if 0 < version < known:
                raise LogUnavailable(
                    self.url,
                    f"its schema is version {version}, and this release of wfes reads version {known}: let one who "
                    "may write to it open it once with this release",
                )
        except BaseException:
            self.close()
            raise
        if not version:
            self.close()
        return bool(version)

    def _connect(self) -> Connection:
        connection = connected(self.url, self.place.connect)
        try:
            with self._errors():
                self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: Connection) -> None:
        """Looks whether this server can hold a log, and writes down how a transaction begins there."""
        found = connection.execute(own("about")).fetchall()[0]
        _, standby, read_only, encoding, durability, version = found
        if self._reads_only:
            return
        if standby or read_only == "on":
            why = "a standby" if standby else "default_transaction_read_only is on"
            reason = f"it is read-only ({why}), and the engine needs to write; connect to the primary server"
            raise LogUnavailable(self.url, reason, retryable=True, read_only=True)
        if encoding != "UTF8":
            reason = f"its encoding is {encoding}, and must be UTF8; create it with ENCODING 'UTF8' TEMPLATE template0"
            raise LogUnavailable(self.url, reason)
        if version < _SERVER_MIN * 10_000:
            raise LogUnavailable(
                self.url, f"the server is version {version // 10_000}; it must be {_SERVER_MIN} or later"
            )
        limits = [
            f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'".encode(),
            f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'".encode(),
        ]
        if durability == "off":
            # What a commit has acknowledged must survive a power loss, whatever else this database is used for.
            limits.append(b"SET LOCAL synchronous_commit = on")
        if self.place.schema is not None:
            limits.append(f'SET LOCAL search_path = "{self.place.schema}"'.encode())
        # A statement behind the lock has to see what others committed before it was had, whatever the database's own
        # isolation is.
        self._begin = b"; ".join([BEGIN, *limits, own("lock"), own("look")])
        # A function's own transaction has the limits of the log's only from the moment that it takes the lock.
        path = (
            [] if self.place.schema is None else [f'SET LOCAL search_path = "{self.place.schema}"'.encode()]
        )
        self._begin_lent = b"; ".join([BEGIN, *path, b"SET LOCAL wfes.lent = 'yes'"])
        # Whatever it has set for its own statements (a role, a search path, limits) ends there.
        self._take_lock = b"; ".join([*_ITS_OWN, *limits, own("lock"), own("look")])

    def _make(self, connection: Connection, statements: Sequence[str]) -> None:
        """Makes or upgrades the schema and what the statements make, if anything is to be made."""
        cursor = connection.cursor()
        migrations = schema("postgres")
        if self._version(cursor) == len(migrations) and all(_is_made(cursor, sql) for sql in statements):
            return
        with connection.transaction():
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'".encode())
            cursor.execute(own("lock_database"))
            name = self.place.schema
            if name is not None and not cursor.execute(own("has_schema"), (name,)).fetchall()[0][0]:
                cursor.execute(composing.SQL("CREATE SCHEMA {}").format(composing.Identifier(name)))
            if not self._current_schema(cursor):
                missing = "its search_path names no schema that exists; give one with ?schema="
                denied = f"its user may not use the schema {name}; GRANT USAGE ON SCHEMA {name} to it"
                raise LogUnavailable(self.url, missing if name is None else denied)
            # Nobody may be writing while what he writes to is changed.
            cursor.execute(own("lock"))
            version = self._version(cursor)
            for migration in migrations[version:]:
                for sql in migration:
                    cursor.execute(sql.encode())
            if version < len(migrations):
                cursor.execute(own("set_meta"), (_SCHEMA, str(len(migrations))))
            for sql in statements:
                if not _is_made(cursor, sql):
                    cursor.execute(defined(sql))

    @staticmethod
    def _current_schema(cursor: psycopg.Cursor[Any]) -> str | None:
        found: str | None = cursor.execute(own("about")).fetchall()[0][0]
        return found

    def _version(self, cursor: psycopg.Cursor[Any]) -> int:
        """The version of the schema that is there, 0 if there is none."""
        version = 0
        if cursor.execute(own("exists"), ("wfes_meta",)).fetchall()[0][0]:
            found = cursor.execute(own("get_meta"), (_SCHEMA,)).fetchall()
            version = int(found[0][0]) if found else 0
        if version > (known := len(schema("postgres"))):
            raise LogUnavailable(
                self.url,
                f"its schema is version {version} and this release of wfes knows {known}: "
                "a newer release wrote it; use that one",
            )
        return version

    def close(self) -> None:
        self._is_open = False
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._reads.close()
        connection, self._writing = self._writing, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise unavailable(self.url, error) or error from error

    # ------------------------------------------------------------------------------------ writing

    def _connection(self) -> Connection:
        """The write connection; a new one, if there is none that works."""
        if not self._is_open:
            raise LogUnavailable(self.url, "it is closed")
        connection = self._writing
        if connection is None or is_cut(connection):
            if connection is not None:
                connection.close()
            connection = self._writing = self._connect()
        return connection

    def begin(self) -> PostgresWrite:
        if self._reads_only:
            raise LogUnavailable(self.url, TO_READ, read_only=True)
        known = self._look()
        try:
            write = self._begun(known)
        except LogUnavailable:
            connection = self._writing
            if connection is None or not connection.closed:
                raise
            # It was cut while nobody used it, and that shows only now. Nothing was begun.
            write = self._begun(known)
        self._write = self._looked = write
        return write

    def _begun(self, known: Counted | None) -> PostgresWrite:
        connection = self._connection()
        try:
            return PostgresWrite(self.url, connection, self._topics, known, self._begin)
        except BaseException:
            _clear(connection)
            raise

    def lend(self) -> PostgresLent:
        if self._reads_only:
            raise LogUnavailable(self.url, TO_READ, read_only=True)
        if not self._is_open:
            raise LogUnavailable(self.url, "it is closed")
        connection = connected(self.url, self.place.connect)
        return PostgresLent(self.url, connection, self._begin_lent, self._write_on)

    def _write_on(self, connection: Connection, close: Callable[[], None]) -> PostgresWrite:
        known = self._look()
        write = LentWrite(self.url, connection, self._topics, known, self._take_lock, close=close)
        self._write = self._looked = write
        return write

    def caller(self, connection: object) -> PostgresCaller:
        return PostgresCaller(
            self.url, self._where, channel(self.place.schema or ""), driver_connection(connection)
        )

    def _where(self) -> Where:
        found: Where = self.read(statement("postgres", "where"))[0]
        return found

    def handed_over(self) -> bool:
        last, self._looked = self._looked, None
        if last is not None and last.handed_over is False:
            return False
        # What waited then may be done by now.
        return self._ask().handed_over

    def changed(self) -> bool:
        known = self._look()
        self._looked = found = self._ask()
        self._known = found.counted
        return self._known != known

    def _ask(self) -> Looked:
        """Looks at the log, on the write connection; once more on a new one, if that turns out to be cut."""
        connection = self._writing
        try:
            if connection is not None:
                try:
                    return looked(connection)
                except psycopg.Error as error:
                    if not is_repeatable(connection, error):
                        raise
                    connection.close()
            connection = self._connection()
            return looked(connection)
        except psycopg.Error as error:
            if connection is not None and ends_connection(connection, error):
                connection.close()
            raise unavailable(self.url, error) or error from error

    def _look(self) -> Counted | None:
        """What the log was counted at when this process looked last; that is used up by asking."""
        write, self._write = self._write, None
        known, self._known = self._known, None
        return known if write is None else write.left

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        """Appends event bodies through the library's interface, in a transaction of their own."""
        transaction = self.begin()
        try:
            rows = chained(transaction, stored_events)
            transaction.insert(rows)
            transaction.commit()
        finally:
            transaction.rollback()
        return [row[0] for row in rows]

    # ------------------------------------------------------------------------------------ reading

    def _select(self, name: str, params: dict[str, object]) -> list[Notification]:
        sql = own(name)
        rows = self._reads.read(
            lambda connection: connection.cursor(binary=True).execute(sql, params).fetchall()
        )
        return [Notification(*row) for row in rows]

    def select_events(
        self,
        originator_id: Any,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        name = "select_stream_newest_first" if desc else "select_stream"
        return self._select(
            name,
            {
                "stream": originator_id,
                "gt": 0 if gt is None else gt,
                "lte": LAST if lte is None else lte,
                "limit": limit,
            },
        )

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        first = 0 if start is None else start + (not inclusive_of_start)
        return self._select(*log_params(first, limit, stop, topics))

    def select_by_stream(self, stream: str, version: int, limit: int) -> Sequence[Notification]:
        return self._select("select_by_stream", {"stream": stream, "version": version, "limit": limit})

    def max_notification_id(self) -> int:
        return int(self.read(statement("postgres", "head"))[0][0])

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Not offered: whoever follows this log reads it on when its writer says that something has changed."""
        raise NotImplementedError(
            "a log is followed by an engine's projections, not by the library's subscriptions"
        )

    def topics(self) -> set[str]:
        return {row[0] for row in self.read(statement("postgres", "topics"))}

    def read(self, sql: str, params: Params = ()) -> list[Row]:
        return self._reads.read(lambda connection: _run(connection.cursor(), sql, params))

    def read_at(self, sql: str, params: Sequence[object] = ()) -> tuple[list[Row], int]:
        with self.snapshot() as snapshot:
            return snapshot.query(sql, params), snapshot.position

    @contextmanager
    def snapshot(self) -> Generator[PostgresSnapshot]:
        with self._reads.reading(lambda connection: PostgresSnapshot(self.url, connection)) as snapshot:
            yield snapshot

    def get_blob(self, sha256: str) -> bytes | None:
        found = self._reads.read(
            lambda connection: connection.cursor(binary=True).execute(own("get_blob"), (sha256,)).fetchall()
        )
        return found[0][0] if found else None

    # ------------------------------------------------------------------------------ other processes

    def _own_session(self) -> Session:
        """Made when it is asked for: whoever only reads needs none."""
        if self._session is None:
            self._session = Session(self.url, self.place.connect, self.place.schema or "", self.place.pooled)
        return self._session

    def presence(self) -> AdvisoryLocks:
        return AdvisoryLocks(self._own_session(), self._reads, self.place.schema or "")

    def hints(self, wake: Callable[[], None]) -> SessionHints:
        session = self._own_session()
        session.listen(wake)
        return SessionHints(session)


def _clear(connection: Connection) -> None:
    """Ends whatever a failed begin has left open."""
    if not connection.closed and connection.info.transaction_status is not TransactionStatus.IDLE:
        with suppress(psycopg.Error):
            connection.execute("ROLLBACK")


def _is_made(cursor: psycopg.Cursor[Any], sql: str) -> bool:
    """Whether what a statement makes is there already."""
    name = made_if_missing(sql)
    if name is None:
        return False
    return bool(cursor.execute(own("exists"), (name,)).fetchall()[0][0])


def _run(cursor: psycopg.Cursor[Any], sql: str, params: Params) -> list[Row]:
    if params:
        cursor.execute(translated(sql), params)
    else:
        cursor.execute(sql.encode())
    return [] if cursor.description is None else cursor.fetchall()
