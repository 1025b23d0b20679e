"""Limited concurrency: who gets a slot, who waits for one, what gives it back, and what a new limit changes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from places import url_of
from pydantic import BaseModel

from wfes import Concurrency, Engine, Event, Instance, Schedule, Status, Step, Workflow, testing, workflow
from wfes.concurrency import held_reason, slot_value
from wfes.runtime.admission import Admission
from wfes_projections.slots import Limits, SlotCounts, Slots, SlotTotals

Run = Instance[Any]


class Job(BaseModel):
    customer: str = "c"
    number: int = 0


@workflow(name="job", concurrency=2)
async def two(step: Step) -> None:
    await step.sleep("work", "1h")


def limited(limit: int | None, key: str | None = None, name: str = "job") -> Workflow[Job, None]:
    """A workflow that takes an hour, with this limit."""
    given = None if limit is None else Concurrency(limit, key=key)

    @workflow(name=name, concurrency=given)
    async def job(job: Job, step: Step) -> None:
        await step.sleep("work", "1h")

    return job


async def statuses(runs: Sequence[Run]) -> str:
    """One letter a run: p(ending), l(istening), c(ompleted) …; P: paused, X: cancelled."""
    letters = {Status.PAUSED: "P", Status.CANCELLED: "X", Status.TIMED_OUT: "T", Status.FAILED: "F"}
    found = [(await run.refresh()).status for run in runs]
    return "".join(letters.get(status, status.value[0]) for status in found)


def rows(engine: Engine, table: str) -> list[tuple[Any, ...]]:
    return engine._log.read(f"SELECT * FROM {table}")


def test_at_most_so_many_run_and_the_others_follow_in_order() -> None:
    async def main() -> None:
        async with testing.engine([two]) as env:
            runs = [await two.start() for _ in range(7)]
            await env.settle()
            assert await statuses(runs) == "llppppp"
            await env.advance("1h")
            assert await statuses(runs) == "ccllppp"
            await env.advance("1h")
            assert await statuses(runs) == "ccccllp"
            await env.advance("2h")
            assert await statuses(runs) == "ccccccc"
            assert not any(rows(env.engine, f"wfes_slot{name}") for name in ("s", "_counts", "_totals"))

    asyncio.run(main())


def test_each_value_of_the_key_has_slots_of_its_own() -> None:
    async def main() -> None:
        job = limited(1, "customer")
        async with testing.engine([job]) as env:
            runs = [await job.start(Job(customer=name)) for name in "aaaabc"]
            await env.settle()
            assert await statuses(runs) == "lpppll"
            await env.advance("1h")
            assert await statuses(runs) == "clppcc"

    asyncio.run(main())


def test_who_is_held_says_why() -> None:
    async def main() -> None:
        job = limited(1, "customer")
        async with testing.engine([job, limited(1, name="other")]) as env:
            runs = [await job.start(Job(customer="c-1")) for _ in range(2)]
            others = [await env.engine.start("other", Job()) for _ in range(2)]
            await env.settle()
            why = 'waits for a free slot: concurrency is limited for each customer, here "c-1"'
            assert [(await run.refresh()).reason for run in runs] == [None, why]
            assert (await others[1].refresh()).reason == held_reason("", "")
            page = await env.engine.instances(workflow="job", order="oldest")
            assert sorted(str(row.reason) for row in page.items) == ["None", why]
            await runs[1].cancel()
            assert (await runs[1].refresh()).reason is None

    asyncio.run(main())


def test_a_held_instance_is_cancelled_timed_out_and_paused_without_a_slot() -> None:
    async def main() -> None:
        async with testing.engine([two]) as env:
            runs = [await two.start() for _ in range(6)]
            await env.settle()
            await runs[2].cancel("not needed")
            await runs[3].set_timeout("10m")
            await runs[4].pause()
            assert await statuses(runs) == "llXpPp"
            await env.advance("10m")
            assert await statuses(runs) == "llXTPp"
            await env.advance("1h")
            assert await statuses(runs) == "ccXTPl"
            await runs[4].resume()
            await env.settle()
            assert await statuses(runs) == "ccXTll"
            assert not [event for event in await runs[2].history() if event.type == "RunClaimed"]

    asyncio.run(main())


def test_a_paused_instance_comes_back_to_its_own_place() -> None:
    async def main() -> None:
        job = limited(1)
        async with testing.engine([job]) as env:
            runs = [await job.start(Job()) for _ in range(4)]
            await runs[1].pause()
            await env.advance("30m")
            await runs[1].resume()
            await env.advance("30m")
            assert await statuses(runs) == "clpp"

    asyncio.run(main())


def test_waits_and_pauses_keep_the_slot() -> None:
    @workflow(concurrency=1)
    async def patient(step: Step) -> Any:
        return await step.listen("go")

    async def main() -> None:
        async with testing.engine([patient]) as env:
            runs = [await patient.start() for _ in range(2)]
            await env.settle()
            await runs[0].pause()
            await env.advance("1d")
            assert await statuses(runs) == "Pp"
            await runs[0].resume()
            await runs[0].send("go", 1)
            await env.settle()
            assert await statuses(runs) == "cl"

    asyncio.run(main())


@pytest.mark.parametrize("end", ["cancel", "fail", "abort", "time out"])
def test_every_end_gives_the_slot_back(end: str) -> None:
    @workflow(concurrency=1)
    async def ending(step: Step) -> None:
        how = await step.listen("end")
        if how == "fail":
            step.fail("no")
        step.abort("no")

    async def main() -> None:
        async with testing.engine([ending]) as env:
            first, second = [await ending.start() for _ in range(2)]
            await env.settle()
            if end == "cancel":
                await first.cancel()
            elif end == "time out":
                await first.set_timeout("1s")
                await env.advance("1s")
            else:
                await first.send("end", end)
            await env.settle()
            assert (await first.refresh()).status.value in ("cancelled", "failed", "aborted", "timed_out")
            assert (await second.refresh()).status is Status.LISTENING

    asyncio.run(main())


def test_a_delayed_start_stands_in_the_queue_from_its_own_time_on() -> None:
    async def main() -> None:
        job = limited(1)
        async with testing.engine([job]) as env:
            first = await job.start(Job())
            late = await job.start(Job(), delay="50m")
            await env.advance("30m")
            before = await job.start(Job())
            assert (await late.refresh()).reason is None
            await env.advance("25m")
            behind = await job.start(Job())
            assert "free slot" in str((await late.refresh()).reason)
            for expected in ("clpp", "cclp", "cccl"):
                await env.advance("1h")
                assert await statuses([first, before, late, behind]) == expected

    asyncio.run(main())


def test_a_delayed_start_that_finds_room_runs_at_its_time() -> None:
    async def main() -> None:
        job = limited(1, "customer")
        async with testing.engine([job]) as env:
            late = await job.start(Job(), delay="50m")
            await env.advance("49m")
            assert await statuses([late]) == "p"
            await env.advance("1m")
            assert await statuses([late]) == "l"

    asyncio.run(main())


def test_a_retried_instance_waits_for_a_slot_again() -> None:
    @workflow(concurrency=1)
    async def fragile(step: Step) -> None:
        if await step.listen("go") == "fail":
            step.fail("no")

    async def main() -> None:
        async with testing.engine([fragile]) as env:
            first, second, third = [await fragile.start() for _ in range(3)]
            await env.settle()
            await first.send("go", "fail")
            await env.settle()
            await env.advance("1s")
            await first.retry()
            await env.settle()
            assert await statuses([first, second, third]) == "plp"
            assert "free slot" in str((await first.refresh()).reason)
            await second.send("go", "on")
            await env.settle()
            assert await statuses([first, second, third]) == "pcl"
            await first.cancel("enough")
            await env.settle()
            assert await statuses([first, second, third]) == "Xcl"

    asyncio.run(main())


def test_starts_of_every_kind_count_alike() -> None:
    paid = Event("paid", Job)

    @workflow(name="job", on=paid, concurrency=Concurrency(1, key="customer"), schedule=None)
    async def job(job: Job, step: Step) -> None:
        await step.sleep("work", "1h")

    @workflow
    async def parent(step: Step) -> None:
        await step.execute_workflow("child", job, Job(customer="x"))

    async def main() -> None:
        async with testing.engine([job, parent]) as env:
            await env.engine.publish(paid, Job(customer="x"))
            await env.settle()
            await env.engine.publish("paid", {"customer": "x", "number": "5"})
            await env.settle()
            above = await parent.start()
            await job.get_or_create(key="k", input=Job(customer="x"))
            await job.start(Job(customer="y"))
            await env.settle()
            page = await env.engine.instances(workflow="job", order="oldest")
            assert sorted(row.status.value for row in page.items) == ["listening"] * 2 + ["pending"] * 3
            assert [row[3] for row in rows(env.engine, "wfes_slots")].count('"x"') == 4
            await env.advance("4h")
            assert (await above.refresh()).status is Status.COMPLETED
            assert not rows(env.engine, "wfes_slots")

    asyncio.run(main())


def test_schedules_count_too() -> None:
    @workflow(schedule=Schedule("*/10 * * * *", overlap="allow"), concurrency=1)
    async def ticking(step: Step) -> None:
        await step.sleep("work", "25m")

    async def main() -> None:
        async with testing.engine([ticking]) as env:
            await env.advance("41m")
            page = await env.engine.instances(workflow="ticking", order="oldest")
            assert [row.status.value for row in page.items] == [
                "completed",
                "listening",
                "pending",
                "pending",
            ]

    asyncio.run(main())


def test_a_workflow_that_is_not_known_here_counts_when_somebody_knows_it(folder: Path) -> None:
    async def main() -> None:
        job = limited(1, "customer")
        url = url_of(folder)
        async with testing.engine([job], url=url) as env, Engine(url, worker=False) as other:
            runs = [await other.start("job", {"customer": "a"}) for _ in range(2)]
            await poll(lambda: statuses_in(runs, {"listening", "pending"}))
            held = [run for run in runs if (await run.refresh()).status is Status.PENDING]
            assert len(held) == 1
            assert 'here "a"' in str(held[0].reason)
            await env.settle()

    asyncio.run(main())


async def poll(check: Any) -> None:
    async with asyncio.timeout(20):
        while not await check():
            await asyncio.sleep(0.01)


async def statuses_in(runs: Sequence[Run], wanted: set[str]) -> bool:
    return {(await run.refresh()).status.value for run in runs} == wanted and all(
        run.reason for run in runs if run.status is Status.PENDING
    )


# -- Another limit ---------------------------------------------------------------------------------------------------


async def redefined(
    path: Path, clock: testing.VirtualClock, job: Workflow[Job, None], runs: list[str], more: int = 0
) -> str:
    """Opens the log with this definition, starts some more, lets it settle; gives all statuses."""
    async with testing.engine([job], url=url_of(path), clock=clock) as env:
        made = [await job.start(Job(customer="ab"[number % 2], number=number)) for number in range(more)]
        runs.extend(run.id for run in made)
        await env.settle()
        return await statuses([await env.engine.get(id) for id in runs])


def test_a_higher_limit_admits_at_once_and_a_lower_one_nobody_until_it_fits(folder: Path) -> None:
    async def main() -> None:
        clock, runs = testing.VirtualClock(), list[str]()
        assert await redefined(folder, clock, limited(2), runs, 8) == "llpppppp"
        assert await redefined(folder, clock, limited(4), runs) == "llllpppp"
        assert await redefined(folder, clock, limited(1), runs) == "llllpppp"
        async with testing.engine([limited(1)], url=url_of(folder), clock=clock) as env:
            handles: list[Run] = [await env.engine.get(id) for id in runs]
            for run in handles[:3]:
                await run.cancel()
                await env.settle()
            assert await statuses(handles) == "XXXlpppp"
            await handles[3].cancel()
            await env.settle()
            assert await statuses(handles) == "XXXXlppp"

    asyncio.run(main())


def test_a_limit_that_is_new_counts_who_runs_already(folder: Path) -> None:
    async def main() -> None:
        clock, runs = testing.VirtualClock(), list[str]()
        assert await redefined(folder, clock, limited(None), runs, 3) == "lll"
        assert await redefined(folder, clock, limited(4), runs, 3) == "llllpp"
        assert await redefined(folder, clock, limited(None), runs, 1) == "lllllll"

    asyncio.run(main())


def test_another_key_counts_anew(folder: Path) -> None:
    async def main() -> None:
        clock, runs = testing.VirtualClock(), list[str]()
        assert await redefined(folder, clock, limited(3), runs, 6) == "lllppp"  # a b a | b a b
        # of a two run, of b one does
        assert await redefined(folder, clock, limited(2, "customer"), runs) == "llllpp"
        assert await redefined(folder, clock, limited(2, "customer"), runs, 2) == "llllpppp"
        assert await redefined(folder, clock, limited(1, "number"), runs) == "llllllpp"

    asyncio.run(main())


def test_who_waits_when_a_limit_comes_is_held_by_it(folder: Path) -> None:
    async def main() -> None:
        clock, runs = testing.VirtualClock(), list[str]()
        job = limited(None)
        async with Engine(url_of(folder), workflows=[job], worker=False) as engine:
            runs.extend([(await engine.start(job, Job())).id for _ in range(4)])
        assert await redefined(folder, clock, limited(1, "customer"), runs) == "lppp"

    asyncio.run(main())


def test_who_was_started_by_somebody_who_does_not_know_it_keeps_its_place() -> None:
    async def main() -> None:
        clock = testing.VirtualClock()
        job = limited(1, "customer")
        with tempfile.TemporaryDirectory() as directory:
            url = f"sqlite:///{directory}/log.db"
            async with testing.engine([job], url=url, clock=clock, worker=False) as env:
                async with Engine(url, worker=False) as stranger:
                    first = (await stranger.start("job", {"customer": "a"})).id
                await env.advance("1s")
                second = (await job.start(Job(customer="a"))).id
            async with testing.engine([job], url=url, clock=clock) as env:
                await env.settle()
                assert await statuses([await env.engine.get(id) for id in (first, second)]) == "lp"

    asyncio.run(main())


# -- What is counted by ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Job(customer="ä"), '"ä"'),
        ({"customer": 7}, "7"),
        ({}, "null"),
        (None, "null"),
        ({"customer": {"id": 1}}, '{"id":1}'),
        ({"customer": object}, None),
    ],
)
def test_values_are_told_apart_by_their_json(given: object, expected: str | None) -> None:
    found = slot_value(given, "customer")
    assert found == expected if expected is not None else found


def test_any_text_can_be_counted_by() -> None:
    odd = ["\ud800", "\\ud800", "\udfff", "a\0b", "ab", ""]
    values = [slot_value({"customer": text}, "customer") for text in odd]
    assert len(set(values)) == len(odd)
    assert "".join(values).isprintable()


def test_long_values_are_told_apart_by_their_digest() -> None:
    one, two = (slot_value({"customer": "x" * 10_000 + end}, "customer") for end in "ab")
    assert one != two
    assert len(one) < 100
    assert one.startswith("sha256:")


def test_no_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Engine("sqlite://", workflows=[two])
    assert not caplog.messages


def looked_at(keys: int) -> int:
    """How many steps SQLite takes to find the queues with room, where so many values of a key have none."""
    connection = sqlite3.connect(":memory:")
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def read(sql: str, params: Sequence[object]) -> list[tuple[Any, ...]]:
        return connection.execute(sql, params).fetchall()

    try:
        for projection in (Limits, Slots, SlotCounts, SlotTotals):
            for sql in projection.create:
                connection.execute(sql)
        connection.executemany(Limits.upsert, [("single", 3, ""), ("keyed", 1, "key")])
        connection.executemany(SlotTotals.upsert, [("single", "", 9), ("keyed", "key", 2 * keys)])
        counts = [("keyed", "key", str(key), 1, 1) for key in range(keys)]
        connection.executemany(SlotCounts.upsert, [("single", "", "", 2, 7), *counts])
        admission = Admission({"single": cast(Any, None), "keyed": cast(Any, None)}, cast(Any, None))
        connection.set_progress_handler(step, 1)
        assert admission._queues(read) == [("keyed", "key", False), ("single", "", True)]
        return steps
    finally:
        connection.close()


def test_looking_for_room_costs_the_same_however_many_values_have_none() -> None:
    assert looked_at(5) == looked_at(5_000)
