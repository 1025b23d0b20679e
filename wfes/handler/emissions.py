"""What happens to an ask's end when its turn in the release line has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wfes.handler.asks import Ask, TimedAsk
from wfes.handler.outbox import Entry
from wfes.handler.recall import recall

if TYPE_CHECKING:
    from wfes.handler.execution import Execution


def fact(execution: Execution, ask: Ask, cls: type[Any], fields: dict[str, Any]) -> None:
    """Records an end that nothing can take back, and gives it."""
    if ask.withdrawn:
        return
    event = cls(at=execution.stamp(), path=ask.path, **fields)
    execution.line.add(Entry(event, ask))
    execution.release(ask, event)


def immediate(execution: Execution, ask: Ask) -> None:
    """Records what is asked for and ended in one event: a checkpoint, or a call with its effect."""
    if ask.withdrawn:
        return
    if ask.is_start and (execution.paused or execution.rest.stopping):
        execution.hold_back(ask)
        return
    if ask.nested and recall(execution, ask):  # recorded meanwhile for an earlier run of the function
        execution.unregister(ask)
        return
    ask.recorded = ask.settled = True
    if ask.effect is not None:
        execution.line.add(Entry(None, ask, effect=ask.effect, opens=True, blocks=True))
        return
    event = ask.opening(execution.stamp())
    execution.line.add(Entry(event, ask))
    execution.release(ask, event)


def time_out(execution: Execution, ask: Ask, cls: type[Any], fields: dict[str, Any]) -> None:
    """Records that a wait's time is over, to be given once that is committed."""
    if ask.withdrawn:
        return
    assert isinstance(ask, TimedAsk)
    ask.settled = False
    ask.look()
    if ask.settled:  # what it waited for came while the time-out stood in line
        return
    ask.settled = True
    execution.line.add(Entry(cls(at=execution.stamp(), path=ask.path, **fields), ask, blocks=True))
