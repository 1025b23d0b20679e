"""G4 over deep programs: chains of tasks up to 200 deep take the same path live, disturbed, and cut off anywhere."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from wfes import workflow
from wfes.core import events as e
from wfes.core.decide import Cancel, Pause, Resume, decide
from wfes.simulation import SimulatedHost

SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))
DEEPEST = 200
Branch = Callable[[], Awaitable[Any]]


class Chain:
    """One random chain: at each level a construct around the next level and perhaps a step beside it."""

    def __init__(self, seed: int) -> None:
        draw = Random(seed)
        self.depth = draw.choice([5, 20, 60, DEEPEST])
        kinds = ["gather", "group", "wait_for", "timeout", "wait", "shield", "finally", "plain"]
        self.levels = [
            (draw.choice(kinds), draw.random() < 0.2, draw.choice([0.01, 0.5, 5, 3600, 3600]))
            for _ in range(self.depth)
        ]
        self.length = draw.choice([0, 0.2, 3, 100])


async def run_chain(chain: Chain, level: int, step: Any, trace: list[Any], host: SimulatedHost) -> Any:
    if level == chain.depth:
        await step.sleep("bottom", chain.length)
        return await step("last", lambda: "bottom")
    kind, beside, limit = chain.levels[level]

    async def below() -> Any:
        return await run_chain(chain, level + 1, step, trace, host)

    async def aside() -> Any:
        return await step(f"s{level}", lambda: level)

    try:
        value = await _around(kind, below, aside if beside else None, limit)
    except BaseException as error:
        trace.append((level, kind, type(error).__name__))
        raise
    trace.append((level, kind, repr(value)))
    return value


async def _around(kind: str, below: Branch, aside: Branch | None, limit: float) -> Any:
    async def both() -> Any:
        if aside is None:
            return await below()
        return (await asyncio.gather(below(), aside()))[0]

    match kind:
        case "gather":
            return (await asyncio.gather(both()))[0]
        case "group":
            async with asyncio.TaskGroup() as group:
                task = group.create_task(_task(both))
            return task.result()
        case "wait_for":
            try:
                return await asyncio.wait_for(both(), limit)
            except TimeoutError:
                return "late"
        case "timeout":
            try:
                async with asyncio.timeout(limit):
                    return await both()
            except TimeoutError:
                return "late"
        case "wait":
            inner: asyncio.Task[Any] = asyncio.ensure_future(_task(both))
            _, pending = await asyncio.wait([inner], timeout=limit)
            for one in pending:
                one.cancel()
            end: Any = (await asyncio.gather(inner, return_exceptions=True))[0]
            return type(end).__name__ if isinstance(end, BaseException) else end
        case "shield":
            return await asyncio.shield(_task(both))
        case "finally":
            try:
                return await both()
            finally:
                await asyncio.sleep(0)
        case _:
            return await both()


async def _task(branch: Branch) -> Any:
    return await branch()


Outcome = tuple[list[e.Recorded], list[Any]]


async def play(
    chain: Chain, seed: int, history: list[e.Recorded] | None, *, disturbed: bool = False
) -> Outcome:
    """Runs the chain, from the start or from a history; the history then and what the last run saw."""
    runs: list[list[Any]] = []

    @workflow(name="chain", timeout=None)
    async def wf(step: Any) -> str:
        runs.append([])
        return repr(await run_chain(chain, 0, step, runs[-1], host))

    host = SimulatedHost([wf], seed=seed)
    if history is None:
        start = host.engine.calls.start(wf)
        start.run(host.log)
        id = start.id
    else:
        id = history[0].originator_id
        host.clock._now = max(r.event.at for r in history)
        host.log.load(id, history)
        state = host.log.state(id)
        assert state is not None
        if state.paused:
            host.log.append(id, [e.WorkflowResumed(at=host.clock.now())])
        if state.worker is not None:
            host.begin(id)
    if disturbed:
        draw = Random(seed)

        def interfere(_: int) -> None:
            state = host.log.state(id)
            assert state is not None
            if state.ended is None and draw.random() < 0.3:
                command: Any = draw.choice([Pause(), Pause(), Cancel()])
                host.log.append(id, decide(state, command, host.clock.now()))  # type: ignore[arg-type]
                host.clock.call_at(host.clock.now() + 400_000, resume)

        def resume() -> None:
            state = host.log.state(id)
            assert state is not None
            if state.paused:
                host.log.append(id, decide(state, Resume(), host.clock.now()))  # type: ignore[arg-type]
                host.tell()

        host.interfere = interfere
    await host.run(turns_max=400_000)
    return host.log.history(id), runs[-1] if runs else []


def check(seed: int, *, disturbed: bool) -> None:
    chain = Chain(seed)
    history, trace = asyncio.run(play(chain, seed, None, disturbed=disturbed))
    assert history[-1].event.terminal, (seed, history[-1])
    held = [r.event for r in history if isinstance(r.event, e.WorkflowPaused) and r.event.held]
    assert not held, (seed, held)
    again, second = asyncio.run(play(chain, seed + 1, history[:-1]))
    assert type(again[-1].event) is type(history[-1].event), seed
    assert not [r for r in again[len(history) :] if isinstance(r.event, e.WorkflowPaused)], seed
    if trace and isinstance(history[-1].event, e.WorkflowCompleted):
        assert second == trace, seed
        assert again[-1].event.output == history[-1].event.output  # type: ignore[attr-defined]
    draw = Random(seed)
    for _ in range(4):
        cut = draw.randrange(1, len(history))
        resumed, _ = asyncio.run(play(chain, seed + cut, history[:cut]))
        assert resumed[-1].event.terminal, (seed, cut, resumed[-1])
        held = [r.event for r in resumed if isinstance(r.event, e.WorkflowPaused) and r.event.held]
        assert not held, (seed, cut, held)


@pytest.mark.parametrize("disturbed", [False, True], ids=["undisturbed", "disturbed"])
@pytest.mark.parametrize("block", range(4))
def test_deep_chains_take_the_same_path(block: int, disturbed: bool) -> None:
    for seed in range(block * 1_000, block * 1_000 + 12 * SCALE):
        check(seed, disturbed=disturbed)
