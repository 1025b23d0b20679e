"""What verifying finds: problems, and the report that carries them.

Plain data, readable as text; nothing here reads a log.
"""

from __future__ import annotations

from dataclasses import dataclass

CHANGED = "changed"
REMOVED = "removed"
INSERTED = "inserted"
REORDERED = "reordered"
REATTRIBUTED = "re-attributed"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a log that is not as it was written.

    Attributes:
        instance: the instance, or the engine's own stream, whose history it is in; None: it is not known whose.
        version: the event's place in that history; None: not known.
        position: the event's place in the log, where there is one.
        kind: `changed`, `removed`, `inserted`, `reordered`, `re-attributed`, or `unreadable` where something cannot be
            read at all.
        text: what is wrong, for people.
    """

    instance: str | None
    version: int | None
    position: int | None
    kind: str
    text: str

    def __str__(self) -> str:
        if self.instance is None:
            return f"{self.kind}: {self.text}"
        place = self.instance if self.version is None else f"{self.instance} version {self.version}"
        return f"{place}: {self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What came of verifying a history or a whole log.

    True in a condition if nothing is wrong.

    Attributes:
        events: how many stored events were checked, archived ones included.
        problems: what is wrong, the first bad event of a history first.
        histories: how many histories they are of.
        further: how many more histories are broken than were looked into; their problems are not listed.
    """

    events: int
    problems: tuple[Problem, ...] = ()
    histories: int = 1
    further: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.further

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        histories = "1 history" if self.histories == 1 else f"{self.histories:,} histories"
        events = "1 event" if self.events == 1 else f"{self.events:,} events"
        if self.ok:
            return f"{events} of {histories} verified: every hash chain is whole"
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems):,} problems"
        lines = [f"{count} in {events} of {histories}", *map(str, self.problems)]
        if self.further:
            lines.append(f"{self.further:,} more histories are broken and not listed")
        return "\n".join(lines)
