"""Claims: what they read of the rows, and what they take at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wfes import Engine, Step, workflow
from wfes.log.memory import MemoryLog
from wfes.runtime import claims
from wfes_projections import Work


def test_rows_of_other_workflows_are_not_passed_over() -> None:
    log = MemoryLog()
    log.open(list(Work.create))
    plans: list[str] = []

    def read(sql: str, params: Sequence[object]) -> list[tuple[Any, ...]]:
        plan = [row[3] for row in log.read(f"EXPLAIN QUERY PLAN {sql}", params)]
        plans.extend(step for step in plan if "wfes_work" in step)
        return [("b", 0)] if len(plans) == 1 else []

    assert claims.Work(["a", "b"]).runnable(read, 1, 10) == []
    log.close()
    assert len(plans) == 2
    assert all("wfes_work_due (workflow=?" in plan for plan in plans), plans


def test_many_due_at_once_are_taken_in_bounded_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CLAIMS_MAX", 7)
    monkeypatch.setattr(claims, "EVENTS_MAX", 5)
    taken: list[int] = []

    @workflow
    async def wf(step: Step) -> str:
        """Waits to be sent something."""
        return await step.listen("go", returns=str)

    run = claims.ClaimRunnable.run

    def counted(self: claims.ClaimRunnable, tx: Any) -> claims.Claimed:
        claimed = run(self, tx)
        taken.append(len(claimed.histories))
        return claimed

    monkeypatch.setattr(claims.ClaimRunnable, "run", counted)

    async def main() -> None:
        url = f"sqlite:///{tmp_path}/log.db"
        async with Engine(url, workflows=[wf], worker=False):
            instances = [await wf.start() for _ in range(20)]
            for instance in instances:
                await instance.send("go", "now")
        async with Engine(url, workflows=[wf]) as engine:
            for instance in instances:
                assert await (await engine.get(wf, instance.id)).result(30) == "now"

    asyncio.run(main())
    # Two events each, and a third is read once two have been: never more than three instances at a time.
    assert sum(taken) == 20
    assert max(taken) == 3
