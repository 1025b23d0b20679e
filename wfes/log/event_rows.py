"""What the writer needs of projections by event type that run inside its transactions.

The log knows nothing of projections; ``wfes.subscription.inline`` is what stands behind this.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from eventsourcing.persistence import Notification

from wfes.core.events import Event, Recorded
from wfes.core.state import InstanceState
from wfes.log.port import Log, WriteTransaction


class Ground(Protocol):
    """The open transaction as handlers' surroundings see it."""

    @property
    def now(self) -> int:
        """The writer's clock, in microseconds since the Unix epoch."""
        ...

    @property
    def write(self) -> WriteTransaction:
        """The transaction of the log."""
        ...

    def peek(self, stream: str) -> InstanceState | None:
        """The state of an instance, if it is in memory."""
        ...

    def finish(self) -> None:
        """Writes out everything so far, and how far the rows are: for the commit, and for whoever reads that before."""
        ...


class EventRows(Protocol):
    """Event projections inside the writer's transactions. Used by the writer's thread.

    Attributes:
        doubtful: what is known of the rows must be looked up again: the last transaction was undone, or others wrote.
    """

    doubtful: bool

    @property
    def handled(self) -> Container[type[Event]]:
        """Types of events that are to be handed to ``run``; one object, which changes in place."""
        ...

    def begin(self, ground: Ground, seen: int, news: Sequence[Notification]) -> bool:
        """Brings the rows up to the log, where others committed or something is doubtful.

        Args:
            ground: the transaction, nothing appended yet.
            seen: the position behind which ``news`` are all events.
            news: what others committed.

        Returns:
            Whether anything was written.

        Raises:
            NewerRelease: another release made rows of the engine's own anew; nothing may be written by this one.
        """
        ...

    def run(self, ground: Ground, happened: Sequence[Recorded]) -> None:
        """Runs the handlers of events that were appended, which stand in the log, and writes the rows."""
        ...

    def finish(self, ground: Ground) -> None:
        """Notes in the database how far the rows are: before a member looks at that, and at the end."""
        ...

    def committed(self) -> None:
        """The transaction is over, and what it wrote is there."""
        ...

    def undone(self) -> None:
        """The transaction was undone."""
        ...

    def behind(self, log: Log) -> bool:
        """Whether rows that have to be up to date are not, because others committed. Outside transactions.

        Raises:
            NewerRelease: as ``begin``.
        """
        ...
