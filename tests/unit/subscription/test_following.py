"""Following: every event once, whatever fails, dies or competes; a handler that raises stops itself alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from wfes import Engine, Projection, ProjectionEvent, ProjectionStopped, Reader, Row, Rows, on, query
from wfes.subscription import following


class Day(Row, table="orders_by_day", key="day"):
    day: date
    orders: int = 0
    total: int = 0


class Seen(Row, table="seen", key=("instance", "path"), indexes=["workflow"]):
    instance: str
    path: str
    workflow: str | None
    key: str | None
    times: int = 0


class Orders(Projection):
    """Counts, so that an event handled twice shows."""

    name = "orders"
    tables = (Day, Seen)

    @on("WorkflowCompleted", workflow="checkout")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        day = rows.get(Day, event.at.date()) or Day(event.at.date())
        day.orders += 1
        day.total += event.data["output"]["total"]
        rows.put(day)

    @on("StepCompleted")
    def step(self, event: ProjectionEvent, rows: Rows) -> None:
        path = event.data["path"]
        seen = rows.get(Seen, event.instance, path) or Seen(event.instance, path, event.workflow, event.key)
        seen.times += 1
        rows.put(seen)

    @query
    def counts(self, rows: Reader) -> tuple[int, int, int]:
        """Orders, rows of steps, and how often the one most seen was."""
        ((orders,),) = rows.sql("SELECT coalesce(sum(orders), 0) FROM {orders_by_day}")
        ((most,),) = rows.sql("SELECT coalesce(max(times), 0) FROM {seen}")
        return orders, rows.count(Seen), most


class Mortal(Orders):
    """Kills its process at the event whose position is in the environment."""

    name = "orders"

    @on()
    def die(self, event: ProjectionEvent, rows: Rows) -> None:
        if event.position == int(os.environ.get("DIE_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)


async def counts(engine: Engine, projection: type[Projection] = Orders) -> tuple[int, int, int]:
    answer = await engine.query(Orders.counts(), at_least=await engine.position())
    assert answer.position == await engine.position()
    return answer.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def follow_of(engine: Engine) -> following.Follow:
    return engine._parts.models._follows["orders"]


def test_rows_are_those_of_the_log_and_go_on_after_a_restart(
    url: str, histories: Callable[..., int], tmp_path: Path
) -> None:
    async def main() -> None:
        for place in (None, f"sqlite:///{tmp_path}/own.db"):
            total = 0
            for _ in range(3):
                async with Engine(url, worker=False, projections=[Orders(url=place)]) as engine:
                    if place is None:
                        total = await engine.position() // 9
                        histories(url, total, 20)  # by another process, as far as this one knows
                        total += 20
                    else:
                        total = await engine.position() // 9
                    assert await counts(engine) == (total // 2, total * 3, 1)
                    assert (await engine.check_projection("orders")).ok

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["fail", "lost"])
def test_exactly_once_whichever_commit_fails(
    kind: str, tmp_path: Path, histories: Callable[..., int], shaky: Callable[[str, int], Any]
) -> None:
    async def once(number: int) -> int:
        url = f"sqlite:///{tmp_path}/{number}.db"
        histories(url, 0, 6)
        with shaky(kind, number) as logs:
            try:
                engine = Engine(url, worker=False, projections=[Orders])
                await engine.open()
            except Exception:
                assert logs[0].tries == number  # nothing is there yet to try it again
                return 99
            try:
                assert await counts(engine) == (3, 18, 1)
                histories(url, 6, 6)
                await until(lambda: follow_of(engine).entry_position == 12 * 9)
                assert await counts(engine) == (6, 36, 1)
                assert (await engine.check_projection("orders")).ok
            finally:
                await engine.close()
            tries: int = logs[0].tries
            return tries

    async def main() -> None:
        number, tries = 1, 99
        while number <= tries:
            tries = await once(number)
            number += 1
        assert number > 4

    asyncio.run(main())


def test_two_engines_follow_the_same_log_and_one_takes_over(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STANDBY_SECONDS", 0.1)

    async def main() -> None:
        first = Engine(url, worker=False, projections=[Orders])
        await first.open()
        async with Engine(url, worker=False, projections=[Orders]) as second:
            for number in range(5):
                histories(url, number * 10, 10)
                assert await counts(first) == await counts(second) == (5 * number + 5, 30 * number + 30, 1)
            modes = {follow_of(engine).mode for engine in (first, second)}
            assert modes == {following.FOLLOWING, following.STANDBY}
            ahead, behind = (
                (first, second) if follow_of(first).mode == following.FOLLOWING else (second, first)
            )
            await ahead.close()
            histories(url, 50, 10)
            assert await counts(behind) == (30, 180, 1)
            assert follow_of(behind).mode == following.FOLLOWING
            assert (await behind.check_projection("orders")).ok
        await first.close()

    asyncio.run(main())


_CHILD = """
import asyncio, importlib.util, sys
spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec); sys.modules["kit"] = kit; spec.loader.exec_module(kit)
from wfes import Engine
async def main():
    projection = kit.Mortal(url=sys.argv[3] or None)
    async with Engine(sys.argv[2], worker=False, projections=[projection]) as engine:
        if sys.argv[4] == "rebuild":
            await engine.rebuild_projection("orders")
        await engine.query(kit.Orders.counts(), at_least=await engine.position())
asyncio.run(main())
"""


def run_child(url: str, place: str, die_at: int, what: str = "follow") -> int:
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, __file__, url, place, what],
        env={**os.environ, "DIE_AT": str(die_at)},
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert child.returncode in (0, -signal.SIGKILL), child.stderr.decode()
    return child.returncode


@pytest.mark.parametrize("own", [None, "sqlite", "postgresql"])
def test_a_follower_killed_midway_goes_on_where_it_was(
    own: str | None,
    url: str,
    tmp_path: Path,
    histories: Callable[..., int],
    request: pytest.FixtureRequest,
) -> None:
    place = f"sqlite:///{tmp_path}/own.db" if own == "sqlite" else ""
    if own == "postgresql":
        place = request.getfixturevalue("postgres_url")
    histories(url, 0, 600)
    for die_at in (3, 2_500, 5_000):
        assert run_child(url, place, die_at) == -signal.SIGKILL

    async def main() -> None:
        async with Engine(url, worker=False, projections=[Mortal(url=place or None)]) as engine:
            assert await counts(engine) == (300, 1_800, 1)
            assert (await engine.check_projection("orders")).ok

    asyncio.run(main())


class Broken(Orders):
    """Raises at one event."""

    name = "orders"
    at = 40

    @on("StepCompleted")
    def break_down(self, event: ProjectionEvent, rows: Rows) -> None:
        rows.delete(Day, event.at.date())
        if event.position >= self.at:
            raise ValueError("I do not like this one")


class Elsewhere(Row, table="elsewhere", key="type"):
    type: str
    count: int = 0


class Others(Projection):
    name = "others"
    tables = (Elsewhere,)

    @on("WorkflowCompleted")
    def count(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Elsewhere, event.type) or Elsewhere(event.type)
        row.count += 1
        rows.put(row)

    @query
    def number(self, rows: Reader) -> int:
        found = rows.get(Elsewhere, "WorkflowCompleted")
        return 0 if found is None else found.count


def test_a_handler_that_raises_stops_its_projection_alone(
    url: str, histories: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        histories(url, 0, 10)
        stopped_at = 40
        async with Engine(url, worker=False, projections=[Broken, Others]) as engine:
            with pytest.raises(ProjectionStopped, match=f"stopped at position {stopped_at}.*I do not like"):
                await engine.query(Broken.counts(), at_least=await engine.position())
            status = {each.name: each for each in await engine.projections()}
            stopped = status["orders"]
            assert (stopped.status, stopped.error_position) == ("stopped", stopped_at)
            assert stopped.position == stopped_at - 1
            assert "ValueError: I do not like this one" in (stopped.error or "")
            assert stopped.error_at is not None
            assert stopped.lag > 0
            answer = await engine.query(Others.number(), at_least=await engine.position())
            assert answer.value == 10
            assert {each.name: each.status for each in await engine.projections()}["others"] == "live"
            said = "".join(caplog.messages)
            assert "'orders' is stopped" in said
            assert f"position {stopped_at}" in said
            assert "StepCompleted" in said
            # Still broken: it stops at the same place again.
            await engine.retry_projection("orders")
            with pytest.raises(ProjectionStopped):
                await engine.query(Broken.counts(), at_least=await engine.position())
            Broken.at = 2**62  # mended
            await engine.retry_projection("orders")
            answer_ = await engine.query(Broken.counts(), at_least=await engine.position())
            assert answer_.value[1:] == (30, 1)

    try:
        asyncio.run(main())
    finally:
        Broken.at = 40


def test_a_mended_release_goes_on_without_another_version(url: str, histories: Callable[..., int]) -> None:
    async def main() -> None:
        histories(url, 0, 10)
        async with Engine(url, worker=False, projections=[Broken]) as engine:
            with pytest.raises(ProjectionStopped):
                await engine.query(Broken.counts(), at_least=await engine.position())
        async with Engine(url, worker=False, projections=[Broken]) as engine:
            with pytest.raises(ProjectionStopped):  # once more, and stopped again
                await engine.query(Broken.counts(), at_least=await engine.position())
        async with Engine(url, worker=False, projections=[Orders]) as engine:
            answer = await engine.query(Orders.counts(), at_least=await engine.position())
            assert answer.value[1:] == (30, 1)

    asyncio.run(main())


def test_a_retry_from_another_process_is_seen(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STOPPED_LOOK_SECONDS", 0.02)

    async def main() -> None:
        histories(url, 0, 10)
        async with Engine(url, worker=False, projections=[Broken]) as engine:
            with pytest.raises(ProjectionStopped):
                await engine.query(Broken.counts(), at_least=await engine.position())
            Broken.at = 2**62
            async with Engine(url, worker=False) as other:
                await other.retry_projection("orders")
            await until(lambda: follow_of(engine).entry_position == 90)

    try:
        asyncio.run(main())
    finally:
        Broken.at = 40


def test_rows_that_the_database_refuses_stop_at_their_event(url: str, histories: Callable[..., int]) -> None:
    class Strict(Orders):
        name = "orders"

    async def main() -> None:
        histories(url, 0, 4)
        async with Engine(url, worker=False, projections=[Strict]) as engine:
            await counts(engine)
            database = sqlite3.connect(url.removeprefix("sqlite:///"))
            database.execute(
                "CREATE TRIGGER no BEFORE INSERT ON seen WHEN NEW.instance = 'i-000006' "
                "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
            database.commit()
            database.close()
            histories(url, 4, 6)
            with pytest.raises(ProjectionStopped, match="not this one") as caught:
                await engine.query(Strict.counts(), at_least=await engine.position())
            assert caught.value.position == 6 * 9 + 4

    asyncio.run(main())


def test_a_checkpoint_moves_where_nothing_concerns_the_projection(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "CHECKPOINT_SECONDS", 0.05)

    class Rare(Projection):
        name = "orders"
        tables = (Elsewhere,)

        @on("TimerFired")
        def never(self, event: ProjectionEvent, rows: Rows) -> None:
            raise AssertionError

    async def main() -> None:
        async with Engine(url, worker=False, projections=[Rare]) as engine:
            histories(url, 0, 50)
            await until(lambda: follow_of(engine).entry_position == 450)

    asyncio.run(main())


def test_the_library_reads_the_checkpoint_of_a_database_of_its_own(
    url: str, histories: Callable[..., int], tmp_path: Path
) -> None:
    from eventsourcing.sqlite import SQLiteDatastore, SQLiteTrackingRecorder

    async def main() -> None:
        histories(url, 0, 5)
        async with Engine(
            url, worker=False, projections=[Orders(url=f"sqlite:///{tmp_path}/own.db")]
        ) as engine:
            await counts(engine)

    asyncio.run(main())
    recorder = SQLiteTrackingRecorder(SQLiteDatastore(f"{tmp_path}/own.db"))
    assert recorder.max_tracking_id("orders") == 45
    recorder.datastore.close()
