"""What an engine tells about its instances as a whole: what is due, what waits, how far they got, how they did.

Plain frozen values at the public edge: moments are aware UTC `datetime`s, durations `timedelta`s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Something that is due by itself.

    Attributes:
        instance, workflow: Whose it is.
        kind: `sleep`, `listen`, `request`, `child`, `workflow` (the bound of such a wait), `timer` (a plain asyncio
            timer of an instance that left memory), `retry` (the next attempt of a step), `start` (a delayed start) or
            `deadline`.
        path: The wait's or step's path; None for a timer, a start and a deadline.
        due: When.
        since: When that was set.
    """

    instance: str
    workflow: str
    kind: str
    path: str | None
    due: datetime
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEvent:
    """An event that an instance has received and not consumed yet.

    Attributes:
        instance, workflow: Who received it.
        version: Its number in the instance's history.
        event: The name it was sent under.
        received_at: When it came.
        actor: Who sent it.
        id: The id that makes it count once, if it has one.
    """

    instance: str
    workflow: str
    version: int
    event: str
    received_at: datetime
    actor: str | None
    id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReport:
    """The last progress checkpoint of an instance.

    Attributes:
        instance, workflow: Whose it is.
        message, percent, data: As the handler gave them.
        path: The step it was made in; None: the handler itself.
        at: When.
        active: Whether the instance is not over.
    """

    instance: str
    workflow: str
    message: str
    percent: float | None
    data: Any
    path: str | None
    at: datetime
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long something took.

    Attributes:
        count: How many durations.
        total: Their exact sum.
        p50, p95, p99: What half, 95 % and 99 % of them did not exceed, within one per cent; None where there are none.
    """

    count: int
    total: timedelta
    p50: timedelta | None
    p95: timedelta | None
    p99: timedelta | None

    @property
    def mean(self) -> timedelta | None:
        """Their exact mean, or None."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatistics:
    """How a step did, over all instances.

    Attributes:
        started: Attempts begun.
        completed: Steps that gave a result.
        failed: Steps that failed for good.
        retries: Attempts that failed and were followed by another.
        cancelled: Steps that were withdrawn, or left unfinished by their instance's end.
        cut_offs: Attempts that a crash or stop cut off, and that were made again.
        durations: Of the attempts that completed or failed.
    """

    started: int
    completed: int
    failed: int
    retries: int
    cancelled: int
    cut_offs: int
    durations: Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStatistics:
    """How a workflow did, over all its instances.

    Attributes:
        started: Instances started.
        retried: How often one that had ended was retried; each end of an instance counts.
        completed, failed, aborted, cancelled, timed_out: How they ended.
        durations: From start (or the retry) to end.
        steps: By name: a step's path without the `#k` of loops, items of maps and batches as `name/*`.
        attempts: All steps together.
    """

    started: int
    retried: int
    completed: int
    failed: int
    aborted: int
    cancelled: int
    timed_out: int
    durations: Durations
    steps: dict[str, StepStatistics]
    attempts: StepStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsReport:
    """How workflows did.

    Attributes:
        workflows: By name.
        total: All of them together; its `steps` is empty.
    """

    workflows: dict[str, WorkflowStatistics]
    total: WorkflowStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCount:
    """What went on in one minute or hour.

    Attributes:
        at: When it begins.
        started: Instances started.
        completed, failed, aborted, cancelled, timed_out: Instances that ended so.
    """

    at: datetime
    started: int
    completed: int
    failed: int
    aborted: int
    cancelled: int
    timed_out: int
