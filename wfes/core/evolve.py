"""The only place that changes an instance's state: one applier an event.

``evolve(state, recorded)`` gives the state after one more event. It changes its argument and returns it, for a state
may hold 100,000 steps and cannot be copied per event: a state that was passed in must not be used again. ``fold`` is
the same as a function of events alone, and is what tests and readers use. No clock, no I/O: equal events always give
equal states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from wfes.core import events as e
from wfes.core.state import FAILURES_KEPT, InstanceState, OpenWait, Progress, Slot, Status, StepState

_Applier = Callable[[InstanceState, Any, int], None]


def evolve(state: InstanceState, event: e.Event, version: int) -> InstanceState:
    """The state after ``event``, which has this ``version``. Consumes ``state``."""
    state.version = version
    if event.at > state.at:
        state.at = event.at
    cls = type(event)
    if cls.owner:
        state.fruitless = 0
    else:
        state.outside = version
    APPLIERS[cls](state, event, version)
    if cls not in _QUIET or state.waits or state.timers:
        status = state.current_status()
        if status is not state.status:
            state.status = status
            state.status_since = event.at
    return state


def fold(id: str, events: Iterable[e.Recorded], *, detailed: bool = False) -> InstanceState:
    """The state of the instance ``id`` after these events of its history, from the first on."""
    state = InstanceState(id, done={} if detailed else None)
    for recorded in events:
        evolve(state, recorded.event, recorded.originator_version)
    return state


def _started(state: InstanceState, event: e.WorkflowStarted, version: int) -> None:
    state.workflow = event.workflow
    state.input = event.input
    state.key = event.key
    state.generation = event.generation
    state.parent = event.parent
    state.parent_path = event.parent_path
    state.conversation = event.conversation
    state.trigger = event.trigger
    state.tags = event.tags
    state.seed = event.seed
    state.forked_from = event.forked_from
    state.forked_at = event.forked_at
    state.created_at = state.asked_at = state.status_since = event.at
    state.not_before = event.not_before
    state.deadline = event.deadline
    if event.slot_by is not None:
        since = max(event.at, event.not_before)
        queued = event.slot_value is not None and not event.not_before
        state.slot = Slot(event.slot_by, event.slot_value, event.slot_place, since, queued)


def _slot_sought(state: InstanceState, event: e.SlotSought, version: int) -> None:
    slot = state.slot
    if slot is None:
        since = max(state.asked_at, state.not_before)
        slot = state.slot = Slot(event.by, event.value, 0, since, granted=state.ran)
    slot.by = event.by
    slot.value = event.value
    slot.queued = True


def _slot_granted(state: InstanceState, event: e.SlotGranted, version: int) -> None:
    if state.slot is not None:
        state.slot.granted = True


def _claimed(state: InstanceState, event: e.RunClaimed, version: int) -> None:
    cut_off = (state.worker is not None or not state.waiting) and not state.afresh
    state.afresh = False
    state.fruitless += 1
    state.worker = event.worker
    state.epoch = event.epoch
    state.code = event.code
    state.ran = True
    if state.slot is not None:
        state.slot.granted = True
    state.waiting = False
    state.timers.clear()
    for step in state.steps.values():
        if step.status == "suspended":
            step.status = "started"
        elif cut_off and step.status == "started":
            step.cut_offs += 1


def _released(state: InstanceState, event: e.RunReleased, version: int) -> None:
    state.worker = None
    state.waiting = event.waiting
    for path in event.suspended:
        step = state.steps.get(path)
        if step is not None:
            step.status = "suspended"


def _end(state: InstanceState, status: Status, version: int) -> None:
    state.ended = status
    state.end_version = version
    state.worker = None
    state.waiting = False
    state.paused = False
    state.pause_reason = state.held = None
    state.cancel = 0
    state.waits.clear()
    state.timers.clear()
    if state.done is not None:
        for path, step in state.steps.items():
            step.status = "cancelled"
            step.ended_at = state.at
            step.retry_at = None
            state.done[path] = step
    state.steps.clear()


def _completed(state: InstanceState, event: e.WorkflowCompleted, version: int) -> None:
    _end(state, Status.COMPLETED, version)
    state.output = event.output


def _failed(state: InstanceState, event: e.WorkflowFailed, version: int) -> None:
    _end(state, Status.FAILED, version)
    state.error = event.error
    state.failed_path = event.path


def _aborted(state: InstanceState, event: e.WorkflowAborted, version: int) -> None:
    _end(state, Status.ABORTED, version)
    state.reason = event.reason


def _cancel_requested(state: InstanceState, event: e.CancelRequested, version: int) -> None:
    if state.interrupted is None and not state.cancel:
        state.cancel = version
        state.cancel_reason = event.reason
    state.paused = False
    state.pause_reason = state.held = None


def _cancel_delivered(state: InstanceState, event: e.CancelDelivered, version: int) -> None:
    state.cancel = 0
    state.interrupted = event.kind
    state.interrupted_version = version
    state.reason = event.reason
    state.paused = False
    state.pause_reason = state.held = None


def _cancelled(state: InstanceState, event: e.WorkflowCancelled, version: int) -> None:
    _end(state, Status.CANCELLED, version)
    state.reason = event.reason


def _deadline(state: InstanceState, event: e.DeadlineChanged, version: int) -> None:
    state.deadline = event.deadline


def _timed_out(state: InstanceState, event: e.WorkflowTimedOut, version: int) -> None:
    _end(state, Status.TIMED_OUT, version)
    state.reason = event.reason


def _paused(state: InstanceState, event: e.WorkflowPaused, version: int) -> None:
    state.paused = True
    state.pause_reason = event.reason
    state.held = event.held
    if event.held is not None:  # by whoever had it, or because whoever had it died of it
        state.worker = None
        state.waiting = True


def _resumed(state: InstanceState, event: e.WorkflowResumed, version: int) -> None:
    state.fruitless = 0
    state.paused = False
    state.pause_reason = state.held = None
    state.waiting = False
    for step in state.steps.values():
        step.cut_offs = 0


def _retried(state: InstanceState, event: e.WorkflowRetried, version: int) -> None:
    state.ended = None
    state.output = state.error = state.reason = state.failed_path = None
    state.interrupted = None
    state.retries += 1
    state.ran = False
    state.waiting = False
    state.not_before = 0
    state.asked_at = event.at
    state.deadline = event.deadline
    if state.slot is not None:
        state.slot.since = event.at
        state.slot.queued = state.slot.value is not None
        state.slot.granted = False
    if event.path is not None:
        state.steps.pop(event.path, None)


def _voided(state: InstanceState, event: e.EventVoided, version: int) -> None:
    if state.done is not None and event.event == "StepCompleted":
        state.voided[version] = event.body


def _forked(state: InstanceState, event: e.HistoryForked, version: int) -> None:
    state.created_at = state.asked_at = state.status_since = event.at
    state.forked_by = (event.actor,)
    state.worker = None
    state.afresh = True
    state.deadline = None
    state.fruitless = 0
    for step in state.steps.values():
        step.cut_offs = 0
    for received in event.taken:
        state.inbox.pop(received, None)
    for path in event.results:  # it has its outcome, and is given it once it runs
        state.waits.pop(path, None)
        state.steps.pop(path, None)
    if event.changed:
        state.waiting = False
    state.slot = None
    if event.slot_by is not None and not event.over:
        # It counts as a new instance: what was under way goes on once there is room.
        queued = event.slot_value is not None
        state.slot = Slot(event.slot_by, event.slot_value, event.slot_place, event.at, queued)
        state.ran = False


def _reused(state: InstanceState, event: e.ResultReused, version: int) -> None:
    given = state.voided.get(event.version)
    if state.done is not None and given is not None:
        attempts = given.get("attempt", 1)
        state.done[event.path] = StepState("completed", attempts, given["at"], event.at, given.get("result"))


def _state_changed(state: InstanceState, event: e.StateChanged, version: int) -> None:
    state.fields.update(event.changes)


def _step_started(state: InstanceState, event: e.StepStarted, version: int) -> None:
    step = state.steps.get(event.path)
    if step is None:
        state.steps[event.path] = StepState("started", event.attempt, event.at)
        return
    if event.attempt != step.attempts:
        step.cut_offs = 0
    step.status = "started"
    step.attempts = event.attempt
    step.retry_at = None


def _attempt_failed(state: InstanceState, event: e.StepAttemptFailed, version: int) -> None:
    step = state.steps.get(event.path)
    if step is None:
        step = state.steps[event.path] = StepState("backoff", event.attempt, event.at)
    step.status = "backoff"
    step.error = event.error
    step.retry_at = event.retry_at


def _step_ended(status: str) -> _Applier:
    def apply(state: InstanceState, event: Any, version: int) -> None:
        step = state.steps.pop(event.path, None)
        if state.done is not None:
            step = step or StepState(status, 1, event.at)
            step.status = status
            step.ended_at = event.at
            step.retry_at = None
            step.result = getattr(event, "result", None)
            step.error = getattr(event, "error", None)
            step.attempts = getattr(event, "attempts", step.attempts)
            state.done[event.path] = step
        if status == "failed":
            _failure(state, event.path, version)

    return apply


def _failure(state: InstanceState, path: str, version: int) -> None:
    failures = state.last_failures
    failures.pop(path, None)
    failures[path] = version
    if len(failures) > FAILURES_KEPT:
        del failures[next(iter(failures))]


def _progress(state: InstanceState, event: e.ProgressRecorded, version: int) -> None:
    state.progress = Progress(event.message, event.percent, event.data, event.at)


def _sleep(state: InstanceState, event: e.SleepScheduled, version: int) -> None:
    state.waits[event.path] = OpenWait("sleep", event.path, event.at, event.until, version)


def _listen(state: InstanceState, event: e.ListenStarted, version: int) -> None:
    state.waits[event.path] = OpenWait("listen", event.event, event.at, event.until, version)


def _request(state: InstanceState, event: e.RequestIssued, version: int) -> None:
    state.waits[event.path] = OpenWait(
        "request", event.name, event.at, event.until, version, event.id, event.message, event.schema
    )


def _child(state: InstanceState, event: e.ChildStarted, version: int) -> None:
    state.waits[event.path] = OpenWait(
        "child", event.workflow, event.at, event.until, version, event.instance
    )


def _wait(state: InstanceState, event: e.WaitStarted, version: int) -> None:
    state.waits[event.path] = OpenWait(
        "workflow", event.instance, event.at, event.until, version, event.instance
    )


def _received(state: InstanceState, event: e.EventReceived, version: int) -> None:
    if state.ended is None:
        state.inbox[version] = event.event
    if event.id is not None:
        state.seen.add(event.id)


def _ready(state: InstanceState, event: e.DataProvided | e.TargetEnded, version: int) -> None:
    wait = state.waits.get(event.path)
    if wait is not None:
        wait.ready = version
        if isinstance(event, e.TargetEnded):
            wait.ready_status = event.status


def _consumed(state: InstanceState, event: e.ListenEnded, version: int) -> None:
    state.waits.pop(event.path, None)
    state.inbox.pop(event.received, None)


def _wait_over(state: InstanceState, event: e.At, version: int) -> None:
    state.waits.pop(event.path, None)


def _wait_failed(state: InstanceState, event: e.At, version: int) -> None:
    state.waits.pop(event.path, None)
    _failure(state, event.path, version)


def _child_over(state: InstanceState, event: e.ChildEnded, version: int) -> None:
    wait = state.waits.pop(event.path, None)
    if wait is None or wait.ready_status != Status.COMPLETED:
        _failure(state, event.path, version)


def _timer(state: InstanceState, event: e.TimerScheduled, version: int) -> None:
    state.timers[event.delay, event.number] = event.due


def _fired(state: InstanceState, event: e.TimerFired, version: int) -> None:
    state.timers.pop((event.delay, event.number), None)


def _archived(state: InstanceState, event: e.HistoryArchived, version: int) -> None:
    state.archived = event.file, event.offset
    state.archived_span = event.first, event.last
    if state.ended is not None:
        return
    state.hollow = True
    state.workflow = event.workflow
    state.key = event.key
    state.generation = event.generation
    state.parent = event.parent
    state.conversation = event.conversation
    state.trigger = event.trigger
    state.tags = event.tags
    state.created_at = event.created
    state.ended = state.status = Status(event.status)
    state.status_since = event.ended
    state.end_version = event.versions


def _nothing(state: InstanceState, event: e.Event, version: int) -> None:
    """The event says nothing about the instance's state."""


APPLIERS: dict[type[e.Event], _Applier] = {
    e.WorkflowStarted: _started,
    e.RunClaimed: _claimed,
    e.SlotSought: _slot_sought,
    e.SlotGranted: _slot_granted,
    e.RunReleased: _released,
    e.WorkflowCompleted: _completed,
    e.WorkflowFailed: _failed,
    e.WorkflowAborted: _aborted,
    e.CancelRequested: _cancel_requested,
    e.CancelDelivered: _cancel_delivered,
    e.WorkflowCancelled: _cancelled,
    e.DeadlineChanged: _deadline,
    e.WorkflowTimedOut: _timed_out,
    e.WorkflowPaused: _paused,
    e.WorkflowResumed: _resumed,
    e.WorkflowRetried: _retried,
    e.EventVoided: _voided,
    e.HistoryForked: _forked,
    e.HistoryArchived: _archived,
    e.StateChanged: _state_changed,
    e.PatchDecided: _nothing,
    e.StepStarted: _step_started,
    e.StepAttemptFailed: _attempt_failed,
    e.StepCompleted: _step_ended("completed"),
    e.StepFailed: _step_ended("failed"),
    e.StepCancelled: _step_ended("cancelled"),
    e.ResultReused: _reused,
    e.ProgressRecorded: _progress,
    e.SleepScheduled: _sleep,
    e.SleepEnded: _wait_over,
    e.ListenStarted: _listen,
    e.EventReceived: _received,
    e.ListenEnded: _consumed,
    e.RequestIssued: _request,
    e.DataProvided: _ready,
    e.RequestEnded: _wait_over,
    e.WaitTimedOut: _wait_failed,
    e.WaitCancelled: _wait_over,
    e.ChildStarted: _child,
    e.ChildEnded: _child_over,
    e.WaitStarted: _wait,
    e.TargetEnded: _ready,
    e.WaitEnded: _wait_over,
    e.TimerScheduled: _timer,
    e.TimerFired: _fired,
    e.CallRecorded: _nothing,
    e.KeyAssigned: _nothing,
    e.EventPublished: _nothing,
    e.WorkflowDefined: _nothing,
    e.ScheduleDefined: _nothing,
    e.ScheduleRemoved: _nothing,
    e.SchedulePaused: _nothing,
    e.ScheduleResumed: _nothing,
    e.TickStarted: _nothing,
    e.TickQueued: _nothing,
    e.TickSkipped: _nothing,
    e.TicksMissed: _nothing,
    e.BackfillRequested: _nothing,
    e.BackfillAdvanced: _nothing,
}

_QUIET = frozenset(
    {e.StepStarted, e.StepCompleted, e.StepAttemptFailed, e.StateChanged, e.ProgressRecorded, e.PatchDecided}
)
"""Events that cannot change the status while no wait is open."""
