"""How a handler's end is put into an event: its output, or what went wrong and where."""

from __future__ import annotations

import asyncio
from types import NoneType
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.core.error_info import ErrorInfo

if TYPE_CHECKING:
    from wfes.handler.execution import Execution


def result_of(execution: Execution, main: asyncio.Task[Any]) -> e.Event:
    """The end that the handler's finished task amounts to."""
    if main.cancelled():
        return failure(execution, asyncio.CancelledError("the handler cancelled itself"))
    error = main.exception()
    return completion(execution, main.result()) if error is None else failure(execution, error)


def completion(execution: Execution, output: object) -> e.Event:
    """The end with this output, or a failure where it does not fit or cannot be stored."""
    workflow = execution.workflow
    if output is None and workflow.output_type is NoneType:
        return e.WorkflowCompleted(at=execution.stamp())
    try:
        value: object = workflow.validate_output(output)
        tree = execution.seal(value, f"the output of workflow {workflow.name!r}", workflow.output_type)
    except Exception as error:
        return failure(execution, error)
    return e.WorkflowCompleted(at=execution.stamp(), output=tree)


def failure(execution: Execution, error: BaseException) -> e.Event:
    """The end by an exception; its ``path`` is the recorded failure that the exception is, or came from."""
    order = execution.failures
    path = next((p for p in _paths_in(error) if p in order), None)
    if _is_group(error):
        path = min((p for p in _paths_in(error) if p in order), key=lambda p: order[p], default=None)
    return e.WorkflowFailed(at=execution.stamp(), error=ErrorInfo.of(error).to_json(), path=path)


def _paths_in(error: BaseException | None, depth: int = 0) -> list[str]:
    """The paths of the steps and waits whose failure an exception is, or came from, or holds."""
    if error is None or depth > 10:
        return []
    found: list[str] = []
    path = getattr(error, "step", None) or getattr(error, "wait_path", None)
    if isinstance(path, str):
        found.append(path)
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ()) if _is_group(error) else ()
    for part in inner:
        found.extend(_paths_in(part, depth + 1))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found + _paths_in(cause, depth + 1)


def _is_group(error: object) -> bool:
    return isinstance(error, BaseExceptionGroup)
