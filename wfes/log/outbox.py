"""From the writer's thread to the event loop's: outcomes and news, in the order in which they happened.

The loop is woken once for everything that waits, and works it off in slices, so that a large batch does not keep it
from its other work.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wfes.core.events import Recorded
from wfes.log.port import Member

SLICE_SECONDS = 0.002
"""How long outcomes are told at a stretch."""
_CHECK_EVERY = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """What a commit added to the log that concerns more than the execution that added it.

    Attributes:
        head: the log's newest position then.
        events: in log order: every event that came from outside, and every end. Ordinary owner events are left out.
    """

    head: int
    events: list[Recorded]


class Outbox:
    """Outcomes on their way to the loop.

    Args:
        loop: the loop on whose thread everything is called.
        deliver: takes each batch of news.
        told: called after each slice.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Batch], None],
        told: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._told = told
        self._items: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._lock = threading.Lock()
        self._scheduled = False
        self._thread = threading.get_ident()

    def put(self, batch: Batch | None, results: Sequence[tuple[Member, Any, Exception | None]]) -> None:
        """Adds news and then outcomes. From the writer's thread, or from any once that has ended."""
        items = self._items
        if batch is not None:
            items.append((self._deliver, batch))
        for member, result, error in results:
            if error is None:
                items.append((member.done, result))
            else:
                items.append((member.failed, error))
        with self._lock:
            if self._scheduled:
                return
            self._scheduled = True
        # The loop is closed: nobody is left to be told.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell)

    def finish(self) -> None:
        """Tells everything that is left, if this is the loop's thread; else the loop does."""
        if threading.get_ident() == self._thread:
            while self._items:
                self._tell_one()
            self._told()
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._told)

    def _tell(self) -> None:
        until = time.perf_counter() + SLICE_SECONDS
        while self._items:
            for _ in range(min(_CHECK_EVERY, len(self._items))):
                self._tell_one()
            if time.perf_counter() > until:
                break
        self._told()
        with self._lock:
            self._scheduled = bool(self._items)
            again = self._scheduled
        if again:
            self._loop.call_soon(self._tell)

    def _tell_one(self) -> None:
        call, argument = self._items.popleft()
        try:
            call(argument)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": f"{call!r} raised while the outcome of a write was told", "exception": error}
            )
