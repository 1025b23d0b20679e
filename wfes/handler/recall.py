"""Giving a step's function that is run again what its inner paths have recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfes import errors
from wfes.handler.attempts import StepAsk
from wfes.handler.difference import Difference, code_of

if TYPE_CHECKING:
    from wfes.handler.asks import Ask
    from wfes.handler.execution import Execution


def recall(execution: Execution, ask: Ask) -> bool:
    """Gives a function that is run again what its inner paths have recorded; whether that is all."""
    nested = execution.nested.recorded.pop(ask.path, None)
    if nested is None:
        return False
    assert ask.future is not None
    if nested.end is not None:
        execution.nested.record(ask.path, nested)
        try:
            ask.future.set_result(ask.outcome(nested.end))
        except Exception as error:
            ask.future.set_exception(error)
        ask.settled = True
        return True
    if nested.kind != ask.kind:
        execution.hold(
            "difference",
            Difference(
                version=0,
                path=ask.path,
                expected=f"{nested.kind} {ask.path!r} was asked for, inside step {ask.path.rpartition('/')[0]!r}",
                actual=f"asks for {ask.describe()} there",
                code=code_of(execution.workflow),
            ),
        )
        raise errors.Suspended
    nested.apply(ask)
    execution.register(ask)
    ask.recorded = ask.on_disk = True
    if isinstance(ask, StepAsk):
        execution.active.add(ask)
        ask.resume()
    else:
        ask.begin()
    return True
