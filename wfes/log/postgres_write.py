"""The write transaction on PostgreSQL: the port's WriteTransaction on the log's one write connection.

Nobody else can write while it waits for an answer, so its round trips are few. Its begin is one: the transaction, its
limits, the write lock and a look at the log; what is written together is another, then comes the commit. The lock is an
advisory one, so that it stands in nobody's way but another writer's: neither vacuum nor a backup waits for it, or it
for them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, cast

import psycopg
from eventsourcing.persistence import IntegrityError, Notification
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from wfes.log.port import Row, StoredRow
from wfes.log.postgres_connection import Connection
from wfes.log.postgres_errors import ends_connection, unavailable
from wfes.log.postgres_sql import Params, defined, made_if_missing, own, translated

LOCK_SECONDS = 5
"""How long a write waits for another process's before the log counts as unavailable."""
IDLE_SECONDS = 6
"""How long a process that was stopped in the middle of a transaction keeps the others waiting: less than a command
waits for its turn, so that none of theirs fails for it."""
LAST = (1 << 63) - 1

Counted = tuple[int, int]
"""The newest position, and how many commits changed rows alone: together they change with every commit."""


class Looked(NamedTuple):
    """What one look at the log shows.

    Attributes:
        counted: what tells whether anything was committed.
        handed_over: whether a command that a caller committed waits to be appended.
    """

    counted: Counted
    handed_over: bool


def looked(connection: Connection) -> Looked:
    """Looks at the log.

    Raises:
        psycopg.Error: it cannot.
    """
    return _looked(_run(connection, own("look")))


def _looked(result: PGresult) -> Looked:
    position, changes = int(result.get_value(0, 0) or 0), int(result.get_value(0, 1) or 0)
    return Looked((position, changes), result.get_value(0, 2) == b"t")


def _run(connection: Connection, sql: bytes) -> PGresult:
    """Runs what has no parameters; the last statement's result.

    The shortest way, for what is done many times a second, also by whoever idles.
    """
    result = connection.pgconn.exec_(sql)
    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        error = psycopg.errors.error_from_result(result, connection.info.encoding)
        # What has no code does not come from the server, but from the connection to it.
        raise error if error.sqlstate else psycopg.OperationalError(str(error))
    return result


class PostgresWrite:
    """An open write transaction.

    Attributes:
        head: the newest position.
        others: whether anybody else has committed since this log looked last.
        broken: a statement failed: PostgreSQL refuses every other one until the transaction is rolled back.
        left: what the log is counted at when the transaction is over; None: that is not known.
        handed_over: whether a command that a caller committed waited to be appended when it began; None: rows were
            changed since, and it may be otherwise.
    """

    def __init__(
        self, url: str, connection: Connection, topics: set[str], known: Counted | None, begin: bytes
    ) -> None:
        """Begins it.

        Args:
            url: what errors call the log.
            connection: the write connection, with nothing open on it.
            topics: topics known to be in the table of topics.
            known: what the log was counted at when this process looked last.
            begin: the statements that begin a transaction, take the lock and look at the log.
        """
        self.broken = False
        self.left: Counted | None = None
        self._url = url
        self._topics = topics
        self._new_topics: set[str] = set()
        self._connection = connection
        self._cursor = connection.cursor()
        self._events = connection.cursor(binary=True)
        self._open = True
        self._wrote = False
        self._together = False
        with self._errors():
            found = _looked(_run(connection, begin))
        self._begun, self.handed_over = found.counted, cast("bool | None", found.handed_over)
        self._first = self.head = self._begun[0]
        self.others = self._begun != known

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except psycopg.IntegrityError as error:
            self.broken = True
            raise IntegrityError(str(error)) from error
        except psycopg.Error as error:
            self.broken = True
            if ends_connection(self._connection, error):
                self._connection.close()
            raise unavailable(self._url, error) or error from error

    def _read(self, name: str, params: Mapping[str, object]) -> list[Any]:
        with self._errors():
            return self._events.execute(own(name), params).fetchall()

    # ------------------------------------------------------------------------------------ the log

    def news(
        self, after: int, topics: Sequence[str] = (), limit: int | None = None
    ) -> Sequence[Notification]:
        name, params = log_params(after + 1, limit, None, topics)
        return [Notification(*row) for row in self._read(name, params)]

    def history(self, stream: str, after: int = 0, limit: int | None = None) -> Sequence[Notification]:
        return self._stream("select_stream", stream, after, limit)

    def histories(self, streams: Sequence[str], events_max: int) -> Mapping[str, Sequence[StoredRow]]:
        found: dict[str, list[StoredRow]] = {}
        if events_max <= 0:
            return found
        rows = self._read("select_streams", {"streams": list(streams), "limit": events_max + 1})
        for row in rows[:events_max]:
            found.setdefault(row[1], []).append(row)
        if len(rows) > events_max:
            _, stream, version, _, _ = rows[events_max - 1]
            if rows[events_max][1] == stream:
                # The last one that was begun is read to its end.
                found[stream].extend(
                    (each.id, stream, each.originator_version, each.topic, each.state)
                    for each in self.history(stream, version)
                )
        return found

    def last(self, stream: str) -> Notification | None:
        found = self._stream("select_stream_newest_first", stream, 0, 1)
        return found[0] if found else None

    def _stream(self, name: str, stream: str, gt: int, limit: int | None) -> list[Notification]:
        params = {"stream": stream, "gt": gt, "lte": LAST, "limit": limit}
        return [Notification(*row) for row in self._read(name, params)]

    def insert(self, rows: Sequence[StoredRow]) -> None:
        if not rows:
            return
        with self._errors():
            columns = [list(column) for column in zip(*rows, strict=True)]
            self._cursor.execute(own("insert_events"), columns)
            if new := {row[3] for row in rows} - self._topics - self._new_topics:
                self._cursor.execute(own("add_topics"), (sorted(new),))
                self._new_topics |= new
        self.head = rows[-1][0]

    def delete_history(self, stream: str, upto: int) -> None:
        self._wrote = True
        with self._errors():
            self._cursor.execute(own("delete_history"), (stream, upto))

    # ------------------------------------------------------------------------------ rows beside it

    def query(self, sql: str, params: Params = ()) -> list[Row]:
        with self._errors():
            return self._query(sql, params)

    def _query(self, sql: str, params: Params) -> list[Row]:
        cursor = self._cursor
        self._wrote = self._wrote or sql.lstrip()[:6].upper() != "SELECT"
        name = made_if_missing(sql)
        if name is not None and cursor.execute(own("exists"), (name,)).fetchall()[0][0]:
            return []
        if params:
            cursor.execute(translated(sql), params)
        else:
            cursor.execute(defined(sql))
        return [] if cursor.description is None else cursor.fetchall()

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        self._wrote = True
        with self._errors():
            if len(params) == 1:
                self._cursor.execute(translated(sql), params[0])
            elif params:
                self._cursor.executemany(translated(sql), params)

    @contextmanager
    def together(self) -> Generator[None]:
        if self._together or not psycopg.Pipeline.is_supported():
            yield
            return
        self._together = True
        try:
            # An error in the middle leaves the statements behind it out; it is raised here, and all is rolled back.
            with self._errors(), self._connection.pipeline():
                yield
        finally:
            self._together = False

    def put_blob(self, sha256: str, content: bytes) -> None:
        self._wrote = True
        with self._errors():
            self._cursor.execute(own("put_blob"), (sha256, content))

    def get_blob(self, sha256: str) -> bytes | None:
        with self._errors():
            found = self._events.execute(own("get_blob"), (sha256,)).fetchall()
        return found[0][0] if found else None

    # --------------------------------------------------------------------------------- the end

    def commit(self) -> None:
        changes = self._begun[1]
        with self._errors():
            if self._wrote and self.head == self._first:
                # Nothing else tells the others that something has changed.
                self._cursor.execute(own("count_change"))
                changes += 1
            self._open = False
            if _run(self._connection, b"COMMIT").command_status != b"COMMIT":
                # What a failed statement left behind: PostgreSQL rolls it back, and calls that no error.
                raise psycopg.errors.InFailedSqlTransaction("the transaction had failed before its commit")
        self.left = self.head, changes
        if self._wrote:
            self.handed_over = None
        self._topics |= self._new_topics

    def rollback(self) -> None:
        if self._open:
            self._open = False
            with suppress(psycopg.Error):
                self._cursor.execute("ROLLBACK")
                self.left = self._begun


def log_params(
    start: int, limit: int | None, stop: int | None, topics: Sequence[str]
) -> tuple[str, dict[str, object]]:
    """The statement that reads a stretch of the log, and its parameters."""
    params: dict[str, object] = {"start": start, "stop": LAST if stop is None else stop, "limit": limit}
    if not topics:
        return "select_log", params
    params["topics"] = list(topics)
    return "select_log_topics", params
