"""``wfes_progress``: the last progress checkpoint of each instance that ever made one.

It stays when the instance ends, no longer ``active``, and is active again when it is retried. The data is kept as the
log has it: a tree, or for a large value a reference; whoever reads it opens it.
"""

from __future__ import annotations

from typing import Any

from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on, query
from wfes.subscription.reader import Reader
from wfes.subscription.table import Row


class ProgressRow(
    Row,
    table="wfes_progress",
    key="instance",
    indexes=[["active", "at", "instance"], ["workflow", "at", "instance"]],
):
    """The last checkpoint of one instance: the moment in microseconds, ``data`` as a stored tree."""

    instance: str
    workflow: str
    message: str
    percent: float | None
    data: Any
    path: str
    at: int
    active: bool


class Progress(Projection):
    """How far each instance has got, by its own account."""

    name = "wfes_progress"
    version = 1
    tables = (ProgressRow,)

    @on("ProgressRecorded")
    def recorded(self, event: ProjectionEvent, rows: Rows) -> None:
        """The newest checkpoint takes the place of the one before."""
        made: Any = event.event
        rows.put(
            ProgressRow(
                event.instance,
                event.workflow or "",
                made.message,
                made.percent,
                made.data,
                made.path,
                made.at,
                True,
            )
        )

    @on("WorkflowCompleted", "WorkflowFailed", "WorkflowAborted", "WorkflowCancelled", "WorkflowTimedOut")
    def ended(self, event: ProjectionEvent, rows: Rows) -> None:
        """It makes no more."""
        self._activate(event, rows, False)

    @on("WorkflowRetried")
    def retried(self, event: ProjectionEvent, rows: Rows) -> None:
        """It may make more."""
        self._activate(event, rows, True)

    @on("HistoryArchived")
    def archived(self, event: ProjectionEvent, rows: Rows) -> None:
        """Its history has left the log, and this with it."""
        rows.delete(ProgressRow, event.instance)

    @staticmethod
    def _activate(event: ProjectionEvent, rows: Rows, active: bool) -> None:
        row = rows.get(ProgressRow, event.instance)
        if row is not None:
            row.active = active
            rows.put(row)

    @query
    def latest(
        self,
        rows: Reader,
        *,
        workflow: str | None = None,
        instance: str | None = None,
        active: bool | None = None,
        behind: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[ProgressRow]:
        """Last checkpoints, the newest first.

        Args:
            workflow: only of this workflow's instances.
            instance: only of this one.
            active: only of those that are not over, or only of those that are.
            behind: moment (microseconds) and instance of the last one known.
            limit: so many at most.
        """
        texts: list[str] = []
        params: dict[str, Any] = {}
        for name, value in (("workflow", workflow), ("instance", instance), ("active", active)):
            if value is not None:
                texts.append(f"{name} = :{name}")
                params[name] = value
        if behind is not None:
            texts.append("(at, instance) < (:at, :behind)")
            params["at"], params["behind"] = behind
        return rows.select(ProgressRow, " AND ".join(texts), order="-at, -instance", limit=limit, **params)
