"""``wfes_activity``: how many instances started and ended, by workflow, minute and hour.

Counts of events, each in the minute and the hour of its ``at``: an instance that is retried ends, and counts, again. A
fork counts as started when it was forked, unless it was over then; what its history begins with counts at its origin.
One table a resolution, so that a year by the hour is read in hours.
"""

from __future__ import annotations

from typing import Any

from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on, query
from wfes.subscription.reader import Reader
from wfes.subscription.table import Row

MINUTE = 60_000_000
HOUR = 60 * MINUTE
"""In microseconds."""

COUNTED = ("started", "completed", "failed", "aborted", "cancelled", "timed_out")

_COLUMN = {
    "WorkflowStarted": "started",
    "WorkflowCompleted": "completed",
    "WorkflowFailed": "failed",
    "WorkflowAborted": "aborted",
    "WorkflowCancelled": "cancelled",
    "WorkflowTimedOut": "timed_out",
    "HistoryForked": "started",
}


class MinuteRow(Row, table="wfes_activity", key=["at", "workflow"], indexes=[["workflow", "at"]]):
    """One minute of one workflow; ``at`` is where it begins, in microseconds."""

    at: int
    workflow: str
    started: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    cancelled: int = 0
    timed_out: int = 0


class HourRow(Row, table="wfes_activity_hours", key=["at", "workflow"], indexes=[["workflow", "at"]]):
    """One hour of one workflow; ``at`` is where it begins, in microseconds."""

    at: int
    workflow: str
    started: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    cancelled: int = 0
    timed_out: int = 0


RESOLUTIONS: dict[str, tuple[type[MinuteRow] | type[HourRow], int]] = {
    "minute": (MinuteRow, MINUTE),
    "hour": (HourRow, HOUR),
}
"""Resolution to its rows and its length in microseconds."""


class Activity(Projection):
    """What went on, over time."""

    name = "wfes_activity"
    version = 1
    tables = (MinuteRow, HourRow)

    @on(
        "WorkflowStarted",
        "WorkflowCompleted",
        "WorkflowFailed",
        "WorkflowAborted",
        "WorkflowCancelled",
        "WorkflowTimedOut",
        "HistoryForked",
    )
    def counted(self, event: ProjectionEvent, rows: Rows) -> None:
        """A start or an end."""
        if event.copied or getattr(event.event, "over", False):
            return
        column = _COLUMN[event.event.topic]
        workflow, at = event.workflow or "", event.event.at
        for kind, length in RESOLUTIONS.values():
            begin = at - at % length
            row = rows.get(kind, begin, workflow) or kind(begin, workflow)
            setattr(row, column, getattr(row, column) + 1)
            rows.put(row)

    @query
    def between(
        self, rows: Reader, since: int, until: int, resolution: str = "minute", workflow: str | None = None
    ) -> list[tuple[int, ...]]:
        """The counts of a time, one tuple of ``(at, *COUNTED)`` for each minute or hour in it, zeros included.

        Args:
            since: from the minute or hour of this moment on, in microseconds.
            until: before this moment, in microseconds.
            resolution: ``"minute"`` or ``"hour"``.
            workflow: only of this one; default: of all together.
        """
        kind, length = RESOLUTIONS[resolution]
        first = since - since % length
        sums = ", ".join(f"sum({name})" for name in COUNTED)
        condition = "" if workflow is None else " AND workflow = :workflow"
        params: dict[str, Any] = {} if workflow is None else {"workflow": workflow}
        found = rows.sql(
            f"SELECT at, {sums} FROM {{{kind.table.name}}} WHERE at >= :first AND at < :until{condition} GROUP BY at",
            first=first,
            until=until,
            **params,
        )
        counts = {row[0]: tuple(int(number) for number in row[1:]) for row in found}
        nothing = (0,) * len(COUNTED)
        return [(at, *counts.get(at, nothing)) for at in range(first, until, length)]
