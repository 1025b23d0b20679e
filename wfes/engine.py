"""`Engine`: the composition root, and the calls that work on a whole log.

Opens the log, brings the projections up, starts the writer and, unless told otherwise, a worker; closes them in the
opposite order. Everything belongs to the event loop the engine was opened on: a call from a handler's private loop, or
from another loop of the program, is carried over to it.

A call that changes something becomes a command (`wfes.calls`). Inside a handler of this engine it is a recorded call,
whose effect and record are one transaction; anywhere else the command goes into the writer's queue by itself.

Invariants: an engine is opened once; if opening fails, nothing is left running; closing is safe to repeat and leaves
nobody waiting.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from contextvars import Token
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar, cast, overload

from wfes import ambient
from wfes.calls import Calls
from wfes.core import durations
from wfes.core import events as e
from wfes.core.codec import ABSENT, Json
from wfes.core.durations import Duration
from wfes.core.evolve import fold
from wfes.core.state import ACTIVE, InstanceState, Status
from wfes.definition import Workflow
from wfes.errors import (
    DuplicateWorkflow,
    EngineNotOpen,
    LogUnavailable,
    NotSupported,
    WrongWorkflow,
)
from wfes.handler import scope as scopes
from wfes.handler.execution import Execution
from wfes.history import Histories
from wfes.hosting import Host, call
from wfes.instance import Instance
from wfes.log.open import open_log
from wfes.log.port import Log
from wfes.log.writer import Batch, Writer
from wfes.names import Event
from wfes.outcomes import ended, output_tree
from wfes.queries import Lists
from wfes.runtime import leases
from wfes.runtime.clock import Clock, SystemClock
from wfes.runtime.commands import Claim, Command, Define, GetOrCreate, Start, Submission, described
from wfes.runtime.reactions import REACTIONS
from wfes.runtime.values import MAX_PAYLOAD, Values
from wfes.runtime.worker import GRACE_SECONDS, Worker
from wfes.stream import checked_position, checked_topics, recorded_events
from wfes.subscription.rebuild import bring_up
from wfes.validation import shown
from wfes.views import DataRequest, InstanceRow, Page, RecordedEvent
from wfes.waiting import Ends, Positions

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

URL_DEFAULT = "sqlite:///wfes.db"
AT_LEAST_SECONDS = 30.0
"""How long a list waits for the position it was asked to reflect."""
_NOT_OPEN = "this engine is not open: use `async with Engine(...)`, or `with Engine(...)` in code that is not async"
_USED = "this engine was opened before; an engine is opened once, make another one"


class Engine:
    """Durable workflows on one log.

    Use it as `async with Engine(...)`, or as `with Engine(...)` from code that is not async.

    Attributes:
        url: The log's URL.
        name: The engine's name, for whoever lists workers.
        workflows: The workflows it knows, by name.
        values: Where user values are sealed and opened.
        calls: Makes commands of what callers pass.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        workflows: Iterable[Workflow[Any, Any]] = (),
        conversations: Iterable[Any] = (),
        projections: Iterable[Any] = (),
        worker: bool = True,
        max_running: int = 1000,
        keys: Any = None,
        name: str | None = None,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        """Makes an engine; nothing is opened yet.

        Args:
            url: `sqlite:///path.db`, or `sqlite://` for a log in memory. Default: `$WFES_URL`, else
                `sqlite:///wfes.db`.
            workflows: The workflows it knows; their instances run here, unless `worker` is False.
            conversations: Not supported by this release.
            projections: Not supported by this release.
            worker: Whether instances run in this process.
            max_running: How many may be in memory at a time, at least 1.
            keys: Not supported by this release.
            name: A name for whoever lists workers.
            max_payload: The largest value accepted, in bytes.

        Raises:
            DuplicateWorkflow: Two workflows have the same name.
            TypeError: Something is of the wrong type.
            ValueError: The URL names no log, or a number cannot be meant.
            NotSupported: An option that this release does not have yet.
        """
        for option, given in (("conversations", conversations), ("projections", projections), ("keys", keys)):
            if given is not None and (not isinstance(given, Collection) or len(cast("Collection[Any]", given))):
                raise NotSupported(f"{option}= is not supported by this release of wfes; leave it out")
        self.url = url if url is not None else os.environ.get("WFES_URL") or URL_DEFAULT
        self.name = name
        self._log: Log = open_log(self.url)
        self._workflows = _by_name(workflows)
        self.workflows: Mapping[str, Workflow[Any, Any]] = MappingProxyType(self._workflows)
        self._max_running = _count(max_running, "max_running")
        self._wants_worker = worker
        self.values = Values(self._log.get_blob, _count(max_payload, "max_payload"))
        self.calls = Calls(self._workflows, self.values, self._now)
        self._histories = Histories(self._log, self.values)
        self._lists = Lists(self._log)
        # Definitions of other workflows whose handles were asked for here: their types, for decoding.
        self._met: dict[str, Workflow[Any, Any]] = {}
        self._phase = "new"
        self._clock: Clock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._writer: Writer | None = None
        self._worker: Worker | None = None
        self._ends: Ends | None = None
        self._positions: Positions | None = None
        self._closing: asyncio.Future[None] | None = None
        self._token: Token[Engine | None] | None = None
        self._host: Host | None = None

    def __repr__(self) -> str:
        label = f" {self.name!r}" if self.name else ""
        return f"<Engine{label} on {LogUnavailable(self.url, '').url!r}, {self._phase}>"

    # -- Opening and closing -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
        self._token = ambient.entered(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __enter__(self) -> Self:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise EngineNotOpen("`with Engine(...)` would block this event loop; use `async with Engine(...)`")
        self._check_new()
        self._host = Host(self)
        self._host.start()
        self._token = ambient.entered(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            ambient.left(self, self._token)
        if self._host is not None:
            self._host.stop()

    def _check_new(self) -> None:
        if self._phase != "new" or self._host is not None:
            raise EngineNotOpen(_USED)

    async def open(self) -> None:
        """Opens the log and starts to work; `async with` and `with` do this.

        Raises:
            LogUnavailable: The log cannot be opened.
            UnknownEvent: A newer release wrote it.
            EngineNotOpen: The engine was opened before.
        """
        if self._phase != "new":
            raise EngineNotOpen(_USED)
        self._phase = "opening"
        self._loop = loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        try:
            for workflow in self._workflows.values():
                workflow.check()
            await asyncio.to_thread(self._open_log)
            self._clock = self._make_clock(loop)
            self._ends = Ends(loop)
            self._positions = Positions(loop)
            self._positions.tell(self._log.max_notification_id())
            writer = Writer(
                self._log,
                projections=_inline(),
                reactions=REACTIONS,
                clock=self._clock.now,
                deliver=self._deliver,
            )
            writer.start(loop)
            self._writer = writer
            self._phase = "open"
            if self._workflows:
                await self._submitted(Define([_definition(w, self._now()) for w in self._workflows.values()]))
            if self._wants_worker and self._workflows:
                await self._start_worker(writer, self._clock)
        except BaseException:
            await self.close()
            raise

    def _open_log(self) -> None:
        self._log.open(leases.CREATE)
        bring_up(self._log, _inline())

    def _make_clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        """The clock this engine lives by; a test's engine has another."""
        return SystemClock(loop)

    async def _start_worker(self, writer: Writer, clock: Clock) -> None:
        worker = Worker(
            log=self._log,
            writer=writer,
            clock=clock,
            values=self.values,
            engine=self,
            workflows=self._workflows,
            max_running=self._max_running,
            name=self.name,
        )
        writer.workers.add(worker.worker)
        self._worker = worker
        await worker.start()

    async def close(self, grace: Duration = GRACE_SECONDS) -> None:
        """A clean stop: claims nothing more, lets running steps finish, releases every instance, closes the log.

        Safe to call twice; a second call waits for the first.

        Args:
            grace: Duration that running steps get; what still runs then is cut off and runs again elsewhere.
        """
        if self._phase in ("new", "closed"):
            self._phase = "closed"
            return
        seconds = durations.micros(grace, "grace") / durations.SECOND
        if self._loop is not asyncio.get_running_loop():
            await self._here(self.close(grace))
            return
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(seconds))
        await asyncio.shield(self._closing)

    async def _close(self, grace_seconds: float) -> None:
        if self._token is not None:
            ambient.left(self, self._token)
        worker, writer = self._worker, self._writer
        try:
            if worker is not None:
                await worker.stop(grace_seconds)
        finally:
            self._phase = "closing"
            try:
                if writer is not None:
                    await asyncio.to_thread(writer.stop)
                for waiting in (self._ends, self._positions):
                    if waiting is not None:
                        waiting.close()
            finally:
                self._phase = "closed"
                await asyncio.to_thread(self._log.close)

    async def run_forever(self) -> None:
        """Runs until SIGINT or SIGTERM, then stops cleanly; opens the engine first if it is not open.

        A second signal does what it does without this: it ends the process.
        """
        if self._phase == "new":
            async with self:
                await self.run_forever()
            return
        loop = self._check_open()
        stop = asyncio.Event()
        taken: list[signal.Signals] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            # Outside the main thread, and on Windows, signals are not for this loop.
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, stop.set)
                taken.append(number)
        try:
            await stop.wait()
        finally:
            for number in taken:
                loop.remove_signal_handler(number)
        await self.close()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: Duration | None = None) -> T:
        """Runs a coroutine, such as `checkout.start(order)`, in this engine's thread, and waits for it.

        For code that is not async, from any thread but the engine's own.

        Args:
            coroutine: What to run.
            timeout: Duration to wait at most.

        Raises:
            EngineNotOpen: The engine is not open.
            TimeoutError: It was not done in time; it is cancelled.
        """
        with ambient.using(self):
            return call(self._loop if self._phase == "open" else None, self._thread, coroutine, timeout)

    # -- Instances ---------------------------------------------------------------------------------------------------

    async def start(
        self,
        workflow: Workflow[Any, Out] | str,
        input: Any = None,
        *,
        id: str | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> Instance[Out]:
        """Starts an instance; see `Workflow.start`.

        Args:
            workflow: The workflow or its name. A name that this engine does not know must stand in the log; the
                input is validated then by the worker that runs the instance.
            input: See `Workflow.start`, as the rest.
        """
        self._meet(workflow)
        command = self.calls.start(
            workflow,
            input,
            id=id,
            key=key,
            delay=delay,
            tags=tags,
            conversation=conversation,
            actor=actor,
            connection=connection,
        )
        return await self._started("start", command, command)

    async def get_or_create(
        self,
        workflow: Workflow[Any, Out] | str,
        *,
        key: str,
        input: Any = None,
        statuses: Iterable[Status | str] = ACTIVE,
        id: str | None = None,
        delay: Duration | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> Instance[Out]:
        """The newest instance of this workflow and key that has one of these statuses, else a new one; see
        `Workflow.get_or_create`."""
        self._meet(workflow)
        command = self.calls.get_or_create(
            workflow,
            key=key,
            statuses=statuses,
            input=input,
            id=id,
            delay=delay,
            tags=tags,
            conversation=conversation,
            actor=actor,
            connection=connection,
        )
        return await self._started("get_or_create", command, command.start)

    async def _started(self, name: str, command: Start | GetOrCreate, start: Start) -> Instance[Any]:
        scope = self._handler_scope()
        if scope is not None:
            return Instance(self, described(await scope.call(name, command), start.input))
        return await self._here(self._submit_start(command, start))

    async def _submit_start(self, command: Start | GetOrCreate, start: Start) -> Instance[Any]:
        loop = self._check_open()
        writer, worker, positions = self._writer, self._worker, self._positions
        assert writer is not None
        assert positions is not None
        await writer.room()
        ticket = None if worker is None or start.delay else worker.claim_ticket(start.workflow)
        submission = _Starting(command, loop.create_future(), start, worker if ticket is not None else None)
        if ticket is not None:
            start.claim = Claim(*ticket)
        writer.submit(submission)
        await submission.future
        state = start.state
        assert state is not None
        return Instance(self, state, positions.head if state.ended is None else -1)

    @overload
    async def get(self, workflow: Workflow[Any, Out], id: str) -> Instance[Out]: ...
    @overload
    async def get(self, workflow: str | None, id: str) -> Instance[Any]: ...
    @overload
    async def get(self, workflow: str, /) -> Instance[Any]: ...

    async def get(self, workflow: Workflow[Any, Any] | str | None, id: str | None = None) -> Instance[Any]:
        """An instance by its id.

        Args:
            workflow: The workflow it must be of, or its name; None: any. May be left out: `engine.get(id)`.
            id: The instance's id.

        Raises:
            InstanceNotFound: There is none.
            WrongWorkflow: It is another workflow's.
        """
        if id is None:
            if not isinstance(workflow, str):
                raise TypeError(f"get takes an instance's id, not {shown(workflow)}")
            workflow, id = None, workflow
        if not isinstance(cast(object, id), str):
            raise TypeError(f"id is {shown(id)}; it must be a str")
        if workflow is not None:
            self.calls.definition(workflow)
            self._meet(workflow)
        state = await self.read_state(id)
        expected = workflow.name if isinstance(workflow, Workflow) else workflow
        if expected is not None and state.workflow != expected:
            raise WrongWorkflow(id, expected=expected, actual=state.workflow)
        return Instance(self, state)

    async def provide(
        self,
        workflow: Workflow[Any, Any] | str | None,
        request: DataRequest | str,
        data: Any,
        *,
        actor: str | None = None,
        connection: Any = None,
    ) -> None:
        """Answers an open data request; the first answer wins. See `Workflow.provide`.

        Args:
            workflow: The workflow whose request it must be, or its name; None: any.
            request: The `DataRequest`, or its id.
            data: The answer.
            actor: Who answers.
            connection: Not supported by this release.

        Raises:
            InvalidData: The data does not fit; nothing is recorded, and the request stays open.
            RequestNotPending: It was answered, it expired, or its instance is over.
        """
        definition = None if workflow is None else self.calls.definition(workflow)
        if isinstance(workflow, str) and definition is None and isinstance(request, DataRequest):
            _check_workflow(request, workflow)
        command = self.calls.provide(request, data, workflow=definition, actor=actor, connection=connection)
        await self._perform("provide", command)

    async def publish(
        self,
        event: str | Event[Any],
        payload: Any = None,
        *,
        id: str | None = None,
        key: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> None:
        """Publishes an event: every workflow with it in `on=` starts, every open listener for it gets it.

        Args:
            event: The event's name or `Event`.
            payload: What comes with it.
            id: The same id twice counts once.
            key: Only instances of this key get it.
            actor: Who publishes.
            connection: Not supported by this release.

        Raises:
            InvalidData: The payload does not fit the `Event`'s type.
        """
        command = self.calls.publish(event, payload, id=id, key=key, actor=actor, connection=connection)
        await self._perform("publish", command)

    # -- What handles ask --------------------------------------------------------------------------------------------

    async def send(
        self,
        instance: str,
        event: str | Event[Any],
        payload: Any = None,
        *,
        id: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> None:
        """See `Instance.send`; `instance` is its id."""
        command = self.calls.send(instance, event, payload, id=id, actor=actor, connection=connection)
        await self._perform("send", command)

    async def cancel(self, instance: str, reason: str | None = None, *, actor: str | None = None) -> None:
        """See `Instance.cancel`; `instance` is its id."""
        await self._perform("cancel", self.calls.cancel(instance, reason, actor=actor))

    async def set_timeout(
        self,
        instance: str,
        in_: Duration | None = None,
        at: datetime | None = None,
        *,
        actor: str | None = None,
    ) -> None:
        """See `Instance.set_timeout`; `instance` is its id."""
        await self._perform("set_timeout", self.calls.set_timeout(instance, in_, at, actor=actor))

    async def pause(self, instance: str, reason: str | None = None, *, actor: str | None = None) -> None:
        """See `Instance.pause`; `instance` is its id."""
        await self._perform("pause", self.calls.pause(instance, reason, actor=actor))

    async def resume(self, instance: str, *, actor: str | None = None) -> None:
        """See `Instance.resume`; `instance` is its id."""
        await self._perform("resume", self.calls.resume(instance, actor=actor))

    async def retry(self, instance: str, *, workflow: str, actor: str | None = None) -> None:
        """See `Instance.retry`; `instance` is its id, `workflow` its workflow's name."""
        await self._perform("retry", self.calls.retry(instance, workflow, actor=actor))

    async def result(
        self, instance: str, timeout: Duration | None = None, *, workflow: str, known_at: int = -1
    ) -> Any:
        """See `Instance.result`.

        Args:
            instance: Its id.
            timeout: Duration to wait at most.
            workflow: Its workflow's name.
            known_at: The log position since which this engine has heard of its every end, or -1.
        """
        seconds = None if timeout is None else durations.micros(timeout, "timeout") / durations.SECOND
        event = await self._here(self._ended(instance, seconds, workflow, known_at))
        definition = self.workflow(workflow)
        type_ = ABSENT if definition is None else definition.output_type
        return self.values.open(output_tree(instance, workflow, event), type_)

    async def _ended(self, id: str, seconds: float | None, workflow: str, known_at: int) -> e.Event:
        self._check_open()
        ends = self._ends
        assert ends is not None
        # Before looking, so that an end between looking and waiting is not missed.
        waiter = ends.expect(id)
        try:
            known = ends.known(id)
            if known is None and (known_at < 0 or ends.forgotten_at > known_at):
                known = ended(await self._histories.state(id))
            if known is not None:
                return known
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            after = durations.text(round((seconds or 0) * durations.SECOND))
            raise TimeoutError(
                f"instance {id!r} of workflow {workflow!r} was not over within {after}; it goes on"
            ) from None
        finally:
            ends.leave(id, waiter)

    async def history(self, instance: str, after: int = 0, upto: int | None = None) -> list[RecordedEvent]:
        """See `Instance.history`; `instance` is its id."""
        return await self._here(self._histories.recorded(instance, checked_position(after), upto))

    async def read_state(self, id: str, known: InstanceState | None = None) -> InstanceState:
        """An instance's state as of now, in the engine's own terms.

        Args:
            id: The instance.
            known: An earlier state of it, which is consumed.

        Raises:
            InstanceNotFound: There is none.
        """
        self._check_open()
        return await self._here(self._histories.state(id, known))

    def workflow(self, name: str) -> Workflow[Any, Any] | None:
        """The definition of a workflow, as far as this engine has met it."""
        return self._workflows.get(name) or self._met.get(name)

    # -- Lists and the log -------------------------------------------------------------------------------------------

    async def instances(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        status: Status | str | Iterable[Status | str] | None = None,
        key: str | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        parent: Instance[Any] | str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        order: str = "newest",
        at_least: int | None = None,
    ) -> Page[InstanceRow]:
        """Instances, page by page.

        Args:
            workflow: Only of this workflow or name.
            status: Only with this status, or one of these.
            key: Only of this key.
            tags: Only with all of these tags.
            conversation: Only of this conversation.
            parent: Only those started by this instance or id.
            created_after: Only those started at or after this aware moment.
            created_before: Only those started before this aware moment.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            order: `"newest"` or `"oldest"` first.
            at_least: Waits until the page reflects this log position.

        Raises:
            ValueError: A filter cannot be meant, or the cursor belongs to another query.
            TimeoutError: The log did not reach `at_least` within 30 s.
        """
        await self._reached(at_least)
        return await self._here(
            self._lists.instances(
                workflow=workflow,
                status=status,
                key=key,
                tags=tags,
                conversation=conversation,
                parent=parent,
                created_after=created_after,
                created_before=created_before,
                limit=limit,
                cursor=cursor,
                order=order,
            )
        )

    async def requests(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        conversation: str | None = None,
        *,
        instance: Instance[Any] | str | None = None,
        name: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        at_least: int | None = None,
    ) -> Page[DataRequest]:
        """Open data requests, those open longest first, page by page.

        Args:
            workflow: Only of instances of this workflow or name.
            conversation: Only of this conversation.
            instance: Only of this instance or id.
            name: Only of this declared name.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            at_least: Waits until the page reflects this log position.

        Raises:
            ValueError: A filter cannot be meant, or the cursor belongs to another query.
            TimeoutError: The log did not reach `at_least` within 30 s.
        """
        await self._reached(at_least)
        return await self._here(
            self._lists.requests(
                workflow=workflow,
                conversation=conversation,
                instance=instance,
                name=name,
                now=self._now(),
                limit=limit,
                cursor=cursor,
            )
        )

    async def _reached(self, position: int | None) -> None:
        self._check_open()
        positions = self._positions
        assert positions is not None
        if position is None or checked_position(position) <= positions.head:
            return
        positions.tell(self._log.max_notification_id())
        try:
            async with asyncio.timeout(AT_LEAST_SECONDS):
                await self._here(positions.reached(position))
        except TimeoutError:
            raise TimeoutError(
                f"the log did not reach position {position} within {AT_LEAST_SECONDS:g}s; it is at {positions.head}"
            ) from None

    def events(
        self, after: int | None = None, topics: Iterable[str] | str | None = None
    ) -> AsyncGenerator[RecordedEvent]:
        """The whole log in order, then live; ends when the engine is closed.

        Args:
            after: Only what stands behind this position; None: from the beginning.
            topics: Only events of these names.

        Raises:
            ValueError: There is no such event or position.
        """
        self._check_open()
        positions = self._positions
        assert positions is not None
        return recorded_events(
            self._log,
            self._histories,
            self.values,
            positions,
            checked_position(after),
            checked_topics(topics),
        )

    # -- Inside ------------------------------------------------------------------------------------------------------

    def enter_context(self) -> None:
        """Makes this engine the current one of a handler's fresh context."""
        ambient.enter(self)

    def running_instance(self, execution: Execution) -> Instance[Any]:
        """What a handler's parameter `workflow` gets: the instance as it was when it started, on every replay alike."""
        started = e.Recorded(execution.id, 1, execution.started)
        return Instance(self, fold(execution.id, [started]))

    def _now(self) -> int:
        if self._clock is None:
            raise EngineNotOpen(_NOT_OPEN)
        return self._clock.now()

    def _check_open(self) -> asyncio.AbstractEventLoop:
        if self._phase != "open" or self._loop is None:
            raise EngineNotOpen(_NOT_OPEN if self._phase in ("new", "opening") else "this engine is closed")
        return self._loop

    def _meet(self, workflow: object) -> None:
        if isinstance(workflow, Workflow):
            definition: Workflow[Any, Any] = workflow
            if definition.name not in self._workflows:
                self._met[definition.name] = definition

    def _handler_scope(self) -> scopes.Scope | None:
        """The scope of the handler of this engine that this is called in, if it is."""
        scope = scopes.current()
        if scope is None or not scope.in_handler or scope.execution.host.engine is not self:
            return None
        return scope

    async def _perform(self, name: str, command: Command) -> Json:
        """A recorded call inside a handler, a member of the writer's queue anywhere else."""
        self._check_open()
        scope = self._handler_scope()
        if scope is not None:
            return await scope.call(name, command)
        return await self._here(self._submitted(command))

    async def _submitted(self, command: Command) -> Json:
        loop = self._check_open()
        writer = self._writer
        assert writer is not None
        await writer.room()
        submission = Submission(command, loop.create_future())
        writer.submit(submission)
        return await submission.future

    async def _here(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it on the engine's own loop, wherever this is called."""
        loop = self._loop
        if loop is None or loop.is_closed():
            coroutine.close()
            raise EngineNotOpen(_NOT_OPEN)
        if asyncio.get_running_loop() is loop:
            return await coroutine
        if threading.get_ident() == self._thread:
            # A handler's private loop: a task of the real one is an outside await to it.
            return await loop.create_task(coroutine)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    def _deliver(self, batch: Batch) -> None:
        """Takes what was committed, by whomever; on the loop's thread, from a plain callback."""
        assert self._ends is not None
        assert self._positions is not None
        self._ends.tell(batch.events, batch.head)
        if self._worker is not None:
            self._worker.deliver(batch)
        self._positions.tell(batch.head)


class _Starting(Submission):
    """A start as a member of the writer's queue; hands what its claim took to the worker."""

    __slots__ = ("start", "worker")

    def __init__(
        self, command: Command, future: asyncio.Future[Any], start: Start, worker: Worker | None
    ) -> None:
        super().__init__(command, future)
        self.start = start
        self.worker = worker

    def done(self, result: Json) -> None:
        if self.worker is not None:
            if self.start.history:
                self.worker.begin(self.start.id, self.start.history)
            else:
                self.worker.release_ticket()
        super().done(result)

    def failed(self, error: Exception) -> None:
        if self.worker is not None:
            self.worker.release_ticket()
        super().failed(error)


def _inline() -> list[Any]:
    # Inside a function: the projections import the packages below this one.
    from wfes_projections import inline

    return list(inline())


def _by_name(workflows: Iterable[Workflow[Any, Any]]) -> dict[str, Workflow[Any, Any]]:
    if isinstance(workflows, Workflow) or not isinstance(cast(object, workflows), Iterable):
        raise TypeError(f"workflows is {shown(workflows)}; it must be several workflows, such as [checkout]")
    found: dict[str, Workflow[Any, Any]] = {}
    for workflow in workflows:
        if not isinstance(cast(object, workflow), Workflow):
            hint = "; decorate it with @workflow" if callable(workflow) else ""
            raise TypeError(f"workflows holds {shown(workflow)}, which is no workflow{hint}")
        known = found.setdefault(workflow.name, workflow)
        if known is not workflow:
            raise DuplicateWorkflow(workflow.name, known.place, workflow.place)
    return found


def _count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is {shown(value)}; it must be a whole number")
    if value < 1:
        raise ValueError(f"{what} is {value!r}; it must be at least 1")
    return value


def _definition(workflow: Workflow[Any, Any], now: int) -> e.WorkflowDefined:
    return e.WorkflowDefined(
        at=now,
        workflow=workflow.name,
        on=workflow.on,
        version=workflow.version,
        digest=workflow.digest,
        deadline=workflow.deadline_micros,
    )


def _check_workflow(request: DataRequest, name: str) -> None:
    if request.workflow != name:
        raise WrongWorkflow(request.instance, expected=name, actual=request.workflow)
