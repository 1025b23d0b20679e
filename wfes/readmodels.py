"""What an engine lets one ask its projections, and do with them.

The projections' half of `Engine`'s calls. Nothing here changes the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from wfes.core import durations
from wfes.core.durations import Duration
from wfes.log.port import Log
from wfes.parts import Parts
from wfes.registration import checked_projections
from wfes.stream import checked_position
from wfes.subscription.check import CheckReport
from wfes.subscription.projection import Projection, Query
from wfes.validation import shown
from wfes.views import Answer, ProjectionStatus

T = TypeVar("T")


class ReadModels:
    """An engine's calls about projections."""

    _log: Log
    _parts: Parts

    async def position(self) -> int:
        """The newest position of the log.

        What was asked for before this call stands at or before it: passed as `at_least=`, here or to an engine in
        another process, it lets one read one's own writes.
        """
        self._parts.check_open()
        return await self._parts.here(asyncio.to_thread(self._log.max_notification_id))

    async def query(
        self, question: Query[T], *, at_least: int | None = None, timeout: Duration | None = None
    ) -> Answer[T]:
        """Asks a projection.

        Args:
            question: A query of a projection, such as `OrdersByDay.best(limit=3)`.
            at_least: Waits until the rows reflect this log position; see `position`.
            timeout: Duration to wait at most; default: 30 seconds.

        Raises:
            UnknownProjection: This engine was not given the projection.
            ProjectionStopped: A handler raised before `at_least` was reached.
            ProjectionNotReady: Its rows are still of an older version that cannot answer, or are of a newer one than
                this program's and have not reached `at_least`.
            TimeoutError: It did not reach `at_least` in time.
        """
        if not isinstance(question, Query):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"query takes a question such as OrdersByDay.best(limit=3), not {shown(question)}: call a method "
                "that is marked with @query"
            )
        self._parts.check_open()
        wanted = None if at_least is None else checked_position(at_least, "at_least")
        seconds = None if timeout is None else durations.micros(timeout, "timeout") / durations.SECOND
        return await self._parts.here(self._parts.models.ask(question, wanted, seconds))

    def learn_projections(self, projections: Iterable[Projection | type[Projection]]) -> None:
        """Makes projections known to the calls below, without following them: for programs that look after them.

        Args:
            projections: Classes, or made ones.

        Raises:
            DuplicateProjection: Two have the same name, or tables of the same name.
        """
        self._parts.models.learn(checked_projections(projections))

    async def projections(self) -> list[ProjectionStatus]:
        """How every projection is: the engine's own, those it was given, and others with rows in the log's database."""
        self._parts.check_open()
        return await self._parts.here(self._parts.models.statuses())

    async def retry_projection(self, name: str) -> None:
        """Lets a stopped projection go on at the event where its handler raised; nothing if it is not stopped.

        Args:
            name: Its name. It may be followed by another process.

        Raises:
            UnknownProjection: There is none of that name.
        """
        self._parts.check_open()
        await self._parts.here(self._parts.models.retry(checked_name(name)))

    async def rebuild_projection(
        self, name: str, progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Builds a projection's rows anew from log and archives, beside the live ones, and swaps them at once.

        Args:
            name: Its name.
            progress: Called now and then with how many positions of the log are done, and of how many.

        Raises:
            UnknownProjection: This engine has none of that name.
            ProjectionStopped: A handler raised; the old rows stay.
            ValueError: A table of somebody else's has the name of one that is needed; it is left alone.
        """
        self._parts.check_open()
        await self._parts.here(self._parts.models.rebuild(checked_name(name), progress))

    async def drop_projection(self, name: str) -> None:
        """Removes a projection for good: its tables, and what is noted about it. The log is not touched.

        Other engines are asked whether they follow it, which takes two seconds. It need not be known to this one,
        unless it has a database of its own: then `learn_projections` says where.

        Args:
            name: Its name.

        Raises:
            UnknownProjection: There is none of that name.
            ProjectionInUse: An engine that runs follows it, or it comes with wfes.
            ValueError: Something of yours in the database, such as a view, needs one of its tables.
        """
        self._parts.check_open()
        await self._parts.here(self._parts.models.drop(checked_name(name)))

    async def check_projection(self, name: str) -> CheckReport:
        """Compares a projection's rows with what log and archives make of it, row for row. Changes nothing.

        Args:
            name: Its name.

        Raises:
            UnknownProjection: This engine has none of that name.
            ProjectionStopped: A handler raised.
        """
        self._parts.check_open()
        return await self._parts.here(self._parts.models.check(checked_name(name)))


def checked_name(name: object) -> str:
    """A projection's name.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"a projection is named by its name, a str, not {shown(name)}")
    return name
