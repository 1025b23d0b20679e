"""What an instance's events amount to: its state, its status, its open waits.

Owns the shape of that state and what can be read off it; ``core.evolve`` alone changes it. The state kept by default
is *slim*: it knows what is open, not every step that ever ended, so its size follows what the instance is doing and
not the length of its history. A *detailed* state keeps the steps that have ended as well, in ``done``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from wfes.core.error_info import ErrorInfo

Json = Any

FAILURES_KEPT = 1_000
"""How many paths' failures a state remembers. A retry of an instance that failed with an older one than that goes on
from its end alone."""


class Status(StrEnum):
    """Where an instance is in its life.

    ``listening`` means that a wait is open and no step is started or in backoff.
    """

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    LISTENING = "listening"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


TERMINAL: frozenset[Status] = frozenset(
    {Status.COMPLETED, Status.FAILED, Status.ABORTED, Status.CANCELLED, Status.TIMED_OUT}
)
ACTIVE: frozenset[Status] = frozenset(Status) - TERMINAL

TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.IN_PROGRESS, Status.LISTENING, Status.PAUSED, *TERMINAL}),
    Status.IN_PROGRESS: frozenset({Status.LISTENING, Status.PAUSED, *TERMINAL}),
    Status.LISTENING: frozenset({Status.IN_PROGRESS, Status.PAUSED, *TERMINAL}),
    Status.PAUSED: frozenset({Status.PENDING, Status.IN_PROGRESS, Status.LISTENING, *TERMINAL}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset({Status.PENDING}),
    Status.ABORTED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.TIMED_OUT: frozenset({Status.PENDING}),
}
"""From each status, the statuses one event can lead to (besides staying). Only ``retry`` leads out of an end.

A fork is pending once more where its workflow's concurrency is limited, whatever its origin was."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an instance ended, as ``step.wait_for_workflow`` gives it.

    Attributes:
        id: the instance.
        status: its terminal status.
        output: what it returned, where it completed; plain Python data.
        error: what failed it, or None.
    """

    id: str
    status: Status
    output: Any = None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing an instance waits for.

    Attributes:
        kind: ``sleep``, ``listen``, ``request``, ``child``, ``workflow`` or ``timer``.
        name: what it waits for: a step's path, the name of an event or request, an instance.
        since: when it began to wait (aware, UTC).
        until: when it ends by itself (aware, UTC), or None.
    """

    kind: str
    name: str
    since: datetime
    until: datetime | None


@dataclass(slots=True)
class OpenWait:
    """A wait that is open.

    Attributes:
        kind: ``sleep``, ``listen``, ``request``, ``child`` or ``workflow``.
        name: what it waits for: the step's path for a sleep, the event's, request's or workflow's name, an id.
        since: when it was opened, in microseconds.
        until: when it ends by itself, in microseconds, or None.
        version: the version that opened it.
        target: the instance waited for (child, workflow), or the request's id.
        message, schema: a request's.
        ready: the version of the answer or of the target's end that waits to be taken, or 0.
        ready_status: how the target ended, where it has.
    """

    kind: str
    name: str
    since: int
    until: int | None
    version: int
    target: str | None = None
    message: str | None = None
    schema: Json = None
    ready: int = 0
    ready_status: str | None = None


@dataclass(slots=True)
class StepState:
    """A step as its events tell it: ``status`` is ``started``, ``backoff``, ``suspended``, ``completed``, ``failed``
    or ``cancelled``; times in microseconds; ``result`` and ``error`` as JSON trees; ``cut_offs`` in a row."""

    status: str
    attempts: int
    started_at: int
    ended_at: int | None = None
    result: Json = None
    error: Json = None
    retry_at: int | None = None
    cut_offs: int = 0


@dataclass(slots=True)
class Slot:
    """An instance's part in its workflow's limited concurrency.

    Attributes:
        by: the field of the input that it counts by; empty: all instances count together.
        value: its value of that field as JSON text; empty where all count together, None where it is not known yet.
        place: decides between those that stand in the queue since the same moment.
        queued: it stands in the queue, or has stood there.
        granted: it has a slot.
        since: from when on it stands in the queue, in microseconds.
    """

    by: str
    value: str | None
    place: int
    since: int
    queued: bool = False
    granted: bool = False


@dataclass(slots=True)
class Progress:
    """A progress checkpoint, ``at`` in microseconds."""

    message: str
    percent: float | None
    data: Json
    at: int


@dataclass(slots=True)
class InstanceState:
    """Everything an instance's events say, after the event ``version``. Times in microseconds."""

    id: str
    version: int = 0
    at: int = 0
    workflow: str = ""
    input: Json = None
    key: str | None = None
    generation: int = 0
    parent: str | None = None
    parent_path: str | None = None
    conversation: str | None = None
    trigger: Json = None
    tags: tuple[str, ...] = ()
    seed: str = ""
    forked_from: str | None = None
    """The instance whose history this one's begins with, and up to which version."""
    forked_at: int = 0
    forked_by: tuple[str | None, ...] = ()
    """Who forked it; empty while its history is still that of the origin."""
    created_at: int = 0
    """When it was started, or forked."""
    asked_at: int = 0
    """When it was started, forked, or last retried."""
    not_before: int = 0
    status: Status = Status.PENDING
    status_since: int = 0
    # ownership
    worker: str | None = None
    epoch: int = 0
    code: Json = None
    ran: bool = False
    fruitless: int = 0
    """Claims in a row after which the owner recorded nothing at all."""
    outside: int = 0
    """Version of the newest event that came from outside."""
    afresh: bool = False
    """Forked, and not claimed since: whatever is under way was not cut off."""
    waiting: bool = False
    """Released, and only a due time or something from outside makes it go on."""
    slot: Slot | None = None
    """Its part in its workflow's limited concurrency; None: it has none, as far as is recorded."""
    # ends
    ended: Status | None = None
    output: Json = None
    error: Json = None
    reason: str | None = None
    failed_path: str | None = None
    end_version: int = 0
    retries: int = 0
    # interruptions
    deadline: int | None = None
    cancel: int = 0
    """Version of a cancellation request not yet delivered, or 0."""
    cancel_reason: str | None = None
    interrupted: str | None = None
    """``cancel`` or ``timeout`` once that was delivered to the handler."""
    interrupted_version: int = 0
    paused: bool = False
    pause_reason: str | None = None
    held: str | None = None
    # what is open
    steps: dict[str, StepState] = field(default_factory=dict[str, StepState])
    """The steps that have not ended, by path."""
    done: dict[str, StepState] | None = None
    """The steps that have, by path; None in a slim state."""
    voided: dict[int, Json] = field(default_factory=dict[int, Json])
    """In a detailed state of a fork: the results of steps that are void here and may be given again, by version."""
    waits: dict[str, OpenWait] = field(default_factory=dict[str, OpenWait])
    inbox: dict[int, str] = field(default_factory=dict[int, str])
    """Events received and not consumed: version to name."""
    seen: set[str] = field(default_factory=set[str])
    """Ids of the events received."""
    timers: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    last_failures: dict[str, int] = field(default_factory=dict[str, int])
    """Version at which a path's failure was given to the handler: of the newest ``FAILURES_KEPT`` paths, oldest first.

    Any failure a handler has caught may be what it raises in the end, and a retry goes back to it."""
    fields: dict[str, Json] = field(default_factory=dict[str, Json])
    """The handler's recorded state."""
    progress: Progress | None = None
    # retention
    archived: tuple[str, int] | None = None
    """Where its events are, once they left the log: the archive's file, and the offset of their block in it."""
    archived_span: tuple[int, int] = (0, 0)
    """The positions that the first and the last of them had in the log."""
    hollow: bool = False
    """The archive could not be read: what is known is what stands in the log in its place."""

    @property
    def is_over(self) -> bool:
        """Whether the instance has ended."""
        return self.ended is not None

    def runnable_at(self) -> int | None:
        """From when on a worker may claim it, in microseconds (0: now); None where only an event can change that."""
        if self.ended is not None or self.worker is not None:
            return None
        if self.cancel:
            return 0
        if self.paused:
            return self.deadline
        if not self.ran:
            if self.is_held:
                return self.deadline
            due = self.not_before
            return due if self.deadline is None else min(due, self.deadline)
        if not self.waiting or self.takes_something():
            return 0
        return self.due_at()

    @property
    def is_held(self) -> bool:
        """Whether it stands in the queue for a slot of its workflow's limited concurrency."""
        slot = self.slot
        return slot is not None and slot.queued and not slot.granted and self.ended is None

    def takes_something(self) -> bool:
        """Whether something from outside stands in the history that an open wait is about to take."""
        for wait in self.waits.values():
            if wait.ready:
                return True
        if not self.inbox:
            return False
        names = set(self.inbox.values())
        return any(wait.kind == "listen" and wait.name in names for wait in self.waits.values())

    def due_at(self) -> int | None:
        """The earliest moment at which something is due by itself, in microseconds."""
        due = self.deadline if self.interrupted is None else None
        for wait in self.waits.values():
            if wait.until is not None and (due is None or wait.until < due):
                due = wait.until
        for step in self.steps.values():
            if step.retry_at is not None and (due is None or step.retry_at < due):
                due = step.retry_at
        for timer in self.timers.values():
            if due is None or timer < due:
                due = timer
        return due

    def current_status(self) -> Status:
        """The status that the rest of the state amounts to."""
        if self.ended is not None:
            return self.ended
        if self.paused:
            return Status.PAUSED
        if not self.ran:
            return Status.PENDING
        if self.waits or self.timers:
            for step in self.steps.values():
                if step.status in _BUSY:
                    return Status.IN_PROGRESS
            return Status.LISTENING
        return Status.IN_PROGRESS


_BUSY = frozenset({"started", "backoff"})
