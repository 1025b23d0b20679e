"""What an engine lets one ask its projections, and do with them.

The projections' half of `Engine`'s calls. Nothing here changes the log.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from wfes.core import durations
from wfes.core.durations import Duration
from wfes.log.port import Log
from wfes.parts import Parts
from wfes.stream import checked_position
from wfes.subscription.projection import Query
from wfes.validation import shown
from wfes.views import Answer

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
            ProjectionNotReady: Its rows are still of an older version that cannot answer.
            TimeoutError: It did not reach `at_least` in time.
        """
        if not isinstance(question, Query):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"query takes a question such as OrdersByDay.best(limit=3), not {shown(question)}: call a method "
                "that is marked with @query"
            )
        self._parts.check_open()
        wanted = None if at_least is None else checked_position(at_least)
        seconds = None if timeout is None else durations.micros(timeout, "timeout") / durations.SECOND
        return await self._parts.here(self._parts.models.ask(question, wanted, seconds))
