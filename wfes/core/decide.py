"""What a command amounts to, given an instance's state: the events to append, or a typed refusal.

``decide(state, command, now)`` is pure; it returns a list of events (empty: nothing to do) or the error to raise to the
caller, as a value. It is called inside the append's transaction, on the state as it is there, so a decision never
rests on something that changes before it is written.

``voids`` is the other half: which newer event from outside takes an owner's event back to a new decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wfes import errors
from wfes.core import events as e
from wfes.core.state import InstanceState, Status

FRUITLESS_MAX = 5
"""After so many owners that died before anything was recorded, the instance is paused."""

Json = Any
Decision = list[e.Event] | errors.WfesError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What every command carries: who asked, and what led to it."""

    actor: str | None = None
    cause: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send(Asked):
    """Give an event to the instance; the same ``id`` twice counts once."""

    event: str
    payload: Json = None
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provide(Asked):
    """Answer the request ``id`` with data already validated."""

    id: str
    data: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Asked):
    """Interrupt the instance and end it as cancelled."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDeadline(Asked):
    """Let it time out at ``deadline`` (microseconds)."""

    deadline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Asked):
    """Hold it: no new step starts."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Asked):
    """Release it from a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Asked):
    """Let a failed or timed-out instance go on. ``lifetime``: its new deadline, microseconds from now."""

    lifetime: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Make ``worker`` the owner, if the instance is runnable now and nobody (but ``dead``) owns it."""

    worker: str
    code: Json
    dead: str | None = None


Command = Send | Provide | Cancel | SetDeadline | Pause | Resume | Retry | Claim


def decide(state: InstanceState, command: Command, now: int) -> Decision:
    """The events that ``command`` amounts to at ``now`` (microseconds), or why it is refused."""
    return _DECIDERS[type(command)](state, command, now)


def _send(state: InstanceState, command: Send, now: int) -> Decision:
    if command.id is not None and command.id in state.seen:
        return []
    if state.ended is not None:
        return errors.InstanceEnded(state.id, state.status, "send")
    return [
        e.EventReceived(
            at=now,
            event=command.event,
            payload=command.payload,
            id=command.id,
            actor=command.actor,
            cause=command.cause,
        )
    ]


def _provide(state: InstanceState, command: Provide, now: int) -> Decision:
    for path, wait in state.waits.items():
        if wait.kind == "request" and wait.target == command.id:
            if wait.ready:
                return errors.RequestNotPending(wait.name, state.id, "answered")
            if wait.until is not None and wait.until <= now:
                return errors.RequestNotPending(wait.name, state.id, "expired")
            return [
                e.DataProvided(at=now, path=path, data=command.data, actor=command.actor, cause=command.cause)
            ]
    if state.ended is not None:
        return errors.RequestNotPending(command.id, state.id, f"instance {state.status}")
    return errors.RequestNotPending(command.id, state.id, "answered, expired or withdrawn")


def _cancel(state: InstanceState, command: Cancel, now: int) -> Decision:
    if state.ended is not None or state.cancel or state.interrupted is not None:
        return []
    if not state.ran and (not state.retries or state.is_held):
        return [e.WorkflowCancelled(at=now, reason=command.reason, actor=command.actor, cause=command.cause)]
    return [e.CancelRequested(at=now, reason=command.reason, actor=command.actor, cause=command.cause)]


def _set_deadline(state: InstanceState, command: SetDeadline, now: int) -> Decision:
    if state.ended is not None:
        return errors.InstanceEnded(state.id, state.status, "set_timeout")
    return [e.DeadlineChanged(at=now, deadline=command.deadline, actor=command.actor, cause=command.cause)]


def _pause(state: InstanceState, command: Pause, now: int) -> Decision:
    if state.ended is not None:
        return errors.InstanceEnded(state.id, state.status, "pause")
    if state.paused or state.cancel or state.interrupted is not None:
        return []  # what is about to end is not held up
    return [e.WorkflowPaused(at=now, reason=command.reason, actor=command.actor, cause=command.cause)]


def _resume(state: InstanceState, command: Resume, now: int) -> Decision:
    if state.ended is not None:
        return errors.InstanceEnded(state.id, state.status, "resume")
    if not state.paused:
        return []
    return [e.WorkflowResumed(at=now, actor=command.actor, cause=command.cause)]


def _retry(state: InstanceState, command: Retry, now: int) -> Decision:
    if state.status not in (Status.FAILED, Status.TIMED_OUT):
        if state.ended is None:
            return []
        return errors.InstanceEnded(state.id, state.status, "retry")
    if state.archived is not None:
        return errors.InstanceEnded(state.id, state.status, "retry of what is archived")
    path = state.failed_path
    void_from = state.end_version
    if path is not None and path in state.last_failures:
        void_from = state.last_failures[path]
    elif state.interrupted_version and state.interrupted is not None:
        path = None
        void_from = state.interrupted_version
    else:
        path = None
    return [
        e.WorkflowRetried(
            at=now,
            void_from=void_from,
            path=path,
            deadline=None if command.lifetime is None else now + command.lifetime,
            actor=command.actor,
            cause=command.cause,
        )
    ]


def _claim(state: InstanceState, command: Claim, now: int) -> Decision:
    if state.ended is not None:
        return []
    if state.worker is None:
        due = state.runnable_at()
        if due is None or due > now:
            return []
    elif state.worker != command.dead:
        return []
    if not state.ran and state.deadline is not None and state.deadline <= now:
        return [e.WorkflowTimedOut(at=now, reason="its deadline passed before it could run")]
    if state.slot is not None and not state.slot.granted and not state.ran:
        # One that was retried and waits for a slot has nothing under way that a cancellation would have to reach.
        return [e.WorkflowCancelled(at=now, reason=state.cancel_reason)] if state.cancel else []
    if state.fruitless >= FRUITLESS_MAX and state.worker is not None:
        report = (
            f"{state.fruitless} workers in a row died with it before its handler came to its next event: the "
            "handler may be what kills them, or never get there. resume() lets it run again."
        )
        return [e.WorkflowPaused(at=now, reason=report, held="cut-offs")]
    return [e.RunClaimed(at=now, worker=command.worker, epoch=state.epoch + 1, code=command.code)]


_DECIDERS: dict[type[Any], Callable[[InstanceState, Any, int], Decision]] = {
    Send: _send,
    Provide: _provide,
    Cancel: _cancel,
    SetDeadline: _set_deadline,
    Pause: _pause,
    Resume: _resume,
    Retry: _retry,
    Claim: _claim,
}


_STARTS = (e.StepStarted, e.ChildStarted, e.CallRecorded)
_ENDS = (e.WorkflowCompleted, e.WorkflowFailed, e.WorkflowAborted)


def voids(newer: e.Event, proposed: e.Event, opened: str | None = None) -> bool:
    """Whether ``newer``, from outside and already in the log, takes the owner's ``proposed`` event back.

    Args:
        newer: an event the owner had not seen when it proposed.
        proposed: an event of the owner that is not in the log yet.
        opened: the event name a listener timing out by ``proposed`` waits for.
    """
    match newer:
        case e.CancelRequested():
            return isinstance(proposed, (*_ENDS, e.RunReleased))
        case e.WorkflowPaused():
            return isinstance(proposed, _STARTS)
        case e.DeadlineChanged():
            return isinstance(proposed, e.RunReleased) or (
                isinstance(proposed, e.CancelDelivered) and proposed.kind == "timeout"
            )
        case e.EventReceived():
            return isinstance(proposed, e.RunReleased) or (
                isinstance(proposed, e.WaitTimedOut) and newer.event == opened
            )
        case e.DataProvided() | e.TargetEnded():
            return isinstance(proposed, e.RunReleased) or (
                isinstance(proposed, e.WaitTimedOut) and newer.path == proposed.path
            )
        case e.WorkflowResumed():
            return isinstance(proposed, e.RunReleased)
        case _:
            return False
