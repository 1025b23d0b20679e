"""What user code calls: the ``step`` object of a handler.

Every call takes its path at once (so that ``#k`` follows the order of calls) and becomes an ask when it is awaited.
The same object serves the handler and the functions of its steps: where it stands is the current ``Scope``'s to say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload
from uuid import UUID

from pydantic import ValidationError

from wfes import errors
from wfes.core import durations
from wfes.core import events as e
from wfes.core.durations import Duration
from wfes.core.ids import derived_id, flaw, flawless
from wfes.core.moments import micros_of
from wfes.core.retry import Retry
from wfes.core.types import ABSENT, json_schema
from wfes.handler.asks import CallAsk, ChildAsk, ListenAsk, ProgressAsk, RequestAsk, SleepAsk, TargetAsk
from wfes.handler.attempts import StepAsk
from wfes.handler.call import Call
from wfes.handler.changes import Was
from wfes.handler.scope import current
from wfes.handler.step_transaction import StepTransaction
from wfes.names import Event, Request
from wfes.validation import checked_name, explained, fitted

if TYPE_CHECKING:
    from wfes.core.state import Outcome
    from wfes.definition import Workflow
    from wfes.instance import Instance

T = TypeVar("T")
Item = TypeVar("Item")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Step(StepTransaction):
    """The handler's way to everything that must be recorded; one object an instance.

    Example:
        ``prices = await step("price", look_up, order.id, max_attempts=3)``
    """

    __slots__ = ()

    # ------------------------------------------------------------------------------------------------ steps

    @overload
    def __call__(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: type[Any] | None = None,
        thread: bool = True,
        on_interrupt: Literal["rerun", "fail"] = "rerun",
        was: Was | None = None,
    ) -> Call[T]: ...

    @overload
    def __call__(
        self,
        name: str,
        fn: Callable[..., T],
        *args: Any,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: type[Any] | None = None,
        thread: bool = True,
        on_interrupt: Literal["rerun", "fail"] = "rerun",
        was: Was | None = None,
    ) -> Call[T]: ...

    def __call__(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        thread: bool = True,
        on_interrupt: Literal["rerun", "fail"] = "rerun",
        was: Was | None = None,
    ) -> Call[Any]:
        """Runs ``fn(*args)`` and records the result; a recorded step is never run again.

        Args:
            name: the step's name in this scope; used again, it becomes ``name#2``, ``name#3``, …
            fn: an ``async def`` (run on the engine's loop) or a plain function (run in a thread).
            args: what it is called with.
            max_attempts: executions at most; overrides ``retry``'s.
            retry: how failures are retried; default: the workflow's.
            timeout: bound on one attempt; default: the workflow's ``timeout``.
            returns: the result's type, where ``fn`` has no return annotation.
            thread: False runs a plain function on the loop.
            on_interrupt: ``"fail"``: an attempt cut off by a crash or stop is not made again.
            was: the name, or names, that the step had in earlier code: histories that have it under one of them go on
                with it, new ones record ``name``. Every call that takes a name takes this.

        Raises:
            StepError: the last attempt failed.
            StepInterrupted: an attempt was cut off and ``on_interrupt`` is ``"fail"``.
            UnstorableValue: the result cannot be recorded.
            ValueError: the name is empty, too long, or has a ``/`` or ``#``.
        """
        if not callable(fn):
            raise TypeError(
                f"step {name!r} takes a function and its arguments, not {fn!r}: step(name, fn, *args)"
            )
        if on_interrupt not in ("rerun", "fail"):
            raise ValueError(f'on_interrupt must be "rerun" or "fail", not {on_interrupt!r}')
        scope = self._scope()
        path = scope.claim(name, was)
        policy = self._retry(retry, max_attempts)
        limit = self._timeout(timeout)

        def ask() -> StepAsk:
            return StepAsk(
                self._execution,
                path,
                nested=bool(scope.path),
                fn=fn,
                args=args,
                retry=policy,
                timeout=limit,
                returns=ABSENT if returns is None else returns,
                thread=thread,
                once=on_interrupt == "fail",
            )

        return self._call(scope, ask)

    @property
    def attempt(self) -> int:
        """In a step's function: the number of this attempt, 1, 2, …

        Raises:
            OutsideHandler: not in a step's function.
        """
        scope = current()
        if scope is None or scope.in_handler:
            raise errors.OutsideHandler("step.attempt", "it is the attempt of a step's function")
        return scope.attempt

    @property
    def index(self) -> int:
        """In ``map``, ``for_each`` and ``batch``: the index of this item, or of the batch's first.

        Raises:
            OutsideHandler: not in a function that one of these calls.
        """
        scope = current()
        if scope is None or scope.index is None:
            raise errors.OutsideHandler("step.index", "it is the item's index in map, for_each and batch")
        return scope.index

    # ------------------------------------------------------------------------------------------------ waits

    def sleep(self, name: str, duration: Duration, *, was: Was | None = None) -> Call[None]:
        """Sleeps durably for ``duration``; never shorter.

        Raises:
            ValueError: the duration is negative or unreadable, or the name is.
        """
        scope = self._scope()
        path = scope.claim(name, was)
        length = durations.micros(duration, f"the duration of sleep {name!r}")
        return self._call(
            scope, lambda: SleepAsk(self._execution, path, nested=bool(scope.path), timeout=length)
        )

    def sleep_until(self, name: str, when: datetime, *, was: Was | None = None) -> Call[None]:
        """Sleeps durably until ``when``, an aware datetime.

        Raises:
            ValueError: ``when`` is naive, or after the year 9998.
        """
        until = micros_of(when, f"the moment of sleep {name!r}")
        scope = self._scope()
        path = scope.claim(name, was)

        def ask() -> SleepAsk:
            sleep = SleepAsk(self._execution, path, nested=bool(scope.path), timeout=None)
            sleep.until = until
            return sleep

        return self._call(scope, ask)

    @overload
    def listen(
        self, name: str, *, event: Event[T], timeout: Duration | None = None, was: Was | None = None
    ) -> Call[T]: ...

    @overload
    def listen(
        self,
        name: str,
        *,
        event: str | None = None,
        timeout: Duration | None = None,
        returns: type[T],
        was: Was | None = None,
    ) -> Call[T]: ...

    @overload
    def listen(
        self,
        name: str,
        *,
        event: str | None = None,
        timeout: Duration | None = None,
        returns: None = None,
        was: Was | None = None,
    ) -> Call[Any]: ...

    def listen(
        self,
        name: str,
        *,
        event: str | Event[Any] | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        was: Was | None = None,
    ) -> Call[Any]:
        """Waits for an event sent to this instance and gives its payload.

        Args:
            name: the wait's name, and the event's where ``event`` is not given.
            event: the event's name, or an ``Event``.
            timeout: how long to wait at most.
            returns: the payload's type.

        Raises:
            WaitTimeout: it did not come in time.
            InvalidData: the payload does not fit the declared type.
        """
        scope = self._scope()
        path = scope.claim(name, was)
        type_ = returns
        if isinstance(event, Event):
            type_ = event.type if returns is None else returns
            event = event.name
        event = name if event is None else checked_name(event, "event")
        limit = None if timeout is None else durations.micros(timeout, "timeout")
        fits = None if type_ is None or type_ is Any else _payload_of(type_, event)
        return self._call(
            scope,
            lambda: ListenAsk(
                self._execution, path, nested=bool(scope.path), timeout=limit, event=event, validate=fits
            ),
        )

    @overload
    def request(
        self,
        request: Request[T],
        message: str | None = None,
        *,
        name: str | None = None,
        timeout: Duration | None = None,
        was: Was | None = None,
    ) -> Call[T]: ...

    @overload
    def request(
        self,
        request: str,
        message: str | None = None,
        *,
        name: str | None = None,
        timeout: Duration | None = None,
        was: Was | None = None,
    ) -> Call[Any]: ...

    def request(
        self,
        request: str | Request[Any],
        message: str | None = None,
        *,
        name: str | None = None,
        timeout: Duration | None = None,
        was: Was | None = None,
    ) -> Call[Any]:
        """Asks for data and waits for the answer, of the declared type.

        Args:
            request: a name declared by ``@workflow(requests=...)``, or a ``Request``.
            message: what to show to whoever is to answer.
            name: the wait's name; default: the request's.
            timeout: how long to wait at most.

        Raises:
            UnknownRequest: it is not declared.
            WaitTimeout: no answer came in time.
        """
        scope = self._scope()
        workflow = self._execution.workflow
        if isinstance(request, Request):
            type_ = request.type
            request = request.name
            self._execution.host.engine.calls.request_types[workflow.name, request] = type_
        elif request in workflow.requests:
            type_ = workflow.requests[request]
        else:
            raise errors.UnknownRequest(request, workflow.name, workflow.requests)
        path = scope.claim(request if name is None else name, was)
        limit = None if timeout is None else durations.micros(timeout, "timeout")
        if message is not None and not isinstance(message, str):
            raise TypeError(f"the message of request {request!r} is text, not {message!r}")
        execution = self._execution

        def ask() -> RequestAsk:
            return RequestAsk(
                execution,
                path,
                nested=bool(scope.path),
                timeout=limit,
                id=derived_id(execution.id, path, str(execution.retries)),
                name=request,
                message=None if message is None else flawless(message),
                schema=json_schema(type_),
                type_=type_,
            )

        return self._call(scope, ask)

    # ------------------------------------------------------------------------------------- other instances

    def wait_for_workflow(
        self,
        name: str,
        instance: Instance[Any] | str,
        *,
        timeout: Duration | None = None,
        was: Was | None = None,
    ) -> Call[Outcome]:
        """Waits for the end of any instance; its failure does not raise.

        Raises:
            WaitTimeout: it did not end in time.
            InstanceNotFound: there is no such instance.
            ValueError: it is this very instance.
        """
        target = _id_of(instance, f"wait_for_workflow({name!r})")
        if flaw(target) is not None:
            raise errors.InstanceNotFound(target)
        if target == self._execution.id:
            raise ValueError(f"instance {target!r} cannot wait for itself")
        scope = self._scope()
        path = scope.claim(name, was)
        limit = None if timeout is None else durations.micros(timeout, "timeout")
        return self._call(
            scope,
            lambda: TargetAsk(self._execution, path, nested=bool(scope.path), timeout=limit, target=target),
        )

    def execute_workflow(
        self,
        name: str,
        wf: Workflow[Any, T],
        input: Any = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        was: Was | None = None,
    ) -> Call[T]:
        """Starts a child instance exactly once, waits for it and gives its output.

        Raises:
            ChildWorkflowError: the child did not complete.
            WaitTimeout: it did not end in time (it runs on).
            InvalidInput: the input does not fit; nothing was started.
        """
        scope = self._scope()
        path = scope.claim(name, was)
        execution = self._execution
        limit = None if timeout is None else durations.micros(timeout, "timeout")
        child = execution.children.get(path) or derived_id(execution.id, path, str(execution.retries))
        start = execution.host.engine.calls.start(
            wf, input, id=child, key=key, parent=execution.id, parent_path=path
        )
        start.derived = True

        def ask() -> ChildAsk:
            return ChildAsk(
                execution,
                path,
                nested=bool(scope.path),
                timeout=limit,
                target=child,
                workflow=start.workflow,
                start=start,
                output_type=getattr(wf, "output_type", ABSENT),
            )

        return self._call(scope, ask)

    def send(
        self,
        name: str,
        instance: Instance[Any] | str,
        event: str | Event[Any],
        payload: Any = None,
        *,
        was: Was | None = None,
    ) -> Call[None]:
        """Sends an event to an instance, exactly once.

        Raises:
            InstanceNotFound, InstanceEnded: there is none such, or it is over.
        """
        target = _id_of(instance, f"send({name!r})")
        if flaw(target) is not None:  # nor could it be recorded whom this was for
            raise errors.InstanceNotFound(target)
        command = self._execution.host.engine.calls.send(target, event, payload)
        return self._recorded_call(name, was, "send", command)

    def publish(
        self, name: str, event: str | Event[Any], payload: Any = None, *, was: Was | None = None
    ) -> Call[None]:
        """Publishes an event for whoever it concerns, exactly once."""
        command = self._execution.host.engine.calls.publish(event, payload)
        return self._recorded_call(name, was, "publish", command)

    def _recorded_call(self, name: str, was: Was | None, call: str, command: Any) -> Call[None]:
        scope = self._scope()
        path = scope.claim(name, was)
        execution = self._execution

        async def perform() -> None:
            await execution.open(
                scope, CallAsk(execution, path, nested=bool(scope.path), call=call, command=command)
            )

        return Call(self._number(), perform)

    # ------------------------------------------------------------------------------------- progress and ends

    def progress(self, message: str, *, percent: float | None = None, data: Any = None) -> Call[None]:
        """Records a progress checkpoint; messages may repeat.

        Raises:
            UnstorableValue: ``data`` cannot be recorded.
        """
        scope = self._scope()
        path = scope.claim_call("progress")
        tree = self._execution.seal(data, "the data of a progress checkpoint")
        if not isinstance(message, str):
            raise TypeError(f"the message of a progress checkpoint is text, not {message!r}")
        share = None if percent is None else _percent(percent)
        return self._call(
            scope,
            lambda: ProgressAsk(
                self._execution,
                path,
                nested=bool(scope.path),
                message=flawless(message),
                percent=share,
                data=tree,
            ),
        )

    def fail(self, reason: str) -> NoReturn:
        """The instance is over, as failed; the rest of the handler does not run."""
        self._execution.fail(flawless(str(reason)))
        raise errors.Suspended

    def abort(self, reason: str | None = None) -> NoReturn:
        """The instance is over, as aborted, which is not a failure; the rest of the handler does not run."""
        text = None if reason is None else flawless(str(reason))
        self._execution.end(e.WorkflowAborted(at=self._execution.stamp(), reason=text))
        raise errors.Suspended

    # --------------------------------------------------------------------------------------- changed code

    def patched(self, change_id: str) -> bool:
        """Whether this instance has a change of the code: asked where old and new code part.

        True for instances that come here first with the new code. False where older code has passed this place
        already: the instance goes on as that code did. The first answer is recorded and holds for the instance's life,
        wherever it is asked again; in a step's function it holds for that step.

        Args:
            change_id: names the change; up to 200 characters, without ``/`` and ``#``.

        Raises:
            ValueError: the id is no such name.

        Example:
            ``message = "checked" if step.patched("fraud check") else "not checked"``
        """
        return self._execution.changes.patched(self._scope(), change_id)

    # --------------------------------------------------------------------------------------- repeatable values

    def now(self) -> datetime:
        """The time of the last event this handler has seen (aware, UTC); the same on every replay."""
        return _EPOCH + timedelta(microseconds=self._execution.seen_at)

    def random(self) -> float:
        """A number in [0, 1); the same on every replay."""
        return self._draw("random").random()

    def uuid(self) -> UUID:
        """A version 4 UUID; the same on every replay."""
        return self._scope().uuid()

    def _draw(self, purpose: str) -> Random:
        return self._scope().draw(purpose)


def _payload_of(type_: object, event: str) -> Callable[[Any], Any]:
    def fit(payload: Any) -> Any:
        try:
            return fitted(type_, payload)
        except ValidationError as error:
            raise errors.InvalidData(event, explained(error), kind="event") from error

    return fit


def _id_of(instance: object, where: str) -> str:
    found = instance if isinstance(instance, str) else getattr(instance, "id", None)
    if not isinstance(found, str):
        raise TypeError(f"{where} takes an instance or its id, not {instance!r}")
    return found


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"percent is {value!r}; it must be a number from 0 to 100")
    if not 0 <= value <= 100:
        raise ValueError(f"percent is {value!r}; it must be from 0 to 100")
    return float(value)
