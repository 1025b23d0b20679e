"""An engine's calls about projections: what may be given, asking, waiting, telling."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wfes import (
    Answer,
    DuplicateProjection,
    Engine,
    EngineNotOpen,
    Projection,
    ProjectionEvent,
    Reader,
    Row,
    Rows,
    Step,
    UnknownProjection,
    on,
    query,
    testing,
    workflow,
)
from wfes_projections import Statistics


class Total(Row, table="totals", key="workflow"):
    workflow: str
    count: int = 0
    largest: bytes = b""


class Totals(Projection):
    """How many instances of each workflow completed."""

    name = "totals"
    tables = (Total,)

    @on("WorkflowCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Total, event.workflow) or Total(event.workflow or "")
        row.count += 1
        row.largest = max(row.largest, event.data["output"], key=len)
        rows.put(row)

    @query
    def count(self, rows: Reader, workflow: str) -> int:
        found = rows.get(Total, workflow)
        return 0 if found is None else found.count

    @query
    def size(self, rows: Reader, workflow: str) -> int:
        found = rows.get(Total, workflow)
        return 0 if found is None else len(found.largest)


class Same(Row, table="totals", key="id"):
    id: int


class SameTable(Projection):
    name = "same-table"
    tables = (Same,)

    @on()
    def everything(self, event: ProjectionEvent, rows: Rows) -> None: ...


class SameName(Projection):
    name = "totals"

    class Other(Row, table="other", key="id"):
        id: int

    tables = (Other,)

    @on()
    def everything(self, event: ProjectionEvent, rows: Rows) -> None: ...


class Reserved(Projection):
    name = "wfes_mine"
    tables = (Total,)

    @on()
    def everything(self, event: ProjectionEvent, rows: Rows) -> None: ...


class ReservedTable(Projection):
    name = "mine"

    class Other(Row, table="wfes_other", key="id"):
        id: int

    tables = (Other,)

    @on()
    def everything(self, event: ProjectionEvent, rows: Rows) -> None: ...


@workflow
async def make(size: int, step: Step) -> bytes:
    return await step("make", lambda: b"x" * size)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ([42], TypeError, "projections holds 42, which is no projection"),
        ([Total], TypeError, "no projection"),
        (Totals(), TypeError, "several projections"),
        ("totals", TypeError, "several projections"),
        ([Projection], TypeError, "has no name"),
        ([Totals, Totals()], DuplicateProjection, "a projection named 'totals'"),
        ([Totals, SameName], DuplicateProjection, "a projection named 'totals'.*Totals and .*SameName"),
        ([Totals, SameTable], DuplicateProjection, "a table named 'totals'"),
        ([Reserved], ValueError, "'wfes_mine' of projection 'wfes_mine' is a name of the engine's own"),
        ([ReservedTable], ValueError, "table 'wfes_other' of projection 'mine'"),
        ([Totals(url="mysql://x")], ValueError, "no projection's url"),
    ],
)
def test_what_is_no_projection_is_refused(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Engine("sqlite://", projections=given)


@pytest.mark.parametrize("inline", [False, True])
def test_an_answer_reflects_what_was_written(inline: bool) -> None:
    async def main() -> None:
        async with testing.engine([make], projections=[Totals(inline=inline)]) as env:
            for number in range(1, 6):
                await (await make.start(number)).result()
                answer = await env.engine.query(Totals.count("make"), at_least=await env.engine.position())
                assert isinstance(answer, Answer)
                assert (answer.value, answer.position) == (number, await env.engine.position())
            await (await make.start(3_000_000)).result()  # a value that lies beside the log
            await env.settle()  # waits for followers
            assert (await env.engine.query(Totals.size("make"))).value == 3_000_000
            (status,) = [each for each in await env.engine.projections() if each.name == "totals"]
            assert status.kind == ("inline" if inline else "following")
            assert (status.status, status.lag, status.lag_seconds) == ("live", 0, 0.0)

    asyncio.run(main())


def test_another_process_reads_its_own_writes(tmp_path: Any) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/log.db"
        async with (
            Engine(url, workflows=[make], projections=[Totals]) as writing,
            Engine(url, worker=False, projections=[Totals]) as reading,
        ):
            for number in range(1, 4):
                await (await writing.start(make, 1)).result()
                position = await writing.position()
                assert (await reading.query(Totals.count("make"), at_least=position)).value == number

    asyncio.run(main())


def test_bad_questions() -> None:
    async def main() -> None:
        engine = Engine("sqlite://", worker=False, projections=[Totals])
        with pytest.raises(EngineNotOpen):
            await engine.query(Totals.count("make"))
        async with engine:
            with pytest.raises(TypeError, match=r"OrdersByDay\.best"):
                await engine.query("totals")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="not None"):
                await engine.retry_projection(None)  # type: ignore[arg-type]
            for question in (SameName, SameTable):
                asked = query(lambda self, rows: 1).__get__(None, question)()
                with pytest.raises(UnknownProjection, match="no projection"):
                    await engine.query(asked)
            for call in (engine.retry_projection, engine.rebuild_projection, engine.check_projection):
                with pytest.raises(UnknownProjection, match="'nothing'"):
                    await call("nothing")
            with pytest.raises(ValueError, match="must not be negative"):
                await engine.query(Totals.count("make"), at_least=-1)
            with pytest.raises(TimeoutError, match=r"'totals' did not reach position 99 within 0\.05s"):
                await engine.query(Totals.count("make"), at_least=99, timeout=0.05)

    asyncio.run(main())


def test_bundled_models_are_followed_once_somebody_asks() -> None:
    async def main() -> None:
        async with testing.engine([make]) as env:
            for _ in range(3):
                await (await make.start(1)).result()
            assert "wfes_statistics" not in {status.name for status in await env.engine.projections()}
            first = (await env.engine.statistics()).value.workflows
            assert {name: each.completed for name, each in first.items()} == {"make": 3}
            assert Statistics.name in {status.name for status in await env.engine.projections()}

    asyncio.run(main())


def test_from_code_that_is_not_async() -> None:
    with Engine("sqlite://", workflows=[make], projections=[Totals]) as engine:
        engine.call(engine.call(make.start(1)).result())
        position = engine.call(engine.position())
        assert engine.call(engine.query(Totals.count("make"), at_least=position)).value == 1


def test_closing_lets_go_of_who_waits() -> None:
    async def main() -> None:
        engine = Engine("sqlite://", worker=False, projections=[Totals])
        await engine.open()
        waiting = asyncio.ensure_future(engine.query(Totals.count("make"), at_least=10))
        await asyncio.sleep(0)
        await engine.query(Totals.count("make"))
        await engine.close()
        with pytest.raises(Exception, match="closed"):
            await waiting

    asyncio.run(main())
