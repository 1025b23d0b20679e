"""The SQLite adapter of the Log port, on the eventsourcing library's recorder and connection pool.

The library's own table has no ``INTEGER PRIMARY KEY``: ``VACUUM`` would renumber its positions, and deleting the newest
rows would use them again. So this recorder has a table of its own, with explicit positions that only rise.

All writing goes through one connection, with ``BEGIN IMMEDIATE``, WAL and ``synchronous=FULL``: a commit that returned
survives power loss. Reading goes through a pool of other connections, each read in a snapshot of its own. Everything
of the log's own is named ``wfes_…``, because a user's tables may lie in the same file.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from eventsourcing.persistence import (
    ConnectionPoolClosedError,
    IntegrityError,
    Notification,
    PersistenceError,
    StoredEvent,
)
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteDatastore,
)

from wfes.errors import LogUnavailable
from wfes.log.application import chained
from wfes.log.archive import Archive, FileArchive
from wfes.log.callers import driver_connection
from wfes.log.file_presence import FileLocks
from wfes.log.port import Row, StoredRow, WriteTransaction
from wfes.log.sqlite_caller import SQLiteCaller
from wfes.log.sqlite_errors import check_path, unavailable
from wfes.log.sqlite_lent import LENDS_SECONDS, ForbiddenStatement, LentConnection
from wfes.log.statements import schema, statement

BUSY_SECONDS = 5.0
"""How long a write waits for another process's before the log counts as unavailable."""

CACHE_KIB = 16_384
"""How much of the file the write connection keeps in memory, in KiB."""
CHECKPOINT_PAGES = 4_000
"""From how many pages on the write-ahead log is copied back into the file: 16 MB at SQLite's usual page size."""

TO_READ = "it was opened for reading alone, for this process may not write to it"

_BUSY_PAUSE_MIN_SECONDS = 0.000_2
_BUSY_PAUSE_MAX_SECONDS = 0.002
_SCHEMA = "schema"
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


C = TypeVar("C", bound=sqlite3.Connection)


class _ReadPool(SQLiteConnectionPool):
    def _create_connection(self) -> SQLiteConnection:
        connection = super()._create_connection()
        raw = connection._sqlite_conn
        raw.row_factory = None
        raw.execute("PRAGMA query_only = ON")
        return connection


class _Datastore(SQLiteDatastore):
    """The library's datastore over read-only connections."""

    def __init__(self, name: str) -> None:
        super().__init__(name, originator_id_type="text")
        self.pool = _ReadPool(db_name=name, lock_timeout=int(BUSY_SECONDS), max_overflow=100)


class SQLiteWrite:
    """The port's WriteTransaction on the log's one write connection."""

    def __init__(self, url: str, connection: sqlite3.Connection, topics: set[str], others: bool) -> None:
        self.others = others
        self.broken = False
        self._url = url
        self._topics = topics
        self._new_topics: set[str] = set()
        self._connection = connection
        self._execute = connection.execute
        with self._errors():
            found = self._execute(statement("sqlite", "head")).fetchone()
        self.head: int = found[0] if found else 0

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise IntegrityError(str(error)) from error
        except sqlite3.Error as error:
            raise unavailable(self._url, error) or error from error

    def news(
        self, after: int, topics: Sequence[str] = (), limit: int | None = None
    ) -> Sequence[Notification]:
        name, params = _log_params(after + 1, -1 if limit is None else limit, None, topics)
        with self._errors():
            return [Notification(*row) for row in self._execute(statement("sqlite", name), params)]

    def history(self, stream: str, after: int = 0, limit: int | None = None) -> Sequence[Notification]:
        return self._stream("select_stream", stream, after, limit)

    def histories(self, streams: Sequence[str], events_max: int) -> Mapping[str, Sequence[StoredRow]]:
        found: dict[str, list[StoredRow]] = {}
        current: list[StoredRow] = []
        name, left = "", events_max
        with self._errors(), closing(self._connection.cursor()) as cursor:
            cursor.execute(statement("sqlite", "select_streams"), (orjson.dumps(list(streams)).decode(),))
            for row in cursor:
                if row[1] != name:
                    if left <= 0:
                        break
                    name = row[1]
                    current = found[name] = []
                current.append(row)
                left -= 1
        return found

    def last(self, stream: str) -> Notification | None:
        found = self._stream("select_stream_newest_first", stream, None, 1)
        return found[0] if found else None

    def _stream(self, name: str, stream: str, gt: int | None, limit: int | None) -> list[Notification]:
        params = {"stream": stream, "gt": gt, "lte": None, "limit": limit}
        with self._errors():
            return [Notification(*row) for row in self._execute(statement("sqlite", name), params)]

    def insert(self, rows: Sequence[StoredRow]) -> None:
        with self._errors():
            self._connection.executemany(statement("sqlite", "insert_event"), rows)
            if new := {row[3] for row in rows} - self._topics:
                self._connection.executemany(statement("sqlite", "add_topic"), [(topic,) for topic in new])
                self._new_topics |= new
        if rows:
            self.head = rows[-1][0]

    def delete_history(self, stream: str, upto: int) -> None:
        with self._errors():
            self._execute(statement("sqlite", "delete_history"), (stream, upto))

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        with self._errors():
            return self._execute(sql, params).fetchall()

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        with self._errors():
            self._connection.executemany(sql, params)

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def put_blob(self, sha256: str, content: bytes) -> None:
        with self._errors():
            self._execute(statement("sqlite", "put_blob"), (sha256, content))

    def get_blob(self, sha256: str) -> bytes | None:
        found = self.query(statement("sqlite", "get_blob"), (sha256,))
        return found[0][0] if found else None

    def commit(self) -> None:
        with self._errors():
            self._execute("COMMIT")
        self._topics |= self._new_topics

    def rollback(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._execute("ROLLBACK")


class SQLiteLent:
    """The port's Lent: a write transaction of the file, on a connection of its own."""

    def __init__(self, log: SQLiteLog, connection: LentConnection) -> None:
        self.connection = self.asynchronous = connection
        self.is_lost = False
        self._log = log

    @property
    def refused(self) -> str | None:
        return self.connection.refused

    def settle(self) -> None:
        if self.refused is not None:
            raise ForbiddenStatement(self.refused)

    def write(self) -> WriteTransaction:
        self.connection.take_back()
        return self._log.write_on(self.connection)

    def rollback(self) -> None:
        self.connection.end()

    def close(self) -> None:
        self.connection.shut()


class _LentWrite(SQLiteWrite):
    """A write transaction whose connection goes with it."""

    _connection: LentConnection

    def commit(self) -> None:
        super().commit()
        self._connection.shut()

    def rollback(self) -> None:
        self._connection.end()
        self._connection.shut()


class SQLiteSnapshot:
    """The port's Snapshot in one read transaction."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        # The first read is what fixes the moment.
        self.position = _head(cursor)

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        self._cursor.execute(sql, params)
        return self._cursor.fetchall()


class SQLiteLog(SQLiteApplicationRecorder):
    """A log in one SQLite file.

    Args:
        path: the file; it is made if its directory exists.
        url: what errors call it.
    """

    def __init__(self, path: str | Path, url: str | None = None) -> None:
        self.path = Path(path).absolute()
        self.url = url or f"sqlite:///{self.path}"
        self.dialect = "sqlite"
        self.lends_seconds: float | None = LENDS_SECONDS
        self.archive: Archive = FileArchive(self.path.with_name(f"{self.path.name}.archive"))
        self._name = f"file:{quote(str(self.path))}"
        super().__init__(_Datastore(self._name), "wfes_events")
        self._writing: sqlite3.Connection | None = None
        self._data_version = 0
        self._reads_only = False
        self._unchanged: tuple[int, int, bool] | None = None
        """What a file looked like that was opened as one that never changes; None: it was not."""
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that is open."""
        self._topics: set[str] = set()
        """Topics known to be in the table of topics."""

    # ------------------------------------------------------------------------------------ opening

    def open(self, statements: Sequence[str]) -> None:
        check_path(self.url, self.path)
        try:
            connection = self._writing = self._connect()
            self._retry_busy(lambda: self._create(connection, statements))
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise unavailable(self.url, error) or error from error
            raise
        self._data_version = self._read_data_version()
        self._file = self._file_there()

    def open_to_read(self) -> bool:
        if not self.path.exists():
            return False
        self._reads_only = True
        name = f"{self._name}?mode=ro"
        try:
            try:
                connection = self._connect_to_read(name)
            except sqlite3.OperationalError:
                # Without the files beside it, which nobody here may make, SQLite reads it only as one that never
                # changes. What stands in a write-ahead log would be missing.
                if any(Path(f"{self.path}{end}").exists() for end in ("-wal", "-shm")):
                    raise
                name += "&immutable=1"
                self._unchanged = self._looks()
                connection = self._connect_to_read(name)
        except sqlite3.Error as error:
            raise unavailable(self.url, error) or error from error
        if connection is None:
            return False
        self._writing = connection
        self.datastore = _Datastore(name)
        self._data_version = self._read_data_version()
        self._file = self._file_there()
        return True

    def _connect_to_read(self, name: str) -> sqlite3.Connection | None:
        """A connection that only reads; None where there is no log."""
        connection = sqlite3.connect(
            name, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            version, known = self._version(connection), len(schema("sqlite"))
            if version == known:
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        if version:
            raise LogUnavailable(
                self.url,
                f"its schema is version {version}, and this release of wfes reads version {known}: let one who may "
                "write to it open it once with this release",
            )
        return None

    def _looks(self) -> tuple[int, int, bool]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, Path(f"{self.path}-wal").exists()

    def _file_there(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _connect(self) -> sqlite3.Connection:
        return self._connect_as(sqlite3.Connection)

    def _connect_as(self, kind: type[C]) -> C:
        connection = sqlite3.connect(
            self._name,
            factory=kind,
            uri=True,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )
        try:
            self._retry_busy(lambda: self._settings(connection))
        except BaseException:
            connection.close()
            raise
        return connection

    def _settings(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise LogUnavailable(
                self.url, f"its file system allows no write-ahead log (journal mode {mode!r})"
            )
        connection.execute("PRAGMA synchronous = FULL")
        # A batch touches pages all over the file. With room for them, here and in the write-ahead log, a page that
        # several batches change is read once and copied back once.
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        if sys.platform == "darwin":
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")

    def _create(self, connection: sqlite3.Connection, statements: Sequence[str]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._migrate(connection)
            for sql in statements:
                connection.execute(sql)
            # Where nothing is to be made, nothing has shown yet that this process may write.
            connection.execute(statement("sqlite", "check_writable"))
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the schema that is there, 0 if there is none."""
        version = 0
        if connection.execute(statement("sqlite", "has_meta")).fetchone():
            found = connection.execute(statement("sqlite", "get_meta"), (_SCHEMA,)).fetchone()
            version = int(found[0]) if found else 0
        if version > (known := len(schema("sqlite"))):
            raise LogUnavailable(
                self.url,
                f"its schema is version {version} and this release of wfes knows {known}: "
                "a newer release wrote it; use that one",
            )
        return version

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = self._version(connection)
        migrations = schema("sqlite")
        for migration in migrations[version:]:
            for sql in migration:
                connection.execute(sql)
        if version < len(migrations):
            connection.execute(statement("sqlite", "set_meta"), (_SCHEMA, str(len(migrations))))

    def close(self) -> None:
        self.datastore.close()
        connection, self._writing = self._writing, None
        if connection is not None:
            connection.close()

    # ------------------------------------------------------------------------------------ writing

    def _retry_busy(self, action: Any) -> None:
        """Runs ``action`` until no other process is in its way, for at most ``BUSY_SECONDS``.

        SQLite's own waiting sleeps up to 100 ms at a time, which starves a process beside a busy one; these short
        pauses let two of them take turns.
        """
        deadline = time.monotonic() + BUSY_SECONDS
        pause = _BUSY_PAUSE_MIN_SECONDS
        while True:
            try:
                action()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY_CODES or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _BUSY_PAUSE_MAX_SECONDS)

    def begin(self) -> SQLiteWrite:
        connection = self._writing
        if connection is None:
            raise LogUnavailable(self.url, "it is closed")
        if self._reads_only:
            raise LogUnavailable(self.url, TO_READ, read_only=True)
        try:
            self._retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"))
        except sqlite3.Error as error:
            raise unavailable(self.url, error) or error from error
        self._check_file(connection)
        others = self.changed()
        return SQLiteWrite(self.url, connection, self._topics, others)

    def _check_file(self, connection: sqlite3.Connection) -> None:
        if self._file_there() != self._file:
            # What is written to an unlinked file is lost, whatever the database says.
            connection.execute("ROLLBACK")
            reason = (
                "its file was removed or replaced while it was open; put it back, or open the engine again"
            )
            raise LogUnavailable(self.url, reason, retryable=True)

    def lend(self) -> SQLiteLent:
        if self._writing is None or self._reads_only:
            raise LogUnavailable(self.url, TO_READ if self._reads_only else "it is closed")
        try:
            connection = self._connect_as(LentConnection)
            try:
                self._retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"))
                self._check_file(connection)
            except BaseException:
                connection.shut()
                raise
        except sqlite3.Error as error:
            raise unavailable(self.url, error) or error from error
        connection.lend(LENDS_SECONDS)
        return SQLiteLent(self, connection)

    def write_on(self, connection: LentConnection) -> WriteTransaction:
        """The write transaction that a lent connection is in."""
        return _LentWrite(self.url, connection, self._topics, self.changed())

    def caller(self, connection: object) -> SQLiteCaller:
        return SQLiteCaller(self.url, self.path, driver_connection(connection))

    def handed_over(self) -> bool:
        if self._writing is None:
            raise LogUnavailable(self.url, "it is closed")
        try:
            found: int = self._writing.execute(statement("sqlite", "handed_over")).fetchone()[0]
        except sqlite3.Error as error:
            raise unavailable(self.url, error) or error from error
        return bool(found)

    def changed(self) -> bool:
        if self._unchanged is not None and self._unchanged != self._looks():
            raise LogUnavailable(
                self.url, "it was changed while it was open as one that nobody changes; open the engine again"
            )
        try:
            found = self._read_data_version()
        except sqlite3.Error as error:
            raise unavailable(self.url, error) or error from error
        if found == self._data_version:
            return False
        self._data_version = found
        return True

    def _read_data_version(self) -> int:
        if self._writing is None:
            raise LogUnavailable(self.url, "it is closed")
        found: int = self._writing.execute("PRAGMA data_version").fetchone()[0]
        return found

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

    @contextmanager
    def _snapshot(self) -> Generator[sqlite3.Cursor]:
        try:
            with self.datastore.transaction(commit=False) as cursor:
                yield cursor  # type: ignore[misc]
        except ConnectionPoolClosedError as error:
            raise LogUnavailable(self.url, "it is closed") from error
        except PersistenceError as error:
            cause = error.args[0] if error.args and isinstance(error.args[0], sqlite3.Error) else error
            raise unavailable(self.url, cause) or cause from error

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
        params = {"stream": originator_id, "gt": gt, "lte": lte, "limit": limit}
        with self._snapshot() as cursor:
            cursor.execute(statement("sqlite", name), params)
            return [Notification(*row) for row in cursor.fetchall()]

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
        name, params = _log_params(first, limit, stop, topics)
        with self._snapshot() as cursor:
            cursor.execute(statement("sqlite", name), params)
            return [Notification(*row) for row in cursor.fetchall()]

    def select_by_stream(self, stream: str, version: int, limit: int) -> Sequence[Notification]:
        with self._snapshot() as cursor:
            params = {"stream": stream, "version": version, "limit": limit}
            cursor.execute(statement("sqlite", "select_by_stream"), params)
            return [Notification(*row) for row in cursor.fetchall()]

    def max_notification_id(self) -> int:
        with self._snapshot() as cursor:
            return _head(cursor)

    def topics(self) -> set[str]:
        return {row[0] for row in self.read(statement("sqlite", "topics"))}

    def read(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        with self._snapshot() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall()

    def read_at(self, sql: str, params: Sequence[object] = ()) -> tuple[list[Row], int]:
        with self._snapshot() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall(), _head(cursor)

    @contextmanager
    def snapshot(self) -> Generator[SQLiteSnapshot]:
        with self._snapshot() as cursor:
            yield SQLiteSnapshot(cursor)

    def get_blob(self, sha256: str) -> bytes | None:
        found = self.read(statement("sqlite", "get_blob"), (sha256,))
        return found[0][0] if found else None

    def presence(self) -> FileLocks:
        return FileLocks(self.path.with_name(f"{self.path.name}.workers"))

    def hints(self, wake: Callable[[], None]) -> None:
        """Not offered: `changed` costs next to nothing."""


def _log_params(
    start: int, limit: int, stop: int | None, topics: Sequence[str]
) -> tuple[str, dict[str, object]]:
    """The statement that reads a stretch of the log, and its parameters."""
    params: dict[str, object] = {"start": start, "stop": stop, "limit": limit}
    if not topics:
        return "select_log", params
    params["topics"] = orjson.dumps(list(topics)).decode()
    return "select_log_topics", params


def _head(cursor: sqlite3.Cursor) -> int:
    cursor.execute(statement("sqlite", "head"))
    found = cursor.fetchone()
    return found[0] if found else 0
