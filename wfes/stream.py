"""The whole log as an async iterator: everything in order, then live.

Reads pages in a thread; at the end it sleeps until the writer tells of a later position. It ends when the engine is
closed, and holds nothing between two items, so a slow reader costs nothing but its own time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from itertools import islice

from eventsourcing.persistence import Notification

from wfes.core.events import CATALOGUE
from wfes.errors import EngineNotOpen
from wfes.history import PAGE, Histories, Viewer
from wfes.log.application import decode
from wfes.log.archived import missed, whole_log
from wfes.log.port import Log
from wfes.runtime.values import Values
from wfes.validation import shown
from wfes.views import RecordedEvent
from wfes.waiting import Positions


def checked_topics(topics: Iterable[str] | str | None) -> tuple[str, ...]:
    """Names of events.

    Raises:
        ValueError: There is no event of that name.
    """
    names = (topics,) if isinstance(topics, str) else tuple(topics or ())
    for name in names:
        if name not in CATALOGUE:
            raise ValueError(
                f"there is no event {shown(name)}; the events are {', '.join(sorted(CATALOGUE))}"
            )
    return names


def checked_position(after: object, name: str = "after") -> int:
    """A position of the log; None is its beginning.

    Args:
        after: what was given.
        name: of the parameter it was given as.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is negative.
    """
    if after is None:
        return 0
    if isinstance(after, bool) or not isinstance(after, int):
        raise TypeError(f"{name} is {shown(after)}; it must be a position of the log, a whole number")
    if after < 0:
        raise ValueError(f"{name} is {after!r}; it must not be negative")
    return after


async def recorded_events(
    log: Log,
    histories: Histories,
    values: Values,
    positions: Positions,
    after: int,
    topics: tuple[str, ...],
) -> AsyncGenerator[RecordedEvent]:
    """Every event behind a position, without end; only of these topics, where there are any."""
    viewer = Viewer(histories, values)
    pages = _Pages(log, topics)

    def page(after: int) -> tuple[list[RecordedEvent], int]:
        stored, upto = pages.behind(after)
        return viewer.view(map(decode, stored)), upto

    while not positions.is_closed():
        try:
            events, after = await asyncio.to_thread(page, after)
        except Exception:
            # A log that is closed while it is read says so in many ways.
            if positions.is_closed():
                return
            raise
        for event in events:
            if positions.is_closed():
                return
            yield event
        if not events:
            try:
                await positions.reached(after + 1)
            except EngineNotOpen:
                return


class _Pages:
    """Pages of a log in order, as if nothing had ever left it."""

    def __init__(self, log: Log, topics: tuple[str, ...]) -> None:
        self._log = log
        self._topics = topics
        self._past: Iterator[Notification] | None = None
        self._past_end = 0

    def behind(self, after: int) -> tuple[Sequence[Notification], int]:
        """The next events, and the position up to which they are all there are."""
        if self._past is None:
            # Asked before reading: what is committed meanwhile is read by the next turn.
            head = self._log.max_notification_id()
            page = self._log.select_notifications(after, PAGE, topics=self._topics, inclusive_of_start=False)
            if not missed(self._log, after):
                return page, page[-1].id if len(page) >= PAGE else max([after, head, *_last(page)])
            self._past = whole_log(self._log, after, self._topics, upto=head)
            self._past_end = head
        page = list(islice(self._past, PAGE))
        if len(page) >= PAGE:
            return page, page[-1].id
        self._past = None
        return page, max(after, self._past_end)


def _last(page: Sequence[Notification]) -> list[int]:
    return [page[-1].id] if page else []
