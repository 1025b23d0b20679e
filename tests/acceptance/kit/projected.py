"""Projections as a user writes them, for engines that are killed: one follows, one is inline.

Between them they read rows, find, change and delete them, have keys of several columns, JSON, moments and empty values,
and look at an event's data, workflow and key. Both must equal their rebuild whatever happened.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from wfes import Projection, ProjectionEvent, Reader, Row, Rows, on, query
from wfes_projections import following


class StepRow(
    Row, table="kit_steps", key=("instance", "path"), indexes=["workflow", ("workflow", "attempts")]
):
    """A step of an instance."""

    instance: str
    path: str
    workflow: str | None = None
    attempts: int = 0
    done: bool = False
    result: Any = None
    began_at: datetime | None = None


class Steps(Projection):
    """What became of each step. Follows."""

    name = "kit-steps"
    tables = (StepRow,)

    @on("StepStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        """One attempt more."""
        path = event.data["path"]
        row = rows.get(StepRow, event.instance, path) or StepRow(event.instance, path, began_at=event.at)
        row.workflow = event.workflow
        row.attempts += 1
        rows.put(row)

    @on("StepCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        """It has a result."""
        row = rows.get(StepRow, event.instance, event.data["path"])
        assert row is not None, f"{event!r}: no start of it was shown"
        row.done, row.result = True, repr(event.data["result"])[:40]
        rows.put(row)

    @on("WorkflowCancelled", "WorkflowTimedOut")
    def gone(self, event: ProjectionEvent, rows: Rows) -> None:
        """What was not done is not of interest any more."""
        for row in rows.find(StepRow, instance=event.instance, done=False):
            rows.delete(StepRow, row.instance, row.path)

    @query
    def of(self, rows: Reader, instance: str) -> list[StepRow]:
        """An instance's steps."""
        return rows.select(StepRow, "instance = :instance", instance=instance)


class Life(Row, table="kit_lives", key="instance", indexes=["workflow"]):
    """An instance."""

    instance: str
    workflow: str
    key_of: str | None
    ended: str | None = None


class Ends(Row, table="kit_ends", key=("workflow", "how")):
    """How many instances of a workflow have ended so."""

    workflow: str
    how: str
    count: int = 0


class Lives(Projection):
    """Instances and their ends. Inline."""

    name = "kit-lives"
    tables = (Life, Ends)
    inline = True

    @on("WorkflowStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        """There is one more."""
        assert rows.get(Life, event.instance) is None, f"{event!r} was shown before"
        assert event.workflow is not None
        rows.put(Life(event.instance, event.workflow, event.key))

    @on("WorkflowCompleted", "WorkflowFailed", "WorkflowAborted", "WorkflowCancelled", "WorkflowTimedOut")
    def ended(self, event: ProjectionEvent, rows: Rows) -> None:
        """It is over."""
        life = rows.get(Life, event.instance)
        assert life is not None, f"{event!r}: no start of it was shown"
        assert life.ended is None, f"{event!r}: it had ended as {life.ended}"
        life.ended = event.type
        rows.put(life)
        self._count(rows, life, 1)

    @on("WorkflowRetried")
    def retried(self, event: ProjectionEvent, rows: Rows) -> None:
        """It is not over after all."""
        life = rows.get(Life, event.instance)
        assert life is not None
        self._count(rows, life, -1)
        life.ended = None
        rows.put(life)

    @staticmethod
    def _count(rows: Rows, life: Life, more: int) -> None:
        assert life.ended is not None
        ends = rows.get(Ends, life.workflow, life.ended) or Ends(life.workflow, life.ended)
        ends.count += more
        if ends.count:
            rows.put(ends)
        else:
            rows.delete(Ends, life.workflow, life.ended)


ALL: list[type[Projection]] = [Steps, Lives, *following()]
"""These, and those that come with the engine and follow."""
