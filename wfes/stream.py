"""The whole log as an async iterator: everything in order, then live.

Reads pages in a thread; at the end it sleeps until the writer tells of a later position. It ends when the engine is
closed, and holds nothing between two items, so a slow reader costs nothing but its own time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from wfes.core.events import CATALOGUE
from wfes.errors import EngineNotOpen
from wfes.history import PAGE, Histories, Viewer
from wfes.log.application import decode
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


def checked_position(after: object) -> int:
    """A position of the log; None is its beginning.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is negative.
    """
    if after is None:
        return 0
    if isinstance(after, bool) or not isinstance(after, int):
        raise TypeError(f"after is {shown(after)}; it must be a position of the log, a whole number")
    if after < 0:
        raise ValueError(f"after is {after!r}; it must not be negative")
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

    def page(after: int) -> tuple[list[RecordedEvent], int]:
        # Asked before reading: what is committed meanwhile is read by the next turn.
        head = log.max_notification_id()
        stored = log.select_notifications(after, PAGE, topics=topics, inclusive_of_start=False)
        shown_events = viewer.view(map(decode, stored))
        full = len(shown_events) >= PAGE
        return shown_events, shown_events[-1].position if full else max(
            after, head, *_positions(shown_events)
        )

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


def _positions(events: list[RecordedEvent]) -> tuple[int, ...]:
    return (events[-1].position,) if events else (0,)
