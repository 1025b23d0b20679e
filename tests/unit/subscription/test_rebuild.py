"""Rebuilding beside the live rows: nobody sees half, old rows serve until new ones are there, crashes leave nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wfes import (
    Engine,
    LogUnavailable,
    Projection,
    ProjectionEvent,
    ProjectionNotReady,
    ProjectionStatus,
    ProjectionStopped,
    Reader,
    Row,
    Rows,
    UnknownProjection,
    on,
    query,
)
from wfes.core import events as e
from wfes.log.open import open_log
from wfes.subscription import building, runner
from wfes.subscription import rebuild as rebuilding
from wfes.subscription.rebuild import StateBuild, bring_up
from wfes_projections import inline


def _kit() -> ModuleType:
    """The projections of the tests beside this one."""
    path = Path(__file__).with_name("test_following.py")
    spec = importlib.util.spec_from_file_location("following_kit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["following_kit"] = module
    spec.loader.exec_module(module)
    return module


kit = _kit()
Orders, Mortal, run_child, counts = kit.Orders, kit.Mortal, kit.run_child, kit.counts


class Day2(Row, table="orders_by_day", key="day", indexes=["orders"]):
    day: date
    orders: int = 0
    total: int = 0
    best: int = 0


class Orders2(Projection):
    """The next version: a column more, a table less."""

    name = "orders"
    version = 2
    tables = (Day2,)
    gate = threading.Event()
    fails = False

    @on("WorkflowCompleted", workflow="checkout")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        assert self.gate.wait(20)
        if self.fails:
            raise ValueError("not yet right")
        day = rows.get(Day2, event.at.date()) or Day2(event.at.date())
        day.orders += 1
        day.total += event.data["output"]["total"]
        day.best = max(day.best, event.data["output"]["total"])
        rows.put(day)

    @query
    def orders(self, rows: Reader) -> int:
        ((found,),) = rows.sql("SELECT coalesce(sum(orders), 0) FROM {orders_by_day}")
        return int(found)

    @query
    def best(self, rows: Reader) -> int:
        return max((day.best for day in rows.select(Day2)), default=0)


@pytest.fixture
def place(url: str) -> str:
    return url.removeprefix("sqlite:///")


async def until_built(engine: Engine, part: float | None) -> ProjectionStatus:
    """Waits until so much of the projection's next version is built; None: all of it is swapped."""
    async with asyncio.timeout(20):
        while True:
            (status,) = [each for each in await engine.projections() if each.name == "orders"]
            if status.building == part:
                return status
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("own", "inline_"), [(False, False), (False, True), (True, False)])
def test_a_rebuild_gives_the_same_rows_and_leaves_nothing(
    own: bool, inline_: bool, url: str, place: str, histories: Callable[..., int], tmp_path: Path
) -> None:
    async def main() -> None:
        histories(url, 0, 60)
        projection = Orders(inline=inline_, url=f"sqlite:///{tmp_path}/own.db" if own else None)
        database = sqlite3.connect(tmp_path / "own.db" if own else place)
        async with Engine(url, worker=False, projections=[projection]) as engine:
            assert await counts(engine) == (30, 180, 1)
            database.execute("DELETE FROM orders_by_day")
            database.execute("UPDATE seen SET times = 7")
            database.commit()
            told: list[tuple[int, int]] = []
            await engine.rebuild_projection("orders", lambda done, total: told.append((done, total)))
            assert told[-1] == (540, 540)
            assert await counts(engine) == (30, 180, 1)
            histories(url, 60, 10)
            assert await counts(engine) == (35, 210, 1)
            assert (await engine.check_projection("orders")).ok
            names = {
                row[0]
                for row in database.execute(
                    "SELECT name FROM sqlite_master WHERE name LIKE '%\\_\\_%' ESCAPE '\\'"
                )
            }
            assert {name for name in names if name.endswith(("__next", "__old"))} == set()
        database.close()

    asyncio.run(main())


def test_rebuilt_while_written_and_read(url: str, place: str, histories: Callable[..., int]) -> None:
    async def main() -> None:
        histories(url, 0, 300)
        async with Engine(url, worker=False, projections=[Orders]) as engine:
            assert await counts(engine) == (150, 900, 1)
            done = threading.Event()
            seen: list[tuple[int, int, int]] = []
            trouble: list[BaseException] = []

            def read() -> None:
                connection = sqlite3.connect(place)
                try:
                    while not done.is_set():
                        connection.execute("BEGIN")
                        (orders,) = connection.execute("SELECT sum(orders) FROM orders_by_day").fetchone()
                        (steps,) = connection.execute("SELECT count(*) FROM seen").fetchone()
                        (position,) = connection.execute(
                            "SELECT position FROM wfes_projections WHERE name = 'orders'"
                        ).fetchone()
                        connection.execute("COMMIT")
                        seen.append((orders, steps, position))
                except BaseException as error:
                    trouble.append(error)
                finally:
                    connection.close()

            reader = threading.Thread(target=read)
            reader.start()
            number = 300
            for _ in range(4):
                rebuild = asyncio.ensure_future(engine.rebuild_projection("orders"))
                while not rebuild.done():
                    await asyncio.to_thread(histories, url, number, 10)
                    number += 10
                await rebuild
            assert await counts(engine) == (number // 2, number * 3, 1)
            done.set()
            reader.join()
            assert trouble == []
            # Each reading is of one position, whole, and none goes back.
            assert [(position // 9 // 2, position // 9 * 3) for _, _, position in seen] == [
                (orders, steps) for orders, steps, _ in seen
            ]
            assert seen == sorted(seen)
            assert (await engine.check_projection("orders")).ok

    asyncio.run(main())


@pytest.mark.parametrize("inline_", [False, True])
def test_another_version_is_built_while_the_old_rows_serve(
    inline_: bool, url: str, histories: Callable[..., int]
) -> None:
    async def main() -> None:
        histories(url, 0, 20)
        async with Engine(url, worker=False, projections=[Orders(inline=inline_)]) as engine:
            assert await counts(engine) == (10, 60, 1)
        Orders2.gate.clear()
        async with Engine(url, worker=False, projections=[Orders2(inline=inline_)]) as engine:
            answer = await engine.query(Orders2.orders())
            assert (answer.value, answer.position) == (10, 180)
            with pytest.raises(
                ProjectionNotReady, match="are of version 1, and those of version 2 are being"
            ):
                await engine.query(Orders2.best())
            status = await until_built(engine, 0.0)
            assert (status.version, status.status, status.building) == (1, "live", 0.0)
            histories(url, 20, 20)
            Orders2.gate.set()
            assert (await engine.query(Orders2.best(), at_least=await engine.position())).value == 38
            status = await until_built(engine, None)
            assert (status.version, status.status, status.building) == (2, "live", None)
            assert (await engine.check_projection("orders")).ok
        # A program of the older version does not touch them.
        async with Engine(url, worker=False, projections=[Orders]) as engine:
            histories(url, 40, 1)
            with pytest.raises(ProjectionNotReady, match=r"not yet at 369; this program has version 1"):
                await engine.query(Orders.counts(), at_least=369)

    asyncio.run(main())


def test_a_version_that_fails_leaves_the_old_rows(url: str, histories: Callable[..., int]) -> None:
    async def main() -> None:
        histories(url, 0, 20)
        async with Engine(url, worker=False, projections=[Orders]) as engine:
            assert await counts(engine) == (10, 60, 1)
            Orders2.gate.set()
            Orders2.fails = True
        async with Engine(url, worker=False, projections=[Orders2]) as engine:
            with pytest.raises(ProjectionStopped, match="not yet right"):
                await engine.rebuild_projection("orders")
            assert (await engine.query(Orders2.orders())).value == 10
            Orders2.fails = False
            await engine.retry_projection("orders")
            histories(url, 20, 2)  # the old rows stay behind this
            assert (await engine.query(Orders2.best(), at_least=await engine.position())).value == 20

    try:
        asyncio.run(main())
    finally:
        Orders2.fails = False


@pytest.mark.parametrize("own", [False, True])
def test_a_rebuild_killed_midway_is_done_again(
    own: bool, url: str, place: str, tmp_path: Path, histories: Callable[..., int]
) -> None:
    where = f"sqlite:///{tmp_path}/own.db" if own else ""

    async def main(rebuild: bool) -> None:
        async with Engine(url, worker=False, projections=[Mortal(url=where or None)]) as engine:
            assert await counts(engine) == (300, 1_800, 1)
            if rebuild:
                await engine.rebuild_projection("orders")
            assert await counts(engine) == (300, 1_800, 1)
            assert (await engine.check_projection("orders")).ok

    histories(url, 0, 600)
    asyncio.run(main(False))
    for die_at in (100, 4_000, 5_400):
        assert run_child(url, where, die_at, "rebuild") == -signal.SIGKILL
        asyncio.run(main(False))  # what was there serves
    asyncio.run(main(True))
    database = sqlite3.connect(tmp_path / "own.db" if own else place)
    left = database.execute(
        "SELECT name FROM sqlite_master WHERE name LIKE '%\\_\\_next' ESCAPE '\\'"
    ).fetchall()
    assert left == []
    assert database.execute("SELECT name FROM wfes_projections WHERE name LIKE 'orders%'").fetchall() == [
        ("orders",)
    ]
    database.close()


def test_two_engines_rebuild_at_once(url: str, histories: Callable[..., int]) -> None:
    async def main() -> None:
        histories(url, 0, 400)
        async with (
            Engine(url, worker=False, projections=[Orders]) as one,
            Engine(url, worker=False, projections=[Orders]) as other,
        ):
            assert await counts(one) == await counts(other) == (200, 1_200, 1)
            await asyncio.gather(*(engine.rebuild_projection("orders") for engine in (one, other)))
            assert await counts(one) == await counts(other) == (200, 1_200, 1)
            assert (await one.check_projection("orders")).ok

    asyncio.run(main())


def test_a_view_of_the_users_goes_on_to_the_new_rows(
    url: str, place: str, histories: Callable[..., int]
) -> None:
    async def main() -> None:
        histories(url, 0, 10)
        async with Engine(url, worker=False, projections=[Orders]) as engine:
            await counts(engine)
            database = sqlite3.connect(place)
            database.execute("CREATE VIEW report AS SELECT sum(orders) AS orders FROM orders_by_day")
            database.commit()
            await engine.rebuild_projection("orders")
            histories(url, 10, 10)
            await counts(engine)
            assert database.execute("SELECT orders FROM report").fetchone() == (10,)
            database.close()

    asyncio.run(main())


def test_what_is_not_there_cannot_be_rebuilt() -> None:
    async def main() -> None:
        async with Engine("sqlite://", worker=False) as engine:
            with pytest.raises(UnknownProjection, match="no projection 'nothing'"):
                await engine.rebuild_projection("nothing")

    asyncio.run(main())


# -- State projections -------------------------------------------------------------------------------------------------


class Older:
    """A state projection as another release has it."""

    def __init__(self, projection: Any) -> None:
        self._projection = projection
        self.version = projection.version + 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._projection, name)


def test_state_projections_of_another_release_are_built_beside(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "SHORT_MAX", 10)
    histories(url, 0, 200)
    log = open_log(url)
    log.open([])
    assert len(bring_up(log, inline())) == len(inline())
    before = log.read("SELECT * FROM wfes_instances ORDER BY id")
    assert len(before) == 200
    assert log.read("SELECT count(*) FROM wfes_work") == [(0,)]
    assert bring_up(log, inline()) == []
    newer: Any = [Older(projection) for projection in inline()]
    histories(url, 200, 20)
    assert len(bring_up(log, newer)) == len(newer)
    assert log.read("SELECT count(*) FROM wfes_instances") == [(220,)]
    assert log.read("SELECT * FROM wfes_instances ORDER BY id LIMIT 200") == before
    assert log.read("SELECT name FROM wfes_projections WHERE name LIKE '%\\_\\_%' ESCAPE '\\'") == []
    assert (
        log.read(
            "SELECT name FROM sqlite_master WHERE name LIKE '%\\_\\_next'  ESCAPE '\\' OR name LIKE '%old'"
        )
        == []
    )
    log.close()


def test_state_rows_are_caught_up_with_what_is_written_meanwhile(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        histories(url, 0, 100)
        async with Engine(url, worker=False) as engine:
            number = 100

            def write(done: int, total: int) -> None:
                nonlocal number
                if number < 150:
                    histories(url, number, 10)
                    number += 10

            build = StateBuild(
                engine._log,
                inline(),
                engine._parts.models._log_store,  # type: ignore[arg-type]
                engine._parts.now,
                anew=True,
                progress=write,
            )
            await asyncio.to_thread(build.run)
            assert number > 100
            assert engine._log.read("SELECT count(*) FROM wfes_instances") == [(number,)]
            for projection in inline():
                report = await engine.check_projection(projection.name)
                assert report.ok, str(report)

    monkeypatch.setattr(rebuilding, "REST_MAX", 5)
    asyncio.run(main())


def test_state_projections_are_rebuilt_while_instances_run() -> None:
    from wfes import Step, testing, workflow

    @workflow
    async def nap(number: int, step: Step) -> int:
        await step.sleep("nap", "1d")
        return await step("add", lambda: number + 1)

    async def main() -> None:
        async with testing.engine([nap]) as env:
            runs = [await nap.start(number, tags=["x"]) for number in range(20)]
            await env.settle()
            for projection in inline():
                await env.engine.rebuild_projection(projection.name)
            assert len(await env.engine.instances(status="listening")) == 20
            await env.advance("2d")
            assert [await run.result() for run in runs] == list(range(1, 21))
            for projection in inline():
                report = await env.engine.check_projection(projection.name)
                assert report.ok, str(report)

    asyncio.run(main())


class Held(Projection):
    """Handlers wait at an event until they are let on."""

    name = "orders"
    tables = (Day2,)
    gate = threading.Event()
    reached = threading.Event()
    at = 0

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        if event.position > self.at:
            self.reached.set()
            assert self.gate.wait(20)
        day = rows.get(Day2, event.at.date()) or Day2(event.at.date())
        day.orders += 1
        rows.put(day)

    @query
    def orders(self, rows: Reader) -> int:
        return sum(day.orders for day in rows.select(Day2))


def test_a_rebuild_that_was_cut_off_is_gone_on_with(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "STANDBY_SECONDS", 0.05)
    monkeypatch.setattr(building, "WRITE_SECONDS", 0.001)
    monkeypatch.setattr(runner, "PAGE", 10)

    async def main() -> None:
        histories(url, 0, 100)
        Held.gate.set()
        async with Engine(url, worker=False, projections=[Held]) as engine:
            assert (await engine.query(Held.orders(), at_least=await engine.position())).value == 100
            Held.gate.clear()
            Held.reached.clear()
            Held.at = 450
            rebuild = asyncio.ensure_future(engine.rebuild_projection("orders"))
            assert await asyncio.to_thread(Held.reached.wait, 20)
            closing = asyncio.ensure_future(engine.close())
            while not engine._parts.models._stopping.is_set():
                await asyncio.sleep(0)
            Held.gate.set()
            await closing
            with pytest.raises(LogUnavailable, match="the next one that follows 'orders' goes on"):
                await rebuild
        log = open_log(url)
        log.open([])
        ((done,),) = log.read("SELECT position FROM wfes_projections WHERE name = 'orders__next'")
        assert 0 < done < 900
        log.close()
        async with Engine(url, worker=False, projections=[Held]) as engine:
            await until_built(engine, None)
            assert (await engine.query(Held.orders(), at_least=await engine.position())).value == 100
            assert (await engine.check_projection("orders")).ok
        log = open_log(url)
        log.open([])
        generations = log.read("SELECT name, generation FROM wfes_projections WHERE name LIKE 'orders%'")
        assert generations == [("orders", 2)]
        log.close()

    asyncio.run(main())


def test_a_state_build_that_is_cancelled_or_abandoned_leaves_nothing(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "SHORT_MAX", 10)
    histories(url, 0, 50)
    log = open_log(url)
    log.open([])
    bring_up(log, inline())
    left = "SELECT name FROM wfes_projections WHERE name LIKE '%\\_\\_%' ESCAPE '\\'"
    stopping = threading.Event()
    cancelled = StateBuild(
        log,
        inline(),
        rebuilding._Direct(log),
        lambda: 0,
        anew=True,
        progress=lambda done, total: stopping.set(),
        stopping=stopping,
    )
    with pytest.raises(building.Cancelled):
        cancelled.run()
    assert log.read(left) == []
    dead = StateBuild(log, inline(), rebuilding._Direct(log), lambda: 5, anew=True)
    rebuilding._Direct(log).write(dead._begin)
    bring_up(log, inline(), lambda: 5 + rebuilding.ABANDONED_MICROS)
    assert log.read("SELECT count(*) FROM wfes_instances__next") == [(0,)]
    bring_up(log, inline(), lambda: 6 + rebuilding.ABANDONED_MICROS)
    assert log.read(left) == []
    assert log.read("SELECT name FROM sqlite_master WHERE name LIKE '%\\_\\_next' ESCAPE '\\'") == []
    assert log.read("SELECT count(*) FROM wfes_instances") == [(50,)]
    log.close()


def test_a_state_build_that_was_cut_off_is_begun_again(
    url: str, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "STANDBY_SECONDS", 0.05)
    monkeypatch.setattr(rebuilding, "SHORT_MAX", 10)
    histories(url, 0, 50)
    log = open_log(url)
    log.open([])
    bring_up(log, inline())
    cut = StateBuild(log, inline(), rebuilding._Direct(log), lambda: 0, anew=True)
    rebuilding._Direct(log).write(cut._begin)
    assert log.read("SELECT count(*) FROM wfes_instances__next") == [(0,)]
    StateBuild(log, inline(), rebuilding._Direct(log), lambda: 0, anew=True).run()
    assert log.read("SELECT count(*) FROM wfes_instances") == [(50,)]
    assert log.read("SELECT name FROM wfes_projections WHERE name LIKE '%\\_\\_%' ESCAPE '\\'") == []
    log.close()


def test_definitions_are_among_what_is_rebuilt(url: str) -> None:
    from wfes import workflow

    @workflow(on=["order.paid", "order.lost"])
    async def paid(order: int) -> None:
        pass

    async def main() -> None:
        async with Engine(url, workflows=[paid], worker=False) as engine:
            await engine.rebuild_projection("wfes_subscriptions")
            report = await engine.check_projection("wfes_subscriptions")
            assert (report.ok, report.rows) == (True, 2)
            await engine.publish("order.paid", 3)
            assert len(await engine.instances(workflow=paid)) == 1

    asyncio.run(main())
    assert e.WorkflowDefined.topic == "WorkflowDefined"
