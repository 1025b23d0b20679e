"""Paths inside steps: what a step's function asked for, and what of that outlives the function's run.

A step's function is run again after a crash, after a long inner wait and for each new attempt; what its inner paths
have recorded is given back to it by path. The order of its inner steps is not replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfes.core import events as e

if TYPE_CHECKING:
    from wfes.handler.asks import Ask

SUCCESSES = (
    e.StepCompleted,
    e.SleepEnded,
    e.ListenEnded,
    e.RequestEnded,
    e.ChildEnded,
    e.WaitEnded,
    e.CallRecorded,
    e.ProgressRecorded,
    e.ResultReused,
)


class Nested:
    """What is recorded about one path inside a step that has not ended.

    Attributes:
        kind: what was asked for there.
        end: the event that ended it, or None.
        cut_offs: how often in a row a step there was cut off.
        suspended: whether a step there was left while it waited.
    """

    __slots__ = ("_events", "cut_offs", "end", "kind", "suspended")

    def __init__(self, kind: str, end: e.Event | None = None) -> None:
        self.kind = kind
        self.end = end
        self.cut_offs = 0
        self.suspended = False
        self._events: list[e.Event] = []

    @property
    def succeeded(self) -> bool:
        """Whether it has ended, and not by failing."""
        return isinstance(self.end, SUCCESSES) and getattr(self.end, "error", None) is None

    @property
    def is_attempted(self) -> bool:
        """Whether it is a step of which an attempt was under way."""
        last = self._events[-1] if self._events else None
        return self.kind == "step" and not self.suspended and not isinstance(last, e.StepAttemptFailed)

    def add(self, event: e.Event) -> None:
        """Notes one more event about it."""
        self._events.append(event)

    def apply(self, ask: Ask) -> None:
        """Puts an ask for this path into the recorded condition."""
        for event in self._events:
            ask.adopt(event)
        if ask.kind == "step":
            ask.cut_offs = self.cut_offs  # type: ignore[attr-defined]
            ask.suspended = self.suspended  # type: ignore[attr-defined]


class NestedPaths:
    """All paths inside the open steps of one execution.

    Attributes:
        recorded: what is recorded of paths that nobody awaits at the moment, or that have ended.
        open: the asks of running step functions.
    """

    __slots__ = ("_around", "_at_rest", "_resting", "open", "recorded")

    def __init__(self) -> None:
        self.recorded: dict[str, Nested] = {}
        self.open: dict[str, Ask] = {}
        self._around: set[str] = set()
        """Steps that have or had something inside: most have not, and need no search."""
        self._resting: set[Ask] = set()
        self._at_rest: dict[str, int] = {}
        """How many inner asks of a step are at rest, by its path; it waits while any is."""

    def begin(self, ask: Ask) -> None:
        """A step's function awaits it."""
        self.open[ask.path] = ask
        self._around.update(_steps_around(ask.path))

    def record(self, path: str, nested: Nested) -> None:
        """Keeps what is recorded about a path."""
        self.recorded[path] = nested
        self._around.update(_steps_around(path))

    def waits_inside(self, path: str) -> bool:
        """Whether the function of the step at ``path`` is at an inner wait."""
        return path in self._at_rest

    def rest(self, ask: Ask) -> list[str]:
        """Notes that an inner ask needs nothing of this process now; the steps around it that begin to wait so."""
        if ask in self._resting:
            return []
        self._resting.add(ask)
        began: list[str] = []
        for path in _steps_around(ask.path):
            count = self._at_rest.get(path, 0)
            self._at_rest[path] = count + 1
            if not count:
                began.append(path)
        return began

    def stir(self, ask: Ask) -> list[str]:
        """Notes that an inner ask is at rest no more; the steps around it that go on."""
        if ask not in self._resting:
            return []
        self._resting.remove(ask)
        went_on: list[str] = []
        for path in _steps_around(ask.path):
            self._at_rest[path] -= 1
            if not self._at_rest[path]:
                del self._at_rest[path]
                went_on.append(path)
        return went_on

    def close(self, path: str) -> None:
        """Withdraws what the function of a step still waits for: the function is over."""
        if not self.open or path not in self._around:
            return
        prefix = path + "/"
        for ask in [ask for inner, ask in self.open.items() if inner.startswith(prefix)]:
            if ask.future is not None and not ask.future.done():
                ask.future.cancel()

    def forget_failures(self, path: str) -> None:
        """A new attempt retries what failed inside, never what completed."""
        if path not in self._around:
            return
        prefix = path + "/"
        for inner in [p for p, n in self.recorded.items() if p.startswith(prefix) and not n.succeeded]:
            del self.recorded[inner]

    def drop(self, path: str) -> None:
        """The step has ended: nobody asks for its inner paths again."""
        if path not in self._around:
            return
        self._around.discard(path)
        prefix = path + "/"
        for inner in [p for p in self.recorded if p.startswith(prefix)]:
            del self.recorded[inner]


def _steps_around(path: str) -> list[str]:
    """The paths that lie around this one, the nearest first."""
    found: list[str] = []
    while path := path.rpartition("/")[0]:
        found.append(path)
    return found
