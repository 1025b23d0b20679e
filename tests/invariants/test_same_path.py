"""G4 and G1 over random programs: the same path live and on replay, undisturbed, disturbed, and cut off anywhere.

A program is a random nest of steps, sleeps, waits and asyncio's own constructs, and its trace is everything its handler
sees, in order. Laws, for every program and every way it is disturbed:

* running its whole history again gives the very same trace, runs no step and proposes the very same end;
* cut off after any event and gone on with, it never differs from its history, runs no recorded step again, and ends.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from wfes import Status, WfesError, workflow
from wfes.core import events as e
from wfes.core.decide import Cancel, Pause, Provide, Resume, Send, SetDeadline, decide
from wfes.core.state import TERMINAL
from wfes.handler.execution import Execution
from wfes.simulation import SimulatedHost

SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))
MILLI = 1_000
Node = tuple[Any, ...]
NESTS = ("seq", "gather", "collect", "wait", "completed", "group", "timeout", "wait_for")
MORE = ("seq", "cancel", "finally", "try", "shield", "map")
Branch = Callable[[], Awaitable[Any]]


class Boom(Exception):
    pass


# ------------------------------------------------------------------------------------------------ programs


class Programs:
    """Makes random programs; nodes are numbered in the order they are made."""

    def __init__(self, seed: int, size: int) -> None:
        self.random = Random(seed)
        self.left = size
        self.count = 0

    def node(self, depth: int) -> Node:
        self.left -= 1
        self.count += 1
        number = self.count
        draw = self.random
        if depth <= 0 or self.left <= 0 or draw.random() < 0.35:
            return self.leaf(number)
        kind = draw.choice(NESTS + MORE)
        if kind == "map":
            return (kind, number, draw.randrange(1, 5), draw.randrange(1, 4), self.length(), self.length())
        width = 1 if kind in ("timeout", "wait_for", "cancel", "try", "shield") else draw.randrange(1, 5)
        children = tuple(self.node(depth - 1) for _ in range(width))
        return (kind, number, self.length(), draw.randrange(3), *children)

    def leaf(self, number: int) -> Node:
        draw = self.random
        kind = draw.choice(
            ["step"] * 6
            + ["nap", "nap", "sleep", "listen", "request", "flaky", "fails", "progress", "outer", "now"]
        )
        return (kind, number, self.length(), draw.randrange(3))

    def length(self) -> int:
        """Microseconds; alike often enough for many ties."""
        return self.random.choice([0, 1, 1, 2, 5, 5, 10, 50, 200, 2_000, 900_000]) * MILLI


class Run:
    """One run of the handler from its top: what it saw."""

    def __init__(self) -> None:
        self.trace: list[tuple[Any, ...]] = []


class World:
    """What programs run in: counts executions of steps, keeps every run's trace."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.executed: Counter[str] = Counter()
        self.host: SimulatedHost | None = None

    async def work(self, path: str, length: int, fails: int, attempt: int) -> str:
        self.executed[path] += 1
        assert self.host is not None
        if length:
            done = asyncio.Event()
            self.host.clock.call_at(self.host.clock.now() + length, done.set)
            await done.wait()
        if attempt <= fails:
            raise Boom(path)
        return path


class Interpreter:
    """Runs one program inside a handler."""

    def __init__(self, world: World, step: Any) -> None:
        self.world = world
        self.step = step
        self.run = Run()
        world.runs.append(self.run)

    def saw(self, *what: Any) -> None:
        self.run.trace.append(what)

    async def do(self, node: Node) -> Any:
        kind, number = node[0], node[1]
        self.saw("begin", number)
        try:
            value = await getattr(self, f"do_{kind}")(*node[1:])
        except BaseException as error:
            self.saw("raised", number, type(error).__name__)
            raise
        self.saw("gave", number, repr(value))
        return value

    # leaves

    async def do_step(self, number: int, length: int, _: int) -> Any:
        name = f"s{number}"
        return await self.step(name, self.world.work, name, length, 0, 1)

    async def do_flaky(self, number: int, length: int, fails: int) -> Any:
        name = f"f{number}"

        async def work(attempt: int) -> str:
            return await self.world.work(name, length, fails, attempt)

        return await self.step(name, work, max_attempts=4)

    async def do_fails(self, number: int, length: int, _: int) -> Any:
        name = f"x{number}"
        try:
            return await self.step(name, self.world.work, name, length, 9, 1, max_attempts=2)
        except WfesError as error:
            return type(error).__name__

    async def do_outer(self, number: int, length: int, inner: int) -> Any:
        name = f"o{number}"

        async def work() -> list[str]:
            found = [
                await self.step(f"i{k}", self.world.work, f"{name}/i{k}", length, 0, 1)
                for k in range(inner + 1)
            ]
            await self.step.sleep("rest", length / 1e6)
            return found

        return await self.step(name, work)

    async def do_nap(self, number: int, length: int, _: int) -> None:
        await asyncio.sleep(length / 1e6)

    async def do_sleep(self, number: int, length: int, _: int) -> None:
        await self.step.sleep(f"z{number}", length / 1e6)

    async def do_now(self, number: int, length: int, _: int) -> Any:
        return self.step.now(), self.step.random(), asyncio.get_running_loop().time()

    async def do_progress(self, number: int, length: int, _: int) -> None:
        await self.step.progress(f"at {number}")

    async def do_listen(self, number: int, length: int, which: int) -> Any:
        try:
            return await self.step.listen(f"l{number}", event=f"e{which}", timeout=length / 1e6)
        except TimeoutError:
            return "late"

    async def do_request(self, number: int, length: int, _: int) -> Any:
        try:
            return await self.step.request("data", name=f"r{number}", timeout=length / 1e6)
        except TimeoutError:
            return "late"

    async def do_map(self, number: int, items: int, at_once: int, length: int, other: int) -> Any:
        name = f"m{number}"

        async def work(item: int) -> str:
            return await self.world.work(f"{name}/{item}", length if item % 2 else other, 0, 1)

        return await self.step.map(name, range(items), work, concurrency=at_once)

    # nests

    async def do_seq(self, number: int, _: int, __: int, *children: Node) -> Any:
        return [await self.do(child) for child in children]

    async def do_gather(self, number: int, _: int, __: int, *children: Node) -> Any:
        return await asyncio.gather(*(self.do(child) for child in children))

    async def do_collect(self, number: int, _: int, __: int, *children: Node) -> Any:
        found = await asyncio.gather(*(self.do(child) for child in children), return_exceptions=True)
        return [type(x).__name__ if isinstance(x, BaseException) else x for x in found]

    async def do_wait(self, number: int, length: int, how: int, *children: Node) -> Any:
        tasks = [asyncio.create_task(self.do(child)) for child in children]
        when = [asyncio.FIRST_COMPLETED, asyncio.ALL_COMPLETED, asyncio.FIRST_EXCEPTION][how]
        done, pending = await asyncio.wait(tasks, timeout=length / 1e6, return_when=when)
        self.saw("done", number, [tasks.index(task) for task in done], len(pending))
        for task in pending:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(x).__name__ if isinstance(x, BaseException) else x for x in ends]

    async def do_completed(self, number: int, _: int, __: int, *children: Node) -> Any:
        tasks = [asyncio.create_task(self.do(child)) for child in children]
        found: list[Any] = []
        for first in asyncio.as_completed(tasks):
            try:
                found.append(await first)
            except Exception as error:
                found.append(type(error).__name__)
            self.saw("next", number, repr(found[-1]))
        return found

    async def do_group(self, number: int, _: int, __: int, *children: Node) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.do(child)) for child in children]
        return [task.result() for task in tasks]

    async def do_timeout(self, number: int, length: int, _: int, child: Node) -> Any:
        try:
            async with asyncio.timeout(length / 1e6):
                return await self.do(child)
        except TimeoutError:
            return "timeout"

    async def do_wait_for(self, number: int, length: int, _: int, child: Node) -> Any:
        try:
            return await asyncio.wait_for(self.do(child), length / 1e6)
        except TimeoutError:
            return "timeout"

    async def do_cancel(self, number: int, length: int, _: int, child: Node) -> Any:
        task = asyncio.create_task(self.do(child))
        await asyncio.sleep(length / 1e6)
        task.cancel()
        ends = list[Any](await asyncio.gather(task, return_exceptions=True))
        return type(ends[0]).__name__ if isinstance(ends[0], BaseException) else ends[0]

    async def do_finally(self, number: int, length: int, _: int, child: Node, *cleanup: Node) -> Any:
        try:
            return await self.do(child)
        finally:
            for node in cleanup:
                await self.do(node)

    async def do_try(self, number: int, _: int, __: int, child: Node) -> Any:
        try:
            return await self.do(child)
        except Exception as error:
            return type(error).__name__

    async def do_shield(self, number: int, length: int, _: int, child: Node) -> Any:
        inner = asyncio.ensure_future(self.do(child))
        try:
            return await asyncio.wait_for(asyncio.shield(inner), length / 1e6)
        except TimeoutError:
            return await inner


# ------------------------------------------------------------------------------------------------ running


def make_workflow(program: Node, world: World) -> Any:
    @workflow(name="program", requests={"data": int}, timeout=None)
    async def program_(step: Any) -> Any:
        return repr(await Interpreter(world, step).do(program))

    return program_


class Disturbance:
    """Commands from outside at random commits."""

    def __init__(self, seed: int, host: SimulatedHost, id: str) -> None:
        self.random = Random(seed)
        self.host = host
        self.id = id
        self.paused = 0

    def __call__(self, commits: int) -> None:
        if self.random.random() > 0.35:
            return
        state = self.host.log.state(self.id)
        assert state is not None
        now = self.host.clock.now()
        draw = self.random
        command: Any
        match draw.choice(["send"] * 6 + ["provide"] * 6 + ["pause", "pause", "deadline", "cancel"]):
            case "send":
                command = Send(event=f"e{draw.randrange(3)}", payload=commits)
            case "provide":
                requests = [str(wait.target) for wait in state.waits.values() if wait.kind == "request"]
                command = Provide(id=draw.choice(requests) if requests else "none", data=commits)
            case "pause":
                command = Pause(reason="test")
                self.host.clock.call_at(now + draw.randrange(500 * MILLI), self.resume)
            case "deadline":
                command = SetDeadline(deadline=now + draw.randrange(1, 5_000_000))
            case _:
                if draw.random() > 0.3:
                    return
                command = Cancel(reason="test")
        self.perform(command)

    def resume(self) -> None:
        self.perform(Resume())

    def perform(self, command: Any) -> None:
        state = self.host.log.state(self.id)
        assert state is not None
        decision = decide(state, command, self.host.clock.now())
        if isinstance(decision, list) and decision:
            self.host.log.append(self.id, decision)
            self.host.tell()


async def live(program: Node, seed: int, *, disturbed: bool) -> tuple[list[e.Recorded], World]:
    """Runs a program to its end; its history and what happened."""
    world = World()
    wf = make_workflow(program, world)
    host = world.host = SimulatedHost([wf], seed=seed)
    start = host.engine.calls.start(wf)
    start.run(host.log)
    if disturbed:
        host.interfere = Disturbance(seed, host, start.id)
    await host.run()
    return host.log.history(start.id), world


async def again(program: Node, history: list[e.Recorded], seed: int) -> tuple[list[e.Recorded], World]:
    """Goes on from a history; the history then."""
    world = World()
    wf = make_workflow(program, world)
    host = world.host = SimulatedHost([wf], seed=seed)
    id = history[0].originator_id
    host.clock._now = max(recorded.event.at for recorded in history)
    host.log.load(id, history)
    state = host.log.state(id)
    assert state is not None
    if state.paused:
        host.log.append(id, [e.WorkflowResumed(at=host.clock.now())])
    if state.worker is not None:
        host.begin(id)
    await host.run()
    return host.log.history(id), world


def without_end(history: list[e.Recorded]) -> list[e.Recorded]:
    assert history[-1].event.terminal, history[-1]
    return history[:-1]


def end_of(history: list[e.Recorded]) -> tuple[Any, ...]:
    event = history[-1].event
    error = getattr(event, "error", None)
    return type(event).__name__, getattr(event, "output", None), error and (error["t"], error["m"])


def check_no_difference(history: list[e.Recorded], what: object) -> None:
    for recorded in history:
        if isinstance(recorded.event, e.WorkflowPaused) and recorded.event.held:
            raise AssertionError(f"{what}: {recorded.event.held}: {recorded.event.reason}")


def completed_in(history: list[e.Recorded]) -> set[str]:
    return {r.event.path for r in history if isinstance(r.event, e.StepCompleted)}


def check_replays(program: Node, history: list[e.Recorded], world: World, seed: int, what: object) -> None:
    """The first law."""
    replayed, second = asyncio.run(again(program, without_end(history), seed + 1))
    check_no_difference(replayed, what)
    assert not second.executed, (what, second.executed)
    assert end_of(replayed) == end_of(history), what
    if world.runs:
        assert second.runs[-1].trace == world.runs[-1].trace, what


def check_cut(program: Node, history: list[e.Recorded], at: int, seed: int, what: object) -> None:
    """The second law."""
    resumed, second = asyncio.run(again(program, history[:at], seed + at))
    check_no_difference(resumed, what)
    assert resumed[-1].event.terminal, (what, resumed[-1])
    repeated = {path for path in second.executed if path in completed_in(history[:at])}
    assert not repeated, (what, repeated)
    check_replays(program, resumed, second, seed, (what, "again"))


def program_of(seed: int, *, size: int = 25, depth: int = 5) -> Node:
    return Programs(seed, size).node(depth)


def assert_laws(seeds: range, *, disturbed: bool, cuts: int) -> None:
    for seed in seeds:
        program = program_of(seed)
        what = (seed, disturbed)
        history, world = asyncio.run(live(program, seed, disturbed=disturbed))
        check_no_difference(history, what)
        assert history[-1].event.terminal, (what, history[-1])
        check_replays(program, history, world, seed, what)
        places = list(range(1, len(history)))
        if cuts and len(places) > cuts:
            places = Random(seed).sample(places, cuts)
        for at in places:
            check_cut(program, history, at, seed, (*what, at))


@pytest.mark.parametrize("block", range(8))
def test_undisturbed_programs_take_the_same_path(block: int) -> None:
    assert_laws(range(block * 1000, block * 1000 + 100 * SCALE), disturbed=False, cuts=6)


@pytest.mark.parametrize("block", range(8))
def test_programs_under_commands_from_outside_take_the_same_path(block: int) -> None:
    assert_laws(range(block * 1000 + 500_000, block * 1000 + 500_000 + 100 * SCALE), disturbed=True, cuts=6)


def test_status_of_every_end_is_terminal() -> None:
    history, _ = asyncio.run(live(program_of(1), 1, disturbed=False))
    assert Status.COMPLETED in TERMINAL
    assert isinstance(history[-1].event, e.WorkflowCompleted)


def test_an_execution_is_what_the_simulation_runs() -> None:
    assert Execution.__module__ == "wfes.handler.execution"
