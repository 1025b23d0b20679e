"""The guarantees G1 to G8 and G11, each by name; the crash tests show them again, everywhere at once.

`test_guarantees_log` has the others, and sees to it that each is shown on every database.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import corpus
import pytest
import scenarios
from checks import calls_in, histories_of, lost, malformed, stored_events
from driver import CASES
from places import content, placed, rows, url_of
from scenarios import finished, spawn

from wfes import Engine, Retry, Status, Step, StepError, workflow
from wfes.core import events as e
from wfes.instance import Instance
from wfes.runtime.clock import Clock, SystemClock
from wfes.testing import engine as virtual


@pytest.fixture(autouse=True)
def noted(tmp_path: Path) -> None:
    corpus.use(tmp_path / "calls")


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < limit, "it did not become true in time"
        await asyncio.sleep(0.005)


async def has_status(run: Instance[Any], *statuses: Status) -> bool:
    return (await run.refresh()).status in statuses


def server_now(folder: Path) -> datetime:
    """The time by a PostgreSQL server's clock."""
    ((now,),) = rows(folder, "SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


def events_of(folder: Path, id: str) -> list[e.Event]:
    return [recorded.event for recorded in histories_of(stored_events(folder))[id]]


# ------------------------------------------------------------------------------------------------- G1


def test_g1_a_recorded_step_never_runs_again_and_one_cut_off_does(folder: Path) -> None:
    """G1: a step whose result is recorded never runs again; one that was running at a crash runs again, and the log
    shows both attempts."""
    child = spawn("crash_in_step", folder)
    child.communicate(timeout=20)
    assert child.returncode == -signal.SIGKILL
    (folder / "spare").touch()

    async def main() -> list[Any]:
        async with Engine(url_of(folder), workflows=[scenarios.two_steps]) as engine:
            run = await engine.get(scenarios.two_steps, "run")
            return await run.result(timeout=20)

    assert asyncio.run(main()) == [1, 1], "a cut-off attempt is not a failed one"
    assert calls_in(folder / "calls") == [("run", "first", 1), ("run", "second", 1), ("run", "second", 1)]
    started = [event.path for event in events_of(folder, "run") if isinstance(event, e.StepStarted)]
    assert started == ["first", "second", "second"]


# ------------------------------------------------------------------------------------------------- G2


def test_g2_intent_is_on_disk_before_the_effect(folder: Path) -> None:
    """G2: before a step's function is called, its StepStarted and everything before it is on disk."""

    @workflow
    async def looking(input: None, step: Step) -> None:
        def look() -> list[str]:
            found = events_of(folder, "run")
            last = found[-1]
            assert isinstance(last, e.StepStarted)
            return [*(event.topic for event in found), last.path]

        def look_again(item: int) -> list[str]:
            return look()

        for name in ("one", "two"):
            seen = await step(name, look)
            assert seen[-2:] == ["StepStarted", name], seen
        attempts = await step.map("item", range(3), look_again, concurrency=1)
        assert [seen[-1] for seen in attempts] == ["item/0", "item/1", "item/2"]

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[looking]):
            await (await looking.start(id="run")).result(timeout=20)

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------- G3

KINDS = (
    "start", "get_or_create", "send", "publish", "provide", "cancel", "pause", "resume", "set_timeout", "retry",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_g3_what_is_acknowledged_survives_a_kill(folder: Path, kind: str) -> None:
    """G3: when the call returns, its event survives kill -9."""
    child = spawn("acknowledge", folder, kind)
    out, err = child.communicate(timeout=20)
    assert child.returncode == -signal.SIGKILL, err
    id, _, about = out.strip().partition(" ")
    assert lost(histories_of(stored_events(folder)), [(kind, id, about)]) == []


def test_g3_a_result_is_on_disk_before_the_next_step_is_called(folder: Path) -> None:
    """G3: a step's result is on disk before the next step's function is called."""

    @workflow
    async def looking(input: None, step: Step) -> None:
        for number in range(5):
            await step(f"{number}", look, number)

    def look(number: int) -> int:
        done = [event.path for event in events_of(folder, "run") if isinstance(event, e.StepCompleted)]
        assert done == [str(n) for n in range(number)]
        return number

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[looking]):
            await (await looking.start(id="run")).result(timeout=20)

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------- G4


@pytest.mark.parametrize(
    "id", ["racer", "chancy", "flaky", "stateful", "nested", "parent", "caller", "sleeper"]
)
def test_g4_stopped_and_replayed_again_and_again_it_sees_the_same(folder: Path, id: str) -> None:
    """G4: same values, exceptions, order and winners on every replay; these workflows compare what they see."""
    case, chance = CASES[id], random.Random(id)

    async def life(seconds: float | None) -> bool:
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS) as engine:
            run = await case.workflow.start(case.number, id=id)
            try:
                output = await run.result(timeout=20 if seconds is None else seconds)
            except TimeoutError:
                assert seconds is not None, f"{run.status}: {run.error or run.reason}"
                await engine.close(grace=0 if chance.random() < 0.5 else 1)
                return False
            assert output in case.outputs
            return True

    for number in range(12):
        if asyncio.run(life(chance.uniform(0.0, 0.05) if number < 11 else None)):
            break
    for stream, history in histories_of(stored_events(folder)).items():
        assert stream.startswith("$") or malformed(history) == []


def test_g4_exceptions_replay_as_they_were(folder: Path) -> None:
    """G4: the same exception, with the same words, live and on a replay."""

    @workflow(retry=Retry(max_attempts=2, initial="1ms"))
    async def failing_step(input: None, step: Step) -> str:
        seen = "nothing"
        try:
            await step("fails", corpus.refuse, "luck")
        except StepError as error:
            seen = f"{error} | {error.error.type} | {error.attempts} | {error.__cause__!r}"
        recorded = await step("seen", corpus.same, seen)
        await step.listen("go")
        assert seen == recorded, f"first {recorded}, on replay {seen}"
        return seen

    async def life(go: bool) -> str:
        async with Engine(url_of(folder), workflows=[failing_step]):
            run = await failing_step.start(id="run")
            await until(lambda: has_status(run, Status.LISTENING))
            if not go:
                return ""
            await run.send("go")
            return await run.result(timeout=20)

    assert [asyncio.run(life(False)) for _ in range(2)] == ["", ""]
    seen = asyncio.run(life(True))
    assert "LookupError" in seen
    assert "| 2 |" in seen


# ------------------------------------------------------------------------------------------------- G5


def test_g5_a_zombie_records_nothing_after_a_take_over(folder: Path) -> None:
    """G5: a worker taken for dead can record nothing after another took over, and works on afterwards."""
    a = spawn("zombie", folder, "a")
    b = None
    try:
        scenarios.until(folder / "working-a")
        os.kill(a.pid, signal.SIGSTOP)
        b = spawn("zombie", folder, "b")
        scenarios.until(folder / "working-b")
        # Its step ends the moment it wakes up.
        (folder / "go-a").touch()
        os.kill(a.pid, signal.SIGCONT)
        scenarios.until(folder / "dropped-a")
        (folder / "go-b").touch()
        told_b, told_a = finished(b), finished(a)
    finally:
        for child in (a, b):
            if child is not None and child.poll() is None:
                child.kill()
    assert "result b, after" in told_b
    assert "result b, after" in told_a
    assert "another a, after" in told_a or "another b, after" in told_a
    history = histories_of(stored_events(folder))["run"]
    assert malformed(history) == []
    workers = [recorded.event.worker for recorded in history if isinstance(recorded.event, e.RunClaimed)]
    assert len(set(workers)) == 2
    completed = [
        r.event.result for r in history if isinstance(r.event, e.StepCompleted) and r.event.path == "work"
    ]
    assert completed == ["b"]


# ------------------------------------------------------------------------------------------------- G6


def test_g6_one_start_per_id_and_per_published_event(folder: Path) -> None:
    """G6: exactly one start per id and per (event id, workflow), from two processes at once."""
    count = 25
    children = [spawn("start_same", folder, role, str(count)) for role in "ab"]
    for role in "ab":
        scenarios.until(folder / f"ready-{role}")
    (folder / "go").touch()
    for child in children:
        finished(child)
    histories = histories_of(stored_events(folder))
    starts = [h[0].event for h in histories.values() if isinstance(h[0].event, e.WorkflowStarted)]
    assert sum(start.workflow == "small" for start in starts) == count
    triggers = sorted(start.trigger["id"] for start in starts if start.trigger)
    assert triggers == sorted(f"e-{n}" for n in range(count))
    assert all(malformed(h) == [] for stream, h in histories.items() if not stream.startswith("$"))


def test_g6_one_start_per_key_and_generation(folder: Path) -> None:
    """G6: exactly one start per (key, generation), however often it is asked for."""

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[scenarios.small]) as engine:
            for generation in range(1, 4):
                calls = [scenarios.small.get_or_create(key="k", input=generation) for _ in range(20)]
                runs = await asyncio.gather(*calls)
                assert len({run.id for run in runs}) == 1
                await runs[0].result(timeout=20)
            rows = (await engine.instances(key="k")).items
            assert len(rows) == 3

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------- G7


@workflow(retry=Retry(max_attempts=3, initial="10s", factor=1, jitter=False))
async def patient(input: None, step: Step) -> list[float]:
    """Sleeps, backs off; gives the moments, in seconds since it began, at which each was over."""
    began = step.now()
    await step.sleep("a minute", "1m")
    moments = [step.now()]
    await step.sleep_until("another", began + timedelta(minutes=2))
    moments.append(step.now())
    await step("flaky", corpus.fail_until, 3)
    moments.append(step.now())
    await asyncio.sleep(30)
    moments.append(step.now())
    return [(moment - began).total_seconds() for moment in moments]


def test_g7_never_early(folder: Path) -> None:
    """G7: a sleep or backoff never ends before its time; nothing is late on a clock that a test moves."""

    async def main() -> None:
        async with virtual([patient], url=url_of(folder)) as env:
            run = await patient.start()
            assert await env.until(run.result()) == [60, 120, 140, 170]

    asyncio.run(main())


def test_g7_a_deadline_is_never_early(folder: Path) -> None:
    """G7: a deadline never ends an instance before its time."""

    @workflow(deadline="1h")
    async def waiting(input: None, step: Step) -> None:
        await step.listen("never")

    async def main() -> None:
        async with virtual([waiting], url=url_of(folder)) as env:
            run = await waiting.start()
            await env.advance(timedelta(hours=1) - timedelta(microseconds=1))
            assert (await run.refresh()).status == Status.LISTENING
            await env.advance(timedelta(microseconds=1))
            assert (await run.refresh()).status == Status.TIMED_OUT

    asyncio.run(main())


class _Jumpy(Engine):
    """An engine whose wall clock can be set, as an operator or a time server does."""

    offset = 0

    def _make_clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        return SystemClock(loop, wall=lambda: time.time_ns() + self.offset)


@pytest.mark.parametrize("jump", [-3600, 3600], ids=["back", "forward"])
def test_g7_a_wall_clock_that_jumps(tmp_path: Path, jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """G7: never early by the monotonic clock where the wall clock leaps ahead; never early by the wall clock where it
    is set back; and times in the history never go back."""
    monkeypatch.setattr("wfes.runtime.clock.RECHECK_SECONDS_MAX", 0.1)

    @workflow
    async def napping(input: None, step: Step) -> None:
        await step("before", corpus.same, 1)
        await step.sleep("nap", "200ms")
        await step("after", corpus.same, 1)

    async def main() -> None:
        async with _Jumpy(url_of(tmp_path), workflows=[napping]) as engine:
            run = await napping.start(id="run")
            await until(lambda: has_status(run, Status.LISTENING))
            engine.offset = jump * 10**9
            until_moment = run.waiting_for[0].until
            assert until_moment is not None
            if jump < 0:
                # An hour is to pass by the wall clock; let it.
                await asyncio.sleep(0.4)
                assert (await run.refresh()).status == Status.LISTENING
                engine.offset = 0
            await run.result(timeout=20)
            ended = next(event for event in await run.history() if event.type == "SleepEnded")
            assert ended.at >= until_moment

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began >= 0.2
    assert malformed(histories_of(stored_events(tmp_path))["run"]) == []


@pytest.mark.parametrize("ahead", [-3600, 3600], ids=["behind", "ahead"])
def test_g7_by_the_server_s_clock(tmp_path: Path, ahead: int) -> None:
    """G7: on PostgreSQL a sleep or a deadline never ends before its time by the server's clock, whatever the clock of
    the worker's machine shows, and not late for that either."""

    @workflow(deadline="400ms")
    async def napping(until: datetime, step: Step) -> None:
        await step("before", corpus.same, 1)
        await step.sleep_until("nap", until)
        await step.listen("never")

    async def main() -> tuple[datetime, list[Any]]:
        engine = _Jumpy(url_of(tmp_path), workflows=[napping])
        engine.offset = ahead * 10**9
        async with engine:
            due = server_now(tmp_path) + timedelta(milliseconds=200)
            run = await napping.start(due, id="run")
            await until(lambda: has_status(run, Status.TIMED_OUT))
            assert server_now(tmp_path) >= run.created_at + timedelta(milliseconds=400)
            return due, await run.history()

    with placed(tmp_path, "postgresql"):
        before = server_now(tmp_path)
        due, history = asyncio.run(main())
        after = server_now(tmp_path)
    assert all(before - timedelta(milliseconds=50) <= event.at <= after for event in history)
    ended = next(event for event in history if event.type == "SleepEnded")
    assert due <= ended.at <= due + timedelta(seconds=10)


def test_g7_after_a_restart_a_sleep_is_not_early(folder: Path) -> None:
    """G7: a sleep whose process stopped meanwhile ends no earlier than it would have."""

    @workflow
    async def napping(input: None, step: Step) -> datetime:
        await step.sleep("nap", "300ms")
        return step.now()

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[napping]):
            run = await napping.start(id="run")
            await until(lambda: has_status(run, Status.LISTENING))
            (due,) = [wait.until for wait in run.waiting_for]
        async with Engine(url_of(folder), workflows=[napping]) as engine:
            ended = await (await engine.get(napping, "run")).result(timeout=20)
            assert due is not None
            assert due <= ended <= datetime.now(UTC)

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------- G8


def test_g8_reading_changes_nothing(folder: Path) -> None:
    """G8: history, get, refresh, lists and the stream of events change nothing and run no step function."""

    async def main() -> None:
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS):
            ids = ("chain", "racer", "nested", "parent")
            await asyncio.gather(
                *[(await CASES[id].workflow.start(CASES[id].number, id=id)).result() for id in ids]
            )
            waiting = await corpus.receiver.start(1, id="waiting")
            await until(lambda: has_status(waiting, Status.LISTENING))
        before, calls = content(folder), calls_in(folder / "calls")
        async with Engine(url_of(folder), workflows=corpus.WORKFLOWS, worker=False) as engine:
            for row in await engine.instances():
                run = await engine.get(row.id)
                history = await run.history()
                assert [event.version for event in history] == list(range(1, run.version + 1))
                assert await run.history(after=1, upto=2) == history[1:2]
                await run.refresh()
            await engine.requests()
            stream = engine.events()
            async for event in stream:
                if event.position == (await engine.instances()).position:
                    break
            await stream.aclose()
        assert content(folder) == before
        assert calls_in(folder / "calls") == calls

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ G11


def versions_of_code() -> dict[str, Any]:
    """Workflows of one name: as it was, and as somebody changed it."""

    @workflow(name="evolving")
    async def original(input: None, step: Step) -> list[int]:
        one = await step("one", corpus.same, 1)
        await step.listen("go")
        return [one, await step("two", corpus.same, 2)]

    @workflow(name="evolving")
    async def another_kind(input: None, step: Step) -> list[int]:
        await step.sleep("one", "1ms")
        await step.listen("go")
        return []

    @workflow(name="evolving")
    async def another_name(input: None, step: Step) -> list[int]:
        one = await step("uno", corpus.same, 1)
        await step.listen("go")
        return [one]

    @workflow(name="evolving")
    async def ends_early(input: None, step: Step) -> list[int]:
        return [await step("one", corpus.same, 1)]

    @workflow(name="evolving")
    async def fails_early(input: None, step: Step) -> list[int]:
        raise KeyError("not there")

    return {name: value for name, value in locals().items() if name != "original"} | {"original": original}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("another_kind", ["step 'one'", "sleep"]),
        ("another_name", ["step 'one'", "'uno'"]),
        ("ends_early", ["listen 'go'", "ends"]),
        ("fails_early", ["step 'one'", "KeyError"]),
    ],
)
def test_g11_changed_code_is_paused_and_fixed_code_carries_on(
    folder: Path, change: str, words: list[str]
) -> None:
    """G11: a replay that meets something else than what is recorded is paused with a readable difference, not failed;
    fixing the code and resume() carries on."""
    codes = versions_of_code()

    async def life(code: Any, then: Callable[[Instance[Any]], Awaitable[None]]) -> None:
        async with Engine(url_of(folder), workflows=[code]):
            await then(await code.start(id="run"))

    async def listening(run: Instance[Any]) -> None:
        await until(lambda: has_status(run, Status.LISTENING))

    async def held(run: Instance[Any]) -> None:
        await run.send("go", id="go")
        await until(lambda: has_status(run, Status.PAUSED))
        assert run.error is None
        assert run.reason is not None
        for word in words:
            assert word in run.reason, run.reason

    async def carries_on(run: Instance[Any]) -> None:
        assert (await run.refresh()).status == Status.PAUSED
        await run.resume()
        assert await run.result(timeout=20) == [1, 2]

    asyncio.run(life(codes["original"], listening))
    asyncio.run(life(codes[change], held))
    asyncio.run(life(codes[change], held))
    asyncio.run(life(codes["original"], carries_on))
    assert [call[1] for call in calls_in(folder / "calls")] == ["one", "two"]


def test_g11_resuming_with_the_wrong_code_holds_it_again(folder: Path) -> None:
    """G11: resume() with code that is still another is no way around the difference."""
    codes = versions_of_code()

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[codes["original"]]):
            run = await codes["original"].start(id="run")
            await until(lambda: has_status(run, Status.LISTENING))
        async with Engine(url_of(folder), workflows=[codes["another_kind"]]) as engine:
            run = await engine.get("run")
            await run.send("go")
            for _ in range(3):
                await until(lambda: has_status(run, Status.PAUSED))
                version = run.version
                await run.resume()
                await until(lambda: has_status(run, Status.PAUSED))
                assert run.version > version
        async with Engine(url_of(folder), workflows=[codes["original"]]) as engine:
            run = await engine.get("run")
            await run.resume()
            assert await run.result(timeout=20) == [1, 2]

    asyncio.run(main())


def test_g11_a_loop_without_a_step_is_held(folder: Path) -> None:
    """G11: a handler that never settles is paused, and the others go on meanwhile."""

    @workflow
    async def endless(input: None, step: Step) -> None:
        await step("before", corpus.same, 1)
        while True:
            await asyncio.sleep(0)

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[endless, corpus.chain]):
            run = await endless.start()
            other = await corpus.chain.start(1)
            await until(lambda: has_status(run, Status.PAUSED))
            assert "settle" in (run.reason or ""), run.reason
            assert await other.result(timeout=20) == [1, 2, 3, 0, 1, 2]
            await run.cancel()
            await until(lambda: has_status(run, Status.CANCELLED))

    asyncio.run(main())


def test_g11_waiting_for_nothing_but_itself_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: a handler that waits for nothing but itself is paused, and can be cancelled."""
    monkeypatch.setattr("wfes.handler.rest.DEADLOCK_MICROS", 100_000)

    @workflow
    async def stuck(input: None, step: Step) -> None:
        await step("before", corpus.same, 1)
        await asyncio.Event().wait()

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[stuck]):
            run = await stuck.start()
            await until(lambda: has_status(run, Status.PAUSED))
            assert "waits for nothing but itself" in (run.reason or ""), run.reason
            await run.cancel()
            await until(lambda: has_status(run, Status.CANCELLED))

    asyncio.run(main())


@pytest.mark.parametrize("change", ["another_kind", "ends_early"])
def test_g11_what_is_held_can_be_cancelled(folder: Path, change: str) -> None:
    """G11: an instance held for a difference is cancelled by cancel(), also with the code it is held for."""
    codes = versions_of_code()

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[codes["original"]]):
            run = await codes["original"].start(id="run")
            await until(lambda: has_status(run, Status.LISTENING))
        async with Engine(url_of(folder), workflows=[codes[change]]) as engine:
            run = await engine.get("run")
            await run.send("go")
            await until(lambda: has_status(run, Status.PAUSED))
            await run.cancel("no use")
            await until(lambda: has_status(run, Status.CANCELLED))
            assert run.reason == "no use"

    asyncio.run(main())


def test_five_cut_offs_in_a_row_pause_the_instance(folder: Path) -> None:
    """A step that kills its process each time does not do so for ever (section 3 of the contract)."""
    for _ in range(5):
        child = spawn("crash_in_step", folder)
        child.communicate(timeout=20)
        assert child.returncode == -signal.SIGKILL

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[scenarios.two_steps]) as engine:
            run = await engine.get("run")
            await until(lambda: has_status(run, Status.PAUSED))
            assert "second" in (run.reason or ""), run.reason
            (folder / "spare").touch()
            await run.resume()
            assert await run.result(timeout=20) == [1, 1]

    asyncio.run(main())
