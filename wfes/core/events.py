"""The closed catalogue of events: everything that can ever stand in a log.

Owns the shape and the written meaning of every event. Invariants:

* An event is a frozen, slotted dataclass. Its ``topic`` is the class name, with ``.2``, ``.3`` … for later versions.
* A released event's shape never changes. A new meaning is a new class with a new topic and an applier of its own.
* Times are integer microseconds since the Unix epoch. User values are JSON trees made by ``core.codec`` (type
  ``Json``), never Python objects: whoever reads a log needs none of the user's code.
* ``owner`` events are written by the execution that holds the instance and order what its handler sees; the others
  come from outside, and reach the handler only through an owner event that names them.

Fields that are at their default are not stored.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from wfes.core.event import At as At
from wfes.core.event import Command as Command
from wfes.core.event import Event as Event
from wfes.core.event import Json as Json
from wfes.core.event import Owned as Owned
from wfes.core.fork_events import Copied as Copied
from wfes.core.fork_events import EventVoided as EventVoided
from wfes.core.fork_events import HistoryForked as HistoryForked

# ---------------------------------------------------------------------------------------------------- life


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStarted(Command):
    """The instance exists. Always version 1 of an instance's history.

    ``trigger`` says what started it where that was not a caller: ``{"event": name, "id": id}``, …; ``parent`` and
    ``parent_path`` name the instance and the place whose ``execute_workflow`` or recorded call started it;
    ``not_before`` is the earliest moment it may run; ``deadline`` bounds its whole life; ``seed`` feeds
    ``step.random()`` and ``step.uuid()``; ``generation`` counts the instances of one key.

    Where the workflow's concurrency is limited: ``slot_by`` is the field of the input that it counts by (empty: all
    instances count together), ``slot_value`` this instance's value of it (None: not known to whoever started it),
    ``slot_place`` a number that rises from start to start, for those that are started at the same moment.
    """

    workflow: str
    input: Json = None
    key: str | None = None
    generation: int = 0
    parent: str | None = None
    parent_path: str | None = None
    conversation: str | None = None
    trigger: Json = None
    not_before: int = 0
    deadline: int | None = None
    tags: tuple[str, ...] = ()
    seed: str = ""
    forked_from: str | None = None
    forked_at: int = 0
    slot_by: str | None = None
    slot_value: str | None = None
    slot_place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClaimed(Event):
    """A worker owns the instance from here on; whoever owned it before can record nothing more.

    ``epoch`` counts the claims; ``code`` is what runs: ``{"version", "digest", "python", …}``.
    """

    worker: str
    epoch: int
    code: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSought(Event):
    """It counts for its workflow's limit from here on, by the field ``by`` with this ``value``: it stands in the queue
    for a slot, or holds one where it has run.

    Where its start says so already, this stands only if that was not known then, was another field, or its time had
    not come.
    """

    by: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotGranted(Event):
    """It has a slot from here on, until it ends: a worker may claim it. (A claim at its start grants one as well.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReleased(Owned):
    """The owner let go: the handler left memory.

    ``waiting``: every branch waits, so only a due time or something from outside can make it go on; otherwise (a
    clean stop) another worker may go on at once. ``suspended``: started steps whose function was left while it waited
    for an inner wait; they run again without that being an attempt or a cut-off.
    """

    waiting: bool = True
    suspended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowCompleted(Owned):
    """The handler returned (or called ``complete``): the end, with its output."""

    output: Json = None
    terminal: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFailed(Owned):
    """An exception left the handler, or it called ``fail``. ``path`` is the step or wait whose failure it was."""

    error: Json = None
    path: str | None = None
    terminal: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowAborted(Owned):
    """The handler called ``abort``: over, and not a failure."""

    reason: str | None = None
    terminal: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(Command):
    """Somebody wants the instance cancelled; its owner delivers that to the handler."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelDelivered(Owned):
    """The handler was interrupted, because of a cancellation or because its time was over.

    ``kind`` is ``"cancel"`` or ``"timeout"``: it decides how the instance ends, whatever the handler does now.
    """

    kind: str = "cancel"
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowCancelled(Event):
    """The end after a cancellation. From outside where the instance never ran."""

    reason: str | None = None
    actor: str | None = None
    cause: Json = None
    terminal: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineChanged(Command):
    """The instance times out at ``deadline``, not earlier and not later, whatever was said before."""

    deadline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowTimedOut(Event):
    """The end because time was over: ``reason`` says which bound."""

    reason: str | None = None
    terminal: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowPaused(Command):
    """No new step starts until it is resumed. ``held`` where the engine itself paused it: ``"difference"``,
    ``"unsettled"``, ``"deadlock"``, ``"cut-offs"``; the reason then is the report."""

    reason: str | None = None
    held: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowResumed(Command):
    """A pause is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRetried(Command):
    """A failed or timed-out instance goes on: what ended it is void for replay, from version ``void_from`` on.

    Results recorded from there on are kept and given to whoever asks for their paths (``ResultReused``).
    """

    void_from: int
    path: str | None = None
    deadline: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Owned):
    """The handler assigned fields of its state: name to new value."""

    changes: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchDecided(Owned):
    """Code asked whether the instance has the change ``change``: it has (``new``), or goes on as older code did.

    It holds for the instance's life, wherever it stands. ``scope``: the path of the step whose function asked; empty
    for the handler itself.
    """

    change: str
    new: bool
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryArchived(Command):
    """The events 1 to ``versions`` of an ended instance left the log for an archive; this one stands in their place.

    Its own ``prev`` is the digest of the last of them, so the chain goes on, and its version is the next one, so that
    neither the instance's id nor a version is ever used again. They are in the archive's ``file``, in the block of
    ``length`` bytes at ``offset``; ``digest`` is the last one's, in hex; ``first`` and ``last`` are the positions they
    had in the log. The rest is what a row of the instance needs where the archive cannot be read.
    """

    workflow: str
    status: str
    versions: int
    digest: str
    file: str
    offset: int
    length: int
    first: int
    last: int
    created: int
    ended: int
    key: str | None = None
    generation: int = 0
    parent: str | None = None
    conversation: str | None = None
    trigger: Json = None
    tags: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted(At):
    """Attempt ``attempt`` of a step is about to be made; stands once more where a crash or stop cut it off."""

    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAttemptFailed(At):
    """An attempt failed and another will be made, not before ``retry_at``."""

    attempt: int
    error: Json
    retry_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted(At):
    """The step's function returned; its value is the step's for ever."""

    attempt: int = 1
    result: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed(At):
    """The step failed for good, after ``attempts`` executions."""

    attempts: int = 1
    error: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCancelled(At):
    """The handler withdrew a started step (its task was cancelled, a time-out around it fired)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReused(At):
    """A retried run asked for a path whose outcome stands at ``version`` of this history; it was given that."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRecorded(At):
    """A progress checkpoint."""

    message: str
    percent: float | None = None
    data: Json = None


# --------------------------------------------------------------------------------------------------- waits


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepScheduled(At):
    """A durable sleep until ``until``."""

    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepEnded(At):
    """A sleep is over; never before its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenStarted(At):
    """The handler waits for an event named ``event``, until ``until`` where there is a bound."""

    event: str
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReceived(Command):
    """An event was sent to this instance, and is kept until a listener consumes it. ``id`` makes it count once."""

    event: str
    payload: Json = None
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenEnded(At):
    """A listener consumed the event received as version ``received``."""

    received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestIssued(At):
    """The handler asks for data: visible as request ``id`` until answered, expired or ended."""

    id: str
    name: str
    message: str | None = None
    schema: Json = None
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataProvided(Command):
    """Somebody answered the open request at ``path``. The first answer wins."""

    path: str
    data: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded(At):
    """The handler received the answer recorded as version ``provided``."""

    provided: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitTimedOut(At):
    """The bound of a listen, request, child or workflow wait passed before what it waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitCancelled(At):
    """The handler withdrew a wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(At):
    """A child instance was started (in this very transaction) and is waited for."""

    instance: str
    workflow: str
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStarted(At):
    """The handler waits for the end of another instance."""

    instance: str
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetEnded(Event):
    """From outside: the instance waited for at ``path`` has ended, with this status, output or error."""

    path: str
    instance: str
    status: str
    output: Json = None
    error: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnded(At):
    """The handler learned of its child's end, recorded as version ``ended``."""

    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEnded(At):
    """The handler learned of the other instance's end, recorded as version ``ended``."""

    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerScheduled(Owned):
    """A plain asyncio timer was still open when the handler left memory: it is to fire at ``due``.

    A timer is known by its ``delay`` in microseconds and its ``number`` among the handler's timers of that delay.
    """

    delay: int
    number: int
    due: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Owned):
    """A plain asyncio timer of the handler fired."""

    delay: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecorded(At):
    """The handler started, sent, published, provided or cancelled something; its effect is in this transaction.

    ``call`` names what was called; ``result`` is what it gave, or ``error`` what it refused with.
    """

    call: str
    result: Json = None
    error: Json = None


# ------------------------------------------------------------------------------------------- other streams


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAssigned(Event):
    """On a key's stream: generation ``version`` of this workflow's key is this instance (again: it was retried)."""

    instance: str
    retried: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPublished(Command):
    """On a published event's stream, as its only event: it was published, and counts once."""

    event: str
    payload: Json = None
    key: str | None = None
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowDefined(Event):
    """On a workflow's stream: an engine with a new definition of it was opened.

    ``on``: names of the published events that start it. ``retention``: microseconds that an ended instance's history
    stays in the log before it is archived. ``concurrency``: how many instances have a slot at a time, for each value of
    the input's field ``concurrency_key`` where there is one.
    """

    workflow: str
    on: tuple[str, ...] = ()
    version: str | None = None
    digest: str = ""
    deadline: int | None = None
    retention: int | None = None
    concurrency: int | None = None
    concurrency_key: str | None = None


# ------------------------------------------------------------------------------------ a schedule's stream


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDefined(Event):
    """On a schedule's stream: from here on it is this. Ticks are due from here on where it is new, comes back after a
    removal or has another ``cron`` or ``timezone`` than before.

    ``jitter`` and ``lifetime`` (the deadline of what it starts) are microseconds; ``catch_up`` is ``"latest"``,
    microseconds or None; ``former`` is the definition it replaces, by the same names.
    """

    schedule: str
    workflow: str
    cron: str
    timezone: str
    input: Json = None
    jitter: int = 0
    overlap: str = "skip"
    catch_up: Json = "latest"
    lifetime: int | None = None
    former: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRemoved(Command):
    """It ticks no more; what was queued and what was to be backfilled is dropped."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePaused(Command):
    """Its ticks start nothing until it is resumed."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleResumed(Command):
    """A pause of it is over; the ticks missed meanwhile are recorded before this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickStarted(Command):
    """A tick has started its instance, in this very transaction.

    ``tick`` is its name (its local time), ``due`` its moment. ``kind``: ``"tick"``, ``"catch-up"`` (a missed one),
    ``"queued"`` (it was in the queue), ``"backfill"`` (of the request recorded as version ``backfill``) or
    ``"trigger"`` (somebody asked for it; ``tick`` then names the asking). ``ended``: instances that were open and have
    been found ended; ``cancelled``: those that this tick cancels.
    """

    tick: str
    due: int
    instance: str
    kind: str = "tick"
    backfill: int = 0
    ended: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TickQueued(Event):
    """A tick waits until the instances that are open have ended."""

    tick: str
    due: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TickSkipped(Event):
    """A tick starts nothing: ``reason`` says why. ``queued``: it was the first in the queue."""

    tick: str
    due: int
    reason: str
    queued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TicksMissed(Event):
    """``count`` ticks, from ``first`` to ``last`` (due at ``due``), start nothing: ``reason`` says why."""

    first: str
    last: str
    due: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillRequested(Command):
    """The ticks due from ``start`` to ``end`` that have no instance are to get one: ``ticks`` lie in that time."""

    start: int
    end: int
    ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillAdvanced(Event):
    """The ticks of the backfill requested as version ``backfill`` have instances up to ``tick``, due at ``due``.

    ``present`` of them had one before; ``done``: there are no more.
    """

    backfill: int
    tick: str
    due: int
    present: int = 0
    done: bool = False


def _catalogue() -> dict[str, type[Event]]:
    bases = {Event, Command, Owned, At}
    found = [c for c in globals().values() if isinstance(c, type) and issubclass(c, Event) and c not in bases]
    for cls in found:
        cls.topic = cls.__name__
    return {cls.topic: cls for cls in found}


CATALOGUE: dict[str, type[Event]] = _catalogue()
"""Topic to event class."""


def _shape(cls: type[Event]) -> tuple[tuple[str, Any], ...]:
    return tuple((f.name, f.default) for f in fields(cls))


_SHAPES = {cls: _shape(cls) for cls in CATALOGUE.values()}
_REQUIRED = MISSING


def body(event: Event) -> dict[str, Any]:
    """The event's fields as a JSON tree, without those at their default."""
    found: dict[str, Any] = {}
    for name, default in _SHAPES[type(event)]:
        value = getattr(event, name)
        if default is _REQUIRED or (value is not default and value != default):
            found[name] = value
    return found


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event at its place in the log; satisfies the eventsourcing library's ``DomainEventProtocol``.

    Attributes:
        originator_id: the stream: an instance's id, or one of the engine's own, which begin with ``$``.
        originator_version: 1, 2, … within the stream, without gaps.
        event: what happened.
        position: its place in the whole log, rising; 0 where it is not known.
        copied: it is a copy that the history of a fork begins with; None: it happened here.
    """

    originator_id: str
    originator_version: int
    event: Event
    position: int = 0
    copied: Copied | None = None
