"""Waiting for what the log will say: an instance's end, a position. Woken by the writer's deliveries, never by polling.

`Ends` remembers the newest ends it was told, so that whoever asks for the end of an instance started a moment ago
needs no read; how many, and how much memory they take, is bounded. Everything here belongs to the engine's event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from wfes.core import events as e
from wfes.errors import EngineNotOpen
from wfes.log.application import body_bytes

ENDS_MAX = 10_000
"""Ends remembered."""
ENDS_MAX_BYTES = 16 << 20
"""Bytes of ends remembered, as they are stored."""
END_MAX_BYTES = 64 << 10
"""Bytes of an end that is remembered; a larger one is read from the log by whoever asks later."""

End = e.WorkflowCompleted | e.WorkflowFailed | e.WorkflowAborted | e.WorkflowCancelled | e.WorkflowTimedOut

_CLOSED = "the engine was closed while this call was waiting; the instance goes on in the log"


class Ends:
    """Instances' ends, and who waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: dict[str, list[asyncio.Future[e.Event]]] = {}
        self._known: OrderedDict[str, tuple[e.Event, int]] = OrderedDict()
        self._bytes = 0
        self.heard_to = 0
        """Log position up to which every end was told."""
        self.forgotten_at = 0
        """Log position before which ends may have been forgotten: who has listened since an earlier one has to read."""

    def tell(self, events: Iterable[e.Recorded], head: int) -> None:
        """Takes newly committed events, in order."""
        self.heard_to = head
        for recorded in events:
            event, id = recorded.event, recorded.originator_id
            if event.terminal:
                self._keep(id, event)
                for waiter in self._waiters.pop(id, ()):
                    if not waiter.done():
                        waiter.set_result(event)
            elif isinstance(event, e.WorkflowRetried):
                self._drop(id)
            elif isinstance(event, e.HistoryArchived):
                # Its end has left the log, perhaps before this process came to hear of it: whoever waits looks.
                for waiter in self._waiters.pop(id, ()):
                    if not waiter.done():
                        waiter.set_result(event)
        while len(self._known) > ENDS_MAX or self._bytes > ENDS_MAX_BYTES:
            self._drop(next(iter(self._known)))
            self._forgot()

    def _keep(self, id: str, event: e.Event) -> None:
        self._drop(id)
        size = len(body_bytes(event))
        if size > END_MAX_BYTES:
            self._forgot()
            return
        self._known[id] = event, size
        self._bytes += size

    def _drop(self, id: str) -> None:
        found = self._known.pop(id, None)
        if found is not None:
            self._bytes -= found[1]

    def _forgot(self) -> None:
        # One behind the batch: an instance found by a member of this very batch may have ended in it, and who got it
        # has listened only since the batch's own head.
        self.forgotten_at = self.heard_to + 1

    def known(self, id: str) -> e.Event | None:
        """The end an instance is known to have."""
        found = self._known.get(id)
        return None if found is None else found[0]

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
        self._closed = False

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

    def is_closed(self) -> bool:
        """Whether the engine was closed: nothing more will be told."""
        return self._closed

    async def reached(self, position: int) -> None:
        """Returns once the log is known to have this position.

        Raises:
            EngineNotOpen: the engine was closed, before or meanwhile.
        """
        if self._closed:
            raise EngineNotOpen(_CLOSED)
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
        """Everybody who waits, or will, gets `EngineNotOpen`."""
        self._closed = True
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(EngineNotOpen(_CLOSED))
