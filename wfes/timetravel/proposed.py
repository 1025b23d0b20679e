"""Whether a handler that was run against its whole history comes to the end that is recorded there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.core.error_info import ErrorInfo
from wfes.handler import ending
from wfes.runtime.descriptions import same_tree
from wfes.validation import shown

if TYPE_CHECKING:
    from wfes.handler.execution import Execution
    from wfes.runtime.values import Values


@dataclass(frozen=True, slots=True)
class OtherEnd:
    """The code does not come to the recorded end.

    ``waits``: the handler has not ended at all. ``instead``: the path it asks for, where it goes on.
    """

    path: str | None
    expected: str
    actual: str
    instead: str | None = None
    waits: bool = False


def proposed_end(execution: Execution, end: e.Event) -> OtherEnd | None:
    """Compares the end that the handler has come to with the recorded one; None: they are the same.

    An end by cancellation or time-out is nothing of the handler's doing, and always the same.
    """
    if isinstance(end, (e.WorkflowCancelled, e.WorkflowTimedOut)) or execution.ends.is_interrupted:
        return None
    values = execution.host.values
    expected = described(end, values)
    main, said = execution.main, execution.ends.said
    if said is None:
        if main is None or not main.done():
            return _goes_on(execution, expected)
        execution.record_state()
        said = execution.ends.said or ending.result_of(execution, main)
    if _same(said, end):
        return None
    return OtherEnd(getattr(said, "path", None), expected, described(said, values, execution.large))


def _goes_on(execution: Execution, expected: str) -> OtherEnd:
    fresh = [ask for ask, withdrawn in execution.fresh.items() if not withdrawn]
    if fresh:
        asked = ", ".join(ask.describe() for ask in fresh[:5])
        return OtherEnd(fresh[0].path, expected, f"goes on: asks for {asked}", fresh[0].path, waits=True)
    waits = [ask for ask in execution.asks.values() if not ask.nested]
    if waits:
        asked = ", ".join(ask.describe() for ask in waits[:5])
        return OtherEnd(waits[0].path, expected, f"waits for {asked}", waits[0].path, waits=True)
    return OtherEnd(None, expected, "does not end: it waits for nothing that the history has", waits=True)


def _same(mine: e.Event, recorded: e.Event) -> bool:
    match mine, recorded:
        case e.WorkflowCompleted(), e.WorkflowCompleted():
            return same_tree(mine.output, recorded.output)
        case e.WorkflowFailed(), e.WorkflowFailed():
            one, other = ErrorInfo.from_json(mine.error), ErrorInfo.from_json(recorded.error)
            return (one.type, one.message) == (other.type, other.message)
        case e.WorkflowAborted(), e.WorkflowAborted():
            return mine.reason == recorded.reason
        case _:
            return False


def described(end: e.Event, values: Values, large: dict[str, Any] | None = None) -> str:
    """An end in words."""
    match end:
        case e.WorkflowCompleted():
            try:
                return f"it completed with {shown(values.open(end.output))}"
            except Exception:  # a value that is not in the log yet, or no more
                return "it completed with another, large value" if large else "it completed"
        case e.WorkflowFailed():
            info = ErrorInfo.from_json(end.error)
            return f"it failed: {info.type}: {info.message}"
        case e.WorkflowAborted():
            return "it was aborted" if end.reason is None else f"it was aborted: {end.reason}"
        case e.WorkflowCancelled():
            return "it was cancelled"
        case _:
            return "it timed out"
