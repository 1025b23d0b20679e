"""What an engine tells of its instances as a whole: timers, inboxes, progress, statistics, activity."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from wfes import Engine, Event, Retry, Step, WaitTimeout, WorkflowCancelled, WorkflowFailed, testing, workflow
from wfes.testing import Environment
from wfes_projections import Activity, Inbox, Progress, Statistics, Timers

HOUR = timedelta(hours=1)


def run(scenario: Callable[[Environment], Awaitable[None]], *workflows: Any, **options: Any) -> None:
    async def main() -> None:
        async with testing.engine(workflows, **options) as env:
            await scenario(env)

    asyncio.run(main())


async def now(engine: Engine) -> int:
    return await engine.position()


@workflow
async def sleeper(step: Step) -> None:
    await step.sleep("z", "2h")


@workflow(deadline="3h", requests={"data": int})
async def waiter(step: Step) -> str:
    try:
        await asyncio.gather(
            step.listen("news", timeout="1h"), step.request("data", timeout="2h"), asyncio.sleep(900)
        )
    except WaitTimeout:
        return "silence"
    return "heard"


def fail_twice(attempt: int) -> None:
    if attempt < 3:
        raise ConnectionError("not yet")


@workflow(retry=Retry(max_attempts=3, initial="10m", max="10m", factor=1, jitter=False))
async def stubborn(step: Step) -> None:
    await step("dial", fail_twice)


@workflow
async def parent(step: Step) -> None:
    await step.execute_workflow("child", sleeper, timeout="5h")
    await step.wait_for_workflow("other", "i-other", timeout="7h")


# ------------------------------------------------------------------------------------------------ timers


def test_timers_show_every_kind_until_it_is_over() -> None:
    async def scenario(env: Environment) -> None:
        engine, start = env.engine, env.clock.time
        await sleeper.start(id="i-sleep")
        await waiter.start(id="i-wait")
        await stubborn.start(id="i-retry")
        await sleeper.start(id="i-later", delay="4h")
        await parent.start(id="i-parent")
        await env.settle()
        # What stays in memory has its plain timers there; they are kept when it leaves.
        await env.advance("1m")
        page = await engine.timers(at_least=await now(engine))
        dues = sorted((each.kind, each.path, (each.due - start) / HOUR) for each in page if each.path)
        assert dues == [
            ("child", "child", 5),
            ("listen", "news", 1),
            ("request", "data", 2),
            ("retry", "dial", 1 / 6),
            ("sleep", "z", 2),
            ("sleep", "z", 2),
        ]
        others = {(each.kind, each.instance, (each.due - start) / HOUR) for each in page if not each.path}
        assert others == {
            ("deadline", "i-wait", 3),
            ("start", "i-later", 4),
            ("timer", "i-wait", 0.25),
        }
        assert [each.due for each in page] == sorted(each.due for each in page)
        await env.advance("1h")
        page = await engine.timers(at_least=await now(engine))
        assert sorted((each.workflow, each.kind) for each in page) == [
            ("parent", "child"),
            ("sleeper", "sleep"),
            ("sleeper", "sleep"),
            ("sleeper", "start"),
        ]
        await env.advance("20h")
        assert (await engine.timers(at_least=await now(engine))).items == []

    run(scenario, sleeper, waiter, stubborn, parent)


def test_timers_are_filtered_and_paged() -> None:
    async def scenario(env: Environment) -> None:
        engine, start = env.engine, env.clock.time
        for number in range(5):
            await sleeper.start(id=f"i-{number}")
            await env.advance("10m")
        await waiter.start(id="i-wait")
        await env.settle()
        position = await now(engine)
        first = await engine.timers(sleeper, limit=3, at_least=position)
        assert [each.instance for each in first] == ["i-0", "i-1", "i-2"]
        # What comes and goes between two pages neither hides nor doubles a row.
        await (await engine.get("i-1")).cancel()
        await sleeper.start(id="i-5")
        rest = await engine.timers(sleeper, limit=3, cursor=first.cursor, at_least=await now(engine))
        assert [each.instance for each in rest] == ["i-3", "i-4", "i-5"]
        assert rest.cursor is None
        assert rest.position >= position
        soon = await engine.timers(before=start + timedelta(hours=2, minutes=5), kind="sleep")
        assert [each.instance for each in soon] == ["i-0"]
        late = await engine.timers("sleeper", after=start + timedelta(hours=2, minutes=40))
        assert [each.instance for each in late] == ["i-4", "i-5"]
        assert {each.kind for each in await engine.timers(instance="i-wait")} == {
            "listen",
            "request",
            "deadline",
        }
        with pytest.raises(ValueError, match="other filters"):
            await engine.timers(waiter, limit=3, cursor=first.cursor)
        with pytest.raises(ValueError, match="which no page gave"):
            await engine.timers(cursor="nonsense")
        with pytest.raises(ValueError, match="kind is 'nap'; it must be one of sleep"):
            await engine.timers(kind="nap")
        with pytest.raises(ValueError, match="naive"):
            await engine.timers(before=datetime(2030, 1, 1))
        with pytest.raises(ValueError, match="limit is 0"):
            await engine.timers(limit=0)
        found = await engine.query(Timers.next("sleeper"))
        assert found.value is not None
        assert found.value.instance == "i-0"

    run(scenario, sleeper, waiter)


# ------------------------------------------------------------------------------------------------- inbox


broken: set[str] = set()
"""What does not work at the moment."""


def work(what: str) -> None:
    if what in broken:
        raise ConnectionError(what)


@workflow
async def reader(step: Step) -> Any:
    await step.sleep("z", "1h")
    first = await step.listen("news")
    if first == "bad":
        await step("call", work, "telephone", max_attempts=1)
        await step.listen("more")
    return first


def test_the_inbox_holds_what_is_not_consumed() -> None:
    async def scenario(env: Environment) -> None:
        engine = env.engine
        broken.add("telephone")
        one = await reader.start(id="i-1")
        two = await reader.start(id="i-2")
        await one.send("news", "good", id="n-1", actor="alice")
        await one.send("gossip", 1)
        await two.send("news", "bad")
        await two.send("gossip", 2)
        page = await engine.inbox(at_least=await now(engine))
        assert [(each.instance, each.event, each.id) for each in page] == [
            ("i-1", "news", "n-1"),
            ("i-1", "gossip", None),
            ("i-2", "news", None),
            ("i-2", "gossip", None),
        ]
        assert (page[0].workflow, page[0].actor, page[0].received_at) == ("reader", "alice", env.clock.time)
        part = await engine.inbox(event=Event("news", str), limit=1)
        rest = await engine.inbox(event="news", limit=1, cursor=part.cursor)
        assert [each.instance for each in (*part, *rest)] == ["i-1", "i-2"]
        assert rest.cursor is None
        await env.advance("1h")
        assert await one.result() == "good"
        with pytest.raises(WorkflowFailed):
            await two.result()
        # One has consumed and ended; what the other left comes back when it is retried.
        assert (await engine.inbox(at_least=await now(engine))).items == []
        broken.clear()
        await two.retry()
        await env.settle()
        assert [each.event for each in await engine.inbox(instance=two, at_least=await now(engine))] == [
            "gossip"
        ]

    run(scenario, reader)


# ---------------------------------------------------------------------------------------------- progress


@workflow
async def loader(rows: int, step: Step) -> None:
    await step.progress("begin")

    async def load() -> None:
        await step.progress("loading", percent=50, data={"rows": (rows, None), "blob": b"x" * 2_000_000})

    await step("load", load)
    await step.sleep("z", "1h")
    await step("store", work, f"disk {rows}", max_attempts=1)
    await step.sleep("zz", "1h")


def test_progress_is_the_last_checkpoint() -> None:
    async def scenario(env: Environment) -> None:
        engine = env.engine
        broken.add("disk 2")
        for number in range(3):
            await loader.start(number, id=f"i-{number}")
            await env.advance("1m")
        page = await engine.progress(at_least=await now(engine))
        assert [each.instance for each in page] == ["i-2", "i-1", "i-0"]
        last = page[0]
        assert (last.message, last.percent, last.path, last.active) == ("loading", 50, "load", True)
        assert last.data == {"rows": (2, None), "blob": b"x" * 2_000_000}
        await (await engine.get("i-1")).cancel()
        await env.settle()
        position = await now(engine)
        assert [each.instance for each in await engine.progress(active=False, at_least=position)] == ["i-1"]
        first = await engine.progress("loader", active=True, limit=1)
        second = await engine.progress("loader", active=True, limit=1, cursor=first.cursor)
        assert [each.instance for each in (*first, *second)] == ["i-2", "i-0"]
        await env.advance("2h")
        assert (await engine.progress(active=True, at_least=await now(engine))).items == []
        broken.clear()
        await (await engine.get("i-2")).retry()
        assert [each.instance for each in await engine.progress(active=True, at_least=await now(engine))] == [
            "i-2"
        ]
        assert (await engine.progress(instance="i-0")).items[0].path == "load"

    run(scenario, loader)


# -------------------------------------------------------------------------------------------- statistics


@workflow(retry=Retry(max_attempts=3, initial="1s", jitter=False))
async def shop(number: int, step: Step) -> None:
    for _ in range(2):
        await step("loop", lambda: None)

    async def pack() -> None:
        await step("box", lambda: None)
        await step.sleep("z", "10s")

    await step("pack", pack)
    await step.map("price", ["a", "b"], lambda item: item, key=str)
    await step.batch("ship", [1, 2, 3], lambda batch: None, batch_size=2)
    await step("dial", fail_twice)
    if number == 1:
        await step("break", lambda: 1 / 0)


def test_statistics_count_attempts_and_time_by_name() -> None:
    async def scenario(env: Environment) -> None:
        engine = env.engine
        runs = [await shop.start(number) for number in range(3)]
        for each in runs:
            try:
                await env.until(each.result())
            except WorkflowFailed:
                assert each is runs[1]
        answer = await engine.statistics(at_least=await now(engine))
        assert answer.position == await now(engine)
        whole = answer.value.workflows["shop"]
        assert (whole.started, whole.completed, whole.failed) == (3, 2, 1)
        assert set(whole.steps) == {"loop", "pack", "pack/box", "price/*", "ship/*", "dial", "break"}
        assert whole.steps["loop"].completed == 6
        assert whole.steps["price/*"].started == whole.steps["ship/*"].completed == 6
        dial = whole.steps["dial"]
        assert (dial.started, dial.retries, dial.completed, dial.failed) == (9, 6, 3, 0)
        broken = whole.steps["break"]
        assert (broken.started, broken.retries, broken.completed, broken.failed) == (3, 2, 0, 1)
        packed = whole.steps["pack"].durations
        assert (packed.count, packed.total, packed.mean) == (3, timedelta(seconds=30), timedelta(seconds=10))
        assert packed.p50 is not None
        assert abs(packed.p50 - timedelta(seconds=10)) <= timedelta(seconds=0.1)
        assert whole.durations.count == 3
        assert whole.durations.total == timedelta(seconds=13 * 3 + 3)
        assert whole.attempts.started == sum(each.started for each in whole.steps.values())
        assert answer.value.total.attempts.durations == whole.attempts.durations
        assert (await engine.statistics("nothing")).value.workflows == {}
        await runs[1].retry()
        with pytest.raises(WorkflowFailed):
            await env.until(runs[1].result())
        again = (await engine.statistics(shop, at_least=await now(engine))).value.workflows["shop"]
        assert (again.started, again.retried, again.failed, again.steps["break"].started) == (3, 1, 2, 6)
        assert again.steps["loop"].started == 6

    run(scenario, shop)


@workflow
async def inventive(step: Step) -> None:
    for number in range(1_010):
        await step(f"page {number}", lambda: None, thread=False)
    await step("page 3", lambda: None)


def test_a_workflow_that_invents_names_has_a_bounded_number() -> None:
    async def scenario(env: Environment) -> None:
        await (await inventive.start()).result()
        found = (await env.engine.statistics()).value.workflows["inventive"]
        assert len(found.steps) == 1_001
        assert found.steps["(other)"].completed == 10
        assert found.steps["page 3"].completed == 2

    run(scenario, inventive)


def test_cancelled_instances_cancel_what_they_left() -> None:
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(3600)

    @workflow
    async def slow(step: Step) -> None:
        await step("wait", wait)

    async def scenario(env: Environment) -> None:
        each = await slow.start()
        await begun.wait()
        await each.cancel()
        with pytest.raises(WorkflowCancelled):
            await each.result()
        found = (await env.engine.statistics(at_least=await now(env.engine))).value.workflows["slow"]
        assert (found.cancelled, found.steps["wait"].cancelled) == (1, 1)
        assert found.steps["wait"].durations.count == 0
        assert found.steps["wait"].durations.p50 is None
        assert found.steps["wait"].durations.mean is None

    run(scenario, slow)


# ---------------------------------------------------------------------------------------------- activity


def test_activity_has_no_gaps() -> None:
    async def scenario(env: Environment) -> None:
        engine, start = env.engine, env.clock.time
        await sleeper.start()
        await env.advance("30m")
        await sleeper.start()
        await (await sleeper.start()).cancel()
        await env.advance("2h")
        answer = await engine.activity(start, resolution="hour", at_least=await now(engine))
        assert [each.at for each in answer.value] == [start + HOUR * n for n in range(3)]
        assert [(each.started, each.completed, each.cancelled) for each in answer.value] == [
            (3, 0, 1),
            (0, 0, 0),
            (0, 2, 0),
        ]
        minutes = (await engine.activity(start + HOUR / 2, start + HOUR)).value
        assert len(minutes) == 30
        assert [each.started for each in minutes] == [2] + [0] * 29
        assert all(not each.started for each in (await engine.activity(start, workflow="shop")).value)
        with pytest.raises(ValueError, match="are 10,080 minutes"):
            await engine.activity(start - timedelta(days=7), start)
        with pytest.raises(ValueError, match="not behind since"):
            await engine.activity(start + HOUR * 9)
        with pytest.raises(ValueError, match="'minute' or 'hour'"):
            await engine.activity(start, resolution="day")
        with pytest.raises(ValueError, match="naive"):
            await engine.activity(datetime(2030, 1, 1))

    run(scenario, sleeper)


# ---------------------------------------------------------------------------------------------- following


def test_models_can_be_followed_from_the_start() -> None:
    async def scenario(env: Environment) -> None:
        await sleeper.start()
        await env.settle()
        engine = env.engine
        position = await now(engine)
        assert (await engine.timers(at_least=position)).position >= position
        assert (await engine.statistics(at_least=position)).value.total.started == 1
        assert len(await engine.inbox()) == len(await engine.progress()) == 0

    run(scenario, sleeper, projections=[Timers, Inbox, Progress, Statistics, Activity])


def test_what_is_archived_is_counted_still_and_reports_no_progress(tmp_path: Path) -> None:
    models = [Timers, Inbox, Progress, Statistics, Activity]

    async def scenario(env: Environment) -> None:
        engine, start = env.engine, env.clock.time
        broken.add("disk 1")
        failing = [await loader.start(number, id=f"i-{number}") for number in (1, 2)]
        await failing[0].send("news", 1)
        await env.advance("3h")
        before = await engine.statistics(at_least=await now(engine))
        assert before.value.total.started == 2
        assert len(await engine.progress()) == 2
        await env.advance("30d")
        pruned = await engine.prune(older_than="7d")
        assert pruned.instances == 2
        position = await now(engine)
        assert (await engine.statistics(at_least=position)).value == before.value
        hours = (await engine.activity(start, start + HOUR * 4, resolution="hour", at_least=position)).value
        assert sum(each.started for each in hours) == 2
        assert (await engine.progress(at_least=position)).items == []
        for model in models:
            report = await engine.check_projection(model.name)
            assert report.ok, str(report)
        broken.clear()

    run(scenario, loader, projections=models, url=f"sqlite:///{tmp_path}/log.db")
