"""Logs of random families of instances, made without a database: everything a handler can do, disturbed and cut off.

What a run leaves behind is an ordinary log; the same seed gives the same one.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from wfes import ChildWorkflowError, InstanceEnded, Retry, Step, StepError, WaitTimeout, Workflow, workflow
from wfes.core import decide as d
from wfes.core import events as e
from wfes.core.evolve import fold
from wfes.simulation import SimulatedHost

SECOND = 1_000_000
Plan = list[list[Any]]
KINDS = (
    *("step", "step", "step", "flaky", "flaky", "fails", "outer", "outer", "map", "sleep", "nap"),
    *("listen", "listen", "request", "progress", "send", "race", "race", "wait", "dies"),
)


class _World:
    """What the workflows of one run share: how long a step's function takes is drawn from the plan."""

    host: SimulatedHost | None = None

    async def work(self, seconds: float, fails: int, attempt: int) -> int:
        host = self.host
        assert host is not None
        if seconds:
            done = asyncio.Event()
            host.clock.call_at(host.clock.now() + round(seconds * SECOND), done.set)
            await done.wait()
        if attempt <= fails:
            raise ConnectionError(f"attempt {attempt}")
        return attempt


def _item_key(item: int) -> str:
    return f"item {item}"


def _workflows(world: _World) -> list[Workflow[Any, Any]]:
    children: list[Workflow[Any, Any]] = []
    quick = Retry(max_attempts=3, initial="700ms", jitter=False)

    class Part:
        """One part of a plan, in a handler."""

        def __init__(self, step: Step, me: str, parent: str | None) -> None:
            self.step = step
            self.me = me
            self.parent = parent

        async def work(self, name: str, seconds: float, fails: int) -> Any:
            async def call(attempt: int) -> int:
                return await world.work(seconds, fails, attempt)

            try:
                return await self.step(name, call, retry=quick)
            except StepError:
                return "failed"

        async def do(self, part: list[Any]) -> Any:
            kind, number, seconds, rest = part
            step = self.step
            if number % 2:
                await asyncio.sleep(seconds / 2)
            match kind:
                case "step" | "flaky" | "fails":
                    return await self.work(kind, seconds, {"step": 0, "flaky": number % 3, "fails": 3}[kind])
                case "outer":
                    return await self.outer(number, seconds)
                case "map":
                    key = _item_key if number % 2 else None
                    call = self.item(seconds, number)
                    return await step.map("m", range(number % 5), call, key=key, retry=quick, concurrency=2)
                case "sleep":
                    await step.sleep("z", seconds)
                case "nap":
                    await asyncio.sleep(seconds)
                case "progress":
                    await step.progress(f"at {number}", percent=number % 100, data={"n": number})
                case "race":
                    try:
                        async with asyncio.timeout(seconds):
                            return await self.do(["flaky", 2, seconds / 2, []])
                    except TimeoutError:
                        return "late"
                case "dies":
                    if number % 9 == 0:
                        step.fail("as planned")
                case "child":
                    try:
                        limit = 2 if number % 3 == 0 else None
                        other: Workflow[Any, Any] = children[int(number) % 2]
                        return await step.execute_workflow("c", other, [self.me, *rest], timeout=limit)
                    except (ChildWorkflowError, WaitTimeout) as error:
                        return type(error).__name__
                case _:
                    return await self.wait(kind, number, seconds)
            return None

        def item(self, seconds: float, number: int) -> Any:
            async def call(item: int, attempt: int) -> int:
                return await world.work(seconds, (item + number) % 3, attempt)

            return call

        async def outer(self, number: int, seconds: float) -> Any:
            async def body(attempt: int) -> int:
                inner = [self.work("in", seconds, number % 2), self.step.sleep("z", seconds)]
                if number % 3 == 0:
                    inner.append(self.wait("listen", number, seconds))
                await asyncio.gather(*inner)
                return await world.work(0, number % 2, attempt)

            try:
                return await self.step("outer", body, retry=quick, timeout=4 if number % 5 == 0 else None)
            except StepError:
                return "failed"

        async def wait(self, kind: str, number: int, seconds: float) -> Any:
            step = self.step
            limit = seconds + 1 if number % 4 else None
            try:
                match kind:
                    case "listen":
                        return await step.listen("l", event=f"e{number % 2}", timeout=limit or 60)
                    case "request":
                        return await step.request("data", name="r", timeout=limit or 60)
                    case "send":
                        if self.parent is not None:
                            return await step.send("t", self.parent, f"e{number % 3}", number)
                    case _:
                        if self.parent is not None:
                            outcome = await step.wait_for_workflow("w", self.parent, timeout=limit or 60)
                            return str(outcome.status)
            except (WaitTimeout, InstanceEnded) as error:
                return type(error).__name__
            return None

    async def run(plan: list[Any], step: Step, me: str) -> list[Any]:
        parent, *rest = plan
        parts = [Part(step, me, parent).do(part) for part in rest]
        return [str(found) for found in await asyncio.gather(*parts)]

    @workflow(requests={"data": int}, timeout=None)
    async def member(plan: list[Any], step: Step, workflow: Any) -> list[Any]:
        """Does what its plan says."""
        return await run(plan, step, workflow.id)

    @workflow(requests={"data": int}, timeout=None, deadline="20s")
    async def bounded(plan: list[Any], step: Step, workflow: Any) -> list[Any]:
        """The same, with a bound on its life."""
        return await run(plan, step, workflow.id)

    children += [member, bounded]
    return children


def _plan(draw: Random, depth: int, numbers: list[int]) -> Plan:
    parts: Plan = []
    for _ in range(draw.randrange(2, 8)):
        numbers[0] += 1
        number = numbers[0]
        kind = draw.choice(KINDS + ("child",) * (4 if depth else 0))
        rest = _plan(draw, depth - 1, numbers) if kind == "child" else []
        parts.append([kind, number, draw.choice([0, 0, 0.001, 0.3, 2, 9]), rest])
    return parts


class _Crowd(SimulatedHost):
    """A host that remembers after how many events each transaction ended."""

    def __init__(self, world: _World, seed: int) -> None:
        super().__init__(_workflows(world), seed=seed)
        world.host = self
        self.boundaries: set[int] = set()

    def _pump(self) -> None:
        super()._pump()
        self.boundaries.add(len(self.log.committed))


def _disturb(host: _Crowd, seed: int) -> None:
    draw = Random(seed)

    def perform(id: str, command: Any) -> None:
        state = host.log.state(id)
        assert state is not None
        decision = d.decide(state, command, host.clock.now())
        if isinstance(decision, list) and decision:
            host.log.append(id, decision)
            host.tell()

    def interfere(_: int) -> None:
        if draw.random() > 0.35:
            return
        id = draw.choice([stream for stream in host.log.streams if not stream.startswith("$")])
        state = host.log.state(id)
        assert state is not None
        requests = [str(wait.target) for wait in state.waits.values() if wait.kind == "request"]
        now = host.clock.now()
        commands: list[Any] = [
            *[d.Send(event=f"e{draw.randrange(3)}", payload=0)] * 8,
            *[d.Pause()] * 3,
            d.Cancel(),
            d.SetDeadline(deadline=now + draw.randrange(1, 5 * SECOND)),
            *[d.Provide(id=request, data=1) for request in requests] * 3,
        ]
        if state.ended is not None:
            commands = [d.Retry(), d.Retry(lifetime=5 * SECOND)]
        command = draw.choice(commands)
        perform(id, command)
        if isinstance(command, d.Pause):
            host.clock.call_at(now + draw.randrange(3 * SECOND), lambda: perform(id, d.Resume()))

    host.interfere = interfere


async def _run(seed: int, committed: list[e.Recorded], *, disturbed: bool) -> _Crowd:
    draw = Random(seed)
    host = _Crowd(_World(), seed)
    log = host.log
    if not committed:
        numbers = [seed]
        for number in range(2):
            name = draw.choice(["member", "bounded"])
            delay = draw.choice([None, "3s"])
            host.engine.calls.start(name, [None, *_plan(draw, 2, numbers)], id=f"i{number}", delay=delay).run(
                log
            )
    for recorded in committed:
        host.clock._now = max(host.clock._now, recorded.event.at)
        log.streams.setdefault(recorded.originator_id, []).append(recorded)
        log.committed.append(recorded)
    log._position = host._told = len(log.committed)
    for stream, history in log.streams.items():
        if not stream.startswith("$"):
            log._states[stream] = fold(stream, history)
    for id, state in list(log._states.items()):
        if state.paused:
            log.append(id, [e.WorkflowResumed(at=host.clock.now())])
        if state.worker is not None:
            host.begin(id)
    if disturbed:
        _disturb(host, seed)
    await host.run(turns_max=400_000)
    return host


def random_log(seed: int) -> list[e.Recorded]:
    """A log in which two instances and their children live, are disturbed, cut off twice, and gone on with."""
    host = asyncio.run(_run(seed, [], disturbed=seed % 3 > 0))
    for number in range(2):
        boundaries = sorted(at for at in host.boundaries if at)
        if not boundaries:
            break
        cut = Random(seed + number).choice(boundaries)
        host = asyncio.run(_run(seed + number, host.log.committed[:cut], disturbed=seed % 3 > 0))
    return list(host.log.committed)
