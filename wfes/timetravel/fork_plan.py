"""What a fork would be: what it keeps, what is changed in it, what runs again. For people, before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wfes.core import events as e
from wfes.core.state import InstanceState, Status
from wfes.core.voiding import meant
from wfes.timetravel.fork_draft import ENDS, OPENINGS, Draft
from wfes.views import moment

SHOWN_MAX = 40
"""Most lines of one kind in a plan's text."""


@dataclass(frozen=True, slots=True)
class ForkPart:
    """One step or wait of a planned fork.

    Attributes:
        path: Its path.
        kind: `step`, `sleep`, `listen`, `request`, `child`, `workflow`, `call` or `progress`.
        what: `kept`: its outcome stands; `changed`: it stands, changed; `given`: its outcome is there for whoever asks
            for the path; `again`: it runs again, or is asked again; `open`: it is waited for, as in the origin.
        until: When an open or repeated wait, or a pause before a step's next attempt, ends by itself; or None.
        note: What else there is to say, such as "a child of its own".
    """

    path: str
    kind: str
    what: str
    until: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPlan:
    """What `inst.fork()` with the same arguments would make.

    Attributes:
        origin: The instance whose history it begins with.
        at: The version up to which it does.
        workflow: Their workflow.
        status: The status that the fork would have at first.
        changed: The versions whose events are not as in the origin.
        dropped: Those of them that are left out.
        void_from: The first version that a change makes void; None: nothing is void.
        parts: Steps and waits, in the order in which they began in the origin.
    """

    origin: str
    at: int
    workflow: str
    status: Status
    changed: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    void_from: int | None = None
    parts: tuple[ForkPart, ...] = field(default=())

    def of(self, *what: str) -> tuple[ForkPart, ...]:
        """The parts of which one of these is true: `kept`, `changed`, `given`, `again`, `open`."""
        return tuple(part for part in self.parts if part.what in what)

    @property
    def kept(self) -> tuple[ForkPart, ...]:
        """What stands, or is given by path: it does not run again."""
        return self.of("kept", "changed", "given")

    @property
    def again(self) -> tuple[ForkPart, ...]:
        """What runs again, or is asked again."""
        return self.of("again")

    def __str__(self) -> str:
        lines = [f"a fork of {self.workflow} {self.origin} at {self.at}, {self.status} at first"]
        if self.void_from is not None and self.void_from <= self.at:
            which = f"s {self.void_from} to {self.at} are" if self.void_from < self.at else f" {self.at} is"
            lines.append(
                f"version{which} void; results there are given by path, where the fork asks for them"
            )
        if self.dropped:
            lines.append(f"left out: {', '.join(map(str, self.dropped))}")
        for what, title in _TITLES.items():
            parts = self.of(what)
            if parts:
                lines.append(f"{title}:")
                lines.extend(f"  {_line(part)}" for part in parts[:SHOWN_MAX])
                if len(parts) > SHOWN_MAX:
                    lines.append(f"  … and {len(parts) - SHOWN_MAX} more")
        return "\n".join(lines)


_WITHDRAWN = (e.StepCancelled, e.WaitCancelled)

_TITLES = {
    "kept": "kept",
    "changed": "changed",
    "given": "given by path, if asked for",
    "open": "waited for, as before",
    "again": "runs again",
}


def _line(part: ForkPart) -> str:
    until = "" if part.until is None else f", until {part.until:%Y-%m-%d %H:%M:%S} UTC"
    note = f", {part.note}" if part.note else ""
    return f"{part.kind} {part.path}{until}{note}"


def plan_of(draft: Draft, later: Sequence[e.Recorded], ended: frozenset[str]) -> ForkPlan:
    """The plan of a draft.

    Args:
        draft: the fork.
        later: the origin's events behind it: what ran then runs again.
        ended: those children of the origin that have ended by now.
    """
    state = draft.state()
    return ForkPlan(
        origin=draft.origin,
        at=draft.at,
        workflow=state.workflow,
        status=state.status,
        changed=tuple(sorted(draft.changed)),
        dropped=tuple(
            version
            for version, event in enumerate(draft.events, 1)
            if isinstance(event, e.EventVoided) and event.dropped
        ),
        void_from=draft.cut if draft.cut <= draft.at else None,
        parts=tuple(_parts(draft, state, later, ended)),
    )


def _parts(
    draft: Draft, state: InstanceState, later: Sequence[e.Recorded], ended: frozenset[str]
) -> list[ForkPart]:
    kinds: dict[str, str] = {}
    outcomes: dict[str, int] = {}
    for version, event in enumerate(draft.events, 1):
        stood: Any = meant(event)
        if type(stood) in OPENINGS:
            kinds.setdefault(stood.path, OPENINGS[type(stood)])
        elif isinstance(stood, e.CallRecorded):
            kinds.setdefault(stood.path, "call")
        if not isinstance(event, e.EventVoided) and isinstance(stood, (*ENDS, *_WITHDRAWN)):
            outcomes[stood.path] = stood.version if isinstance(stood, e.ResultReused) else version
    if state.ended is not None:
        kinds = {path: kind for path, kind in kinds.items() if path in outcomes}
    else:
        for recorded in later:
            event = recorded.event
            if type(event) in OPENINGS:
                kinds.setdefault(event.path, OPENINGS[type(event)])  # type: ignore[attr-defined]
    return [
        _ended(draft, path, kind, outcomes[path])
        if path in outcomes and path not in draft.results
        else _open(draft, state, path, kind, ended)
        for path, kind in kinds.items()
    ]


def _ended(draft: Draft, path: str, kind: str, outcome: int) -> ForkPart:
    event: Any = meant(draft.events[outcome - 1])
    named = getattr(event, "received", 0) or getattr(event, "provided", 0) or getattr(event, "ended", 0)
    what = "changed" if outcome in draft.changed or named in draft.changed else "kept"
    return ForkPart(path, kind, what, note="withdrawn" if isinstance(event, _WITHDRAWN) else "")


def _open(draft: Draft, state: InstanceState, path: str, kind: str, ended: frozenset[str]) -> ForkPart:
    if path in draft.results:
        return ForkPart(path, kind, "given", note="changed" if draft.results[path] in draft.changed else "")
    wait = state.waits.get(path)
    if wait is not None:
        until = moment(wait.until)
        if kind == "child" and not wait.ready:
            if wait.target in ended:
                return ForkPart(path, kind, "open", until, "its child has ended since")
            return ForkPart(path, kind, "again", until, "a child of its own")
        note = "asked under a new id" if kind == "request" and not wait.ready else ""
        return ForkPart(path, kind, "open", until, note)
    step = state.steps.get(path)
    if step is not None and step.retry_at is not None:
        return ForkPart(path, kind, "again", moment(step.retry_at), f"attempt {step.attempts + 1}")
    return ForkPart(path, kind, "again", moment(draft.dues.get(path)))
