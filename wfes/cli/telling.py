"""One event of a history in a few words, told with what went before it.

By itself a second start of the same attempt says nothing of why it is there, and a claim nothing of who had the
instance before. Owns that memory, so events must be given in order and from the first on.
"""

from __future__ import annotations

from wfes.cli.timeline import ENDS
from wfes.cli.wording import LoggedEvent, described

CUT_OFF = "again, after it was cut off by a crash or stop"
_OVER = frozenset({"StepCompleted", "StepAttemptFailed", "StepFailed", "StepCancelled"})


class Telling:
    """Tells the events of one history; `told` takes them in order."""

    def __init__(self) -> None:
        self._owner: str | None = None
        self._under_way: set[str] = set()

    def told(self, event: LoggedEvent) -> str:
        """What the event says beside its name, and what it says only together with those before it."""
        words = described(event)
        path = event.data.get("path")
        match event.type:
            case "RunClaimed":
                before, self._owner = self._owner, str(event.data.get("worker"))
                if before is not None:
                    return f"{words}, taken over from {before}"
            case "HistoryForked":
                self._owner = None
                self._under_way.clear()
            case "RunReleased":
                self._owner = None
                self._under_way.difference_update(event.data.get("suspended") or ())
            case "StepStarted" if isinstance(path, str):
                if path in self._under_way:
                    return f"{words}  {CUT_OFF}"
                self._under_way.add(path)
            case kind if kind in _OVER:
                self._under_way.discard(str(path))
            case kind if kind in ENDS:
                self._owner = None
                self._under_way.clear()
            case _:
                """Changes neither who has it nor what is under way."""
        return words
