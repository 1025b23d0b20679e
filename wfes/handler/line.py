"""The release line of one execution: in which order its handler is given things, and events go to the log.

What waits in the line is a callable that records its event and releases what it means. While anything *blocks* (an
intent that must be committed before it is released) nothing else leaves the line. Releases whose events are in the
log already, because they were such intents, come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from wfes.handler.outbox import Entry, Outbox

if TYPE_CHECKING:
    from wfes.handler.execution import Execution
    from wfes.runtime.clock import Clock
    from wfes.runtime.values import Blobs

Release = Callable[[], None]


class Line:
    """Releases to come, and the outbox that what they record goes through."""

    __slots__ = ("_blobs", "_clock", "_committed", "_last_at", "_waiting", "added", "blocks", "outbox")

    def __init__(self, execution: Execution, clock: Clock) -> None:
        self.outbox = Outbox(execution)
        self.blocks = 0
        """How many entries under way must be committed before anything is released."""
        self.added = 0
        """How many entries have been recorded."""
        self._waiting: deque[Release] = deque()
        self._committed: deque[Release] = deque()
        self._blobs: dict[str, bytes] = {}
        self._clock = clock
        self._last_at = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for its release, or for its commit before that."""
        return not (self.blocks or self._waiting or self._committed)

    @property
    def is_quiet(self) -> bool:
        """Whether it is empty and everything recorded is committed."""
        return self.is_empty and self.outbox.is_empty

    def stamp(self) -> int:
        """The moment of the next owner event: the clock, never before the last one."""
        now = self._clock.now()
        if now > self._last_at:
            self._last_at = now
        return self._last_at

    def not_before(self, at: int) -> None:
        """Makes every later stamp at least ``at``."""
        if at > self._last_at:
            self._last_at = at

    def put(self, release: Release) -> None:
        """Puts a release behind the others."""
        self._waiting.append(release)

    def put_first(self, release: Release) -> None:
        """Puts a release whose event is in the log already before those whose are not."""
        self._committed.append(release)

    def last_first(self) -> None:
        """Lets the release put last be the first."""
        self._waiting.rotate(1)

    def next(self) -> Release | None:
        """The release whose turn it is, or None: nothing waits, or something blocks."""
        if self.blocks:
            return None
        if self._committed:
            return self._committed.popleft()
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> None:
        """Forgets every release: the handler is over."""
        self._waiting.clear()
        self._committed.clear()

    def take_along(self, blobs: Blobs) -> None:
        """Large values that go with the next entry."""
        self._blobs.update(blobs)

    def add(self, entry: Entry) -> None:
        """Records an entry."""
        self.added += 1
        if entry.blocks:
            self.blocks += 1
        self.add_again(entry)

    def add_again(self, entry: Entry) -> None:
        """Puts an entry that has been recorded before, and was not committed, behind the others."""
        if self._blobs:
            entry.blobs = (*entry.blobs, *self._blobs.items())
            self._blobs = {}
        self.outbox.add(entry)
