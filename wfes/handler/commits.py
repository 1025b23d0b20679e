"""What follows when entries of an execution are in the log, or could not be put there.

A conflict means that newer events from outside, which are known by then, took something back: each entry then stays
as it is, or goes another way, and what it blocked goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.handler.asks import Ask, TimedAsk
from wfes.handler.attempts import StepAsk
from wfes.handler.outbox import Entry

if TYPE_CHECKING:
    from wfes.handler.execution import Execution


def committed(execution: Execution, entries: list[Entry]) -> None:
    """These entries are in the log: begins what they opened, releases what waited for that."""
    for entry in entries:
        for digest, _ in entry.blobs:
            execution.large.pop(digest, None)
        if entry.blocks:
            execution.line.blocks -= 1
        event, ask = entry.event, entry.ask
        if ask is None:
            if entry.blocks:
                _intent_committed(execution, event)
                if execution.is_gone:
                    return
        elif entry.refusal is not None:
            execution.settle(ask, e.CallRecorded, {"call": ask.kind, "error": entry.refusal})
        elif entry.opens and not entry.blocks:
            ask.on_disk = True
            if not ask.withdrawn and not ask.settled and not execution.is_leaving:
                ask.begin()
        elif entry.blocks:
            ask.settled = True
            execution.line.put_first(_releaser(execution, ask, event))
    if not _only_runs_steps(execution):
        execution.schedule()


def _only_runs_steps(execution: Execution) -> bool:
    """Whether nothing is to be done before a step ends."""
    if not execution.active or execution.paused or execution.rest.stopping:
        return False
    return (
        execution.line.is_empty
        and not execution.fresh
        and not execution.loop.has_ready
        and not execution.nested.open
    )


def _releaser(execution: Execution, ask: Ask, event: Any) -> Callable[[], None]:
    return lambda: execution.release(ask, event)


def _intent_committed(execution: Execution, event: e.Event | None) -> None:
    if isinstance(event, e.CancelDelivered):
        execution.line.put_first(lambda: execution.ends.interrupt(event))
    elif isinstance(event, e.RunReleased) or (event is not None and event.terminal):
        execution.leave()


def redecide(execution: Execution, entries: list[Entry]) -> None:
    """Decides again what could not be committed because of newer events, which are known by now."""
    for entry in entries:  # a dropped entry may carry a large value of one that stays
        execution.line.take_along(entry.blobs)
        entry.blobs = ()
    for entry in entries:
        if not _is_dropped(execution, entry):
            execution.line.add_again(entry)
    execution.schedule()


def _is_dropped(execution: Execution, entry: Entry) -> bool:
    """Whether an entry goes another way now, and that way is taken."""
    ask = entry.ask
    if entry.opens and ask is not None and ask.is_start and (execution.paused or execution.rest.stopping):
        ask.recorded, ask.settled = (
            ask.on_disk,
            False,
        )  # an earlier attempt is recorded, and so is its withdrawal
        if isinstance(ask, StepAsk):
            execution.active.discard(ask)
        execution.hold_back(ask)
        return _unblocked(execution, entry)
    match entry.event:
        case e.WaitTimedOut():
            assert isinstance(ask, TimedAsk)
            ask.settled = False
            ask.look()
            if not ask.settled:
                ask.settled = True
                return False
            execution.line.last_first()  # what came after all is the next to be released
        case e.CancelDelivered(kind="timeout"):
            if execution.ends.still_times_out(entry.event):
                return False
        case e.WorkflowCompleted() | e.WorkflowFailed() | e.WorkflowAborted():
            if execution.ends.cancel is None:
                return False
            _unblocked(execution, entry)
            execution.ends.reopen()
            return True
        case e.RunReleased() | e.TimerScheduled():
            if execution.rest.must_leave:
                if isinstance(entry.event, e.RunReleased):
                    # What it was to wait for may be there by now, or what was held back may go on: the next one looks.
                    entry.event = replace(entry.event, waiting=False)
                return False
            if entry.blocks:
                execution.rest.stay()
        case _:
            return False
    return _unblocked(execution, entry)


def _unblocked(execution: Execution, entry: Entry) -> bool:
    if entry.blocks:
        execution.line.blocks -= 1
    return True
