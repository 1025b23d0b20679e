"""The worker: runs instances in this process.

Owns which executions are in memory. It claims instances while there is room, gives each what is committed for it from
outside, notices who else is dead and goes on with their work, and lets go of everything at a clean stop. What a
handler does is the execution's business; who owns an instance is the log's.

Invariants:

* At most ``max_running`` executions are in memory, those about to arrive counted. An execution that only waits gives
  way to one that has something to do.
* An event from outside reaches the execution of its instance exactly once and in order: what is committed between a
  claim and the moment its execution starts is kept for it.
* At most one claim is in the writer's queue. A claim is asked for when something may have become runnable, never on
  a schedule; one timer waits for the next instance that becomes due by itself.
* Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol

from wfes.core import events as e
from wfes.core.durations import SECOND
from wfes.errors import WfesError
from wfes.handler.execution import Execution, Host
from wfes.handler.outbox import SetAside
from wfes.log.port import Log, Member
from wfes.runtime import leases
from wfes.runtime.admission import Admission
from wfes.runtime.claims import CLAIMS_MAX, Claimed, ClaimRunnable, Share, Work
from wfes.runtime.clock import Cancellable, Clock
from wfes.runtime.membership import Membership, Queue, Signature
from wfes.runtime.threads import StepThreads
from wfes.runtime.values import Values
from wfes.runtime.versions import Versions
from wfes.runtime.watch import Sighting
from wfes.version import __version__

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
SHARE_SECONDS = 1.5
"""How long the other workers have to take their part of what a dead one owned, before this one takes the rest."""
AGAIN_MICROS = SECOND // 2
"""How long to wait before what is left of it is looked at again."""
RETRY_MICROS = SECOND
"""How long to wait before a claim that failed, or found rows it could not take, is tried again."""
LEAVING_SECONDS = 10.0
"""How long a stop waits for the last events to be written before it leaves the rest to others."""
SLICE_SECONDS = 0.002
"""How long executions are begun at a stretch."""
EVICTIONS_MAX = 32
"""How many waiting executions are asked to leave at a time when there is no room."""
SCAN_SECONDS = 0.1
"""How often waiting executions are looked for when there is no room."""

Json = Any

_WAKING: tuple[type[e.Event], ...] = (
    e.WorkflowStarted,
    e.CancelRequested,
    e.DeadlineChanged,
    e.WorkflowResumed,
    e.WorkflowRetried,
    e.EventReceived,
    e.DataProvided,
    e.TargetEnded,
    e.SlotSought,
    e.SlotGranted,
    e.WorkflowDefined,
)
"""Events that can make an instance runnable that nobody has in memory."""


class Running(Protocol):
    """What the worker needs of an execution; `wfes.handler.execution.Execution` has it."""

    id: str
    epoch: int

    @property
    def idle(self) -> bool: ...
    @property
    def is_stuck(self) -> bool: ...
    def start(self) -> None: ...
    def outside(self, events: Sequence[e.Recorded]) -> None: ...
    def fence(self) -> None: ...
    def stop(self) -> None: ...
    def abandon(self) -> None: ...
    def evict(self) -> bool: ...
    def broken(self, error: Exception) -> None: ...


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
        """
        if max_running < 1:
            raise ValueError(f"max_running is {max_running!r}; it must be at least 1")
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.log = log
        self.worker = leases.new_worker_id()
        self.values = values
        self.engine = engine
        self.threads: Executor = StepThreads()
        self.lending = asyncio.Semaphore(LENT_MAX)
        self.linger_micros = linger_micros
        self._log = log
        self._writer = writer
        self._workflows = workflows
        self._codes = {name: code_of(workflow) for name, workflow in workflows.items()}
        self._versions = Versions({name: workflow.version for name, workflow in workflows.items()})
        self._work = Work(workflows, Admission(workflows, values), self._versions)
        self._max_running = max_running
        self._execution = execution
        self._name = name
        self._machine = machine or leases.Machine.here()
        self._lease = leases.lease_micros()
        self._membership = self._new_membership()
        # executions in memory, and those on their way there
        self._running: dict[str, Running] = {}
        self._arriving: dict[str, list[e.Recorded]] = {}
        self._beginning: deque[tuple[str, list[e.Recorded]]] = deque()
        self._over: set[str] = set()
        self._reserved = 0
        # claiming
        self._accepting = False
        self._wanted = False
        self._checking = False
        self._claiming = False
        self._more = False
        self._scan_at = 0.0
        self._dead: dict[str, float] = {}
        """Dead workers that may own something still, and since when, by the loop's clock, they are known to be."""
        self._peers: list[str] = []
        self._left_to_others: set[str] = set()
        self._renewal: asyncio.Task[None] | None = None
        self._queueing = False
        self._due: int | None = None
        self._timer: Cancellable | None = None
        # stopping
        self._stopping = False
        self._left = asyncio.Event()

    # ---------------------------------------------------------------------------------- start and stop

    async def start(self) -> None:
        """Registers this worker, takes over from dead ones and begins to claim.

        Raises:
            LogUnavailable: this process cannot lock a file beside the database.
        """
        self._versions.load(self._log)
        await self._sign_on()
        self._accepting = True
        self._want()

    async def _sign_on(self) -> None:
        handlers = {workflow.handler.__code__: name for name, workflow in self._workflows.items()}
        sighting = await self._membership.sign_on(self._is_busy, handlers)
        if sighting is not None:
            self._peers = sighting.census.peers
            self._dead.update(dict.fromkeys((*sighting.census.dead, *sighting.orphaned), self.loop.time()))

    def _new_membership(self) -> Membership:
        signature = Signature(self.worker, self._name, self._codes, self._machine, self._lease)
        return Membership(
            self._log,
            self._writer,
            self.clock.now,
            self._work,
            signature,
            self._reported,
            self._lost,
        )

    def _is_busy(self) -> bool:
        return bool(self._running)

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Claims nothing more, lets running steps finish within the grace and releases every instance.

        Args:
            grace_seconds: how long to wait for running steps; what still runs then is cut off.
        """
        self._accepting = False
        self._stopping = True
        self._set_timer(None)
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        self._membership.drain()
        for execution in list(self._running.values()):
            execution.stop()
        if not await self._all_left(grace_seconds):
            for execution in list(self._running.values()):
                execution.abandon()
            if not await self._all_left(LEAVING_SECONDS):
                _log.warning(
                    "%d instances could not be released: the log takes no writes; they go on elsewhere or at "
                    "the next start",
                    len(self._running) + self._reserved,
                )
        await self._membership.sign_off()
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def _all_left(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self._running or self._reserved:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return not (self._running or self._reserved)
        return True

    def _reported(self, sighting: Sighting) -> None:
        """What is new about the other workers."""
        if not self._accepting:
            return
        census = sighting.census
        self._peers = census.peers
        for id in census.alive:
            self._dead.pop(id, None)
        dead = [*census.dead, *sighting.orphaned]
        self._left_to_others.intersection_update(dead)
        new = [id for id in dead if id not in self._dead and id not in self._left_to_others]
        if new:
            _log.info("worker %s is gone: going on with its instances", ", ".join(new))
            self._dead.update(dict.fromkeys(new, self.loop.time()))
            self._want()
        elif not census.alive and not census.dead:
            # The last of the others has left, perhaps with instances that are to go on here.
            self._arm(self.clock.now())
        elif sighting.due is not None:
            self._arm(sighting.due)

    def _lost(self) -> None:
        """Somebody took this worker for dead, and its instances over: it goes on as another one."""
        if self._stopping or self._renewal is not None:
            return
        _log.warning(
            "worker %s was taken for dead, and its instances were taken over: this process was stopped, or cut off "
            "from the log, for longer than its lease of %g s. It goes on under a new id",
            self.worker,
            self._lease / SECOND,
        )
        self._accepting = False
        self._membership.desert()
        # Nobody else may have taken these yet: they are taken over from the worker that this one was.
        for execution in list(self._running.values()):
            execution.fence()
        self._dead[self.worker] = self.loop.time()
        self.worker = leases.new_worker_id()
        self._membership = self._new_membership()
        self._renewal = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        while True:
            try:
                await self._sign_on()
            except WfesError as error:
                _log.warning("a worker cannot register again: %s", error)
                await asyncio.sleep(RETRY_MICROS / SECOND)
            else:
                break
        self._renewal = None
        self._accepting = True
        self._want()

    # ------------------------------------------------------------------------------- starts in this process

    def claim_ticket(self, workflow: str) -> tuple[str, Json] | None:
        """Keeps a place for an instance that is about to be started, if there is one.

        Whoever gets a ticket calls `begin` once the start is committed with a claim, else `release_ticket`.

        Args:
            workflow: the workflow's name.

        Returns:
            This worker's id and the code to put into the claim; None: start it without a claim.
        """
        if not self._accepting or workflow not in self._codes or self._free_places() <= 0:
            return None
        self._reserved += 1
        return self.worker, self._codes[workflow]

    def release_ticket(self) -> None:
        """Gives the place back: the start was refused, or did not claim."""
        self._reserved -= 1
        self._freed()

    def begin(self, id: str, history: list[e.Recorded]) -> None:
        """Runs an instance whose claim by this worker is committed; uses up its ticket.

        Args:
            id: the instance.
            history: its whole history, the claim included.
        """
        self._arriving.setdefault(id, [])
        self._beginning.append((id, history))
        if len(self._beginning) == 1:
            # From a plain callback of the loop: a handler's private loop must not be driven inside a task.
            self.loop.call_soon(self._begin_some)

    def _begin_some(self) -> None:
        """Begins those who wait for it, for a moment at a time: the loop has other work."""
        until = self.loop.time() + SLICE_SECONDS
        while self._beginning:
            self._begin(*self._beginning[0])
            self._beginning.popleft()
            if self.loop.time() > until:
                break
        if self._beginning:
            self.loop.call_soon(self._begin_some)

    def _begin(self, id: str, history: list[e.Recorded]) -> None:
        self._reserved -= 1
        arrived = self._arriving.pop(id, [])
        started = history[0].event
        claim = next(r.event for r in reversed(history) if isinstance(r.event, e.RunClaimed))
        assert isinstance(started, e.WorkflowStarted)
        if claim.worker != self.worker:
            self._freed()  # claimed by the worker that this one was: it is taken over from there
            return
        try:
            execution = self._execution(self, self._workflows[started.workflow], id, claim.epoch, history)
        except Exception as error:
            _log.error("instance %s of workflow %r cannot begin", id, started.workflow, exc_info=error)
            report = f"this process cannot run it: {type(error).__name__}: {error}"
            self.submit(SetAside(self.worker, id, claim.epoch, report))
            self._freed()
            return
        self._running[id] = execution
        self._over.discard(id)
        self._membership.wake()
        try:
            execution.start()
            if arrived:
                self._give(execution, arrived)
            if self._stopping and self._running.get(id) is execution:
                execution.stop()
        except Exception as error:
            self._broken(execution, error)

    # ------------------------------------------------------------------------------------ what is committed

    def deliver(self, batch: Committed) -> None:
        """Passes on what was committed, by whomever: to executions in memory, or as a hint that something can run."""
        waking: set[str] = set()
        given: dict[str, list[e.Recorded]] = {}
        for recorded in batch.events:
            id = recorded.originator_id
            event = recorded.event
            if isinstance(event, e.WorkflowDefined):
                self._versions.tell(event)
            if self._queueing and event.terminal:
                waking.add(id)  # perhaps somebody waits for the slot it had
            if isinstance(event, e.RunClaimed):
                waking.discard(id)
                execution = self._running.get(id)
                if event.worker == self.worker:
                    if execution is None or event.epoch > execution.epoch:
                        self._arriving.setdefault(id, [])
                    continue
            if id in self._arriving:
                self._arriving[id].append(recorded)
            elif id in self._running:
                if event.terminal:
                    self._over.add(id)
                if not event.owner or isinstance(event, e.RunClaimed):  # what it wrote itself it knows
                    given.setdefault(id, []).append(recorded)
            elif isinstance(event, _WAKING):
                waking.add(id)
        for id, events in given.items():
            execution = self._running.get(id)
            if execution is not None:
                try:
                    self._give(execution, events)
                except Exception as error:
                    self._broken(execution, error)
        if waking:
            self._want()

    def _give(self, execution: Running, events: Sequence[e.Recorded]) -> None:
        for recorded in events:
            event = recorded.event
            if isinstance(event, e.RunClaimed) and event.epoch > execution.epoch:
                execution.fence()
                return
        execution.outside(events)

    def _broken(self, execution: Running, error: Exception) -> None:
        execution.broken(error)
        self.left(execution)

    # ------------------------------------------------------------------------------------- for executions

    def submit(self, member: Member) -> None:
        """Puts an execution's member into the writer's queue."""
        self._writer.submit(member)

    def left(self, execution: Running) -> None:
        """The execution has left memory: ended, released, fenced or held."""
        id = execution.id
        if self._running.get(id) is not execution:
            return
        del self._running[id]
        if id in self._over:
            self._over.discard(id)
        else:
            # What it waits for may be due before the moment the timer is set to.
            self._wanted = True
        self._freed()

    def _freed(self) -> None:
        """There is room for somebody else's turn."""
        self._left.set()
        if self._wanted:
            self._want()

    # ------------------------------------------------------------------------------------------- claiming

    @property
    def quiet(self) -> bool:
        """Whether everything in memory only waits and nothing is about to be claimed."""
        if self._reserved or self._claiming or self._checking or self._arriving:
            return False
        return all(execution.idle or execution.is_stuck for execution in self._running.values())

    @property
    def running(self) -> int:
        """How many executions are in memory."""
        return len(self._running)

    def _free_places(self) -> int:
        return self._max_running - len(self._running) - self._reserved

    def _make_room(self) -> None:
        """Asks executions that only wait to leave, oldest first; they give their places back when that is written."""
        now = self.loop.time()
        if now < self._scan_at:
            return
        # Looking at all of them takes a while; what is busy now is probably busy for a moment more.
        self._scan_at = now + SCAN_SECONDS
        evicted = 0
        for execution in list(self._running.values()):
            if execution.idle and execution.evict():
                evicted += 1
                if evicted == EVICTIONS_MAX:
                    return
        self.loop.call_later(SCAN_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if self._wanted and self._accepting:
            self._want()

    def _want(self) -> None:
        """Something may be runnable: looks at the loop's next turn, once for all that happens until then."""
        self._wanted = True
        if not self._checking and not self._claiming:
            self._checking = True
            self.loop.call_soon(self._check)

    def _check(self) -> None:
        self._checking = False
        if not self._accepting or self._claiming or not self._workflows:
            return
        if not self._more:  # else the last claim saw it: nothing has to be read
            try:
                due, self._queueing = self._work.look(self._log.read)
            except WfesError:
                self._arm(self.clock.now() + RETRY_MICROS)
                return
            if not self._dead and (due is None or due > self.clock.now()):
                self._wanted = False
                self._set_timer(due)
                return
        limit = min(self._free_places(), CLAIMS_MAX)
        if limit <= 0:
            # Still wanted: whoever leaves looks again.
            self._make_room()
            return
        self._wanted = self._more = False
        self._claiming = True
        self._reserved += limit
        claimed = functools.partial(self._claimed, limit)
        failed = functools.partial(self._claim_failed, limit)
        dead = {id: self._share(since) for id, since in self._dead.items()}
        self._writer.submit(ClaimRunnable(self.worker, self._codes, self._work, limit, dead, claimed, failed))

    def _share(self, since: float) -> Share:
        """Which part is this worker's of what one owned that is known to be dead since then."""
        if not self._peers or self.loop.time() - since >= SHARE_SECONDS:
            return Share()
        everybody = sorted((self.worker, *self._peers))
        return Share(everybody.index(self.worker), len(everybody))

    def _claimed(self, limit: int, claimed: Claimed) -> None:
        self._claiming = False
        self._queueing = claimed.queueing
        self._reserved += len(claimed.histories) - limit
        for history in claimed.histories:
            self.begin(history[0].originator_id, history)
        for dead in claimed.cleared:
            self._dead.pop(dead, None)
            self._membership.bury(dead)
        for dead in claimed.foreign:
            self._dead.pop(dead, None)
            self._left_to_others.add(dead)
        self._left.set()
        self._more = claimed.more and claimed.progressed
        if self._wanted or self._more:
            self._want()
            return
        due = claimed.next_due
        now = self.clock.now()
        self._set_timer(now + RETRY_MICROS if due is not None and due <= now else due)
        if self._dead:
            self._arm(now + AGAIN_MICROS)

    def _claim_failed(self, limit: int, error: Exception) -> None:
        self._claiming = False
        self._reserved -= limit
        self._left.set()
        if self._accepting:
            _log.error("claiming instances failed: %s", error, exc_info=error)
            self._arm(self.clock.now() + RETRY_MICROS)

    # ---------------------------------------------------------------------------------------------- the timer

    def _arm(self, due: int) -> None:
        """Looks again at `due`, or earlier if that was so already."""
        if self._due is None or due < self._due:
            self._set_timer(due)

    def _set_timer(self, due: int | None) -> None:
        if due is not None and due == self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due if self._accepting else None
        if self._due is not None:
            self._timer = self.clock.call_at(self._due, self._timer_due)

    def _timer_due(self) -> None:
        self._due = None
        self._timer = None
        self._want()


def code_of(workflow: Workflow[Any, Any]) -> Json:
    """What is recorded in a claim as the code that ran: label, digest, and the versions that matter for replay."""
    code = {
        "version": workflow.version,
        "digest": workflow.digest,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "wfes": __version__,
    }
    return {name: value for name, value in code.items() if value is not None}
