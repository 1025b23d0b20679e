"""What follows at once from an event, in the same transaction: no wake-up is ever lost.

* An instance's end tells everybody who waits for it (``TargetEnded``).
* A wait for an instance that has ended already is told so as it is opened.
* A cancellation that reaches a handler is passed on to the children it waits for.

Invariants: the first end is the one a waiter gets, also where the instance is retried afterwards; an ended waiter
gets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wfes.core import decide
from wfes.core import events as e
from wfes.core.error_info import ErrorInfo
from wfes.core.state import InstanceState, Status
from wfes.errors import WfesError
from wfes.log.port import Tx

Reaction = Callable[[Tx, str, Any, InstanceState], None]
"""Called with the transaction, the stream, the event just appended and the instance's state after it."""

_HOLLOW = "instance {!r} has ended as {}; its history is archived, and the archive cannot be read"

WAITERS = "SELECT waiter, path FROM wfes_waiters WHERE target = ? ORDER BY waiter, path"


ANYBODY = "SELECT 1 FROM wfes_waiters LIMIT 1"

_OPENING = frozenset({e.ChildStarted, e.WaitStarted})


def _wake_waiters(tx: Tx, stream: str, event: e.Event, state: InstanceState) -> None:
    if not tx.query(ANYBODY, shows=_OPENING):
        return
    # A row of a wait that is over tells nobody anything, so only new waits have to be seen.
    for waiter, path in tx.query(WAITERS, (stream,), shows=_OPENING):
        _tell(tx, str(waiter), str(path), state, event.at)


def _look_at_target(tx: Tx, stream: str, event: e.ChildStarted | e.WaitStarted, state: InstanceState) -> None:
    look_at_target(tx, stream, event.path, event.instance, event.at)


def look_at_target(tx: Tx, waiter: str, path: str, target: str | None, at: int | None = None) -> None:
    """Tells an open wait that its target has ended, if it has."""
    found = None if target is None else tx.state(target)
    if found is not None and found.ended is not None:
        _tell(tx, waiter, path, found, tx.now if at is None else at)


def _tell(tx: Tx, waiter: str, path: str, target: InstanceState, at: int) -> None:
    waiting = tx.state(waiter)
    if waiting is None or waiting.ended is not None:
        return
    wait = waiting.waits.get(path)
    if wait is None or wait.target != target.id or wait.ready:
        return
    status, error = str(target.status), target.error
    if target.hollow:
        # Its output is in an archive that is not there: said as it is, for None would be taken for what it returned.
        message = _HOLLOW.format(target.id, status)
        error = ErrorInfo(type="wfes.ArchiveUnavailable", message=message).to_json()
        status = str(Status.FAILED)
    tx.append(
        waiter,
        [
            e.TargetEnded(
                at=at,
                path=path,
                instance=target.id,
                status=status,
                output=target.output,
                error=error,
            )
        ],
    )


def _cancel_children(tx: Tx, stream: str, event: e.CancelDelivered, state: InstanceState) -> None:
    if event.kind != "cancel":
        # A timed-out instance can be retried, and then goes on waiting for the child it has.
        return
    children = [w.target for w in state.waits.values() if w.kind == "child" and not w.ready]
    command = decide.Cancel(reason=event.reason, cause={"instance": stream, "version": state.version})
    for id in children:
        child = None if id is None else tx.state(id)
        if child is None:
            continue
        decision = decide.decide(child, command, tx.now)
        if decision and not isinstance(decision, WfesError):
            tx.append(child.id, decision)


REACTIONS: Mapping[type[e.Event], Reaction] = {
    e.WorkflowCompleted: _wake_waiters,
    e.WorkflowFailed: _wake_waiters,
    e.WorkflowAborted: _wake_waiters,
    e.WorkflowCancelled: _wake_waiters,
    e.WorkflowTimedOut: _wake_waiters,
    e.ChildStarted: _look_at_target,
    e.WaitStarted: _look_at_target,
    e.CancelDelivered: _cancel_children,
}
"""What the writer calls, by the event appended."""
