"""Schedules in engines on virtual clocks: years in seconds, two engines, changes between deployments."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from wfes import (
    DuplicateSchedule,
    Schedule,
    Status,
    Step,
    UnknownSchedule,
    Workflow,
    testing,
    workflow,
)
from wfes.runtime import schedule_commands, scheduler
from wfes.runtime import ticks as ticks_module
from wfes.testing import Environment, VirtualClock


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def made(*schedules: Schedule | str, seconds: float = 0, name: str = "job") -> Workflow[Any, Any]:
    """A workflow that takes so long."""

    @workflow(name=name, schedule=list(schedules))
    async def job(step: Step) -> None:
        if seconds:
            await step.sleep("work", seconds)

    return job


async def types(env: Environment, name: str = "job") -> list[str]:
    return [event.type for event in await env.engine.schedule_history(name)]


async def ticks(env: Environment, name: str = "job") -> list[str]:
    return [
        event.data["tick"] for event in await env.engine.schedule_history(name) if event.type == "TickStarted"
    ]


async def ids(env: Environment, **filters: Any) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await env.engine.instances(limit=1_000, cursor=cursor, order="oldest", **filters)
        found += [row.id for row in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


# -- Time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_year_of_daily_ticks_in_a_skipped_and_a_repeated_hour(zone: str) -> None:
    async def main() -> None:
        place = ZoneInfo(zone)
        start = datetime(2026, 1, 1, tzinfo=place)
        clock = VirtualClock(start)
        async with testing.engine([made(Schedule("5 2 * * *", timezone=zone))], clock=clock) as env:
            await env.advance("365d")
            started = await ticks(env)
            days = [(start + timedelta(days=number)).strftime("%Y-%m-%d") for number in range(365)]
            assert [tick[:16] for tick in started] == [f"{day}T02:05" for day in days]
            assert len(set(await ids(env))) == 365
            assert await types(env) == ["ScheduleDefined"] + ["TickStarted"] * 365

    run(main())


def test_hourly_ticks_follow_elapsed_time_through_both_changes() -> None:
    async def main() -> None:
        for start in (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)):
            job = made(Schedule("0 * * * *", timezone="Europe/Berlin"))
            async with testing.engine([job], clock=VirtualClock(start)) as env:
                await env.advance("2d")
                rows = (await env.engine.instances(limit=100, order="oldest")).items
                assert [row.created_at for row in rows] == [start + timedelta(hours=n) for n in range(1, 49)]

    run(main())


def test_leap_days_and_month_ends_over_years() -> None:
    async def main() -> None:
        job = made(Schedule("0 0 29 2 *", name="leap"), Schedule("30 23 L * *", name="end"))
        clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
        async with testing.engine([job], clock=clock) as env:
            await env.advance("1100d")
            assert [tick[:10] for tick in await ticks(env, "job:leap")] == ["2028-02-29"]
            ends = [tick[:10] for tick in await ticks(env, "job:end")]
            assert len(ends) == 36
            assert ends[1] == "2026-02-28"
            assert "2028-02-29" in ends

    run(main())


def test_a_tick_each_second() -> None:
    async def main() -> None:
        async with testing.engine([made(Schedule("* * * * * *", overlap="allow"))]) as env:
            await env.advance("2m")
            assert len(await ids(env)) == 120
            assert len(set(await ticks(env))) == 120

    run(main())


@pytest.mark.parametrize("hours", [1, 24])
def test_a_clock_set_forward_and_back(hours: int) -> None:
    async def main() -> None:
        async with testing.engine([made(Schedule("*/10 * * * *", catch_up="latest"))]) as env:
            await env.advance("1h")
            before = await ticks(env)
            assert len(before) == 6
            # Forward: nobody was there for what lies between, but for the clock's callbacks.
            env.clock._now += hours * 3_600_000_000 - 300_000_000
            await env.advance("10m")
            (row,) = (await env.engine.schedules()).items
            assert row.missed == hours * 6 - 2
            assert row.started == 8
            # Back: what was decided is not decided again, and it goes on where it was.
            env.clock._now -= hours * 3_600_000_000
            await env.advance(f"{hours}h")
            assert len(await ticks(env)) in (8, 9)
            await env.advance("1h")
            found = await ticks(env)
            assert len(set(found)) == len(found)
            assert len(await ids(env)) == len(found)

    run(main())


def test_jitter_puts_the_start_off_but_not_the_tick() -> None:
    async def main() -> None:
        async with testing.engine([made(Schedule("0 * * * *", jitter="10m"))]) as env:
            await env.advance("12h")
            await env.advance("20m")
            rows = (await env.engine.instances(limit=100)).items
            assert {row.status for row in rows} == {Status.COMPLETED}
            late = [row.updated_at - row.created_at for row in rows]
            assert len(set(late)) > 6
            assert all(timedelta(0) <= each <= timedelta(minutes=10) for each in late)

    run(main())


# -- Overlap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "kinds", "statuses"),
    [
        ("skip", {"TickStarted": 3, "TickSkipped": 6}, {Status.COMPLETED: 3}),
        ("allow", {"TickStarted": 9}, {Status.COMPLETED: 9}),
        ("queue", {"TickStarted": 9, "TickQueued": 8}, {Status.COMPLETED: 9}),
        ("cancel", {"TickStarted": 9}, {Status.CANCELLED: 8, Status.COMPLETED: 1}),
    ],
)
def test_overlap(overlap: Any, kinds: dict[str, int], statuses: dict[Status, int]) -> None:
    async def main() -> None:
        # Nine ticks within a day, each instance takes two and a half of them.
        job = made(Schedule("0 1-9 * * *", overlap=overlap), seconds=2.5 * 3_600)
        async with testing.engine([job]) as env:
            await env.advance("23h30m")
            found = Counter(await types(env))
            del found["ScheduleDefined"]
            assert found == kinds
            assert Counter([row.status for row in (await env.engine.instances()).items]) == statuses

    run(main())


def test_queued_ticks_start_in_order_as_soon_as_the_previous_ends() -> None:
    async def main() -> None:
        job = made(Schedule("0 1-3 * * *", overlap="queue"), seconds=1.5 * 3_600)
        async with testing.engine([job]) as env:
            await env.advance("12h")
            rows = (await env.engine.instances(order="oldest")).items
            assert [(row.created_at.hour, row.created_at.minute) for row in rows] == [(1, 0), (2, 30), (4, 0)]

    run(main())


# -- Downtime, deployments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catch_up", "started", "missed"), [("latest", 1, 3), (None, 0, 4), ("2h5m", 2, 2), ("1d", 4, 0)]
)
def test_catching_up_after_downtime(tmp_path: Path, catch_up: Any, started: int, missed: int) -> None:
    async def main() -> None:
        clock = VirtualClock()
        url = f"sqlite:///{tmp_path}/log.db"
        job = made(Schedule("0 * * * *", overlap="allow", catch_up=catch_up))
        async with testing.engine([job], clock=clock, url=url) as env:
            await env.advance("90m")
            assert len(await ids(env)) == 1
        await clock.advance("4h")
        async with testing.engine([job], clock=clock, url=url) as env:
            await env.settle()
            (row,) = (await env.engine.schedules()).items
            assert (row.started, row.missed) == (1 + started, missed)
            assert len(await ids(env)) == 1 + started
            assert row.next == datetime(2030, 1, 1, 6, tzinfo=UTC)

    run(main())


def test_another_deployment_changes_adds_and_removes(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock()
        url = f"sqlite:///{tmp_path}/log.db"
        first = made("0 * * * *", Schedule("0 12 * * *", name="noon"), "0 0 1 * *")
        async with testing.engine([first], clock=clock, url=url) as env:
            await env.advance("2h30m")
            assert [row.name for row in await env.engine.schedules()] == ["job", "job#3", "job:noon"]
        await clock.advance("2h")
        second = made(
            Schedule("30 * * * *", overlap="allow"), Schedule("0 12 * * *", name="noon", overlap="queue")
        )
        async with testing.engine([second], clock=clock, url=url) as env:
            await env.settle()
            assert [row.name for row in await env.engine.schedules()] == ["job", "job:noon"]
            old, new = [v for v in await env.engine.schedule_history("job") if v.type == "ScheduleDefined"]
            assert old.data["former"] is None
            assert new.data["former"]["cron"] == old.data["cron"] == "0 * * * *"
            assert (new.data["cron"], new.data["former"]["overlap"], new.data["overlap"]) == (
                "30 * * * *",
                "skip",
                "allow",
            )
            (missed,) = [v for v in await env.engine.schedule_history("job") if v.type == "TicksMissed"]
            assert (missed.data["count"], missed.data["reason"]) == (2, "definition changed")
            assert (await types(env, "job#3"))[-1] == "ScheduleRemoved"
            with pytest.raises(UnknownSchedule, match=r"'job#3'.*'job', 'job:noon'"):
                await env.engine.pause_schedule("job#3")
            await env.advance("8h")
            assert [tick[11:16] for tick in await ticks(env)][:4] == ["01:00", "02:00", "05:30", "06:30"]
            assert [tick[11:16] for tick in await ticks(env, "job:noon")] == ["12:00"]
        async with testing.engine([first], clock=clock, url=url) as env:
            assert [row.name for row in await env.engine.schedules()] == ["job", "job#3", "job:noon"]

    run(main())


def test_an_engine_without_a_worker_defines_and_asks_but_starts_nothing() -> None:
    async def main() -> None:
        async with testing.engine([made("0 * * * *")], worker=False) as env:
            await env.advance("3h")
            assert await ids(env) == []
            assert len(await env.engine.schedules()) == 1

    run(main())


def test_two_engines_start_each_tick_once(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock()
        url = f"sqlite:///{tmp_path}/log.db"
        job = made(Schedule("*/10 * * * *", overlap="queue"), seconds=900)
        async with (
            testing.engine([job], clock=clock, url=url) as one,
            testing.engine([job], clock=clock, url=url) as two,
        ):
            for _ in range(24):
                await clock.advance("10m")
                # The other engine sees by itself what this one wrote, which takes real time.
                for env in (one, two):
                    position = await env.engine.position() if hasattr(env.engine, "position") else 0
                    await env.engine.schedules(at_least=position)
            found = await ticks(one)
            assert len(found) == len(set(found)) == len(await ids(two))
            history = await one.engine.schedule_history("job")
            decided = [
                v.data["tick"] for v in history if v.type == "TickQueued" or v.data.get("kind") == "tick"
            ]
            assert len(decided) == len(set(decided)) == 24

    run(main())


# -- What people ask for ---------------------------------------------------------------------------------------------


def test_pause_and_resume() -> None:
    async def main() -> None:
        async with testing.engine([made("0 * * * *")]) as env:
            engine = env.engine
            await env.advance("90m")
            await engine.pause_schedule("job", reason="stocktaking", actor="ann")
            await env.advance("3h")
            (row,) = (await engine.schedules(paused=True)).items
            assert (row.paused, row.pause_reason, row.next, row.started) == (True, "stocktaking", None, 1)
            assert len(await engine.schedules(paused=False)) == 0
            await engine.resume_schedule("job", actor="bob")
            row = await engine.schedule("job")
            assert (row.paused, row.missed, row.next) == (False, 3, datetime(2030, 1, 1, 5, tzinfo=UTC))
            await env.advance("1h")
            assert [tick[11:16] for tick in await ticks(env)] == ["01:00", "05:00"]
            history = await engine.schedule_history("job")
            assert [(v.type, v.actor) for v in history if v.actor] == [
                ("SchedulePaused", "ann"),
                ("ScheduleResumed", "bob"),
            ]

    run(main())


def test_a_trigger_gives_the_instance() -> None:
    async def main() -> None:
        @workflow(schedule=Schedule("0 0 1 1 *", input={"n": 4}))
        async def job(data: dict[str, int], step: Step) -> int:
            return data["n"] + 1

        async with testing.engine([job]) as env:
            run = await env.engine.trigger_schedule("job", actor="ann")
            assert run.id.startswith("job@trigger-")
            assert (run.workflow, run.input) == ("job", {"n": 4})
            assert await env.until(run.result()) == 5
            (first, *_) = await run.history()
            assert first.actor == "ann"
            assert first.data["trigger"]["schedule"] == "job"
            row = await env.engine.schedule("job")
            assert (row.last_instance, row.last_tick, row.open) == (run.id, None, ())

    run(main())


def test_calls_inside_a_handler_are_recorded_calls() -> None:
    async def main() -> None:
        job = made("0 0 1 1 *")

        @workflow
        async def boss(step: Step) -> list[Any]:
            await env.engine.pause_schedule("job")
            await env.engine.resume_schedule("job")
            started = await env.engine.trigger_schedule("job")
            size = await env.engine.backfill_schedule(
                "job", datetime(2029, 1, 1, tzinfo=UTC), datetime(2029, 2, 1, tzinfo=UTC)
            )
            refused = ""
            try:
                await env.engine.pause_schedule("nothing")
            except UnknownSchedule as error:
                refused = error.name
            await step.sleep("leave memory", "1h")
            return [started.id, size, refused]

        async with testing.engine([job, boss]) as env:
            asked = await boss.start()
            started, size, refused = await env.until(asked.result())
            assert (size, refused) == (1, "nothing")
            assert sorted(await ids(env, workflow="job")) == sorted(
                [started, "job@2029-01-01T00:00:00+00:00"]
            )
            calls = [v.data["call"] for v in await asked.history() if v.type == "CallRecorded"]
            assert len(calls) == 5

    run(main())


def test_a_backfill_from_outside_runs_what_was_missed() -> None:
    async def main() -> None:
        async with testing.engine([made("0 * * * *", seconds=60)]) as env:
            start = env.clock.time
            await env.engine.pause_schedule("job")
            await env.advance("5h30m")
            await env.engine.resume_schedule("job")
            asked = await env.engine.backfill_schedule("job", start, start + timedelta(days=9), actor="ann")
            assert asked == 6
            await env.advance("2h")
            assert len(await ids(env)) == 8
            row = await env.engine.schedule("job")
            assert (row.backfills, row.started) == (0, 8)

    run(main())


def test_a_removed_schedule_ticks_no_more() -> None:
    async def main() -> None:
        async with testing.engine([made("0 * * * *")]) as env:
            await env.advance("90m")
            await env.engine.remove_schedule("job", reason="gone", actor="ann")
            await env.advance("5h")
            assert len(await ids(env)) == 1
            assert len(await env.engine.schedules()) == 0
            last = (await env.engine.schedule_history("job"))[-1]
            assert (last.type, last.actor, last.data["reason"]) == ("ScheduleRemoved", "ann", "gone")

    run(main())


def test_pages_go_through_all_schedules() -> None:
    async def main() -> None:
        jobs = [made("0 0 1 1 *", name=f"job-{number}") for number in range(5)]
        async with testing.engine(jobs) as env:
            engine = env.engine
            first = await engine.schedules(limit=2)
            second = await engine.schedules(limit=2, cursor=first.cursor)
            third = await engine.schedules(limit=2, cursor=second.cursor)
            assert [row.name for row in [*first, *second, *third]] == [f"job-{number}" for number in range(5)]
            assert third.cursor is None
            assert [row.name for row in await engine.schedules(jobs[3])] == ["job-3"]
            for wrong in (first.cursor, "nonsense"):
                with pytest.raises(ValueError, match="cursor"):
                    await engine.schedules("job-1", cursor=wrong)
            assert [moment.year for moment in await engine.schedule_ticks("job-1", limit=3)] == [
                2031,
                2032,
                2033,
            ]

    run(main())


# -- What cannot be --------------------------------------------------------------------------------------------------


def test_unknown_names_and_wrong_times_are_told() -> None:
    async def main() -> None:
        async with testing.engine([made("0 * * * *")]) as env:
            engine, now = env.engine, env.clock.time

            async def backfill(name: str) -> int:
                return await engine.backfill_schedule(name, now, now)

            calls: Sequence[Any] = [
                engine.schedule,
                engine.pause_schedule,
                engine.resume_schedule,
                engine.trigger_schedule,
                engine.remove_schedule,
                engine.schedule_history,
                engine.schedule_ticks,
                backfill,
            ]
            for call in calls:
                with pytest.raises(UnknownSchedule, match=r"'nope'.*'job'"):
                    await call("nope")
                with pytest.raises(TypeError, match="name is 5"):
                    await call(5)
            with pytest.raises(ValueError, match="before start"):
                await engine.backfill_schedule("job", now, now - timedelta(seconds=1))
            for naive in (datetime(2030, 1, 1), datetime(2031, 1, 1)):
                with pytest.raises(ValueError, match="naive"):
                    await engine.backfill_schedule("job", naive, now)
            with pytest.raises(ValueError, match="limit"):
                await engine.schedule_ticks("job", limit=0)

    run(main())


def test_schedules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two schedules of workflow 'job' are named 'a'"):
        made(Schedule("* * * * *", name="a"), Schedule("0 * * * *", name="a"))
    with pytest.raises(ValueError, match="must not be empty"):
        Schedule("* * * * *", name="")

    async def main() -> None:
        clashing = [made(Schedule("* * * * *", name="b"), name="a"), made("* * * * *", name="a:b")]
        with pytest.raises(DuplicateSchedule, match="'a:b'"):
            async with testing.engine(clashing):
                pass

    run(main())


def test_a_schedule_that_cannot_go_on_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ticks_module.ticks_of
    broken = True

    def ticks_of(cron: str, zone: str) -> Any:
        if broken and cron.startswith("5"):
            raise ValueError("this machine knows no such zone")
        return real(cron, zone)

    monkeypatch.setattr(scheduler, "ticks_of", ticks_of)
    monkeypatch.setattr(schedule_commands, "ticks_of", ticks_of)

    async def main() -> None:
        nonlocal broken
        jobs = [made("5 * * * *", name="bad"), made("0 * * * *", name="good")]
        async with testing.engine(jobs) as env:
            with caplog.at_level(logging.ERROR, "wfes"):
                await env.advance("2m")
            broken = False
            await env.advance("2h")
            assert len(await ids(env, workflow="good")) == 2
            assert len(await ids(env, workflow="bad")) == 2
        assert any("'bad'" in text and "no such zone" in text for text in caplog.messages)

    run(main())
