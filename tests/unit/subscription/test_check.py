"""Checking: every row that is not as the log says is found, and nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfes import Engine, Projection, ProjectionEvent, ProjectionNotReady, ProjectionStopped, Row, Rows, on
from wfes.subscription import check


class Done(Row, table="done", key=("instance", "path")):
    instance: str
    path: str
    workflow: str | None
    result: int


class Steps(Projection):
    name = "steps"
    tables = (Done,)
    fails = False

    @on("StepCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        if self.fails:
            raise ValueError("no more")
        rows.put(Done(event.instance, event.data["path"], event.workflow, event.data["result"]))


@pytest.mark.parametrize("place", ["following", "inline", "own"])
def test_every_kind_of_difference_is_found(
    place: str, url: str, tmp_path: Path, histories: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_PAGE", 7)

    async def main() -> None:
        histories(url, 0, 20)
        own = f"sqlite:///{tmp_path}/own.db" if place == "own" else None
        projection = Steps(url=own, inline=place == "inline")
        async with Engine(url, worker=False, projections=[projection]) as engine:
            report = await engine.check_projection("steps") if place == "never" else None
            async with asyncio.timeout(20):
                while True:  # nobody asked it anything: it may not have begun
                    try:
                        report = await engine.check_projection("steps")
                    except ProjectionNotReady:
                        continue
                    assert report.ok
                    if report.rows == 60:
                        break
            assert str(report).endswith("60 rows, all as the log says")
            database = sqlite3.connect(tmp_path / "own.db" if own else url.removeprefix("sqlite:///"))
            database.execute("DELETE FROM done WHERE instance = 'i-000003' AND path = 's1'")
            database.execute("DELETE FROM done WHERE instance = 'i-000019' AND path = 's2'")
            database.execute("UPDATE done SET result = 77 WHERE instance = 'i-000000' AND path = 's0'")
            database.execute("INSERT INTO done VALUES ('a', 's0', 'x', 1), ('z', 's0', NULL, 1)")
            database.commit()
            database.close()
            report = await engine.check_projection("steps")
        assert (report.ok, report.missing, report.extra, report.different) == (False, 2, 2, 1)
        assert (report.rows, report.rebuilt, report.position) == (60, 60, 180)
        assert [difference.key["instance"] for difference in report.differences] == [
            "a",
            "i-000000",
            "i-000003",
            "i-000019",
            "z",
        ]
        text = str(report)
        assert "done instance='a', path='s0': should not be there" in text
        assert "result is 77, not 0" in text
        assert "instance='i-000003', path='s1': missing; should be {'instance'" in text

    asyncio.run(main())


def test_a_state_projection_is_compared_with_the_states(url: str, histories: Callable[..., int]) -> None:
    async def main() -> None:
        histories(url, 0, 300)
        async with Engine(url, worker=False) as engine:
            assert (await engine.check_projection("wfes_instances")).ok
            database = sqlite3.connect(url.removeprefix("sqlite:///"))
            database.execute("UPDATE wfes_instances SET status = 'failed' WHERE id = 'i-000007'")
            database.commit()
            database.close()
            report = await engine.check_projection("wfes_instances")
            assert (report.different, report.rows) == (1, 300)
            assert "status is 'failed', not 'completed'" in str(report)

    asyncio.run(main())


def test_many_differences_are_counted_and_some_shown(url: str, histories: Callable[..., int]) -> None:
    async def main() -> None:
        histories(url, 0, 20)
        async with Engine(url, worker=False, projections=[Steps]) as engine:
            await engine._parts.models._ready(engine._parts.models._follows["steps"], engine_deadline())
            await engine.rebuild_projection("steps")
            database = sqlite3.connect(url.removeprefix("sqlite:///"))
            database.execute("DELETE FROM done")
            database.commit()
            database.close()
            report = await engine.check_projection("steps")
            assert (report.missing, len(report.differences)) == (60, check.SHOWN_MAX)
            assert "and 50 more" in str(report)

    def engine_deadline() -> models.Deadline:
        return models.Deadline(20)

    from wfes import models

    asyncio.run(main())


def test_a_handler_that_raises_now_is_told(url: str, histories: Callable[..., int]) -> None:
    async def main() -> None:
        histories(url, 0, 5)
        async with Engine(url, worker=False, projections=[Steps]) as engine:
            await engine.rebuild_projection("steps")
            Steps.fails = True
            try:
                with pytest.raises(ProjectionStopped, match="no more"):
                    await engine.check_projection("steps")
            finally:
                Steps.fails = False

    asyncio.run(main())


def test_nothing_to_compare_yet() -> None:
    async def main() -> None:
        async with Engine("sqlite://", worker=False) as engine:
            engine.learn_projections([Steps])
            with pytest.raises(ProjectionNotReady, match="no rows yet"):
                await engine.check_projection("steps")

    asyncio.run(main())


@given(
    st.dictionaries(st.tuples(st.integers(0, 30), st.text("ab", max_size=2)), st.integers(0, 2)),
    st.dictionaries(st.tuples(st.integers(0, 30), st.text("ab", max_size=2)), st.integers(0, 2)),
)
@settings(deadline=None)
def test_the_counts_are_those_of_the_sets(
    one: dict[tuple[int, str], int], other: dict[tuple[int, str], int]
) -> None:
    sides: list[check.ScratchStore] = []
    for rows in (one, other):
        side = check.ScratchStore()
        side.query("CREATE TABLE t (a INTEGER, b TEXT, c INTEGER, PRIMARY KEY (a, b))")
        side.executemany("INSERT INTO t VALUES (?, ?, ?)", [(*key, value) for key, value in rows.items()])
        sides.append(side)
    report = check._Report("t", 1, 0)
    report.compare("t", ["a", "b", "c"], ["a", "b"], sides[0].query, sides[1].query)
    made = report.made()
    assert made.missing == len(other.keys() - one.keys())
    assert made.extra == len(one.keys() - other.keys())
    assert made.different == sum(one[key] != other[key] for key in one.keys() & other.keys())
    assert (made.rows, made.rebuilt, made.ok) == (len(one), len(other), one == other)
    for side in sides:
        side.close()
