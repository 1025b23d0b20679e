"""The in-memory adapter of the Log port: the eventsourcing library's plain-object recorder, rows in SQLite's memory.

Nothing survives the object. One lock orders everything: readers wait for the end of an open write transaction, so they
never see half of one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from eventsourcing.persistence import IntegrityError, Notification, StoredEvent
from eventsourcing.popo import POPOApplicationRecorder

from wfes.errors import LogUnavailable, NotSupported
from wfes.log.application import chained
from wfes.log.archive import Archive, MemoryArchive
from wfes.log.port import Caller, Row, StoredRow, WriteTransaction
from wfes.log.sqlite_lent import LENDS_SECONDS, ForbiddenStatement, LentConnection
from wfes.log.statements import schema

_OUTBOX = 3
"""The version of SQLite's schema that brings the outbox, which is looked at here as well, and stays empty."""


class MemoryWrite:
    """The port's WriteTransaction in memory; holds the log's lock from its begin to its end."""

    def __init__(self, log: MemoryLog, connection: sqlite3.Connection) -> None:
        self._log = log
        self._connection = connection
        self._rows: list[StoredRow] = []
        self._blobs: dict[str, bytes] = {}
        self._deleted: list[tuple[str, int]] = []
        self._open = True
        self.head = log.max_notification_id()
        self.broken = False
        self.others = True
        """Nobody counts who shares this log, and to look costs little in memory."""

    def news(
        self, after: int, topics: Sequence[str] = (), limit: int | None = None
    ) -> Sequence[Notification]:
        stored = self._log.select_notifications(after + 1, self.head + 1, topics=topics)
        mine = [_notification(row) for row in self._rows if row[0] > after]
        return [*stored, *(row for row in mine if not topics or row.topic in topics)][:limit]

    def history(self, stream: str, after: int = 0, limit: int | None = None) -> Sequence[Notification]:
        deleted = max((upto for name, upto in self._deleted if name == stream), default=0)
        stored = self._log.select_events(stream, gt=max(after, deleted))
        mine = [_notification(row) for row in self._rows if row[1] == stream and row[2] > after]
        return sorted((*stored, *mine), key=lambda found: found.originator_version)[:limit]

    def histories(self, streams: Sequence[str], events_max: int) -> Mapping[str, Sequence[StoredRow]]:
        found: dict[str, list[StoredRow]] = {}
        left = events_max
        for stream in sorted(set(streams)):
            if left <= 0:
                break
            if rows := [_row(stored) for stored in self.history(stream)]:
                found[stream] = rows
                left -= len(rows)
        return found

    def last(self, stream: str) -> Notification | None:
        found = [
            *self._log.select_events(stream, desc=True, limit=1),
            *(_notification(row) for row in self._rows if row[1] == stream),
        ]
        return max(found, key=lambda stored: stored.originator_version, default=None)

    def insert(self, rows: Sequence[StoredRow]) -> None:
        taken = {(row[1], row[2]) for row in self._rows}
        for row in rows:
            place = row[1], row[2]
            if row[0] != self.head + 1 or place in taken or self._log.holds(*place):
                raise IntegrityError(f"taken: version {row[2]} of {row[1]!r}, or position {row[0]}")
            taken.add(place)
            self._rows.append(row)
            self.head = row[0]

    def delete_history(self, stream: str, upto: int) -> None:
        self._deleted.append((stream, upto))

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, params).fetchall()
        except sqlite3.IntegrityError as error:
            raise IntegrityError(str(error)) from error

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        try:
            self._connection.executemany(sql, params)
        except sqlite3.IntegrityError as error:
            raise IntegrityError(str(error)) from error

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def put_blob(self, sha256: str, content: bytes) -> None:
        self._blobs[sha256] = content

    def get_blob(self, sha256: str) -> bytes | None:
        return self._blobs.get(sha256) or self._log.get_blob(sha256)

    def commit(self) -> None:
        if not self._open:
            raise LogUnavailable(self._log.url, "this transaction is over")
        self._log.keep([_stored(row) for row in self._rows], self._blobs)
        for stream, upto in self._deleted:
            self._log.drop(stream, upto)
        self._connection.execute("COMMIT")
        self._end()

    def rollback(self) -> None:
        if self._open:
            self._connection.execute("ROLLBACK")
            self._end()

    def _end(self) -> None:
        self._open = False
        self._log.release()


class MemoryLent:
    """The port's Lent: a copy of the rows, which takes their place when it is committed.

    So whoever reads meanwhile sees the rows as they are, and waits for nobody.
    """

    def __init__(self, log: MemoryLog, connection: LentConnection) -> None:
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


class _LentWrite(MemoryWrite):
    """A write transaction on a copy of the rows."""

    def __init__(self, log: MemoryLog, connection: LentConnection) -> None:
        super().__init__(log, connection)
        self._lent = connection

    def commit(self) -> None:
        self._log.replace_rows(self._lent)
        super().commit()

    def rollback(self) -> None:
        if self._open:
            super().rollback()
            self._lent.shut()


class MemorySnapshot:
    """The port's Snapshot; the log's lock is held around it."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.position = log.max_notification_id()

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        return self._log.read(sql, params)


class MemoryLog(POPOApplicationRecorder):
    """A log in this process's memory."""

    def __init__(self, url: str = "sqlite://") -> None:
        super().__init__()
        self.url = url
        self.dialect = "sqlite"
        self.lends_seconds: float | None = LENDS_SECONDS
        self.archive: Archive = MemoryArchive()
        self._topics: set[str] = set()
        self._connection: sqlite3.Connection | None = None
        self._blobs: dict[str, bytes] = {}
        self._known = 0

    def open(self, statements: Sequence[str]) -> None:
        with self._database_lock:
            if self._connection is None:
                self._connection = sqlite3.connect(
                    ":memory:", isolation_level=None, check_same_thread=False, cached_statements=512
                )
                for sql in schema("sqlite")[_OUTBOX - 1]:
                    self._connection.execute(sql)
            for sql in statements:
                self._connection.execute(sql)

    def open_to_read(self) -> bool:
        return False

    def close(self) -> None:
        with self._database_lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _rows(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LogUnavailable(self.url, "it is closed")
        return self._connection

    def begin(self) -> MemoryWrite:
        self._database_lock.acquire()
        try:
            connection = self._rows()
            connection.execute("BEGIN")
            self._known = self.max_notification_id()
            return MemoryWrite(self, connection)
        except BaseException:
            self._database_lock.release()
            raise

    def lend(self) -> MemoryLent:
        connection = sqlite3.connect(
            ":memory:",
            factory=LentConnection,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )
        with self._database_lock:
            self._rows().backup(connection)
        connection.execute("BEGIN")
        connection.lend(LENDS_SECONDS)
        return MemoryLent(self, connection)

    def write_on(self, connection: LentConnection) -> MemoryWrite:
        """The write transaction that a lent copy of the rows is in."""
        self._database_lock.acquire()
        self._known = self.max_notification_id()
        return _LentWrite(self, connection)

    def replace_rows(self, connection: LentConnection) -> None:
        """Takes a copy of the rows for the rows; the lock is held."""
        former, self._connection = self._rows(), connection
        former.close()
        connection.release()

    def caller(self, connection: object) -> Caller:
        raise NotSupported(
            "connection= needs a log in a database that others can be connected to: a log in memory has none"
        )

    def handed_over(self) -> bool:
        return False

    def release(self) -> None:
        """Gives the lock back that ``begin`` took."""
        self._known = self.max_notification_id()
        self._database_lock.release()

    def holds(self, stream: str, version: int) -> bool:
        """Whether this version of the stream is taken."""
        return version in self._stored_events_index[stream]

    def keep(self, events: Sequence[StoredEvent], blobs: Mapping[str, bytes]) -> None:
        """Takes a transaction's events and blobs in."""
        super().insert_events(events)
        self._blobs.update(blobs)
        self._topics.update(stored.topic for stored in events)

    def drop(self, stream: str, upto: int) -> None:
        """Removes a stream's events up to this version; their places stay taken."""
        index = self._stored_events_index[stream]
        for version in [version for version in index if version <= upto]:
            self._stored_events[index.pop(version)] = _GONE

    def changed(self) -> bool:
        found = self.max_notification_id()
        if found == self._known:
            return False
        self._known = found
        return True

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

    def select_events(
        self,
        originator_id: Any,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        with self._database_lock:
            index = self._stored_events_index.get(originator_id, {})
            oldest = next(iter(index), 1)
            newest = oldest + len(index) - 1
            first = oldest if gt is None else max(oldest, gt + 1)
            last = newest if lte is None else min(lte, newest)
            wanted = range(first, last + 1)
            if desc:
                wanted = wanted[::-1]
            if limit is not None:
                wanted = wanted[:limit]
            places = [index[version] for version in wanted]
            return [_placed(self._stored_events[place], place + 1) for place in places]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        with self._database_lock:
            first = 1 if start is None else max(1, start + (not inclusive_of_start))
            last = len(self._stored_events) if stop is None else min(stop, len(self._stored_events))
            found: list[Notification] = []
            for position in range(first, last + 1):
                stored = self._stored_events[position - 1]
                if stored is _GONE or (topics and stored.topic not in topics):
                    continue
                found.append(_placed(stored, position))
                if len(found) == limit:
                    break
            return found

    def select_by_stream(self, stream: str, version: int, limit: int) -> Sequence[Notification]:
        with self._database_lock:
            found = [
                _placed(stored, position)
                for position, stored in enumerate(self._stored_events, 1)
                if stored is not _GONE
                and (stored.originator_id, stored.originator_version) > (stream, version)
            ]
        found.sort(key=lambda each: (each.originator_id, each.originator_version))
        return found[:limit]

    def max_notification_id(self) -> int:
        return super().max_notification_id() or 0

    def topics(self) -> set[str]:
        with self._database_lock:
            return set(self._topics)

    def read(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        with self._database_lock:
            return self._rows().execute(sql, params).fetchall()

    def read_at(self, sql: str, params: Sequence[object] = ()) -> tuple[list[Row], int]:
        with self._database_lock:
            return self.read(sql, params), self.max_notification_id()

    @contextmanager
    def snapshot(self) -> Generator[MemorySnapshot]:
        with self._database_lock:
            yield MemorySnapshot(self)

    def get_blob(self, sha256: str) -> bytes | None:
        with self._database_lock:
            return self._blobs.get(sha256)

    def presence(self) -> None:
        """None: nobody else can share it."""

    def hints(self, wake: Callable[[], None]) -> None:
        """Not offered."""


_GONE = StoredEvent("", 0, "", b"")
"""Stands where an event was that has left the log."""


def _notification(row: StoredRow) -> Notification:
    position, stream, version, topic, state = row
    return Notification(stream, version, topic, state, position)


def _row(found: Notification) -> StoredRow:
    return found.id, str(found.originator_id), found.originator_version, found.topic, found.state


def _stored(row: StoredRow) -> StoredEvent:
    _, stream, version, topic, state = row
    return StoredEvent(stream, version, topic, state)


def _placed(stored: StoredEvent, position: int) -> Notification:
    return Notification(stored.originator_id, stored.originator_version, stored.topic, stored.state, position)
