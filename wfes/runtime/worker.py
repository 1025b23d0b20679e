"""The worker: runs instances in this process.

Owns its place among the workers of a log from start to stop: who it is, when it claims, and how it lets go of
everything at a clean stop. What is in memory is `wfes.runtime.executions`, when and what to claim is
`wfes.runtime.claiming`; what a handler does is the execution's business, and who owns an instance is the log's.

Invariants: it claims only while it is registered; at a clean stop every instance is released before it signs off.
Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol

from wfes.core import events as e
from wfes.core.durations import SECOND
from wfes.errors import WfesError
from wfes.handler.difference import code_of
from wfes.handler.execution import Execution, Host
from wfes.handler.outbox import SetAside
from wfes.log.port import Log, Member
from wfes.runtime import leases
from wfes.runtime.admission import Admission
from wfes.runtime.claiming import Claiming
from wfes.runtime.claims import Work
from wfes.runtime.clock import Clock
from wfes.runtime.executions import Executions, Running
from wfes.runtime.membership import Membership, Queue, Signature
from wfes.runtime.threads import StepThreads
from wfes.runtime.values import Values
from wfes.runtime.versions import Versions

if TYPE_CHECKING:
    from wfes.definition import Workflow

_log = logging.getLogger("wfes")

MAX_RUNNING = 1000
LINGER_MICROS = 500_000
"""How long an execution that only waits stays in memory, in microseconds."""
LENT_MAX = 10
"""How many functions of `step.transaction` have a connection of their own at a time, where that holds no lock."""
GRACE_SECONDS = 10.0
"""How long a clean stop waits for running steps."""
LEAVING_SECONDS = 10.0
"""How long a stop waits for the last events to be written before it leaves the rest to others."""
NAMED_MAX = 5
"""How many instances a message names."""
RENEW_SECONDS = 1.0
"""How long to wait before a registration that failed is tried again."""

Json = Any


class Committed(Protocol):
    """What a commit, or several, brought: ``wfes.log.writer.Batch``."""

    @property
    def events(self) -> Sequence[e.Recorded]: ...


MakeExecution = Callable[[Host, Any, str, int, list[e.Recorded]], Running]


class Worker:
    """Runs instances of an engine's workflows in this process. A `Host` of executions.

    Attributes:
        loop: the event loop, on whose thread everything here happens.
        clock: its clock.
        log: the engine's log.
        worker: this worker's id, never used before.
        values: where user values are sealed and opened.
        engine: the engine, for recorded calls.
        threads: where synchronous step functions run.
        lending: how many functions of transactions may have a connection at a time.
        linger_micros: how long an execution that only waits stays in memory.
    """

    reads_only = False

    def __init__(
        self,
        *,
        log: Log,
        writer: Queue,
        clock: Clock,
        values: Values,
        engine: Any,
        workflows: Mapping[str, Workflow[Any, Any]],
        max_running: int = MAX_RUNNING,
        name: str | None = None,
        linger_micros: int = LINGER_MICROS,
        machine: leases.Machine | None = None,
        execution: MakeExecution = Execution,
    ) -> None:
        """Makes a worker; `start` lets it run. On the event loop's thread.

        Args:
            log: an open log.
            writer: its writer.
            clock: tells the time and calls back.
            values: seals and opens user values.
            engine: what executions hand recorded calls to.
            workflows: by name; only their instances are claimed.
            max_running: how many executions may be in memory.
            name: the engine's name, for whoever lists workers.
            linger_micros: how long an execution that only waits stays in memory.
            machine: where this process runs; found out by default.
            execution: makes an execution.

        Raises:
            ValueError: there is room for none.
        """
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.log = log
        self.worker = leases.new_worker_id()
        self.values = values
        self.engine = engine
        self.threads: Executor = StepThreads()
        self.lending = asyncio.Semaphore(LENT_MAX)
        self.linger_micros = linger_micros
        self._writer = writer
        self._workflows = workflows
        self._codes = {name: code_of(workflow) for name, workflow in workflows.items()}
        self._versions = Versions({name: workflow.version for name, workflow in workflows.items()})
        self._work = Work(workflows, Admission(workflows, values), self._versions)
        self._execution = execution
        self._name = name
        self._machine = machine or leases.Machine.here()
        self._lease = leases.lease_micros()
        self._executions = Executions(max_running, self._made, self._freed)
        self._claiming = Claiming(log, writer, clock, self._work, self._codes, self._executions, self._bury)
        self._membership = self._new_membership()
        self._renewal: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------------------------- start and stop

    async def start(self) -> None:
        """Registers this worker, takes over from dead ones and begins to claim.

        Raises:
            LogUnavailable: this process cannot lock a file beside the database.
        """
        self._versions.load(self.log)
        await self._sign_on()
        self._claiming.begin(self.worker)

    async def _sign_on(self) -> None:
        handlers = {workflow.handler.__code__: name for name, workflow in self._workflows.items()}
        sighting = await self._membership.sign_on(self._is_busy, handlers)
        if sighting is not None:
            self._claiming.peers = sighting.census.peers
            for dead in (*sighting.census.dead, *sighting.orphaned):
                self._claiming.bereaved(dead)

    def _new_membership(self) -> Membership:
        signature = Signature(self.worker, self._name, self._codes, self._machine, self._lease)
        return Membership(
            self.log,
            self._writer,
            self.clock.now,
            self._work,
            signature,
            self._claiming.saw,
            self._lost,
        )

    def _bury(self, dead: str) -> None:
        self._membership.bury(dead)

    def _is_busy(self) -> bool:
        return bool(self._executions.running)

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Claims nothing more, lets running steps finish within the grace and releases every instance.

        Args:
            grace_seconds: how long to wait for running steps; what still runs then is cut off.
        """
        self._claiming.end()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        self._membership.drain()
        self._executions.stop()
        if not await self._executions.all_left(grace_seconds):
            self._tell_cut_off(grace_seconds)
            self._executions.abandon()
            if not await self._executions.all_left(LEAVING_SECONDS):
                _log.warning(
                    "%d instances could not be released: the log takes no writes; they go on elsewhere or at "
                    "the next start",
                    self._executions.remaining,
                )
        await self._membership.sign_off()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _tell_cut_off(self, grace_seconds: float) -> None:
        ids = list(self._executions.running)
        if ids:
            named = ", ".join(ids[:NAMED_MAX]) + (", …" if len(ids) > NAMED_MAX else "")
            _log.warning(
                "%s had a step that took longer than the grace of %g s: it is cut off, and runs again where the "
                "instance goes on, elsewhere or at the next start: %s",
                "1 instance" if len(ids) == 1 else f"{len(ids)} instances",
                grace_seconds,
                named,
            )

    def _lost(self) -> None:
        """Somebody took this worker for dead, and its instances over: it goes on as another one."""
        if self._executions.stopping or self._renewal is not None:
            return
        _log.warning(
            "worker %s was taken for dead, and its instances were taken over: this process was stopped, or cut off "
            "from the log, for longer than its lease of %g s. It goes on under a new id",
            self.worker,
            self._lease / SECOND,
        )
        self._claiming.pause()
        self._membership.desert()
        # Nobody else may have taken these yet: they are taken over from the worker that this one was.
        self._executions.fence()
        self._claiming.bereaved(self.worker)
        self.worker = leases.new_worker_id()
        self._membership = self._new_membership()
        self._renewal = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        while True:
            try:
                await self._sign_on()
            except WfesError as error:
                _log.warning("a worker cannot register again: %s", error)
                await asyncio.sleep(RENEW_SECONDS)
            else:
                break
        self._renewal = None
        self._claiming.begin(self.worker)

    # ------------------------------------------------------------------------------- starts in this process

    def claim_ticket(self, workflow: str) -> tuple[str, Json] | None:
        """Keeps a place for an instance that is about to be started, if it is to run here at once.

        Whoever gets a ticket calls `begin` once the start is committed with a claim, else `release_ticket`.

        Args:
            workflow: the workflow's name.

        Returns:
            This worker's id and the code to put into the claim; None: start it without a claim.
        """
        return (self.worker, self._codes[workflow]) if self._claiming.ticket(workflow) else None

    def release_ticket(self) -> None:
        """Gives the place back: the start was refused, or did not claim."""
        self._claiming.release_ticket()

    def begin(self, id: str, history: list[e.Recorded]) -> None:
        """Runs an instance whose start is committed with a claim by this worker; uses up its ticket.

        Args:
            id: the instance.
            history: its whole history, the claim included.
        """
        self._claiming.use_ticket(id, history)

    def _made(self, id: str, history: list[e.Recorded]) -> Running | None:
        """The execution of an instance that was claimed; None: it is not for this worker, or cannot run here."""
        started = history[0].event
        claim = next(r.event for r in reversed(history) if isinstance(r.event, e.RunClaimed))
        assert isinstance(started, e.WorkflowStarted)
        if claim.worker != self.worker:
            return None  # claimed by the worker that this one was: it is taken over from there
        try:
            execution = self._execution(self, self._workflows[started.workflow], id, claim.epoch, history)
        except Exception as error:
            _log.error("instance %s of workflow %r cannot begin", id, started.workflow, exc_info=error)
            report = f"this process cannot run it: {type(error).__name__}: {error}"
            self.submit(SetAside(self.worker, id, claim.epoch, report))
            return None
        self._membership.wake()
        return execution

    # ------------------------------------------------------------------------------------ what is committed

    def deliver(self, batch: Committed) -> None:
        """Passes on what was committed, by whomever: to executions in memory, or as a hint that something can run."""
        for recorded in batch.events:
            if isinstance(recorded.event, e.WorkflowDefined):
                self._versions.tell(recorded.event)
        if self._executions.deliver(batch.events, self.worker, ends_wake=self._claiming.queueing):
            self._claiming.want()

    # ------------------------------------------------------------------------------------- for executions

    def submit(self, member: Member) -> None:
        """Puts an execution's member into the writer's queue."""
        self._writer.submit(member)

    def left(self, execution: Running) -> None:
        """The execution has left memory: ended, released, fenced or held."""
        self._executions.left(execution)

    def _freed(self, due: bool) -> None:
        self._claiming.freed(due)

    # -------------------------------------------------------------------------------------- for onlookers

    @property
    def quiet(self) -> bool:
        """Whether everything in memory only waits and nothing is about to be claimed."""
        return self._claiming.quiet and self._executions.quiet

    @property
    def running(self) -> int:
        """How many executions are in memory."""
        return len(self._executions.running)
