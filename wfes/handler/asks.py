"""What a handler, or a step's function, can ask for: one class a kind, one object a path.

An ask knows the event that records it, what to do once that is on disk, what withdraws it, and what its recorded
end means for whoever awaits it. It decides nothing about order: that is the execution's (``handler.execution``).
``outcome`` serves live runs and replays alike, so both see the same values and the same exceptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from wfes import errors
from wfes.core import events as e
from wfes.core.error_info import ErrorInfo
from wfes.core.events import Json
from wfes.core.state import Outcome, Status
from wfes.handler import refusal
from wfes.handler.tasks import PrivateFuture
from wfes.validation import explained, fitted

if TYPE_CHECKING:
    from wfes.handler.execution import Execution
    from wfes.runtime.clock import Cancellable


class HandlerFuture(PrivateFuture[Any]):
    """What the handler awaits; tells the execution when it is cancelled."""

    ask: Ask

    def cancel(self, msg: Any = None) -> bool:
        ask = self.ask
        if super().cancel(msg):
            ask.execution.withdraw(ask)
            return True
        return False


class FunctionFuture(asyncio.Future[Any]):
    """What a step's function awaits, on the real loop; tells the execution when it is cancelled."""

    ask: Ask

    def cancel(self, msg: Any = None) -> bool:
        if super().cancel(msg):
            self.ask.execution.withdraw(self.ask)
            return True
        return False


class Ask:
    """One thing asked for.

    Attributes:
        path: what it is known by.
        nested: asked by a step's function rather than by the handler.
        recorded: its opening event is in the log, or on its way there.
        on_disk: that event has been committed.
        settled: its end is decided (waiting in line to be released, or released).
        withdrawn: whoever asked has cancelled it.
    """

    kind: ClassVar[str] = ""
    is_start: ClassVar[bool] = False
    """Whether a paused instance must not begin it."""
    is_immediate: ClassVar[bool] = False
    """Whether its opening event is its end as well."""
    commits_first: ClassVar[bool] = False
    """Whether its end is committed before it is released, and may have been withdrawn by then."""
    waits: ClassVar[bool] = True
    """Whether it needs nothing of this process while it is open."""

    __slots__ = ("execution", "future", "nested", "on_disk", "path", "recorded", "settled", "withdrawn")

    def __init__(self, execution: Execution, path: str, *, nested: bool) -> None:
        self.execution = execution
        self.path = path
        self.nested = nested
        self.recorded = False
        self.on_disk = False
        self.settled = False
        self.withdrawn = False
        self.future: asyncio.Future[Any] | None = None

    def opening(self, at: int) -> e.Event:
        """The event that records it."""
        raise NotImplementedError

    @property
    def is_binding(self) -> bool:
        """Whether its effect is on its way into the log: whoever withdraws it now comes too late."""
        return self.is_immediate and self.recorded

    @property
    def effect(self) -> Callable[[Any], e.Event] | None:
        """What is to happen in the opening event's own transaction, giving the event to record."""
        return None

    def adopt(self, event: Any) -> None:
        """Takes over what its recorded opening says, on replay."""

    def begin(self) -> None:
        """Called once the opening is on disk (live), or when a replay has come to its end."""

    def halt(self) -> None:
        """Stops whatever runs for it."""

    def stay(self) -> None:
        """Goes on where its execution was about to leave memory and did not."""
        self.halt()
        self.begin()

    def withdrawal(self, at: int) -> e.Event:
        """The event that records its being withdrawn."""
        return e.WaitCancelled(at=at, path=self.path)

    def outcome(self, event: Any) -> Any:
        """What whoever awaits is given for this recorded end; raises what it is to see."""
        raise NotImplementedError

    def due(self) -> int | None:
        """When it is due by itself, in microseconds."""
        return None

    def forget(self) -> None:
        """Lets go of what only an open ask needs: no cycle is left for the garbage collector."""
        self.future = None

    def describe(self) -> str:
        """For a report of differences."""
        return f"{self.kind} {self.path!r}"


class TimedAsk(Ask):
    """An ask that something may end and time does end, where ``until`` is set.

    Attributes:
        timeout: microseconds from its opening, or None.
        until: the moment it ends, in microseconds, once it has been opened.
    """

    __slots__ = ("alarm", "timeout", "timing_out", "until")

    def __init__(self, execution: Execution, path: str, *, nested: bool, timeout: int | None) -> None:
        super().__init__(execution, path, nested=nested)
        self.timeout = timeout
        self.until: int | None = None
        self.alarm: Cancellable | None = None
        self.timing_out = False

    def open_until(self, at: int) -> int | None:
        """The moment it ends if it is opened at ``at``; kept where it has been opened before."""
        if self.until is None and self.timeout is not None:
            self.until = at + self.timeout
        return self.until

    def adopt(self, event: Any) -> None:
        self.until = event.until

    def begin(self) -> None:
        self.look()
        if not self.settled and self.until is not None and self.alarm is None:
            self.alarm = self.execution.host.clock.call_at(self.until, self.ring)

    def look(self) -> None:
        """Settles it if what it waits for is there already."""

    def halt(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None

    def due(self) -> int | None:
        return self.until

    def ring(self) -> None:
        """Its time is over."""
        self.alarm = None
        if self.settled or self.withdrawn:
            return
        self.timing_out = True
        self.execution.settle(self, e.WaitTimedOut, {}, intent=True)

    def timed_out(self) -> errors.WaitTimeout:
        """What whoever awaits sees when its time is over."""
        error = errors.WaitTimeout(self.path, self.timeout)
        error.wait_path = self.path  # type: ignore[attr-defined]
        return error


class SleepAsk(TimedAsk):
    """A durable sleep."""

    kind = "sleep"
    __slots__ = ()

    def opening(self, at: int) -> e.Event:
        if self.until is None:
            self.until = self.execution.pool.dues.pop(self.path, None)
        until = self.open_until(at)
        assert until is not None
        return e.SleepScheduled(at=at, path=self.path, until=until)

    def ring(self) -> None:
        self.alarm = None
        self.execution.settle(self, e.SleepEnded, {})

    def outcome(self, event: e.SleepEnded) -> None:
        return None


class ListenAsk(TimedAsk):
    """A wait for an event sent to the instance."""

    kind = "listen"
    __slots__ = ("event", "type_", "validate")

    def __init__(
        self,
        execution: Execution,
        path: str,
        *,
        nested: bool,
        timeout: int | None,
        event: str,
        validate: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(execution, path, nested=nested, timeout=timeout)
        self.event = event
        self.validate = validate

    def opening(self, at: int) -> e.Event:
        return e.ListenStarted(at=at, path=self.path, event=self.event, until=self.open_until(at))

    def look(self) -> None:
        received = self.execution.inbox.take(self.event, self.until)
        if received is not None:
            self.execution.settle(self, e.ListenEnded, {"received": received})

    def outcome(self, event: Any) -> Any:
        if isinstance(event, e.WaitTimedOut):
            raise self.timed_out()
        received = self.execution.inbox.at(event.received)
        payload = self.execution.host.values.open(received.payload)
        if self.validate is None:
            return payload
        return self.validate(payload)


class RequestAsk(TimedAsk):
    """A question to people or other systems."""

    kind = "request"
    __slots__ = ("id", "message", "name", "schema", "type_")

    def __init__(
        self,
        execution: Execution,
        path: str,
        *,
        nested: bool,
        timeout: int | None,
        id: str,
        name: str,
        message: str | None,
        schema: Json,
        type_: object,
    ) -> None:
        super().__init__(execution, path, nested=nested, timeout=timeout)
        self.id = id
        self.name = name
        self.message = message
        self.schema = schema
        self.type_ = type_

    def opening(self, at: int) -> e.Event:
        return e.RequestIssued(
            at=at,
            path=self.path,
            id=self.id,
            name=self.name,
            message=self.message,
            schema=self.schema,
            until=self.open_until(at),
        )

    def adopt(self, event: Any) -> None:
        super().adopt(event)
        self.id = event.id

    def look(self) -> None:
        provided = self.execution.inbox.answers.get(self.path)
        if provided is not None:
            self.execution.settle(self, e.RequestEnded, {"provided": provided})

    def outcome(self, event: Any) -> Any:
        if isinstance(event, e.WaitTimedOut):
            raise self.timed_out()
        provided = self.execution.inbox.at(event.provided)
        data = self.execution.host.values.open(provided.data, self.type_)
        try:
            return fitted(self.type_, data)  # whoever answered may not have known the type
        except ValidationError as error:
            raise errors.InvalidData(self.name, explained(error)) from error


class TargetAsk(TimedAsk):
    """A wait for the end of another instance."""

    kind = "workflow"
    is_start = True
    __slots__ = ("target",)

    def __init__(
        self, execution: Execution, path: str, *, nested: bool, timeout: int | None, target: str
    ) -> None:
        super().__init__(execution, path, nested=nested, timeout=timeout)
        self.target = target

    def opening(self, at: int) -> e.Event:
        return e.WaitStarted(at=at, path=self.path, instance=self.target, until=self.open_until(at))

    @property
    def effect(self) -> Callable[[Any], e.Event] | None:
        opening = self.opening(self.execution.stamp())

        def look_up(tx: Any) -> e.Event:
            if tx.state(self.target) is None:
                raise errors.InstanceNotFound(self.target)
            return opening

        return look_up

    def adopt(self, event: Any) -> None:
        super().adopt(event)
        self.target = event.instance

    def look(self) -> None:
        ended = self.execution.inbox.ends.get(self.path)
        if ended is not None and self.execution.inbox.at(ended).instance == self.target:
            self.execution.settle(self, self._end_event, {"ended": ended})

    @property
    def _end_event(self) -> type[e.At]:
        return e.WaitEnded

    def outcome(self, event: Any) -> Any:
        if isinstance(event, e.CallRecorded):
            raise refusal.from_tree(event.error)
        if isinstance(event, e.WaitTimedOut):
            raise self.timed_out()
        ended = self.execution.inbox.at(event.ended)
        error = None if ended.error is None else ErrorInfo.from_json(ended.error)
        return Outcome(
            ended.instance, Status(ended.status), self.execution.host.values.open(ended.output), error
        )


class ChildAsk(TargetAsk):
    """A child instance: started exactly once, and waited for."""

    kind = "child"
    __slots__ = ("output_type", "start", "workflow")

    def __init__(
        self,
        execution: Execution,
        path: str,
        *,
        nested: bool,
        timeout: int | None,
        target: str,
        workflow: str,
        start: Any,
        output_type: object,
    ) -> None:
        super().__init__(execution, path, nested=nested, timeout=timeout, target=target)
        self.workflow = workflow
        self.start = start
        self.output_type = output_type

    def opening(self, at: int) -> e.Event:
        return e.ChildStarted(
            at=at,
            path=self.path,
            instance=self.target,
            workflow=self.workflow,
            until=self.open_until(at),
        )

    @property
    def effect(self) -> Callable[[Any], e.Event] | None:
        opening = self.opening(self.execution.stamp())

        def start(tx: Any) -> e.Event:
            self.start.run(tx)
            return opening

        return start

    @property
    def _end_event(self) -> type[e.At]:
        return e.ChildEnded

    def outcome(self, event: Any) -> Any:
        if isinstance(event, e.CallRecorded):
            raise refusal.from_tree(event.error)
        if isinstance(event, e.WaitTimedOut):
            raise self.timed_out()
        ended = self.execution.inbox.at(event.ended)
        if ended.status == Status.COMPLETED:
            return self.execution.host.values.open(ended.output, self.output_type)
        error = None if ended.error is None else ErrorInfo.from_json(ended.error)
        failure = errors.ChildWorkflowError(
            Status(ended.status), ended.instance, error, workflow=self.workflow
        )
        failure.wait_path = self.path  # type: ignore[attr-defined]
        raise failure


class CallAsk(Ask):
    """A recorded call: its effect and its record are one transaction, and the record is its end."""

    kind = "call"
    is_start = True
    is_immediate = True
    __slots__ = ("call", "command")

    def __init__(self, execution: Execution, path: str, *, nested: bool, call: str, command: Any) -> None:
        super().__init__(execution, path, nested=nested)
        self.call = call
        self.command = command

    @property
    def effect(self) -> Callable[[Any], e.Event] | None:
        at = self.execution.stamp()

        def perform(tx: Any) -> e.Event:
            try:
                result = self.command.run(tx)
            except errors.WfesError as error:
                refused = refusal.to_tree(error)
                return e.CallRecorded(at=at, path=self.path, call=self.call, error=refused)
            return e.CallRecorded(at=at, path=self.path, call=self.call, result=result)

        return perform

    def outcome(self, event: e.CallRecorded) -> Any:
        if event.error is not None:
            raise refusal.from_tree(event.error)
        return event.result

    def describe(self) -> str:
        return f"call of {self.call!r} at {self.path!r}"


class ProgressAsk(Ask):
    """A progress checkpoint."""

    kind = "progress"
    is_immediate = True
    __slots__ = ("data", "message", "percent")

    def __init__(
        self,
        execution: Execution,
        path: str,
        *,
        nested: bool,
        message: str,
        percent: float | None,
        data: Json,
    ) -> None:
        super().__init__(execution, path, nested=nested)
        self.message = message
        self.percent = percent
        self.data = data

    def opening(self, at: int) -> e.Event:
        return e.ProgressRecorded(
            at=at, path=self.path, message=self.message, percent=self.percent, data=self.data
        )

    def outcome(self, event: e.ProgressRecorded) -> None:
        return None
