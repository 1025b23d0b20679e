"""The kit of the handler's tests: instances in a simulation that can be commanded, cut off anywhere and gone on with.

A `Sim` is one run of the world: a log, a clock, a worker. `cut(n)` is the world after a crash at which `n` events were
on disk; what ran is gone, the log is what it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wfes.core import events as e
from wfes.core.decide import decide
from wfes.core.evolve import fold
from wfes.core.state import InstanceState
from wfes.errors import WfesError
from wfes.simulation import SimulatedClock, SimulatedHost, SimulatedLog

SECOND = 1_000_000


class Host(SimulatedHost):
    """A host that remembers how long the log was after each of its transactions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.boundaries: set[int] = set()

    def _pump(self) -> None:
        if self._queue:
            self.boundaries.add(len(self.log.committed))
        super()._pump()
        self.boundaries.add(len(self.log.committed))


class Sim:
    """One world; to be made and used inside one event loop."""

    def __init__(self, *workflows: Any, committed: list[e.Recorded] | None = None, seed: int = 0) -> None:
        self.workflows = workflows
        self.seed = seed
        clock = SimulatedClock()
        self.log = SimulatedLog(clock)
        for recorded in committed or []:
            clock._now = max(clock._now, getattr(recorded.event, "at", 0))
            self.log.streams.setdefault(recorded.originator_id, []).append(recorded)
            self.log.committed.append(recorded)
        self.log._position = len(self.log.committed)
        for stream, history in self.log.streams.items():
            if not stream.startswith("$"):
                self.log._states[stream] = fold(stream, history)
        self.host = Host(workflows, seed=seed, clock=clock, log=self.log)

    @property
    def now(self) -> int:
        return self.host.clock.now()

    def start(self, wf: Any, input: Any = None, **options: Any) -> str:
        start = self.host.engine.calls.start(wf, input, **options)
        start.run(self.log)
        self.host.boundaries.add(len(self.log.committed))
        return str(start.id)

    async def run(self) -> None:
        """Runs until nothing is due any more; instances of dead workers are taken over first."""
        for id, state in list(self.log._states.items()):
            if state.worker is not None and id not in self.host.executions:
                self.host.begin(id)
        await self.host.run()

    def do(self, id: str, command: Any) -> list[e.Event]:
        """Gives an instance a command, as the engine would."""
        decision = decide(self.state(id), command, self.now)
        if isinstance(decision, WfesError):
            raise decision
        if decision:
            self.log.append(id, decision)
            self.host.tell()
        return decision

    def later(self, seconds: float, callback: Callable[[], object]) -> None:
        self.host.clock.call_at(self.now + int(seconds * SECOND), callback)

    async def work(self, seconds: float) -> None:
        """What takes this long, for step functions."""
        done = asyncio.get_running_loop().create_future()
        self.later(seconds, lambda: None if done.done() else done.set_result(None))
        await done

    def state(self, id: str) -> InstanceState:
        state = self.log.state(id)
        assert state is not None
        return state

    def events(self, id: str, *kinds: type[e.Event]) -> list[Any]:
        return [r.event for r in self.log.history(id) if not kinds or isinstance(r.event, kinds)]

    def types(self, id: str) -> list[str]:
        return [type(event).__name__ for event in self.events(id)]

    def output(self, id: str) -> Any:
        """The output of an instance that must have completed."""
        state = self.state(id)
        assert str(state.status) == "completed", (state.status, state.error, state.pause_reason, state.reason)
        return self.host.values.open(state.output, self.host.workflows[state.workflow].output_type)

    def error(self, id: str) -> tuple[str, str]:
        """Type and message of what failed an instance."""
        state = self.state(id)
        assert str(state.status) == "failed", (state.status, state.output, state.pause_reason)
        return state.error["t"], state.error["m"]

    def cut(self, n: int, *workflows: Any) -> Sim:
        """The world after a crash with `n` events of all on disk, perhaps with other code."""
        return Sim(*(workflows or self.workflows), committed=self.log.committed[:n], seed=self.seed + n)

    def cuts(self, first: int = 1) -> Iterator[Sim]:
        """The worlds after a crash behind each commit that left at least `first` events."""
        for n in sorted(self.host.boundaries):
            if n >= first:
                yield self.cut(n)


@pytest.fixture
def make_sim() -> type[Sim]:
    return Sim
