"""Read models on every database: kept inline, following, made anew, and equal to what the log says."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from wfes import (
    Engine,
    Projection,
    ProjectionEvent,
    Reader,
    Row,
    Rows,
    Step,
    WorkflowFailed,
    on,
    query,
    workflow,
)


class Day(Row, table="orders_by_day", key=["day", "kind"], indexes=["total"]):
    day: date
    kind: str
    orders: int = 0
    total: float = 0.0
    big: bool = False
    last: dict[str, Any] | None = None


class Orders(Projection):
    name = "orders"
    version = 1
    tables = (Day,)

    @on("WorkflowCompleted", workflow="order")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        output = event.data["output"]
        key = event.at.date(), output["kind"]
        found = rows.get(Day, *key) or Day(*key)
        found.orders += 1
        found.total += output["total"]
        found.big = found.big or output["total"] > 5
        found.last = output
        rows.put(found)

    @query
    def all(self, rows: Reader) -> list[tuple[str, int, float, bool]]:
        found = rows.select(Day, order="kind")
        return [(row.kind, row.orders, row.total, row.big) for row in found]

    @query
    def sums(self, rows: Reader, big: bool) -> tuple[Any, ...]:
        sql = (
            "SELECT sum(orders), sum(total), count(*) FROM {orders_by_day} WHERE big = :big AND kind LIKE '%'"
        )
        return tuple(rows.sql(sql, big=big)[0])


class Later(Orders):
    version = 2


def cost(number: int) -> float:
    return number + 0.5


@workflow(requests={"approval": bool})
async def order(number: int, step: Step) -> dict[str, Any]:
    total = await step("cost", cost, number)
    if number == 7:
        await step.request("approval")
    if number == 8:
        step.fail("sold out")
    return {"kind": "ÄaZ"[number % 3], "total": total}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    given: str = request.getfixturevalue("postgres_url")
    return f"{given}?archive={tmp_path}/archive"


async def run_some(engine: Engine, numbers: range) -> int:
    instances = [await engine.start(order, number) for number in numbers]
    for instance, number in zip(instances, numbers, strict=True):
        if number == 7:
            async with asyncio.timeout(20):
                while not (await engine.requests()).items:
                    await asyncio.sleep(0.01)
        elif number == 8:
            with pytest.raises(WorkflowFailed):
                await instance.result(20)
        else:
            await instance.result(20)
    return await engine.position()


@pytest.mark.parametrize("inline", [False, True], ids=["following", "inline"])
def test_rows_are_those_of_the_log_whatever_is_done_to_them(url: str, inline: bool) -> None:
    async def main() -> None:
        async with Engine(url, workflows=[order], projections=[Orders(inline=inline)]) as engine:
            position = await run_some(engine, range(6))
            answer = await engine.query(Orders.all(), at_least=position)
            assert answer.value == [("Z", 2, 8.0, True), ("a", 2, 6.0, False), ("Ä", 2, 4.0, False)]
            sums = (await engine.query(Orders.sums(False))).value
            assert sums == (4, 10.0, 2)
            assert [type(value) for value in sums] == [int, float, int]
            assert (await engine.check_projection("orders")).ok
            await engine.rebuild_projection("orders")
            position = await run_some(engine, range(6, 9))
            assert sum(row[1] for row in (await engine.query(Orders.all(), at_least=position)).value) == 7
        async with Engine(url, workflows=[order], projections=[Later(inline=inline)]) as engine:
            position = await engine.position()
            answer = await engine.query(Later.all(), at_least=position, timeout="20s")
            assert sum(row[1] for row in answer.value) == 7
            for status in await engine.projections():
                report = await engine.check_projection(status.name)
                assert report.ok, str(report)

    asyncio.run(main())


def test_the_bundled_ones(url: str) -> None:
    async def main() -> None:
        async with Engine(url, workflows=[order]) as engine:
            position = await run_some(engine, range(9))
            report = (await engine.statistics("order", at_least=position)).value
            assert report.workflows["order"].steps["cost"].completed == 9
            since = datetime.now(UTC) - timedelta(minutes=5)
            counts = (await engine.activity(since, resolution="hour", at_least=position)).value
            assert sum(count.started for count in counts) == 9
            assert (await engine.timers(at_least=position)).items == []
            (asked,) = (await engine.requests()).items
            assert asked.name == "approval"
            failed = await engine.instances(workflow="order", status="failed", limit=5)
            assert [row.workflow for row in failed.items] == ["order"]
            newest = await engine.instances(limit=4)
            rest = await engine.instances(limit=50, cursor=newest.cursor)
            assert len({row.id for row in (*newest.items, *rest.items)}) == 9
            assert newest.total == 9

    asyncio.run(main())
