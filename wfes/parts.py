"""The parts of an engine at work: log, projections, writer, worker, and who waits for what they tell.

Opens them in that order and closes them in the opposite one, and owns the event loop they belong to: whatever a caller
asks is carried over to it, from a handler's private loop and from other loops of the program alike.

Invariants: an engine is opened once; if opening fails, nothing is left running; closing is safe to repeat and leaves
nobody waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wfes.core import durations
from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.state import InstanceState
from wfes.definition import Workflow
from wfes.errors import DuplicateWorkflow, EngineNotOpen, LogUnavailable
from wfes.handler.loop import PrivateLoop
from wfes.history import Histories, plain_data
from wfes.log.port import Log
from wfes.log.writer import Batch, Writer
from wfes.models import Models
from wfes.outcomes import ended
from wfes.registration import own_inline, state_projections
from wfes.runtime import leases
from wfes.runtime.clock import Clock
from wfes.runtime.commands import Claim, Command, Define, GetOrCreate, Start, Submission
from wfes.runtime.pruning import Archivist
from wfes.runtime.reactions import REACTIONS
from wfes.runtime.relay import Relay
from wfes.runtime.retention import Retention
from wfes.runtime.schedule_commands import DefineSchedules, declared
from wfes.runtime.scheduler import Scheduler
from wfes.runtime.server_time import ServerTime, server_time
from wfes.runtime.values import Values
from wfes.runtime.worker import Worker
from wfes.subscription.complete import complete
from wfes.subscription.inline import GetBlob, InlineProjections, Show
from wfes.subscription.projection import Projection
from wfes.subscription.rebuild import bring_up, check_up
from wfes.surroundings import EventSurroundings
from wfes.timetravel.past import Pasts
from wfes.validation import shown
from wfes.waiting import Ends, Positions

if TYPE_CHECKING:
    from wfes.engine import Engine

T = TypeVar("T")

AT_LEAST_SECONDS = 30.0
"""How long a list waits for the position it was asked to reflect."""

_NOT_OPEN = (
    "this engine is not open: use `async with Engine(...)`, or `with Engine(...)` in code that is not async"
)
_USED = "this engine was opened before; an engine is opened once, make another one"
_CLOSED = "this engine is closed"


class Parts:
    """What an engine is made of while it is open.

    Attributes:
        phase: `new`, `opening`, `open`, `closing` or `closed`.
        loop: The event loop that everything belongs to, from opening on.
        thread: That loop's thread.
        clock: The engine's clock.
        histories: Reads instances.
        pasts: Looks into their past.
        models: The projections.
        unwritable: Why the log is open for reading alone; None: it is not.
    """

    def __init__(
        self,
        engine: Engine,
        log: Log,
        values: Values,
        workflows: Mapping[str, Workflow[Any, Any]],
        projections: Mapping[str, Projection],
    ) -> None:
        self._engine = engine
        self._log = log
        self._values = values
        self._workflows = workflows
        self.phase = "new"
        self.thread = 0
        self.histories = Histories(log, values)
        self.pasts = Pasts(self.histories)
        self.models = Models(log, values, projections)
        self._inline = _inline(log, projections.values())
        self.unwritable: LogUnavailable | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.clock: Clock | None = None
        self._server_time: ServerTime | None = None
        self._keeping_time: asyncio.Task[None] | None = None
        self._writer: Writer | None = None
        self._worker: Worker | None = None
        self._scheduler: Scheduler | None = None
        self._ends: Ends | None = None
        self._positions: Positions | None = None
        self._archivist: Archivist | None = None
        self._retention: Retention | None = None
        self._closing: asyncio.Future[None] | None = None

    # -- Opening and closing -----------------------------------------------------------------------------------------

    def check_new(self) -> None:
        """Raises `EngineNotOpen` where the engine was opened before."""
        if self.phase != "new":
            raise EngineNotOpen(_USED)

    async def open(
        self,
        make_clock: Callable[[asyncio.AbstractEventLoop], Clock],
        max_running: int | None,
        name: str | None,
    ) -> None:
        """Opens everything.

        Args:
            make_clock: Makes the clock of a loop.
            max_running: How many instances the worker may have in memory; None: no worker.
            name: The engine's name.

        Raises:
            LogUnavailable: The log cannot be opened.
            UnknownEvent: A newer release wrote it.
            EngineNotOpen: The engine was opened before.
        """
        self.check_new()
        self.phase = "opening"
        self.loop = loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        try:
            for workflow in self._workflows.values():
                workflow.check()
            self.clock = make_clock(loop)
            self._server_time = server_time(self._log, self.clock)
            await asyncio.to_thread(self._open_log, self.clock.now, max_running is None)
            if self._server_time is not None:
                self._keeping_time = asyncio.create_task(self._server_time.keep())
            self._ends = Ends(loop)
            self._positions = Positions(loop)
            self._positions.tell(self._log.max_notification_id())
            self._writer = self._started_writer(loop, self.clock)
            self._archivist = Archivist(self._log, self._writer.submit, self.clock.now)
            self.phase = "open"
            self.models.start(loop, self._writer.submit, self.clock.now, self._inline)
            if self._workflows and self.unwritable is None:
                now = self.clock.now()
                await self.submitted(
                    Define([_definition(workflow, now) for workflow in self._workflows.values()])
                )
                await self.submitted(
                    DefineSchedules(declared(self._workflows.values(), self._values), self._workflows)
                )
            if max_running is not None and self._workflows:
                await self._start_worker(self._writer, self.clock, max_running, name)
        except BaseException:
            await self.close(0.0)
            raise

    def _open_log(self, now: Callable[[], int], may_only_read: bool) -> None:
        try:
            self._make_log(now)
        except LogUnavailable as error:
            if not error.read_only or not may_only_read or self.models.given:
                raise
            self._log.close()
            if not self._log.open_to_read():
                raise
            if self._server_time is not None:
                self._server_time.look()
            check_up(self._log, [*state_projections(), *own_inline()])
            self.unwritable = LogUnavailable(
                self._log.url, f"it was opened for reading alone: {error.reason}", read_only=True
            )

    def _make_log(self, now: Callable[[], int]) -> None:
        self._log.open(leases.CREATE)
        if self._server_time is not None:
            self._server_time.look()
        bring_up(self._log, state_projections(), now)
        complete(self._log, own_inline(), EventSurroundings(self._log, self._values), now())

    def _started_writer(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> Writer:
        if self.unwritable is not None:
            writer = Writer(self._log, clock=clock.now, deliver=self._deliver, refusal=self.unwritable)
            writer.start(loop)
            return writer
        writer = Writer(
            self._log,
            projections=state_projections(),
            event_rows=self._inline,
            reactions=REACTIONS,
            clock=clock.now,
            deliver=self._deliver,
            relay=Relay(self._log),
        )
        writer.start(loop)
        return writer

    async def _start_worker(self, writer: Writer, clock: Clock, max_running: int, name: str | None) -> None:
        worker = Worker(
            log=self._log,
            writer=writer,
            clock=clock,
            values=self._values,
            engine=self._engine,
            workflows=self._workflows,
            max_running=max_running,
            name=name,
        )
        writer.workers.add(worker.worker)
        await worker.start()
        self._worker = worker
        self._scheduler = Scheduler(log=self._log, writer=writer, clock=clock, workflows=self._workflows)
        self._scheduler.start()
        assert self._archivist is not None
        self._retention = Retention(self._log, self._archivist, clock)
        self._retention.start()

    async def close(self, grace_seconds: float) -> None:
        """A clean stop; a second call waits for the first."""
        if self.phase in ("new", "closed"):
            self.phase = "closed"
            return
        if self.loop is not asyncio.get_running_loop():
            await self.here(self.close(grace_seconds))
            return
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(grace_seconds))
        await asyncio.shield(self._closing)

    async def _close(self, grace_seconds: float) -> None:
        try:
            if self._scheduler is not None:
                self._scheduler.stop()
            if self._retention is not None:
                await self._retention.stop()
            if self._worker is not None:
                await self._worker.stop(grace_seconds)
        finally:
            self.phase = "closing"
            if self._keeping_time is not None:
                self._keeping_time.cancel()
            await self.models.stop()
            try:
                if self._writer is not None:
                    await asyncio.to_thread(self._writer.stop)
            finally:
                for waiting in (self._ends, self._positions):
                    if waiting is not None:
                        waiting.close()
                self.phase = "closed"
                await asyncio.to_thread(self._log.close)

    def check_open(self) -> asyncio.AbstractEventLoop:
        """The loop of the open engine.

        Raises:
            EngineNotOpen: It is not open.
        """
        if self.phase != "open" or self.loop is None:
            reading = _reading_loop()
            if reading is not None:
                return reading
            raise EngineNotOpen(_NOT_OPEN if self.phase in ("new", "opening") else _CLOSED)
        return self.loop

    def now(self) -> int:
        """The engine's clock, in microseconds since the Unix epoch.

        Raises:
            EngineNotOpen: It was never opened.
        """
        if self.clock is None:
            if _reading_loop() is not None:
                return 0  # for an id that nobody gets: the recorded one counts
            raise EngineNotOpen(_NOT_OPEN)
        return self.clock.now()

    @property
    def is_open(self) -> bool:
        """Whether everything is at work, and the event loop it works on is there."""
        return self.phase == "open" and self.loop is not None and not self.loop.is_closed()

    @property
    def quiet(self) -> bool:
        """Whether every handler in memory only waits and nothing is on its way to the log."""
        if self._writer is not None and self._writer.backlog:
            return False
        if self._retention is not None and self._retention.is_busy:
            return False
        if self._scheduler is not None and not self._scheduler.quiet:
            return False
        return (self._worker is None or self._worker.quiet) and self.models.quiet

    # -- Asking ------------------------------------------------------------------------------------------------------

    async def here(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it on the engine's own loop, wherever this is called; never, in a replay of a history."""
        reading = _reading_loop()
        if reading is not None:
            coroutine.close()
            return cast(T, await reading.bridge(None))
        loop = self.loop
        if loop is None or loop.is_closed():
            coroutine.close()
            raise EngineNotOpen(_NOT_OPEN if loop is None else _CLOSED)
        if asyncio.get_running_loop() is loop:
            return await coroutine
        if threading.get_ident() == self.thread:
            # A handler's private loop: a task of the real one is an outside await to it.
            return await loop.create_task(coroutine)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    async def submitted(self, command: Command) -> Json:
        """The result of a command, once it is durable. On the engine's loop."""
        loop = self.check_open()
        writer = self._writer
        assert writer is not None
        await writer.room()
        submission = Submission(command, loop.create_future())
        writer.submit(submission)
        return await submission.future

    async def started(self, command: Start | GetOrCreate, start: Start) -> tuple[InstanceState, int]:
        """The state of what was started, and the log position since which its end is heard of (-1: it is not).

        Where this process's worker has room, the start claims the instance for it. On the engine's loop.
        """
        loop = self.check_open()
        writer, worker, ends = self._writer, self._worker, self._ends
        assert writer is not None
        assert ends is not None
        await writer.room()
        ticket = None if worker is None or start.delay else worker.claim_ticket(start.workflow)
        submission = _Starting(command, loop.create_future(), start, worker if ticket is not None else None)
        if ticket is not None:
            start.claim = Claim(*ticket)
        writer.submit(submission)
        await submission.future
        state = start.state
        assert state is not None
        return state, ends.heard_to if state.ended is None else -1

    async def end(self, id: str, workflow: str, seconds: float | None, known_at: int) -> e.Event:
        """The end of an instance, waited for; see `Engine.result`. On the engine's loop."""
        self.check_open()
        ends = self._ends
        assert ends is not None
        # Before looking, so that an end between looking and waiting is not missed.
        waiter = ends.expect(id)
        try:
            known = ends.known(id)
            if known is None and (known_at < 0 or ends.forgotten_at > known_at):
                known = ended(await self.histories.state(id))
            if known is not None:
                return known
            async with asyncio.timeout(seconds):
                end = await waiter
            if isinstance(end, e.HistoryArchived):
                known = ended(await self.histories.state(id))
                assert known is not None
                return known
            return end
        except TimeoutError:
            after = durations.text(round((seconds or 0) * durations.SECOND))
            raise TimeoutError(
                f"instance {id!r} of workflow {workflow!r} was not over within {after}; it goes on"
            ) from None
        finally:
            ends.leave(id, waiter)

    @property
    def archivist(self) -> Archivist:
        """What moves histories to the archive.

        Raises:
            EngineNotOpen: The engine is not open.
        """
        self.check_open()
        assert self._archivist is not None
        return self._archivist

    @property
    def positions(self) -> Positions:
        """What the log's newest position is.

        Raises:
            EngineNotOpen: The engine is not open.
        """
        self.check_open()
        assert self._positions is not None
        return self._positions

    async def reached(self, position: int) -> None:
        """Returns once the log has this position.

        Raises:
            TimeoutError: It did not get there within 30 s.
        """
        positions = self.positions
        if position <= positions.head:
            return
        positions.tell(self._log.max_notification_id())
        try:
            async with asyncio.timeout(AT_LEAST_SECONDS):
                await positions.reached(position)
        except TimeoutError:
            raise TimeoutError(
                f"the log did not reach position {position} within {AT_LEAST_SECONDS:g}s; it is at {positions.head}"
            ) from None

    def _deliver(self, batch: Batch) -> None:
        """Takes what was committed, by whomever; on the loop's thread, from a plain callback."""
        assert self._ends is not None
        assert self._positions is not None
        self._ends.tell(batch.events, batch.head)
        if self._worker is not None:
            self._worker.deliver(batch)
        if self._scheduler is not None:
            self._scheduler.deliver(batch.events)
        if self._retention is not None:
            self._retention.tell(batch.events)
        self._positions.tell(batch.head)
        self.models.tell(batch.head)


def _reading_loop() -> PrivateLoop | None:
    """The loop of the handler that this is called in, where that only runs against its history: nothing outside of it
    may be touched then, and what it awaits there never comes."""
    running = asyncio._get_running_loop()
    return running if isinstance(running, PrivateLoop) and running.outside is None else None


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


def _inline(log: Log, projections: Iterable[Projection]) -> InlineProjections:
    def show(get_blob: GetBlob) -> Show:
        values = Values(get_blob)
        return lambda event: plain_data(event, values)

    return InlineProjections(
        [*own_inline(), *(given for given in projections if given.inline)],
        show=show,
        versions={given.name: given.version for given in state_projections()},
        url=log.url,
    )


def _definition(workflow: Workflow[Any, Any], now: int) -> e.WorkflowDefined:
    return e.WorkflowDefined(
        at=now,
        workflow=workflow.name,
        on=workflow.on,
        version=workflow.version,
        digest=workflow.digest,
        deadline=workflow.deadline_micros,
        retention=workflow.retention_micros,
        concurrency=None if workflow.concurrency is None else workflow.concurrency.limit,
        concurrency_key=None if workflow.concurrency is None else workflow.concurrency.key,
    )


def by_name(workflows: Iterable[Workflow[Any, Any]]) -> dict[str, Workflow[Any, Any]]:
    """Workflows by their names.

    Raises:
        TypeError: One is no workflow.
        DuplicateWorkflow: Two have the same name.
    """
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


def count(value: object, what: str) -> int:
    """A whole number of at least 1.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is {shown(value)}; it must be a whole number")
    if value < 1:
        raise ValueError(f"{what} is {value!r}; it must be at least 1")
    return value
