"""G10 as a law: whatever happened, every projection equals its rebuild, row for row.

Random lives of instances on a virtual clock: started, asked, sent to, paused, cancelled, retried, scheduled, archived;
with engines that are closed and opened again, now with the projections, now without them, now with some that were
rebuilt meanwhile. In the end every projection there is (the engine's own; and a user's: following, inline, in a
database of its own) is checked by the engine. On SQLite and, with fewer lives, on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import projected
import pytest
from checks import unlike_rebuilt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import DATABASES, placed, url_of

from wfes import (
    ChildWorkflowError,
    Engine,
    Instance,
    Projection,
    ProjectionEvent,
    Retry,
    Row,
    Rows,
    Schedule,
    Status,
    Step,
    StepError,
    WaitTimeout,
    WfesError,
    Workflow,
    on,
    workflow,
)
from wfes.testing import VirtualClock
from wfes.testing import engine as virtual

SCALE = float(os.environ.get("WFES_TEST_SCALE", "1"))
EXAMPLES = {"sqlite": 12, "postgresql": 3}

Plan = list[Any]


def _work(number: int, attempt: int) -> dict[str, Any]:
    if number % 5 == 0 or number % 3 > attempt:
        raise ValueError(f"{number} ☃")
    return {"number": number, "text": "ä" * number}


async def _live(plan: Plan, step: Step) -> list[Any]:
    found: list[Any] = []
    for kind, number in plan:
        with suppress(StepError, WaitTimeout, ChildWorkflowError):
            match kind:
                case "step":
                    found.append(await step("s", _work, number))
                case "sleep":
                    await step.sleep("z", f"{number}h")
                case "listen":
                    found.append(await step.listen("news", timeout=f"{number}h"))
                case "ask":
                    found.append(await step.request("approval", timeout=f"{number}h"))
                case "child":
                    found.append(
                        await step.execute_workflow("c", second, [["sleep", number], ["step", number]])
                    )
                case "progress":
                    await step.progress(f"at {number}", data=number)
                case "fail":
                    step.fail("as planned")
                case _:
                    step.abort("as planned")
    return found


_RETRY = Retry(max_attempts=3, initial="1m", jitter=False)
first: Workflow[Any, Any] = workflow(
    _live, name="first", retention="2d", requests={"approval": bool}, retry=_RETRY, deadline="20d"
)
second: Workflow[Any, Any] = workflow(
    _live, name="second", requests={"approval": bool}, retry=_RETRY, on="news"
)
ticking: Workflow[Any, Any] = workflow(
    _live,
    name="ticking",
    requests={"approval": bool},
    retry=_RETRY,
    schedule=Schedule("0 */6 * * *", input=[["step", 1], ["sleep", 7]], overlap="queue"),
)
WORKFLOWS: list[Workflow[Any, Any]] = [first, second, ticking]


class Hour(Row, table="hours", key=("workflow", "hour"), indexes=["events"]):
    workflow: str
    hour: int
    events: int = 0


class Hours(Projection):
    """In a database of its own; every event of every stream."""

    name = "hours"
    tables = (Hour,)

    @on()
    def count(self, event: ProjectionEvent, rows: Rows) -> None:
        key = (event.workflow or "", event.at.hour)
        row = rows.get(Hour, *key) or Hour(*key)
        row.events += 1
        rows.put(row)


PLANS = st.lists(
    st.tuples(
        st.sampled_from(("step", "step", "sleep", "listen", "ask", "child", "progress", "fail", "abort")),
        st.integers(1, 30),
    ).map(list),
    min_size=1,
    max_size=5,
)
START = st.tuples(st.just("start"), st.tuples(PLANS, st.sampled_from((None, "a", "b")), st.integers(0, 1)))
OTHER = st.tuples(
    st.sampled_from(
        ("send", "cancel", "retry", "provide", "pause", "resume", "publish", "prune", "set_timeout", "tick")
    ),
    st.integers(0, 40),
)
ADVANCE = st.tuples(st.just("advance"), st.integers(0, 60))
REOPEN = st.tuples(st.sampled_from(("reopen", "rebuild")), st.integers(0, 3))
SCRIPTS = st.lists(st.one_of(START, START, OTHER, OTHER, ADVANCE, REOPEN), min_size=3, max_size=25)


async def do(engine: Engine, what: str, number: Any) -> None:
    """One thing that somebody may ask at any moment; a refusal is as good."""
    if what == "start":
        plan, key, which = number
        await WORKFLOWS[int(which)].start(plan, key=key, tags=["x"] if key else [])
        return
    ids: list[str] = [row.id for row in await engine.instances(limit=50, order="oldest")]
    run: Instance[Any] | None = await engine.get(ids[int(number) % len(ids)]) if ids else None
    match what:
        case "publish":
            await engine.publish("news", [["step", number]], id=str(number))
        case "provide":
            for request in await engine.requests():
                await engine.provide(request.workflow, request, bool(number % 2))
        case "prune":
            await engine.prune(older_than=f"{number}h", actor="the test")
        case "tick":
            match number % 4:
                case 0:
                    await engine.pause_schedule("ticking")
                case 1:
                    await engine.resume_schedule("ticking")
                case _:
                    await engine.trigger_schedule("ticking")
        case _ if run is None:
            pass
        case "send":
            await run.send("news", number)
        case "cancel":
            await run.cancel("enough")
        case "retry" if run.status in (Status.FAILED, Status.TIMED_OUT):
            await run.retry()
        case "pause":
            await run.pause()
        case "resume":
            await run.resume()
        case "set_timeout":
            await run.set_timeout(f"{number + 1}h")
        case _:
            pass


async def live_and_check(folder: Path, script: Sequence[tuple[str, Any]]) -> list[str]:
    """Runs a script on a log, and returns what is wrong in the end."""
    url, clock = url_of(folder), VirtualClock()
    beside = f"sqlite:///{folder}/hours.db" if url.startswith("sqlite") else f"{url}&schema=hours"
    everything: list[Any] = [*projected.ALL, Hours(url=beside)]
    given = everything
    rest = list(script)
    while True:
        async with virtual(WORKFLOWS, url=url, clock=clock, projections=given) as env:
            while rest:
                what, number = rest.pop(0)
                if what == "reopen":
                    given = [[], everything, everything[:1], everything[1:]][number]
                    break
                with suppress(WfesError):
                    if what == "advance":
                        await env.advance(f"{number}h")
                    elif what == "rebuild":
                        names: list[str] = [status.name for status in await env.engine.projections()]
                        await env.engine.rebuild_projection(names[int(number) * 5 % len(names)])
                    else:
                        await do(env.engine, what, number)
            else:
                await env.settle()
                break
    async with virtual(WORKFLOWS, url=url, clock=clock, projections=everything, worker=False) as env:
        return await unlike_rebuilt(env.engine)


@pytest.mark.timeout(60 + 60 * SCALE)
@pytest.mark.parametrize("database", DATABASES)
def test_rebuilt_equals_live(database: str) -> None:
    @settings(
        max_examples=int(EXAMPLES[database] * SCALE) or 1,
        deadline=None,
        derandomize=SCALE == 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(SCRIPTS)
    def law(script: list[tuple[str, Any]]) -> None:
        with tempfile.TemporaryDirectory() as name, placed(Path(name), database) as folder:
            assert asyncio.run(live_and_check(folder, script)) == []

    logging.disable(logging.CRITICAL)
    try:
        law()
    finally:
        logging.disable(logging.NOTSET)
