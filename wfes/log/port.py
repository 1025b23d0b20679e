"""The Log port: what an adapter for a database must do, and how the writer is used.

The docstrings here are the semantics; ``tests/conformance`` checks them against every adapter. An adapter holds no
policy: it knows bytes, places and rows, not what an event means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from eventsourcing.persistence import Notification

from wfes.core.events import Copied, Event, Recorded
from wfes.core.state import InstanceState
from wfes.log.archive import Archive
from wfes.log.presence import Hints, Presence

Row = tuple[Any, ...]
StoredRow = tuple[int, str, int, str, bytes]
"""A stored event with its place: position, stream, version, topic, state."""


class Snapshot(Protocol):
    """Reads that all see one and the same moment of the log and the rows beside it. Used by one thread."""

    @property
    def position(self) -> int:
        """The newest position at that moment, 0 in an empty log."""
        ...

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Runs one query on the rows beside the log."""
        ...


class WriteTransaction(Protocol):
    """An open, exclusive write transaction: nobody else can append until it ends. Used by one thread."""

    @property
    def head(self) -> int:
        """The newest position in the log, this transaction's own events included (0: the log is empty)."""
        ...

    @property
    def others(self) -> bool:
        """Whether anybody else may have committed since this log's last ``begin`` or ``changed``."""
        ...

    @property
    def broken(self) -> bool:
        """Whether a statement failed in a way that leaves nothing to do but to roll back."""
        ...

    def news(
        self, after: int, topics: Sequence[str] = (), limit: int | None = None
    ) -> Sequence[Notification]:
        """The events with a position above ``after``, in order: what others committed since.

        All of them, or at most ``limit`` whose topic is one of ``topics`` (none: any).
        """
        ...

    def history(self, stream: str, after: int = 0, limit: int | None = None) -> Sequence[Notification]:
        """The stored events of a stream with a version above ``after``, in order; at most ``limit``."""
        ...

    def histories(self, streams: Sequence[str], events_max: int) -> Mapping[str, Sequence[StoredRow]]:
        """The whole histories of some of these streams, with one read for all.

        Stops, between two streams, where ``events_max`` events have been read; a stream that does not exist, or was
        not read any more, is not in the result.
        """
        ...

    def last(self, stream: str) -> Notification | None:
        """The newest stored event of a stream."""
        ...

    def insert(self, rows: Sequence[StoredRow]) -> None:
        """Appends stored events; their positions go on from ``head``, which moves with them.

        Plain tuples, because this is the path of every event.

        Raises:
            IntegrityError: a (stream, version) or a position is taken. The transaction must be rolled back.
        """
        ...

    def delete_history(self, stream: str, upto: int) -> None:
        """Removes the events of a stream up to this version; their positions are not used again.

        Only for what is archived: an event behind them must keep the stream from ever being empty.
        """
        ...

    def query(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Runs one statement on the rows beside the log, in this transaction."""
        ...

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        """Runs one statement for many rows, in this transaction."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """What is inserted and executed for many rows within the block may be sent all at once; nothing is read there.

        What is wrong with any of it is raised at the end of the block at the latest.
        """
        ...

    def put_blob(self, sha256: str, content: bytes) -> None:
        """Stores a large value by its content, if it is not there yet."""
        ...

    def get_blob(self, sha256: str) -> bytes | None:
        """A large value by its content's hash, those stored in this transaction included."""
        ...

    def commit(self) -> None:
        """Makes everything durable. When it returns, it survives power loss at default settings."""
        ...

    def rollback(self) -> None:
        """Undoes everything. Safe to call after a failed commit."""
        ...


class Lent(Protocol):
    """A transaction that a step's function writes its own rows in; the step's completion is appended to the same."""

    @property
    def connection(self) -> Any:
        """What a plain function is given; it can neither commit nor write to the log's own tables."""
        ...

    @property
    def asynchronous(self) -> Any:
        """What an ``async`` function is given; the same, where the database's library knows one kind only."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether the database has ended it."""
        ...

    @property
    def refused(self) -> str | None:
        """What the function did and must not, and was refused; None: nothing."""
        ...

    def settle(self) -> None:
        """Called when the function is over: checks what it has done, as far as a commit would.

        Raises:
            ForbiddenInTransaction: it did what it must not do.
        """
        ...

    def write(self) -> WriteTransaction:
        """Goes on with it as the log's write transaction, which holds the write lock. From the writer's thread, once.

        Raises:
            LogUnavailable: it is gone, and what the function wrote with it.
        """
        ...

    def rollback(self) -> None:
        """Undoes everything, from any thread, even while the function is still at work on it. Safe to call twice."""
        ...

    def close(self) -> None:
        """Lets go of its connection; once it is rolled back and the function is over. Safe to call twice."""
        ...


@dataclass(frozen=True, slots=True)
class Handed:
    """A command as it stands in the outbox.

    Attributes:
        kind: which command.
        id: the instance, or the event, that it is about.
        at: when it was handed over, in microseconds.
        command: its JSON.
        content: the large value that the JSON refers to.
    """

    kind: str
    id: str
    at: int
    command: str
    content: bytes | None = None


class Caller(Protocol):
    """A caller's own connection, in whatever transaction it is. Used where the caller uses it, on its thread or loop.

    It never ends the caller's transaction, and takes no lock but those of the rows it inserts.
    """

    async def check(self) -> None:
        """Makes sure that it leads to this very log.

        Raises:
            ValueError: it does not, or cannot be used from here.
        """
        ...

    async def has_start(self, id: str) -> bool:
        """Whether the start of this instance waits in the outbox, as this transaction sees it."""
        ...

    async def insert(self, handed: Handed) -> None:
        """Puts a command into the outbox, where it stays if the caller's transaction is committed."""
        ...


@runtime_checkable
class Log(Protocol):
    """One append-only log and the rows beside it.

    Writing is for one thread at a time (the writer's); reading is for any thread.

    Attributes:
        url: its URL.
        dialect: what its database's SQL is called: ``"sqlite"``, ``"postgresql"``.
        archive: where histories that left the log are.
        lends_seconds: how long what ``lend`` gives may be kept, because it holds the write lock; None: it holds none
            before ``Lent.write``, and may be kept as long as it takes.
    """

    url: str
    dialect: str
    archive: Archive
    lends_seconds: float | None

    def open(self, statements: Sequence[str]) -> None:
        """Opens the database, creates or upgrades its schema and runs the projections' ``CREATE … IF NOT EXISTS``.

        Raises:
            LogUnavailable: it cannot be opened: not a database, of a newer schema, read-only, missing rights, …
        """
        ...

    def open_to_read(self) -> bool:
        """Opens a database that this process may not write: nothing of it is changed, `begin` and `lend` refuse.

        Returns:
            Whether there is a log; where there is none, nothing is open.

        Raises:
            LogUnavailable: it cannot be read, or its schema is another release's.
        """
        ...

    def close(self) -> None:
        """Closes every connection. Safe to call twice; it can be opened again."""
        ...

    def begin(self) -> WriteTransaction:
        """Takes the write lock. ``LogUnavailable`` (with ``retryable`` True where waiting helps) if it cannot."""
        ...

    def lend(self) -> Lent:
        """Begins a transaction for a step's function.

        Where ``lends_seconds`` says so, only from the writer's thread, with no transaction open; else from any.

        Raises:
            LogUnavailable: it cannot.
        """
        ...

    def caller(self, connection: object) -> Caller:
        """What a caller's own connection is used through.

        Raises:
            TypeError: it is none that leads to this kind of database.
            NotSupported: nobody can have a connection to this log's database.
        """
        ...

    def handed_over(self) -> bool:
        """Whether a command that a caller committed with his own rows waits to be appended; cheap. From the writer's
        thread only."""
        ...

    def changed(self) -> bool:
        """Whether anybody else committed since the last call or ``begin``; cheap. From the writer's thread only."""
        ...

    def select_events(
        self,
        originator_id: str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        """Reads a stream, as the eventsourcing library's recorders do, with positions."""
        ...

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Reads the whole log in order, as the eventsourcing library's recorders do."""
        ...

    def select_by_stream(self, stream: str, version: int, limit: int) -> Sequence[Notification]:
        """Reads the whole log in the order of streams and versions, behind a place in it."""
        ...

    def max_notification_id(self) -> int:
        """The newest position, 0 in an empty log."""
        ...

    def topics(self) -> set[str]:
        """Every topic of an event in the log; cheap, however long the log is."""
        ...

    def read(self, sql: str, params: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Runs one query on the rows beside the log, seeing the last commit."""
        ...

    def read_at(self, sql: str, params: Sequence[object] = ()) -> tuple[list[Row], int]:
        """As ``read``, with the newest position of the very same snapshot."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """One moment for several reads; to be left soon, for it holds a connection."""
        ...

    def get_blob(self, sha256: str) -> bytes | None:
        """A large value by its content's hash."""
        ...

    def presence(self) -> Presence | None:
        """How workers of this open log see one another; None: nobody else can share it."""
        ...

    def hints(self, wake: Callable[[], None]) -> Hints | None:
        """Calls ``wake``, from any thread, when others hint that they have committed; None: not offered, poll."""
        ...


class Tx(Protocol):
    """What a member sees inside the writer's transaction: exact states, and appends that all commit or none."""

    @property
    def now(self) -> int:
        """The writer's clock, in microseconds since the Unix epoch."""
        ...

    def state(self, stream: str) -> InstanceState | None:
        """The slim state of an instance as of now, this transaction's own appends included; None if there is none.

        Read-only for the caller.
        """
        ...

    def version(self, stream: str) -> int:
        """The version of a stream's newest event, 0 if there is none; for the engine's own ``$`` streams."""
        ...

    def append(self, stream: str, events: Sequence[Event]) -> int:
        """Appends the events behind the stream's newest; returns the version of the last one.

        Reactions to these events (waking waiters, …) are appended with them.
        """
        ...

    def append_copies(self, stream: str, copies: Sequence[tuple[Event, Copied]]) -> int:
        """As ``append``, for copies that a fork's history begins with: nothing reacts to what happened elsewhere."""
        ...

    def history(self, stream: str, after: int = 0) -> list[Recorded]:
        """A stream's events with a version above ``after``, this transaction's own appends included.

        Only those that stand in the log: an archived instance has none but the one that says so.
        """
        ...

    def delete_history(self, stream: str, upto: int) -> None:
        """Removes the events of an instance up to this version, which are archived; what says so is appended by this
        very transaction."""
        ...

    def histories(self, streams: Sequence[str], events_max: int) -> dict[str, list[Recorded]]:
        """The whole histories of some of these instances, read together; their states are at hand afterwards.

        Stops where about ``events_max`` events have been read, after one instance at least; the others, and those
        that do not exist, are not in the result.
        """
        ...

    @property
    def position(self) -> int:
        """The position of the newest event, this transaction's own appends included; the next one's is one more."""
        ...

    def query(
        self,
        sql: str,
        params: Sequence[object] | Mapping[str, object] = (),
        *,
        shows: Collection[type[Event]] | None = None,
    ) -> list[Row]:
        """Reads rows of inline projections, which reflect this transaction's own appends.

        Args:
            sql: one statement.
            params: its parameters.
            shows: the kinds of events whose rows have to be seen, where that is known: appends of other kinds then
                stay in the buffer, and the rows read may be without them. None: every append is to be seen.
        """
        ...

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        """Runs one statement for many rows beside the log, in this transaction."""
        ...

    def put_blob(self, sha256: str, content: bytes) -> None:
        """Stores a large value with this commit."""
        ...


class Member(Protocol):
    """One atomic piece of work in the writer's queue.

    ``run`` is called in the writer's thread, inside the transaction, possibly again if the transaction had to be
    repeated; it must read and decide before it appends. What it returns goes to ``done`` after the commit; a
    ``WfesError`` it raises before appending refuses it alone and goes to ``failed``. Both are called on the event
    loop's thread.

    A member with a method ``begin(log) -> WriteTransaction`` is run by itself, in the transaction which that gives; it
    is called again if the transaction has to be repeated. Where ``run`` raises, all of that transaction is undone.

    A member with an attribute ``streams`` names instances that it will look at: what a batch names is read together.

    A member with a true attribute ``withdrawable`` is a command that somebody waits for: while the log is in trouble it
    is given back after a time, unrecorded, with ``LogUnavailable``. Any other member waits for ever.
    """

    def run(self, tx: Tx) -> Any: ...

    def done(self, result: Any) -> None: ...

    def failed(self, error: Exception) -> None: ...
