"""Handlers without a database: a log in memory, a virtual clock, and a host that runs executions on them.

Everything that makes a run differ from another (how long steps take, when commits return, what arrives from outside,
where it crashes) is the caller's to decide, and time moves only when nothing else can: thousands of runs a minute, each
repeatable. What a run leaves behind is an ordinary history.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future
from random import Random
from typing import TYPE_CHECKING, Any

from wfes.calls import Calls
from wfes.core import events as e
from wfes.core.evolve import evolve, fold
from wfes.core.state import InstanceState
from wfes.handler.execution import Execution
from wfes.runtime.reactions import REACTIONS
from wfes.runtime.values import Values

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.log.port import Member

START = 1_800_000_000_000_000
"""Where virtual time begins, in microseconds since the Unix epoch."""


class _Alarm:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class SimulatedClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: int = START) -> None:
        self._now = now
        self._alarms: list[tuple[int, int, _Alarm]] = []
        self._numbers = itertools.count()

    def now(self) -> int:
        """Virtual time, in microseconds."""
        return self._now

    def call_at(self, due: int, callback: Callable[[], object]) -> _Alarm:
        """Has ``callback`` called when time gets there."""
        alarm = _Alarm(callback)
        heapq.heappush(self._alarms, (max(due, self._now), next(self._numbers), alarm))
        return alarm

    def call_at_wall(self, due: int, callback: Callable[[], object]) -> _Alarm:
        """As `call_at`: there is one clock here."""
        return self.call_at(due, callback)

    def jump(self) -> bool:
        """Moves to the next moment at which something is due and does it; False if nothing is."""
        while self._alarms:
            due, _, alarm = heapq.heappop(self._alarms)
            if alarm.callback is not None:
                self._now = max(self._now, due)
                callback, alarm.callback = alarm.callback, None
                asyncio.get_running_loop().call_soon(callback)
                return True
        return False


class SimulatedLent:
    """What a transaction's function is lent: a list of rows, which are the log's once they are committed."""

    is_lost = False
    refused: str | None = None

    def __init__(self, log: SimulatedLog) -> None:
        self.connection: list[Any] = []
        self.asynchronous = self.connection
        self._log = log

    def settle(self) -> None:
        """Whatever was done is right."""

    def write(self) -> Any:
        """The transaction to append to."""
        return self

    def commit(self) -> None:
        """Makes the rows the log's."""
        self._log.rows.extend(self.connection)

    def rollback(self) -> None:
        """The rows are nobody's."""

    def close(self) -> None:
        """There is nothing to close."""


class SimulatedLog:
    """Histories in memory, and the transaction of a member on them.

    Attributes:
        streams: the histories.
        rows: what functions of transactions have written.
    """

    lends_seconds: float | None = None

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self.streams: dict[str, list[e.Recorded]] = {}
        self._states: dict[str, InstanceState] = {}
        self._position = 0
        self.rows: list[Any] = []
        self.committed: list[e.Recorded] = []

    def load(self, stream: str, history: Sequence[e.Recorded]) -> None:
        """Puts a history there, in place of what there was."""
        self.streams[stream] = list(history)
        self._states[stream] = fold(stream, history)

    def begin(self) -> SimulatedLent:
        """A transaction of its own."""
        return SimulatedLent(self)

    def lend(self) -> SimulatedLent:
        """Begins a transaction for a function."""
        return SimulatedLent(self)

    @property
    def now(self) -> int:
        """The time of the transaction."""
        return self._clock.now()

    def state(self, stream: str) -> InstanceState | None:
        """The slim state of an instance."""
        return self._states.get(stream)

    def version(self, stream: str) -> int:
        """The version of a stream's newest event."""
        return len(self.streams.get(stream, ()))

    def history(self, stream: str, after: int = 0) -> list[e.Recorded]:
        """A stream's events above a version."""
        return self.streams.get(stream, [])[after:]

    def histories(self, streams: Sequence[str], events_max: int) -> dict[str, list[e.Recorded]]:
        """The whole histories of these streams."""
        return {stream: list(self.streams[stream]) for stream in streams if stream in self.streams}

    @property
    def position(self) -> int:
        """The position of the newest event."""
        return self._position

    def append(self, stream: str, events: Sequence[e.Event]) -> int:
        """Appends events, and what they cause."""
        history = self.streams.setdefault(stream, [])
        for event in events:
            version = len(history) + 1
            self._position += 1
            recorded = e.Recorded(stream, version, event, self._position)
            history.append(recorded)
            self.committed.append(recorded)
            if stream.startswith("$"):
                continue
            state = self._states.setdefault(stream, InstanceState(stream))
            evolve(state, event, version)
            reaction = REACTIONS.get(type(event))
            if reaction is not None:
                reaction(self, stream, event, state)
        return len(history)

    def append_copies(self, stream: str, copies: Sequence[tuple[e.Event, e.Copied]]) -> int:
        """Appends the copies that a fork's history begins with."""
        for event, copied in copies:
            version = len(self.streams.setdefault(stream, [])) + 1
            self._position += 1
            recorded = e.Recorded(stream, version, event, self._position, copied)
            self.streams[stream].append(recorded)
            self.committed.append(recorded)
            evolve(self._states.setdefault(stream, InstanceState(stream)), event, version)
        return len(self.streams[stream])

    def query(
        self,
        sql: str,
        params: Sequence[object] | Mapping[str, object] = (),
        *,
        shows: Collection[type[e.Event]] | None = None,
    ) -> list[tuple[Any, ...]]:
        """What reactions and starts ask: whether anybody waits, and who waits for this; nothing is limited."""
        if "wfes_limits" in sql:
            return []
        assert "waiters" in sql, sql
        if not params:
            return [(1,)]
        (target,) = list(params.values()) if isinstance(params, Mapping) else list(params)
        return [
            (state.id, path)
            for state in self._states.values()
            for path, wait in state.waits.items()
            if wait.kind in ("child", "workflow") and wait.target == target
        ]

    def executemany(self, sql: str, params: Sequence[Sequence[object]]) -> None:
        """There are no rows beside a simulated log."""
        raise NotImplementedError(sql)

    def delete_history(self, stream: str, upto: int) -> None:
        """Nothing leaves a simulated log."""
        raise NotImplementedError(stream)

    def put_blob(self, sha256: str, content: bytes) -> None:
        """Large values stay in the values' own cache here."""


class _Inline(Executor):
    """Runs what is submitted at once: no thread whose time could be jumped over."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class _Engine:
    """As much of an engine as handlers see."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def enter_context(self) -> None:
        """Handlers of a simulation have no ambient engine."""

    def running_instance(self, execution: Execution) -> Execution:
        """The handler's own instance."""
        return execution


class SimulatedHost:
    """Runs executions on a simulated log.

    Attributes:
        interfere: called after every commit, with the number of commits so far; may append to ``log`` what comes from
            outside, or raise ``Crash``.
    """

    reads_only = False
    linger_micros = 500_000
    worker = "simulation"

    def __init__(
        self,
        workflows: Sequence[Workflow[Any, Any]],
        *,
        seed: int = 0,
        clock: SimulatedClock | None = None,
        log: SimulatedLog | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = clock or SimulatedClock()
        self.log = log or SimulatedLog(self.clock)
        self.values = Values(lambda _: None)
        self.workflows = {workflow.name: workflow for workflow in workflows}
        self.engine = _Engine(Calls(self.workflows, self.values, self.clock.now))
        self.threads: Executor = _Inline()
        self.lending = asyncio.Semaphore(1_000)
        self.interfere: Callable[[int], None] = lambda _: None
        self.commits = 0
        self.executions: dict[str, Execution] = {}
        self._random = Random(seed)
        self._queue: list[Member] = []
        self._pumping = False
        self._told = len(self.log.committed)

    def submit(self, member: Member) -> None:
        """Commits it a few turns of the loop later."""
        self._queue.append(member)
        if not self._pumping:
            self._pumping = True
            self._later(self._random.randrange(3), self._pump)

    def _later(self, turns: int, callback: Callable[[], None]) -> None:
        if turns <= 0:
            self.loop.call_soon(callback)
        else:
            self.loop.call_soon(self._later, turns - 1, callback)

    def _pump(self) -> None:
        self._pumping = False
        queue, self._queue = self._queue, []
        results = [(member, *self._ran(member)) for member in queue]
        self.commits += 1
        self.tell()
        for member, result, error in results:
            if error is None:
                member.done(result)
            else:
                member.failed(error)
        self.interfere(self.commits)
        self.tell()

    def _ran(self, member: Member) -> tuple[Any, Exception | None]:
        begin = getattr(member, "begin", None)
        if begin is None:
            return member.run(self.log), None
        try:
            write = begin(self.log)
            result = member.run(self.log)
        except Exception as error:
            return None, error
        write.commit()
        return result, None

    def tell(self) -> None:
        """Hands committed events from outside to their executions."""
        while self._told < len(self.log.committed):
            recorded = self.log.committed[self._told]
            self._told += 1
            if not recorded.event.owner:
                execution = self.executions.get(recorded.originator_id)
                if execution is not None:
                    execution.outside([recorded])

    def left(self, execution: Execution) -> None:
        """It has left memory."""
        self.executions.pop(execution.id, None)

    def begin(self, id: str) -> Execution:
        """Claims an instance and runs it."""
        state = self.log.state(id)
        assert state is not None
        claim = e.RunClaimed(at=self.clock.now(), worker=self.worker, epoch=state.epoch + 1, code={})
        self.log.append(id, [claim])
        self._told = len(self.log.committed)
        history = self.log.history(id)
        execution = Execution(self, self.workflows[state.workflow], id, state.epoch, history)
        self.executions[id] = execution
        self.loop.call_soon(execution.start)
        return execution

    async def run(self, *, turns_max: int = 100_000) -> None:
        """Runs everything runnable to its end, moving time when nothing else can move.

        Raises:
            RuntimeError: it does not come to an end.
        """
        quiet = 0
        for _ in range(turns_max):
            await asyncio.sleep(0)
            if self._pumping or self._queue:
                quiet = 0
                continue
            quiet += 1
            if quiet < 8:
                continue
            if self._claim_runnable():
                quiet = 0
                continue
            if (self.executions or any(self._waiting())) and self._jump():
                quiet = 0
                continue
            if quiet > 20:
                return
        raise RuntimeError(f"the simulation did not end within {turns_max} turns")

    def _waiting(self) -> list[InstanceState]:
        return [s for s in self.log._states.values() if s.ended is None and s.id not in self.executions]

    def _claim_runnable(self) -> bool:
        runnable = [
            s.id for s in self._waiting() if (due := s.runnable_at()) is not None and due <= self.clock.now()
        ]
        for id in runnable:
            self.begin(id)
        return bool(runnable)

    def _jump(self) -> bool:
        """Moves to what is due next: an alarm, or an instance that nobody runs at the moment."""
        dues = [due for state in self._waiting() if (due := state.runnable_at()) is not None]
        if not dues:
            return self.clock.jump()
        waking = self.clock.call_at(min(dues), lambda: None)
        try:
            return self.clock.jump()
        finally:
            waking.cancel()
