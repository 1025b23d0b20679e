"""Waiting for what the log will say: an instance's end, a position. Woken by the writer's deliveries, never by polling.

`Ends` remembers the newest ends it was told, so that whoever asks for the end of an instance started a moment ago
needs no read. Everything here belongs to the engine's event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from wfes.core import events as e
from wfes.errors import EngineNotOpen

ENDS_MAX = 10_000
"""Ends remembered."""

End = e.WorkflowCompleted | e.WorkflowFailed | e.WorkflowAborted | e.WorkflowCancelled | e.WorkflowTimedOut

_CLOSED = "the engine was closed while this call was waiting; the instance goes on in the log"


class Ends:
    """Instances' ends, and who waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: dict[str, list[asyncio.Future[e.Event]]] = {}
        self._known: OrderedDict[str, e.Event] = OrderedDict()
        self.heard_to = 0
        """Log position up to which every end was told."""
        self.forgotten_at = 0
        """Log position up to which ends may have been forgotten."""

    def tell(self, events: Iterable[e.Recorded], head: int) -> None:
        """Takes newly committed events, in order."""
        self.heard_to = head
        for recorded in events:
            event, id = recorded.event, recorded.originator_id
            if event.terminal:
                self._known[id] = event
                for waiter in self._waiters.pop(id, ()):
                    if not waiter.done():
                        waiter.set_result(event)
            elif isinstance(event, e.WorkflowRetried):
                self._known.pop(id, None)
        while len(self._known) > ENDS_MAX:
            self._known.popitem(last=False)
            self.forgotten_at = head

    def known(self, id: str) -> e.Event | None:
        """The end an instance is known to have."""
        return self._known.get(id)

    def expect(self, id: str) -> asyncio.Future[e.Event]:
        """A future of the next end of an instance; give it back to `leave`."""
        waiter: asyncio.Future[e.Event] = self._loop.create_future()
        self._waiters.setdefault(id, []).append(waiter)
        return waiter

    def leave(self, id: str, waiter: asyncio.Future[e.Event]) -> None:
        """Waits no longer."""
        waiters = self._waiters.get(id)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[id]
        waiter.cancel()

    def close(self) -> None:
        """Everybody who waits gets `EngineNotOpen`."""
        waiters = [waiter for several in self._waiters.values() for waiter in several]
        self._waiters.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(EngineNotOpen(_CLOSED))


class Positions:
    """The newest position of the log that this engine was told of, and who waits for a later one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self.head = 0

    def tell(self, head: int) -> None:
        """Takes the newest position."""
        if head <= self.head:
            return
        self.head = head
        waiting: list[tuple[int, asyncio.Future[None]]] = []
        for position, waiter in self._waiters:
            if position > head:
                waiting.append((position, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = waiting

    async def reached(self, position: int) -> None:
        """Returns once the log is known to have this position."""
        if self.head >= position:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        entry = (position, waiter)
        self._waiters.append(entry)
        try:
            await waiter
        finally:
            if entry in self._waiters:
                self._waiters.remove(entry)

    def close(self) -> None:
        """Everybody who waits gets `EngineNotOpen`."""
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(EngineNotOpen(_CLOSED))
