"""``wfes_work``: what is not over, who owns it, from when on a worker may claim it, and what label of code it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from wfes.core.state import InstanceState
from wfes_projections.query import Read, Row


class Work:
    """The projection: one row an instance that has not ended."""

    name = "wfes_work"
    version = 3
    owned = True
    create = (
        """CREATE TABLE IF NOT EXISTS wfes_work (
            id TEXT PRIMARY KEY NOT NULL,
            workflow TEXT NOT NULL,
            worker TEXT,
            runnable_at BIGINT,
            version TEXT
        )""",
        """CREATE INDEX IF NOT EXISTS wfes_work_due ON wfes_work (workflow, runnable_at, id)
            WHERE runnable_at IS NOT NULL""",
        "CREATE INDEX IF NOT EXISTS wfes_work_worker ON wfes_work (worker) WHERE worker IS NOT NULL",
    )
    upsert = """INSERT INTO wfes_work (id, workflow, worker, runnable_at, version) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET worker = excluded.worker, runnable_at = excluded.runnable_at,
            version = excluded.version"""
    delete = "DELETE FROM wfes_work WHERE id = ?"

    def rows(self, state: InstanceState) -> Mapping[Row, Row]:
        if state.ended is not None:
            return {}
        code = cast("dict[str, Any]", state.code or {})
        version: str | None = code.get("version")
        return {(state.id,): (state.id, state.workflow, state.worker, state.runnable_at(), version)}


RUNNABLE = """SELECT id FROM wfes_work
    WHERE workflow IN ({}) AND runnable_at <= ?
    ORDER BY runnable_at LIMIT ?"""
NEXT_DUE = """SELECT min(runnable_at) FROM wfes_work
    WHERE workflow IN ({}) AND runnable_at > ?"""
OWNED_BY = "SELECT id, workflow FROM wfes_work WHERE worker = ? ORDER BY id"
OWNERS = "SELECT DISTINCT worker FROM wfes_work WHERE worker IS NOT NULL"
UNFINISHED = "SELECT count(*) FROM wfes_work"


def runnable(read: Read, workflows: Sequence[str], now: int, limit: int) -> list[str]:
    """Ids of instances of these workflows that may be claimed at ``now`` (microseconds), longest due first."""
    if not workflows:
        return []
    found = read(RUNNABLE.format(_marks(workflows)), (*workflows, now, limit))
    return [row[0] for row in found]


def next_due(read: Read, workflows: Sequence[str], now: int) -> int | None:
    """The next moment after ``now`` at which one of them may be claimed, in microseconds."""
    if not workflows:
        return None
    found = read(NEXT_DUE.format(_marks(workflows)), (*workflows, now))
    return found[0][0]  # type: ignore[no-any-return]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def owned_by(read: Read, worker: str) -> list[tuple[str, str]]:
    """Id and workflow of what a worker owns."""
    return [(row[0], row[1]) for row in read(OWNED_BY, (worker,))]


def owners(read: Read) -> list[str]:
    """The workers that own something."""
    return [row[0] for row in read(OWNERS, ())]
