"""`Engine`: the calls that work on a whole log, and the one object a program opens.

A call that changes something becomes a command (`wfes.calls`). Inside a handler of this engine it is a recorded call,
whose effect and record are one transaction; anywhere else the command goes into the writer's queue by itself. What is
opened and closed, and in which order, says `wfes.parts`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from contextvars import Token
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar, Unpack, cast, overload

from wfes import ambient
from wfes.auditing import Auditing
from wfes.calls import Calls
from wfes.core import durations
from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.durations import Duration
from wfes.core.evolve import fold
from wfes.core.state import ACTIVE, InstanceState, Status
from wfes.definition import NO_CONNECTION, Workflow, _CreateOptions, _StartOptions
from wfes.errors import EngineNotOpen, LogUnavailable, NotSupported, WrongWorkflow
from wfes.forking import Forking
from wfes.handler import scope as scopes
from wfes.handler.execution import Execution
from wfes.handover import Drop, HandedOver, Handover
from wfes.hosting import Host, call
from wfes.insights import Insights
from wfes.instance import Instance
from wfes.log.open import open_log
from wfes.looking import Looking
from wfes.names import Event
from wfes.parts import Parts, by_name, count
from wfes.queries import Lists
from wfes.reading import Reading
from wfes.registration import checked_projections
from wfes.retention import Pruning
from wfes.runtime.clock import Clock, SystemClock
from wfes.runtime.commands import Command, GetOrCreate, Start
from wfes.runtime.descriptions import described
from wfes.runtime.values import MAX_PAYLOAD, Values
from wfes.runtime.worker import GRACE_SECONDS
from wfes.schedules import Schedules
from wfes.subscription.projection import Projection
from wfes.validation import is_a, shown
from wfes.views import DataRequest
from wfes.workers import Workers

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")


URL_DEFAULT = "sqlite:///wfes.db"


class Engine(Reading, Looking, Forking, Insights, Schedules, Pruning, Workers, Auditing):
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
        projections: Iterable[Projection | type[Projection]] = (),
        worker: bool = True,
        max_running: int = 1000,
        keys: Any = None,
        name: str | None = None,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        """Makes an engine; nothing is opened yet.

        Args:
            url: `sqlite:///path.db`, `sqlite://` for a log in memory, or `postgresql://user@host/database` (with the
                extra `wfes[postgres]`). Default: `$WFES_URL`, else `sqlite:///wfes.db`.
            workflows: The workflows it knows; their instances run here, unless `worker` is False.
            conversations: Not supported by this release.
            projections: The projections it keeps up to date and answers queries from: classes, or made ones.
            worker: Whether instances run in this process. If not, a log that may not be written is opened for reading
                alone.
            max_running: How many may be in memory at a time, at least 1.
            keys: Not supported by this release.
            name: A name for whoever lists workers.
            max_payload: The largest value accepted, in bytes.

        Raises:
            DuplicateWorkflow: Two workflows have the same name.
            DuplicateProjection: Two projections have the same name, or tables of the same name.
            TypeError: Something is of the wrong type.
            ValueError: The URL names no log, or a number cannot be meant.
            NotSupported: An option that this release does not have yet.
        """
        for option, given in (("conversations", conversations), ("keys", keys)):
            if given is not None and (
                not isinstance(given, Collection) or len(cast("Collection[Any]", given))
            ):
                raise NotSupported(f"{option}= is not supported by this release of wfes; leave it out")
        self.url = url if url is not None else os.environ.get("WFES_URL") or URL_DEFAULT
        self.name = name
        self._log = open_log(self.url)
        self._workflows = by_name(workflows)
        self.workflows: Mapping[str, Workflow[Any, Any]] = MappingProxyType(self._workflows)
        _say_unsupported(self._workflows.values())
        self._max_running = count(max_running, "max_running") if worker else None
        self.values = Values(self._log.get_blob, count(max_payload, "max_payload"))
        self._parts = Parts(self, self._log, self.values, self._workflows, checked_projections(projections))
        self.calls = Calls(self._workflows, self.values, self._parts.now)
        self._lists = Lists(self._log)
        self._handover = Handover(self._log, self._parts)
        # Definitions of other workflows whose handles were asked for here: their types, for decoding.
        self._met: dict[str, Workflow[Any, Any]] = {}
        self._token: Token[Engine | None] | None = None
        self._host: Host | None = None

    def __repr__(self) -> str:
        label = f" {self.name!r}" if self.name else ""
        return f"<Engine{label} on {LogUnavailable(self.url, '').url!r}, {self._parts.phase}>"

    @property
    def is_open(self) -> bool:
        """Whether it can be used: opened, not closed, and its event loop not closed under it."""
        return self._parts.is_open

    # -- Opening and closing -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
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
            raise EngineNotOpen(
                "`with Engine(...)` would block this event loop; use `async with Engine(...)`"
            )
        ambient.check_not_importing()
        self._parts.check_new()
        if self._host is not None:
            raise EngineNotOpen("this engine is being opened by another thread")
        self._host = Host(self)
        self._host.start()
        ambient.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._host is not None:
            self._host.stop()

    async def open(self) -> None:
        """Opens the log and starts to work; `async with` and `with` do this.

        Raises:
            LogUnavailable: The log cannot be opened.
            UnknownEvent: A newer release wrote it.
            EngineNotOpen: The engine was opened before.
        """
        ambient.check_not_importing()
        await self._parts.open(self._make_clock, self._max_running, self.name)
        self._token = ambient.entered(self)

    def _make_clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        """The clock this engine lives by; a test's engine has another."""
        return SystemClock(loop)

    async def close(self, grace: Duration = GRACE_SECONDS) -> None:
        """A clean stop: claims nothing more, lets running steps finish, releases every instance, closes the log.

        Safe to call twice; a second call waits for the first.

        Args:
            grace: Duration that running steps get; what still runs then is cut off and runs again elsewhere.
        """
        seconds = durations.micros(grace, "grace") / durations.SECOND
        if self._token is not None:
            ambient.left(self, self._token)
        await self._parts.close(seconds)

    async def run_forever(self, *, grace: Duration = GRACE_SECONDS) -> None:
        """Runs until SIGINT or SIGTERM, then stops cleanly; opens the engine first if it is not open.

        A second signal does what it does without this: it ends the process.

        Args:
            grace: Duration that running steps get at the stop, as in `close`.
        """
        durations.micros(grace, "grace")
        if self._parts.phase == "new":
            async with self:
                await self.run_forever(grace=grace)
            return
        loop = self._parts.check_open()
        stop = asyncio.Event()
        former: dict[signal.Signals, Any] = {}

        def restore() -> None:
            for number, handler in former.items():
                signal.signal(number, handler)
            former.clear()

        def asked(number: int, frame: Any) -> None:
            # Not by the loop, which a handler may block: then the second signal still ends the process.
            restore()
            loop.call_soon_threadsafe(stop.set)

        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # outside the main thread signals are somebody else's
                former[number] = signal.signal(number, asked)
        try:
            await stop.wait()
        finally:
            restore()
        await self.close(grace)

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
            loop = self._parts.loop if self._parts.phase == "open" else None
            return call(loop, self._parts.thread, coroutine, timeout)

    # -- Instances ---------------------------------------------------------------------------------------------------

    @overload
    async def start(
        self, workflow: Workflow[None, Out], input: None = None, **options: Unpack[_StartOptions]
    ) -> Instance[Out]: ...
    @overload
    async def start(
        self, workflow: Workflow[In, Out], input: In, **options: Unpack[_StartOptions]
    ) -> Instance[Out]: ...
    @overload
    async def start(
        self, workflow: str, input: Any = None, **options: Unpack[_StartOptions]
    ) -> Instance[Any]: ...

    async def start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = None,
        *,
        id: str | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        tags: Iterable[str] | None = None,
        conversation: str | None = None,
        actor: str | None = None,
        connection: Any = None,
    ) -> Instance[Any]:
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
        )
        if connection is not None:
            return Instance(self, await self._handover.start(command, connection))
        return await self._started("start", command, command)

    @overload
    async def get_or_create(
        self,
        workflow: Workflow[None, Out],
        *,
        key: str,
        input: None = None,
        statuses: Iterable[Status | str] = ...,
        **options: Unpack[_CreateOptions],
    ) -> Instance[Out]: ...
    @overload
    async def get_or_create(
        self,
        workflow: Workflow[In, Out],
        *,
        key: str,
        input: In,
        statuses: Iterable[Status | str] = ...,
        **options: Unpack[_CreateOptions],
    ) -> Instance[Out]: ...
    @overload
    async def get_or_create(
        self,
        workflow: str,
        *,
        key: str,
        input: Any = None,
        statuses: Iterable[Status | str] = ...,
        **options: Unpack[_CreateOptions],
    ) -> Instance[Any]: ...

    async def get_or_create(
        self,
        workflow: Workflow[Any, Any] | str,
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
    ) -> Instance[Any]:
        """The newest instance of this workflow and key that has one of these statuses, else a new one; see
        `Workflow.get_or_create`."""
        if connection is not None:
            raise TypeError(NO_CONNECTION)
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
        )
        return await self._started("get_or_create", command, command.start)

    async def _started(self, name: str, command: Start | GetOrCreate, start: Start) -> Instance[Any]:
        scope = self._handler_scope()
        if scope is not None:
            return Instance(self, described(await scope.call(name, command), start.input))
        state, known_at = await self._parts.here(self._parts.started(command, start))
        return Instance(self, state, known_at)

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
        wanted: Any = id
        if id is None:
            workflow, wanted = None, workflow
        if not isinstance(wanted, str):
            raise TypeError(f"get takes an instance's id, a str, not {shown(wanted)}")
        if workflow is not None:
            self.calls.definition(workflow)
            self._meet(workflow)
        state = await self.read_state(wanted)
        expected = workflow.name if isinstance(workflow, Workflow) else workflow
        if expected is not None and state.workflow != expected:
            raise WrongWorkflow(wanted, expected=expected, actual=state.workflow)
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
            connection: A database connection of your own, whose transaction it becomes part of; see
                `Workflow.start`.

        Raises:
            InvalidData: The data does not fit; nothing is recorded, and the request stays open.
            RequestNotPending: It was answered, it expired, or its instance is over.
        """
        command = self.calls.provide(request, data, workflow=workflow, actor=actor)
        await self.perform("provide", command, connection)

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
            connection: A database connection of your own, whose transaction it becomes part of; see
                `Workflow.start`.

        Raises:
            InvalidData: The payload does not fit the `Event`'s type.
        """
        command = self.calls.publish(event, payload, id=id, key=key, actor=actor)
        await self.perform("publish", command, connection)

    async def outbox(self, *, refused: bool = False) -> list[HandedOver]:
        """The commands that callers committed with rows of their own (`connection=`) and that are not in the log.

        Those without an `error` are about to be appended. Those with one were refused then, for something had changed
        since they were checked; they stay until `drop_refused`.

        Args:
            refused: Only those that were refused.
        """
        self._parts.check_open()
        return await self._parts.here(self._handover.listed(refused=refused))

    async def drop_refused(self, number: int) -> bool:
        """Removes a refused command from the outbox; whether there was one of that number."""
        return bool(await self.perform("drop_refused", Drop(number)))

    # -- For handles -------------------------------------------------------------------------------------------------

    async def perform(self, name: str, command: Command, connection: object = None) -> Json:
        """Performs a command of `calls`: a recorded call inside a handler of this engine, else by itself.

        Args:
            name: What is called.
            command: The command.
            connection: A caller's own, whose transaction it becomes part of.

        Raises:
            WfesError: It is refused.
        """
        self._parts.check_open()
        if connection is not None:
            return await self._handover.perform(command, connection)
        scope = self._handler_scope()
        if scope is not None:
            return await scope.call(name, command)
        return await self._parts.here(self._parts.submitted(command))

    async def end(self, id: str, workflow: str, timeout: Duration | None, known_at: int) -> e.Event:
        """The event that ended an instance, waited for; see `Instance.result`.

        Args:
            id: The instance.
            workflow: Its workflow's name.
            timeout: Duration to wait at most.
            known_at: The log position since which this engine has heard of its every end, or -1.
        """
        seconds = None if timeout is None else durations.micros(timeout, "timeout") / durations.SECOND
        self._parts.check_open()
        return await self._parts.here(self._parts.end(id, workflow, seconds, known_at))

    async def read_state(self, id: str, known: InstanceState | None = None) -> InstanceState:
        """An instance's state as of now, in the engine's own terms.

        Args:
            id: The instance.
            known: An earlier state of it, which is consumed.

        Raises:
            InstanceNotFound: There is none.
        """
        self._parts.check_open()
        if known is None:
            return await self._parts.here(self._handover.appeared(id))
        return await self._parts.here(self._parts.histories.state(id, known))

    def workflow(self, name: str) -> Workflow[Any, Any] | None:
        """The definition of a workflow, as far as this engine has met it."""
        return self._workflows.get(name) or self._met.get(name)

    # -- Inside ------------------------------------------------------------------------------------------------------

    def enter_context(self) -> None:
        """Makes this engine the current one of a handler's fresh context."""
        ambient.enter(self)

    def running_instance(self, execution: Execution) -> Instance[Any]:
        """What a handler's parameter `workflow` gets: the instance as it was when it started, on every replay alike."""
        started = e.Recorded(execution.id, 1, execution.started)
        return Instance(self, fold(execution.id, [started]))

    def _meet(self, workflow: object) -> None:
        if is_a(workflow, Workflow):
            definition = cast("Workflow[Any, Any]", workflow)
            if definition.name not in self._workflows:
                self._met[definition.name] = definition

    def _handler_scope(self) -> scopes.Scope | None:
        """The scope of the handler of this engine that this is called in, if it is.

        Raises:
            NotSupported: It is called in the function of a transaction, which the log's writer waits for.
        """
        scope = scopes.current()
        if scope is not None and scope.transaction:
            raise NotSupported(
                f"the function of transaction {scope.path!r} changes the log by connection= alone: pass it the "
                "connection that the function was given, or ask before or after"
            )
        if scope is None or not scope.in_handler or not self._runs(scope.execution):
            return None
        return scope

    def _runs(self, execution: Execution) -> bool:
        """Whether a handler is this engine's; in a replay, any engine on its log stands for the one that ran it."""
        host = execution.host
        return host.engine is self or (host.reads_only and host.engine.url in (None, self.url))


def _say_unsupported(workflows: Iterable[Workflow[Any, Any]]) -> None:
    """Refuses what cannot run."""
    for workflow in workflows:
        if workflow.wants("execute"):
            raise NotSupported(
                f"workflow {workflow.name!r} takes `execute`, which this release of wfes does not have yet"
            )
