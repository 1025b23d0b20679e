"""Deciding again: what becomes of an entry that newer events from outside kept from being committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfes.core import events as e
from wfes.handler.asks import TimedAsk
from wfes.handler.attempts import StepAsk
from wfes.handler.outbox import Entry

if TYPE_CHECKING:
    from wfes.handler.execution import Execution


def is_dropped(execution: Execution, entry: Entry) -> bool:
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
