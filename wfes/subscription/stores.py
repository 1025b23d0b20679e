"""Where a projection's rows are: the log's own database, or one of their own.

Owns reading and writing rows together with their row in the table of projections, in one transaction each, and the
fence that makes following exactly once: whoever applies changes says what they were built on, and a checkpoint that is
no longer there refuses them.

In the log's own database a write is a member of the writer's queue: it shares the group commit, and takes no lock
while rows are computed. In another database it is a recorder of the eventsourcing library with single-row tracking,
whose refusal to go back is a second fence, and whose ``tracking`` table tells the position to whatever else is built on
that library.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import quote, unquote

from eventsourcing.persistence import IntegrityError, PersistenceError, Tracking
from eventsourcing.sqlite import SQLiteCursor, SQLiteDatastore, SQLiteTrackingRecorder

from wfes.errors import LogUnavailable
from wfes.log.event_rows import Ground
from wfes.log.port import Log, Member, Tx, WriteTransaction
from wfes.log.sqlite_errors import check_path, unavailable
from wfes.subscription import registry
from wfes.subscription.registry import Entry
from wfes.subscription.table import DIALECTS, SQLITE, Dialect

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

Row = tuple[Any, ...]
Params = Sequence[object] | Mapping[str, object]
Change = tuple[str, Sequence[Row]]
"""A statement, and the parameters of each time it is run."""

BUSY_SECONDS = 5
"""How long a write to a database of its own waits for another process's."""
CLOSING_SECONDS = 1.0
"""How long a write that is under way is still waited for when the engine closes."""
_LOOK_SECONDS = 0.1


class Target(Protocol):
    """An open write transaction of a store.

    Attributes:
        tx: the writer's, where the store is the log's own database.
    """

    tx: Tx | None

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        """Runs one statement."""
        ...

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        """Runs one statement for many rows."""
        ...

    def moved(self, name: str, position: int | None) -> None:
        """The checkpoint of these rows is this one from now on; None: there are no such rows any more."""
        ...


class View(Protocol):
    """Reads of one moment."""

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        """Runs one query."""
        ...


class Store(Protocol):
    """A database that holds rows. Safe to use from any thread but the event loop's own, which would wait for itself.

    Attributes:
        url: the database's.
        dialect: how it calls the kinds of columns.
    """

    url: str
    dialect: Dialect

    def open(self) -> None:
        """Makes it ready; safe to call again.

        Raises:
            LogUnavailable: it cannot be.
        """
        ...

    def close(self) -> None:
        """Closes what `open` opened."""
        ...

    def exists(self) -> bool:
        """Whether anything was ever written there; makes nothing.

        Raises:
            LogUnavailable: it cannot be asked.
        """
        ...

    def snapshot(self) -> AbstractContextManager[View]:
        """One moment for several reads; to be left soon.

        Raises:
            LogUnavailable: the database is away.
        """
        ...

    def write(self, work: Callable[[Target], T]) -> T:
        """Runs work in one transaction, possibly several times, and returns once it is durable.

        What the work raises comes out, and nothing of it is done.

        Raises:
            LogUnavailable: the database is away; nothing of it was done, or all of it.
        """
        ...


class Overtaken(Exception):
    """The rows are no longer those that changes were built on.

    Attributes:
        found: what they are of now; None: they are not there.
    """

    def __init__(self, found: Entry | None) -> None:
        super().__init__(f"the rows are now those of {found}")
        self.found = found


@dataclass(frozen=True, slots=True)
class _Place:
    version: int
    generation: int
    position: int | None


def _place(entry: Entry) -> _Place:
    return _Place(entry.version, entry.generation, entry.position)


def apply(store: Store, base: Entry, to: Entry, changes: Sequence[Change]) -> Entry:
    """Writes changes that were built on rows, and where they lead.

    Args:
        store: where the rows are.
        base: what the rows were of when the changes were computed.
        to: what they are of then.
        changes: what to write.

    Returns:
        What the rows are of now: ``to`` itself, or what was found there if they had been led to this very place
        before. Whoever did that, the changes may then have been computed from newer rows than those of ``base``:
        nothing that was read for them may be built on.

    Raises:
        Overtaken: somebody else moved or replaced the rows; nothing is done.
        LogUnavailable: the database is away.
    """
    return store.write(lambda target: apply_in(target, base, to, changes))


def apply_in(target: Target, base: Entry, to: Entry, changes: Sequence[Change]) -> Entry:
    """As `apply`, in an open transaction."""
    found = registry.find(target.query, base.name)
    if found is None or _place(found) != _place(base):
        # What leads from one place to another is always the same. So who finds the rows at the very place it leads
        # to has nothing left to write: it sees its own commit, whose answer was lost, or somebody else's.
        if found is not None and _place(found) == _place(to):
            return found
        raise Overtaken(found)
    for sql, params in changes:
        target.executemany(sql, params)
    registry.put(target.query, to)
    if to.position != base.position:
        target.moved(to.name, to.position)
    return to


# -- The log's own database ----------------------------------------------------------------------------------------


class _TxTarget:
    """A store's write transaction inside the writer's."""

    def __init__(self, tx: Tx) -> None:
        self.tx: Tx | None = tx
        self.query = tx.query
        self.executemany = tx.executemany

    def moved(self, name: str, position: int | None) -> None:
        """Nothing: the table of projections says it all."""


class _Work:
    """A store's write as a member of the writer's queue. Given back while the log is in trouble, to be tried again.

    What it may not do, such as making a table, is nobody else's trouble.
    """

    withdrawable = True
    apart = True

    def __init__(self, work: Callable[[Target], Any]) -> None:
        self._work = work
        self.future: Future[Any] = Future()

    def run(self, tx: Tx) -> Any:
        # Other members of this transaction, and what it made up for at its beginning, have moved rows that the writer
        # keeps: their checkpoints are what the work goes by.
        cast(Ground, tx).finish()
        return self._work(_TxTarget(tx))

    def done(self, result: Any) -> None:
        self.future.set_result(result)

    def failed(self, error: Exception) -> None:
        self.future.set_exception(error)


class LogStore:
    """Rows in the log's own database.

    Args:
        log: the open log.
        submit: puts a member into the writer's queue.
    """

    dialect: Dialect = SQLITE

    def __init__(self, log: Log, submit: Callable[[Member], None]) -> None:
        self.url = log.url
        self.dialect = DIALECTS[log.dialect]
        self._log = log
        self._submit = submit
        self._closing = threading.Event()

    def open(self) -> None:
        """Nothing: the log is open."""

    def close(self) -> None:
        """Nobody waits for the writer any longer than `CLOSING_SECONDS`."""
        self._closing.set()

    def exists(self) -> bool:
        """The log is there."""
        return True

    def snapshot(self) -> AbstractContextManager[View]:
        return self._log.snapshot()

    def write(self, work: Callable[[Target], T]) -> T:
        member = _Work(work)
        self._submit(member)
        leave_at: float | None = None
        while True:
            try:
                result: T = member.future.result(_LOOK_SECONDS)
                return result
            except TimeoutError:
                if member.future.done():
                    raise
            if self._closing.is_set():
                leave_at = leave_at or time.monotonic() + CLOSING_SECONDS
                if time.monotonic() > leave_at:
                    raise LogUnavailable(self.url, "this engine is being closed", retryable=True)

    def ground(self, target: Target) -> WriteTransaction:
        """The log's transaction that a target belongs to, everything appended in it written out."""
        target.query("SELECT 1")
        return cast(Ground, target.tx).write


# -- A database of its own -----------------------------------------------------------------------------------------


class _Recorder(SQLiteTrackingRecorder):
    """The library's tracking recorder with the tables about projections beside its own."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), registry.CREATE, registry.CREATE_TABLES]

    def track(self, cursor: SQLiteCursor, name: str, position: int | None) -> None:
        """Notes a checkpoint in an open transaction.

        Raises:
            IntegrityError: it would go back.
        """
        if position is None:
            cursor.execute("DELETE FROM tracking WHERE application_name = ?", (name,))
        elif position:
            self._insert_tracking(cursor, Tracking(name, position))


class _OwnTarget:
    """A store's write transaction in a database of its own."""

    def __init__(self, recorder: _Recorder, cursor: SQLiteCursor) -> None:
        self.tx: Tx | None = None
        self._recorder = recorder
        self._cursor = cursor

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        self._cursor.execute(sql, params)
        return [tuple(row) for row in self._cursor.fetchall()]

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        self._cursor.executemany(sql, params)

    def moved(self, name: str, position: int | None) -> None:
        self._recorder.track(self._cursor, name, position)


class _OwnView:
    def __init__(self, cursor: SQLiteCursor) -> None:
        self._cursor = cursor

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        self._cursor.execute(sql, params)
        return [tuple(row) for row in self._cursor.fetchall()]


class OwnStore:
    """Rows in an SQLite database of their own.

    Args:
        path: its file; made if its directory exists.
        url: what errors call it.
    """

    dialect = SQLITE

    def __init__(self, path: Path, url: str) -> None:
        self.url = url
        self._path = path.absolute()
        self._recorder: _Recorder | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        with self._lock:
            if self._recorder is not None:
                return
            check_path(self.url, self._path)
            with self._errors():
                store = SQLiteDatastore(f"file:{quote(str(self._path))}", lock_timeout=BUSY_SECONDS)
                try:
                    recorder = _Recorder(store)
                    recorder.create_table()
                except BaseException:
                    store.close()
                    raise
                self._recorder = recorder

    def close(self) -> None:
        with self._lock:
            recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.datastore.close()

    def exists(self) -> bool:
        """Whether there is such a file."""
        return self._path.exists()

    @contextmanager
    def snapshot(self) -> Generator[View]:
        recorder = self._opened()
        with self._errors(), recorder.datastore.transaction(commit=False) as cursor:
            yield _OwnView(cursor)

    def write(self, work: Callable[[Target], T]) -> T:
        recorder = self._opened()
        with self._errors(), recorder.datastore.transaction(commit=True) as cursor:
            # The lock is taken before anything is read: what is decided upon stays true until the commit.
            cursor.execute("UPDATE wfes_projections SET version = version WHERE name = ''")
            return work(_OwnTarget(recorder, cursor))

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
        except (PersistenceError, sqlite3.Error) as error:
            cause = error.args[0] if error.args and isinstance(error.args[0], sqlite3.Error) else error
            if isinstance(error, IntegrityError) and cause is error:
                raise Overtaken(None) from error  # the library's tracking refused to go back
            raise unavailable(self.url, cause) or cause from error


_ACCEPTED = (
    "'sqlite:///reports.db' (a path relative to the working directory), 'sqlite:////absolute/reports.db', "
    "or 'postgresql://user@host/database'"
)


def in_postgres(url: object) -> bool:
    """Whether a projection names a PostgreSQL database."""
    return isinstance(url, str) and url.partition("://")[0] in ("postgresql", "postgres")


def path_of(url: object) -> Path:
    """The file of a database that a projection names.

    Raises:
        TypeError: it is no text.
        ValueError: it names no such database.
    """
    if not isinstance(url, str):
        raise TypeError(f"a projection's url is text such as {_ACCEPTED}; not {url!r}")
    rest = url.removeprefix("sqlite:///")
    if rest == url or rest in ("", ":memory:") or "\0" in rest:
        raise ValueError(f"{LogUnavailable(url, '').url!r} is no projection's url; accepted are {_ACCEPTED}")
    return Path(unquote(rest))
