"""`@workflow`: makes a `Workflow` of an `async def` function.

What counts as input is decided by a parameter's name, and the overloads here say the same to a type checker: each of
the protocols below accepts the handlers that have exactly its reserved parameters, in any order, and thus no input;
every other handler's first parameter is its input. (One overload each, not one with a union: mypy does not infer the
output through a union of protocols.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import FrameType
from typing import Any, Concatenate, Protocol, TypedDict, TypeVar, Unpack, overload

from pydantic import BaseModel

from wfes.core.durations import Duration
from wfes.core.retry import Retry
from wfes.definition import Workflow
from wfes.names import Event, Request
from wfes.options import TIMEOUT_DEFAULT, Concurrency, EventName, RawOptions, ScheduleOption
from wfes.schedule import Schedule
from wfes.signature import Signature

__all__ = ["Concurrency", "Event", "Request", "Retry", "Schedule", "Workflow", "workflow"]

In = TypeVar("In")
Out = TypeVar("Out")
Out_co = TypeVar("Out_co", covariant=True)


class WorkflowOptions(TypedDict, total=False):
    """The options of `workflow`, which documents them."""

    name: str | None
    description: str | None
    schedule: ScheduleOption | None
    timeout: Duration | None
    deadline: Duration | None
    requests: Mapping[str, Any] | None
    state: type[BaseModel] | None
    on: EventName | Iterable[EventName] | None
    retry: Retry | None
    concurrency: int | Concurrency | None
    retention: Duration | None
    version: str | None


class _Step(Protocol[Out_co]):
    def __call__(self, *, step: Any) -> Coroutine[Any, Any, Out_co]: ...


class _State(Protocol[Out_co]):
    def __call__(self, *, state: Any) -> Coroutine[Any, Any, Out_co]: ...


class _Running(Protocol[Out_co]):
    def __call__(self, *, workflow: Any) -> Coroutine[Any, Any, Out_co]: ...


class _Execute(Protocol[Out_co]):
    def __call__(self, *, execute: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StepState(Protocol[Out_co]):
    def __call__(self, *, step: Any, state: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StepRunning(Protocol[Out_co]):
    def __call__(self, *, step: Any, workflow: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StepExecute(Protocol[Out_co]):
    def __call__(self, *, step: Any, execute: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StateRunning(Protocol[Out_co]):
    def __call__(self, *, state: Any, workflow: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StateExecute(Protocol[Out_co]):
    def __call__(self, *, state: Any, execute: Any) -> Coroutine[Any, Any, Out_co]: ...


class _RunningExecute(Protocol[Out_co]):
    def __call__(self, *, workflow: Any, execute: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StepStateRunning(Protocol[Out_co]):
    def __call__(self, *, step: Any, state: Any, workflow: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StepStateExecute(Protocol[Out_co]):
    def __call__(self, *, step: Any, state: Any, execute: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StepRunningExecute(Protocol[Out_co]):
    def __call__(self, *, step: Any, workflow: Any, execute: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StateRunningExecute(Protocol[Out_co]):
    def __call__(self, *, state: Any, workflow: Any, execute: Any) -> Coroutine[Any, Any, Out_co]: ...


class _StepStateRunningExecute(Protocol[Out_co]):
    def __call__(
        self, *, step: Any, state: Any, workflow: Any, execute: Any
    ) -> Coroutine[Any, Any, Out_co]: ...


class Decorator:
    """`@workflow` with options, waiting for its handler."""

    __slots__ = ("_raw",)

    def __init__(self, raw: RawOptions) -> None:
        self._raw = raw

    @overload
    def __call__(self, fn: Callable[[], Coroutine[Any, Any, Out]], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _Step[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _State[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _Running[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _Execute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StepState[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StepRunning[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StepExecute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StateRunning[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StateExecute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _RunningExecute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StepStateRunning[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StepStateExecute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StepRunningExecute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StateRunningExecute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, fn: _StepStateRunningExecute[Out], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[In, ...], Coroutine[Any, Any, Out]], /
    ) -> Workflow[In, Out]: ...

    def __call__(self, fn: Any, /) -> Workflow[Any, Any]:
        return _defined(fn, self._raw, sys._getframe(1))


@overload
def workflow(
    fn: Callable[[], Coroutine[Any, Any, Out]], /, **options: Unpack[WorkflowOptions]
) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _Step[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _State[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _Running[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _Execute[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StepState[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StepRunning[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StepExecute[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StateRunning[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StateExecute[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _RunningExecute[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StepStateRunning[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StepStateExecute[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StepRunningExecute[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(fn: _StateRunningExecute[Out], /, **options: Unpack[WorkflowOptions]) -> Workflow[None, Out]: ...
@overload
def workflow(
    fn: _StepStateRunningExecute[Out], /, **options: Unpack[WorkflowOptions]
) -> Workflow[None, Out]: ...
@overload
def workflow(
    fn: Callable[Concatenate[In, ...], Coroutine[Any, Any, Out]], /, **options: Unpack[WorkflowOptions]
) -> Workflow[In, Out]: ...
@overload
def workflow(fn: None = None, /, **options: Unpack[WorkflowOptions]) -> Decorator: ...


def workflow(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    schedule: ScheduleOption | None = None,
    timeout: Duration | None = TIMEOUT_DEFAULT,
    deadline: Duration | None = None,
    requests: Mapping[str, Any] | None = None,
    state: type[BaseModel] | None = None,
    on: EventName | Iterable[EventName] | None = None,
    retry: Retry | None = None,
    concurrency: int | Concurrency | None = None,
    retention: Duration | None = None,
    version: str | None = None,
) -> Any:
    """Makes a workflow of an `async def` function; usable bare or with options.

    The function's first parameter is the input, unless it has one of the names `step`, `state`, `workflow` and
    `execute`, which are filled in. The annotations of the input and of the return value are the types that inputs and
    outputs are validated against: anything pydantic validates; without an annotation any JSON value.

    Args:
        fn: The function, where `@workflow` is used bare.
        name: Unique within an engine; default: the function's name with `_` as `-`.
        description: Default: the docstring's first paragraph.
        schedule: A cron text, a `Schedule` or a list of these; each tick starts an instance.
        timeout: Duration; bounds handler code between two events of its own and is each step attempt's default
            time-out. Waits, backoff and pauses do not count. None: no bound.
        deadline: Duration; bounds an instance's whole life, waits included.
        requests: The data the handler may ask for: name → type.
        state: A pydantic model, every field with a default: typed state that is recorded.
        on: Names of events, or `Event`s; one published under such a name starts an instance with its payload.
        retry: The default for its steps; without it `Retry()`.
        concurrency: At most so many instances run at a time, over all workers.
        retention: Duration; how long an ended instance's history stays in the log before it is archived.
        version: Your own label of this code; a digest of the source is recorded beside it.

    Raises:
        TypeError: The function is no handler, or an option is of the wrong type.
        ValueError: An option's value cannot be meant.

    >>> @workflow(timeout="1h")
    ... async def greet_all(names: list[str]) -> str:
    ...     '''Greets.'''
    ...     return f"Hello {', '.join(names)}"
    >>> greet_all.name, greet_all.description, greet_all.input_type
    ('greet-all', 'Greets.', list[str])
    """
    raw = RawOptions(
        name=name,
        description=description,
        schedule=schedule,
        timeout=timeout,
        deadline=deadline,
        requests=requests,
        state=state,
        on=on,
        retry=retry,
        concurrency=concurrency,
        retention=retention,
        version=version,
    )
    return Decorator(raw) if fn is None else _defined(fn, raw, sys._getframe(1))


def _defined(fn: Any, raw: RawOptions, caller: FrameType) -> Workflow[Any, Any]:
    if isinstance(fn, Workflow):
        raise TypeError(f"{fn!r} is a workflow already; @workflow is written once, above the handler")
    # Types defined inside a function are found among its local names, which only the caller's frame knows.
    scope = None if caller.f_locals is caller.f_globals else caller.f_locals
    return Workflow(Signature(fn, scope), raw)
