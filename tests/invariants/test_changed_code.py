"""Changed code over random programs: instances that began with old code go on with new code, and replay for ever.

A program is a random nest; its new version is the same one with every kind of allowed change in it: steps and waits
renamed with `was=`, new branches behind `step.patched`, steps added at the end. Laws, for every program, wherever its
run with the old code was cut off:

* the new code goes on with it to its end, never held, and calls no step again that is recorded;
* whatever that left behind replays: run again with the new code it is the same to the end, and what handlers see is
  the same; cut off once more, anywhere, it goes on to its end with the new code as well;
* a change that is none of these is found where the history has the first event of what was changed.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from random import Random
from typing import Any

from wfes import Step, workflow
from wfes.core import events as e
from wfes.runtime.values import Values
from wfes.simulation import SimulatedHost
from wfes.timetravel.replay import replay

SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))
Node = tuple[Any, ...]


def make_program(seed: int) -> Node:
    """A nest of at most 12 nodes; each has a number, a kind, a length in microseconds, and what changes at it."""
    draw = Random(seed)
    numbers = iter(range(1, 1_000))

    def node(depth: int) -> Node:
        kinds = ["step"] * 3 + ["map", "sleep", "listen", "request", "outer", "progress", "fails"]
        if depth:
            kinds += ["seq", "gather", "race", "loop"] * 3
        kind = "seq" if depth == 3 else draw.choice(kinds)
        width = draw.randrange(1, 4) if kind in ("seq", "gather", "race", "loop") else 0
        change = draw.choice(["none", "none", "was", "was", "patch", "patch", "both"])
        length = draw.choice([0, 1, 1, 5, 20, 900]) * 1_000
        return (kind, next(numbers), length, change, *[node(depth - 1) for _ in range(width)])

    return node(3)


class World:
    """What the handlers of one run share."""

    def __init__(self) -> None:
        self.traces: list[list[Any]] = []
        self.called: Counter[str] = Counter()
        self.host: SimulatedHost | None = None

    async def work(self, name: str, length: int) -> str:
        self.called[name] += 1
        assert self.host is not None
        if length:
            done = asyncio.Event()
            self.host.clock.call_at(self.host.clock.now() + length, done.set)
            await done.wait()
        return name


class Run:
    """One run of a handler: old code or new code."""

    def __init__(self, world: World, step: Step, *, new: bool, renamed: int = 0) -> None:
        self.renamed = renamed
        self.world = world
        self.step = step
        self.new = new
        self.trace: list[Any] = []
        world.traces.append(self.trace)

    async def do(self, node: Node) -> Any:
        kind, number, length, change, *children = node
        new = self.new and change in ("was", "both")
        name, was = (f"new {number}", f"old {number}") if new else (f"old {number}", None)
        if number == self.renamed:
            name = "another name"
        self.trace.append((number, "begin"))
        if self.new and change in ("patch", "both"):
            patched = self.step.patched(f"change {number}")
            self.trace.append((number, "patched", patched))
            if patched:
                await self.step(f"extra {number}", self.world.work, f"extra {number}", length)
        try:
            found = await self.kind(kind, name, was, number, length, children)
        except Exception as error:
            found = type(error).__name__
        self.trace.append((number, repr(found)))
        return found

    async def kind(
        self, kind: str, name: str, was: str | None, number: int, length: int, children: list[Node]
    ) -> Any:
        step, work = self.step, self.world.work
        match kind:
            case "step":
                return await step(name, work, f"{kind} {number}", length, was=was)
            case "fails":
                return await step(name, refuse, max_attempts=2, was=was)
            case "map":
                items = [f"{number} item {i}" for i in range(number % 4)]

                async def one(item: str) -> str:
                    return await work(item, length)

                return await step.map(name, items, one, concurrency=2, was=was)
            case "sleep":
                return await step.sleep(name, length / 1e6, was=was)
            case "listen":
                return await step.listen(name, event="e", timeout=length / 1e6, was=was)
            case "request":
                return await step.request("data", name=name, timeout=length / 1e6, was=was)
            case "progress":
                return await step.progress(f"at {number}")
            case "outer":
                return await step(name, self.outer, number, length, was=was)
            case "seq":
                return [await self.do(child) for child in children]
            case "loop":
                return [await self.do(child) for _ in range(2) for child in children]
            case "gather":
                return await asyncio.gather(*(self.do(child) for child in children))
            case _:
                try:
                    async with asyncio.timeout(length / 1e6):
                        return [await self.do(child) for child in children]
                except TimeoutError:
                    return "late"

    async def outer(self, number: int, length: int) -> list[str]:
        """The function of a step with steps inside, which change as well."""
        step, work = self.step, self.world.work
        found = [await step("in", work, f"in {number}", length)]
        if self.new and step.patched("inside"):
            found.append(await step("extra", work, f"extra in {number}", length))
        was = "pause" if self.new else None
        await step.sleep("rest" if self.new else "pause", length / 1e6, was=was)
        found.append(await step("second", work, f"second {number}", length))
        return found


def refuse() -> None:
    raise LookupError("no")


def made(program: Node, world: World, *, new: bool, renamed: int = 0) -> Any:
    @workflow(name="program", requests={"data": int}, timeout=None)
    async def handler(step: Step) -> Any:
        run = Run(world, step, new=new, renamed=renamed)
        found = [await run.do(program)]
        if new:
            found.append(await step("added", world.work, "added", 1_000))
        return repr(found)

    return handler


async def go(program: Node, history: list[e.Recorded], seed: int, *, new: bool) -> tuple[Any, World]:
    """Runs a program from a history, or from its start, to its end; the history then."""
    world = World()
    wf = made(program, world, new=new)
    host = world.host = SimulatedHost([wf], seed=seed)
    if history:
        id = history[0].originator_id
        host.clock._now = max(recorded.event.at for recorded in history)
        host.log.load(id, history)
        state = host.log.state(id)
        assert state is not None
        if state.worker is not None:
            host.begin(id)
    else:
        start = host.engine.calls.start(wf)
        start.run(host.log)
        id = start.id
    await host.run()
    return host.log.history(id), world


def check_goes_on(program: Node, history: list[e.Recorded], seed: int, what: object) -> list[e.Recorded]:
    """The first law, for a history that was cut off; the history it becomes."""
    done = {r.event.path for r in history if isinstance(r.event, e.StepCompleted)}
    grown, _ = asyncio.run(go(program, history, seed, new=True))
    for recorded in grown:
        event = recorded.event
        assert not (isinstance(event, e.WorkflowPaused) and event.held), (what, event.reason)
    assert grown[-1].event.terminal, what
    again = [r.event.path for r in grown[len(history) :] if isinstance(r.event, e.StepStarted)]
    assert not done & set(again), what
    return list(grown)


def check_replays(program: Node, history: list[e.Recorded], trace: list[Any] | None, what: object) -> None:
    world = World()
    report = replay(made(program, world, new=True), history, Values(lambda _: None))
    assert report.ok, (what, str(report))
    assert report.complete, (what, str(report))
    assert not world.called, what
    if trace is not None:
        assert world.traces[-1] == trace, what


def check(seed: int, cuts: int) -> None:
    program = make_program(seed)
    draw = Random(seed)
    old, _ = asyncio.run(go(program, [], seed, new=False))
    assert old[-1].event.terminal
    for cut in sorted(draw.sample(range(1, len(old)), min(cuts, len(old) - 1))):
        what = seed, cut
        grown = check_goes_on(program, old[:cut], seed + 1, what)
        check_replays(program, grown, None, what)
        again = draw.randrange(cut, len(grown))
        regrown = check_goes_on(program, grown[:again], seed + 2, (*what, again))
        check_replays(program, regrown, None, (*what, again))


def test_old_instances_go_on_with_changed_code_and_replay_for_ever() -> None:
    for seed in range(60 * SCALE):
        check(seed, 4)


def test_new_instances_have_every_change_and_the_new_names() -> None:
    for seed in range(40 * SCALE):
        program = make_program(1_000 + seed)
        history, world = asyncio.run(go(program, [], seed, new=True))
        assert all(r.event.new for r in history if isinstance(r.event, e.PatchDecided))
        check_replays(program, history, world.traces[-1] if len(world.traces) == 1 else None, seed)


def test_a_change_that_is_not_allowed_is_found_where_it_is() -> None:
    """A step or wait under another name, without `was=`: the first difference is its first event."""
    found = 0
    for seed in range(60 * SCALE):
        program = make_program(2_000 + seed)
        history, _ = asyncio.run(go(program, [], seed, new=False))
        for number in numbers_of(program):
            world = World()
            wf = made(program, world, new=False, renamed=number)
            report = replay(wf, history, Values(lambda _: None))
            name = f"old {number}"
            versions = [r.originator_version for r in history if top_of(r.event) == name]
            assert not world.called
            if not versions:
                assert report.complete, (seed, number, str(report))
                continue
            found += 1
            assert report.difference is not None, (seed, number)
            assert report.difference.version == versions[0], (seed, number, str(report))
            assert report.difference.path is not None
            assert report.difference.path.partition("/")[0] == name
    assert found > 100 * SCALE


def numbers_of(node: Node) -> list[int]:
    kind, number, _, _, *children = node
    named = kind not in ("seq", "gather", "race", "loop", "progress")
    return ([number] if named else []) + [found for child in children for found in numbers_of(child)]


def top_of(event: e.Event) -> str:
    """The name of what the handler itself asked for, without the number of its use."""
    path: str = getattr(event, "path", "") or ""
    return path.partition("/")[0].partition("#")[0]
