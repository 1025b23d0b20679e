"""How many bytes of larger values a slim state holds, followed event by event.

The state itself is never measured, for that would cost a dump of it. What counts is what the newest large event put
into each of its places (the input, a field, progress, a step's error, a request, …): a value that is replaced counts
no longer, and what a slim state does not keep (a step's result, a received payload) never counts at all.
"""

from __future__ import annotations

from typing import Any, cast

import orjson

from wfes.core import events as e

LARGE = 4096
"""From how many bytes on a stored event counts as holding a larger value."""

Place = tuple[str, str]
"""A kind of value, and the path or the field's name where there are several of that kind."""

_END: Place = ("end", "")
_PLACES: dict[type[e.Event], Place] = {
    e.WorkflowStarted: ("start", ""),
    e.RunClaimed: ("code", ""),
    e.CancelRequested: ("cancel", ""),
    e.CancelDelivered: _END,
    e.WorkflowPaused: ("pause", ""),
    e.WorkflowCompleted: _END,
    e.WorkflowFailed: _END,
    e.WorkflowAborted: _END,
    e.WorkflowCancelled: _END,
    e.WorkflowTimedOut: _END,
    e.ProgressRecorded: ("progress", ""),
}
"""Events whose values have one place in a state."""
_OPENING = frozenset({e.StepAttemptFailed, e.RequestIssued})
"""Events whose values are kept until whatever is open at their path is over."""
_OVER = frozenset(
    {e.StepCompleted, e.StepFailed, e.StepCancelled, e.RequestEnded, e.WaitTimedOut, e.WaitCancelled}
)


class Weight:
    """The larger values in one state.

    Attributes:
        total: how many bytes they have together.
    """

    __slots__ = ("_places", "total")

    def __init__(self) -> None:
        self.total = 0
        self._places: dict[Place, int] = {}

    def count(self, event: e.Event, size: int) -> int:
        """Takes an event in that is stored in `size` bytes; returns by how much `total` has changed."""
        if size <= LARGE and not self._places:
            return 0
        before = self.total
        self._count(event, type(event), size)
        return self.total - before

    def _count(self, event: Any, cls: type[e.Event], size: int) -> None:
        place = _PLACES.get(cls)
        if place is not None:
            self._set(place, size)
        elif cls is e.StateChanged:
            changes = cast("dict[str, Any]", event.changes)
            # The size of an event of several large fields does not say how large each of them is.
            measured = size > LARGE and len(changes) > 1
            for name, value in changes.items():
                self._set(("field", name), len(orjson.dumps(value)) if measured else size)
        elif cls in _OPENING:
            self._set(("path", event.path), size)
        elif cls in _OVER:
            self._set(("path", event.path), 0)
        elif cls is e.WorkflowRetried:
            self._set(_END, 0)
        if cls.terminal:
            for open_place in [place for place in self._places if place[0] == "path"]:
                self._set(open_place, 0)

    def _set(self, place: Place, size: int) -> None:
        self.total -= self._places.pop(place, 0)
        if size > LARGE:
            self._places[place] = size
            self.total += size
