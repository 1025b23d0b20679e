"""What a log offers besides its data: whether other processes live, and hints that they have written.

Both are ports of their own beside ``Log``, for databases differ most here. Neither decides anything: who owns an
instance says the log, and whoever gets no hint polls.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

Beat = tuple[str, Sequence[object]]
"""A statement on the rows beside the log, and its parameters."""


class Hold(Protocol):
    """A lock that one worker holds for as long as its process lives. Safe to use from any thread."""

    @property
    def era(self) -> int:
        """What the worker's row is to say, so that others know whether they can see the lock; 0: they cannot.

        A lock of another era than the one that ``Presence.look`` is in says nothing.
        """
        ...

    @property
    def is_held(self) -> bool:
        """Whether others would see it held now; one that was lost is being taken again meanwhile."""
        ...

    def release(self) -> None:
        """Frees it and removes every trace. Safe to call twice."""
        ...

    def forget(self) -> None:
        """Frees it, and leaves to others to see that it is free."""
        ...


class Presence(Protocol):
    """Locks by which workers of one log see one another.

    Attributes:
        certain: the lock is the operating system's own word about a process of this machine: held means alive, free
            means dead. Otherwise a connection stands between: it may break, and it may outlive what it was for, so a
            free lock has to be seen free twice, and a held one proves nothing.
    """

    certain: bool

    def hold(self, worker: str) -> Hold:
        """Takes the lock of a new worker, whose id was never used before.

        Raises:
            LogUnavailable: it cannot be had, and says what to do about it.
        """
        ...

    def look(self, workers: Mapping[str, int]) -> Mapping[str, bool]:
        """Which of these workers' locks are free (True) or held (False); left out where that cannot be seen.

        Args:
            workers: by id, the era their row speaks of; never 0.

        Raises:
            LogUnavailable: it cannot be read now.
        """
        ...

    def tell(self, beat: Beat) -> bool:
        """Runs a statement at once, beside the writer, durable or not; False: not offered, it is the writer's job.

        Raises:
            LogUnavailable: it cannot be written now.
        """
        ...

    def bury(self, worker: str) -> None:
        """Removes what a dead worker has left behind."""
        ...

    def sweep(self, registered: Collection[str]) -> None:
        """Removes what dead workers have left behind that nobody speaks of any more."""
        ...


class Hints(Protocol):
    """Tells other processes that something was committed. Only a hint: some may be lost, none holds a commit up.

    They end when the log is closed.
    """

    @property
    def heard(self) -> bool:
        """Whether hints of others arrive, as far as is known; a connection that died is noticed within 5 s."""
        ...

    def send(self) -> None:
        """Something was committed. Returns at once; several close together are told as one."""
        ...
