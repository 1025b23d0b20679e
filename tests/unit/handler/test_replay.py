"""Replays of histories that other code wrote (G11), and handlers that never come to rest."""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from wfes import Step, workflow
from wfes.core import events as e
from wfes.core.decide import Cancel, Resume
from wfes.simulation import START

SECOND = 1_000_000
Handler = Callable[[Step], Any]


def made(handler: Any) -> Any:
    return workflow(name="wf")(handler)


async def recorded(step: Step) -> str:
    await step("a", lambda: 1)
    await step.sleep("z", 10)
    await step("b", lambda: 1)
    return "old"


async def other_kind(step: Step) -> str:
    await step.sleep("a", 1)
    return "new"


async def missing(step: Step) -> str:
    await step("a", lambda: 1)
    await step("b", lambda: 1)
    return "new"


async def extra(step: Step) -> str:
    await step("x", lambda: 1)
    return await recorded(step)


async def renamed(step: Step) -> str:
    await step("a2", lambda: 1)
    return "new"


async def early(step: Step) -> str:
    await step("a", lambda: 1)
    return "new"


async def raising(step: Step) -> str:
    raise ValueError("broken")


CHANGED = [
    (other_kind, "'a'", "sleep"),
    (missing, "'z'", "'b'"),
    (extra, "'a'", "'x'"),
    (renamed, "'a'", "'a2'"),
    (early, "'z'", "ends"),
    (raising, "'a'", "broken"),
]


@pytest.mark.parametrize(("changed", "path", "now"), CHANGED)
def test_changed_code_is_held_with_a_readable_report_and_goes_on_once_mended(
    make_sim: Any, changed: Any, path: str, now: str
) -> None:
    old, new = made(recorded), made(changed)

    async def main() -> None:
        sim = make_sim(old)
        id = sim.start(old)
        await sim.run()
        last = next(n for n, r in enumerate(sim.log.committed) if isinstance(r.event, e.SleepEnded))
        broken = sim.cut(last, new)
        before = len(broken.log.history(id))
        await broken.run()
        state = broken.state(id)
        assert str(state.status) == "paused"
        assert state.held == "difference"
        report = state.pause_reason
        assert path in report
        assert now in report
        assert re.search(r"version \d+ of the history", report), report
        assert re.search(r"test_replay\.py:\d+", report), report
        written = [type(r.event) for r in broken.log.history(id)[before:]]
        assert set(written) <= {e.RunClaimed, e.RunReleased, e.WorkflowPaused}
        again = broken.cut(len(broken.log.committed), new)
        again.do(id, Resume())
        await again.run()
        assert again.state(id).held == "difference"
        mended = broken.cut(len(broken.log.committed), old)
        mended.do(id, Resume())
        await mended.run()
        assert mended.output(id) == "old"
        given_up = broken.cut(len(broken.log.committed), new)
        given_up.do(id, Cancel())
        await given_up.run()
        assert str(given_up.state(id).status) == "cancelled"

    asyncio.run(main())


def test_code_that_goes_on_after_all_that_is_recorded_may_change(make_sim: Any) -> None:
    async def longer(step: Step) -> str:
        await step("a", lambda: 1)
        both = asyncio.gather(step.sleep("z", 10), step("beside", lambda: 1))
        await both
        await step("c", lambda: 1)
        return "new"

    old, new = made(recorded), made(longer)

    async def main() -> None:
        sim = make_sim(old)
        id = sim.start(old)
        await sim.run()
        last = next(n for n, r in enumerate(sim.log.committed) if isinstance(r.event, e.SleepEnded))
        other = sim.cut(last, new)
        await other.run()
        assert other.output(id) == "new"

    asyncio.run(main())


def test_a_handler_that_never_settles_is_held(make_sim: Any) -> None:
    async def spins(step: Step) -> None:
        await step("a", lambda: 1)
        while True:
            await asyncio.sleep(0)

    wf = made(spins)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        state = sim.state(id)
        assert state.held == "unsettled"
        assert "loop" in state.pause_reason
        sim.do(id, Cancel())
        await sim.run()
        assert str(sim.state(id).status) == "cancelled"
        mended = sim.cut(
            next(n for n, r in enumerate(sim.log.committed) if type(r.event) is e.CancelRequested), good
        )
        mended.do(id, Resume())
        await mended.run()
        assert mended.output(id) == 5

    async def fixed(step: Step) -> int:
        await step("a", lambda: 1)
        return 5

    good = made(fixed)
    asyncio.run(main())


def test_a_handler_that_waits_for_nothing_but_itself_is_held_after_ten_seconds(make_sim: Any) -> None:
    async def stuck(step: Step) -> None:
        await step("a", lambda: 1)
        await asyncio.Event().wait()

    wf = made(stuck)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        state = sim.state(id)
        assert state.held == "deadlock"
        assert sim.now == START + 10 * SECOND
        assert "test_replay.py" in state.pause_reason
        sim.do(id, Resume())
        await sim.run()
        assert sim.state(id).held == "deadlock"
        assert sim.now == START + 20 * SECOND

    asyncio.run(main())


def test_inner_steps_of_another_kind_are_held_too(make_sim: Any) -> None:
    def handler(kind: str) -> Any:
        async def wf(step: Step) -> str:
            async def outer() -> str:
                if kind == "sleep":
                    await step.sleep("in", "1h")
                else:
                    await step.listen("in", timeout="1h")
                return "done"

            return await step("outer", outer)

        return made(wf)

    async def main() -> None:
        old, new = handler("sleep"), handler("listen")
        sim = make_sim(old)
        id = sim.start(old)
        await sim.run()
        n = next(n for n, r in enumerate(sim.log.committed) if isinstance(r.event, e.SleepEnded))
        other = sim.cut(n, new)
        await other.run()
        state = other.state(id)
        assert state.held == "difference"
        assert "'outer/in'" in state.pause_reason
        mended = other.cut(len(other.log.committed), old)
        mended.do(id, Resume())
        await mended.run()
        assert mended.output(id) == "done"

    asyncio.run(main())


def test_a_replay_runs_no_step_and_ends_the_same(make_sim: Any) -> None:
    runs: Any = []

    async def handler(step: Step) -> list[Any]:
        found = [await step("a", lambda: runs.append("a") or 1)]
        found += await step.map("m", range(3), lambda k: runs.append(f"m{k}") or k)
        try:
            await step("bad", lambda: runs.append("bad") or 1 / 0, max_attempts=2)
        except Exception as error:
            found.append(str(error))
        return found

    wf = made(handler)

    async def main() -> None:
        sim = make_sim(wf)
        id = sim.start(wf)
        await sim.run()
        runs.clear()
        again = sim.cut(len(sim.log.committed) - 1)
        await again.run()
        assert not runs
        assert again.output(id) == sim.output(id)
        written = again.types(id)[len(sim.types(id)) - 1 :]
        assert written == ["RunClaimed", "WorkflowCompleted"]

    asyncio.run(main())
