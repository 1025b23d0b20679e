"""What an engine tells of its instances as a whole: timers, inboxes, progress, statistics, activity.

The calls on the bundled models that follow the log. An engine follows each of them from the first call on, which waits
until everything that is in the log by then has been counted; later calls are a moment behind unless `at_least` says
otherwise. `Engine(projections=[Statistics, …])` follows them from the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from wfes.definition import Workflow
from wfes.instance import Instance
from wfes.measures import (
    ActivityCount,
    Due,
    Durations,
    InboxEvent,
    ProgressReport,
    StatisticsReport,
    StepStatistics,
    WorkflowStatistics,
)
from wfes.names import Event
from wfes.parts import Parts
from wfes.queries import _Cursors, _id_of, checked_limit, checked_text, name_of
from wfes.readmodels import ReadModels
from wfes.runtime.values import Values
from wfes.validation import shown
from wfes.views import Answer, Page, micros_of, moment

if TYPE_CHECKING:
    from wfes_projections.statistics import DurationRow, StepRow, WorkflowRow

Row = TypeVar("Row")
Item = TypeVar("Item")

COUNTS_MAX = 10_000
"""How many minutes or hours one answer has at most."""

_PATHLESS = frozenset({"timer", "start", "deadline"})
_SHARES = (0.5, 0.95, 0.99)
_STEP_COUNTS = ("started", "completed", "failed", "retries", "cancelled", "cut_offs")
_COUNTS = ("started", "retried", "completed", "failed", "aborted", "cancelled", "timed_out")

# The projections are imported inside the calls: they import the packages below the engine, so a program that imports
# them first would meet itself half loaded.


class Insights(ReadModels):
    """An engine's calls about its instances as a whole."""

    values: Values
    _parts: Parts

    async def timers(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        *,
        instance: Instance[Any] | str | None = None,
        kind: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        at_least: int | None = None,
    ) -> Page[Due]:
        """What is due by itself, the next first, page by page.

        Args:
            workflow: Only of this workflow or name.
            instance: Only of this instance or id.
            kind: Only of this kind; see `Due`.
            after: Only what is due at or after this aware moment.
            before: Only what is due before this aware moment.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            at_least: Waits until the page reflects this log position.

        Raises:
            ValueError: A filter cannot be meant, or the cursor belongs to another query.
            TimeoutError: `at_least` was not reached within 30 s.
        """
        from wfes_projections.timers import KINDS, Timers

        checked_limit(limit)
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind is {shown(kind)}; it must be one of {', '.join(KINDS)}")
        filters: dict[str, Any] = {
            "workflow": name_of(workflow),
            "instance": _id_of(instance, "instance"),
            "kind": kind,
            "after": None if after is None else micros_of(after, "after"),
            "before": None if before is None else micros_of(before, "before"),
        }
        places = _Places("timers", filters, cursor)
        answer = await self.query(
            Timers.due(**filters, behind=places.behind, limit=limit + 1), at_least=at_least
        )
        return places.page(
            answer,
            limit,
            lambda row: (row.due, row.instance, row.path),
            lambda row: Due(
                instance=row.instance,
                workflow=row.workflow,
                kind=row.kind,
                path=None if row.kind in _PATHLESS else row.path,
                due=moment(row.due),
                since=moment(row.since),
            ),
        )

    async def inbox(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        *,
        instance: Instance[Any] | str | None = None,
        event: str | Event[Any] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        at_least: int | None = None,
    ) -> Page[InboxEvent]:
        """Events received and not consumed, of instances that are not over; the longest waiting first, page by page.

        Args:
            workflow: Only for this workflow or name.
            instance: Only for this instance or id.
            event: Only events of this name.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            at_least: Waits until the page reflects this log position.

        Raises:
            ValueError: A filter cannot be meant, or the cursor belongs to another query.
            TimeoutError: `at_least` was not reached within 30 s.
        """
        from wfes_projections.inbox import Inbox

        checked_limit(limit)
        filters: dict[str, Any] = {
            "workflow": name_of(workflow),
            "instance": _id_of(instance, "instance"),
            "event": event.name if isinstance(event, Event) else checked_text(event, "event"),
        }
        places = _Places("inbox", filters, cursor)
        answer = await self.query(
            Inbox.waiting(**filters, behind=places.behind, limit=limit + 1), at_least=at_least
        )
        return places.page(
            answer,
            limit,
            lambda row: (row.received_at, row.instance, row.version),
            lambda row: InboxEvent(
                instance=row.instance,
                workflow=row.workflow,
                version=row.version,
                event=row.event,
                received_at=moment(row.received_at),
                actor=row.actor,
                id=row.id,
            ),
        )

    async def progress(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        *,
        instance: Instance[Any] | str | None = None,
        active: bool | None = None,
        limit: int = 100,
        cursor: str | None = None,
        at_least: int | None = None,
    ) -> Page[ProgressReport]:
        """The last progress checkpoint of each instance that made one, the newest first, page by page.

        Args:
            workflow: Only of this workflow or name.
            instance: Only of this instance or id.
            active: Only of instances that are not over; False: only of those that are.
            limit: How many at most, 1 to 1,000.
            cursor: The cursor of the page before.
            at_least: Waits until the page reflects this log position.

        Raises:
            ValueError: A filter cannot be meant, or the cursor belongs to another query.
            TimeoutError: `at_least` was not reached within 30 s.
        """
        from wfes_projections.progress import Progress

        checked_limit(limit)
        filters: dict[str, Any] = {
            "workflow": name_of(workflow),
            "instance": _id_of(instance, "instance"),
            "active": None if active is None else bool(active),
        }
        places = _Places("progress", filters, cursor)
        answer = await self.query(
            Progress.latest(**filters, behind=places.behind, limit=limit + 1), at_least=at_least
        )
        # Large values are read from beside the log.
        return await asyncio.to_thread(
            places.page,
            answer,
            limit,
            lambda row: (row.at, row.instance),
            lambda row: ProgressReport(
                instance=row.instance,
                workflow=row.workflow,
                message=row.message,
                percent=row.percent,
                data=self.values.open(row.data),
                path=row.path.rpartition("/")[0] or None,
                at=moment(row.at),
                active=row.active,
            ),
        )

    async def statistics(
        self, workflow: Workflow[Any, Any] | str | None = None, *, at_least: int | None = None
    ) -> Answer[StatisticsReport]:
        """How workflows and their steps did: counts, and how long they took.

        Args:
            workflow: Only this workflow or name.
            at_least: Waits until the answer reflects this log position.

        Raises:
            TimeoutError: `at_least` was not reached within 30 s.
        """
        from wfes_projections.statistics import Statistics

        answer = await self.query(Statistics.counted(name_of(workflow)), at_least=at_least)
        report = await asyncio.to_thread(_report, *answer.value)
        return Answer(report, answer.position)

    async def activity(
        self,
        since: datetime,
        until: datetime | None = None,
        *,
        resolution: str = "minute",
        workflow: Workflow[Any, Any] | str | None = None,
        at_least: int | None = None,
    ) -> Answer[list[ActivityCount]]:
        """How many instances started and ended, minute by minute or hour by hour, without gaps.

        Args:
            since: From the minute or hour of this aware moment on.
            until: Before this aware moment; default: now.
            resolution: `"minute"` or `"hour"`.
            workflow: Only this workflow or name.
            at_least: Waits until the answer reflects this log position.

        Raises:
            ValueError: The time is empty, longer than 10,000 minutes or hours, or a moment is naive.
            TimeoutError: `at_least` was not reached within 30 s.
        """
        from wfes_projections.activity import COUNTED, RESOLUTIONS, Activity

        if resolution not in RESOLUTIONS:
            raise ValueError(f"resolution is {shown(resolution)}; it must be 'minute' or 'hour'")
        self._parts.check_open()
        first = micros_of(since, "since")
        end = self._parts.now() if until is None else micros_of(until, "until")
        if end <= first:
            raise ValueError(
                f"until is {moment(end).isoformat()}, which is not behind since, {since.isoformat()}"
            )
        number = (end - first) // RESOLUTIONS[resolution][1]
        if number >= COUNTS_MAX:
            raise ValueError(
                f"from {since.isoformat()} to {moment(end).isoformat()} are {number:,} {resolution}s; ask for less "
                f"than {COUNTS_MAX:,} at a time" + (" or for hours" if resolution == "minute" else "")
            )
        question = Activity.between(first, end, resolution, name_of(workflow))
        answer = await self.query(question, at_least=at_least)
        counts = [
            ActivityCount(at=moment(at), **dict(zip(COUNTED, numbers, strict=True)))
            for at, *numbers in answer.value
        ]
        return Answer(counts, answer.position)


class _Places:
    """Where the pages of one query begin and end.

    Attributes:
        behind: The place of the last item of the page before, or None.
    """

    def __init__(self, what: str, filters: dict[str, Any], cursor: str | None) -> None:
        self._cursors = _Cursors(what, filters)
        read = self._cursors.read(cursor)
        self.behind: Any = None if read is None else (read[0], *orjson.loads(read[1]))

    def page(
        self,
        answer: Answer[list[Row]],
        limit: int,
        place: Callable[[Row], tuple[Any, ...]],
        shown_as: Callable[[Row], Item],
    ) -> Page[Item]:
        """The page of an answer that has one row more than `limit` where there is another page."""
        rows, cursor = answer.value[:limit], None
        if len(answer.value) > limit:
            at, *rest = place(rows[-1])
            cursor = self._cursors.made(at, orjson.dumps(rest).decode())
        return Page([shown_as(row) for row in rows], cursor, answer.position)


def _report(
    workflows: list[WorkflowRow], steps: list[StepRow], durations: list[DurationRow]
) -> StatisticsReport:
    bands: dict[tuple[str, str], list[DurationRow]] = {}
    for band in durations:
        bands.setdefault((band.workflow, band.step), []).append(band)
    by_workflow: dict[str, list[StepRow]] = {}
    for step in steps:
        by_workflow.setdefault(step.workflow, []).append(step)
    found: dict[str, WorkflowStatistics] = {}
    for row in workflows:
        own = by_workflow.get(row.workflow, [])
        found[row.workflow] = _workflow_statistics(
            [row],
            bands.get((row.workflow, ""), []),
            {each.step: _step_statistics([each], bands.get((row.workflow, each.step), [])) for each in own},
            _step_statistics(own, [b for each in own for b in bands.get((row.workflow, each.step), [])]),
        )
    total = _workflow_statistics(
        workflows,
        [band for band in durations if not band.step],
        {},
        _step_statistics(steps, [band for band in durations if band.step]),
    )
    return StatisticsReport(workflows=found, total=total)


def _workflow_statistics(
    rows: Sequence[WorkflowRow],
    bands: Iterable[DurationRow],
    steps: dict[str, StepStatistics],
    attempts: StepStatistics,
) -> WorkflowStatistics:
    counts = {name: sum(getattr(row, name) for row in rows) for name in _COUNTS}
    took = _durations(sum(row.micros for row in rows), bands)
    return WorkflowStatistics(**counts, durations=took, steps=steps, attempts=attempts)


def _step_statistics(rows: Sequence[StepRow], bands: Iterable[DurationRow]) -> StepStatistics:
    counts = {name: sum(getattr(row, name) for row in rows) for name in _STEP_COUNTS}
    return StepStatistics(**counts, durations=_durations(sum(row.micros for row in rows), bands))


def _durations(micros: int, rows: Iterable[DurationRow]) -> Durations:
    from wfes_projections.durations import quantiles

    bands = [(row.band, row.bins) for row in rows]
    p50, p95, p99 = (
        None if value is None else timedelta(microseconds=value) for value in quantiles(bands, _SHARES)
    )
    count = sum(sum(bins) for _, bins in bands)
    return Durations(count=count, total=timedelta(microseconds=micros), p50=p50, p95=p95, p99=p99)
