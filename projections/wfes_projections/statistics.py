"""``wfes_statistics``: how often each step ran, how it went and how long it took; and the same of each workflow.

Counts of what happened: what a retry of an instance made void happened all the same. A step's attempts are those of
all places of one name: ``#k`` of a loop is left out, and an item of a map or batch is ``*``. A workflow has at most
``NAMES_MAX`` names; what comes later counts as ``OTHER``, so that a workflow that invents names costs bounded rows.

Durations are whole microseconds, their sums are exact, and their distribution is a sketch of counts (`durations`): rows
do not depend on how the events were cut into batches. An attempt lasts from its ``StepStarted`` to its end, inner waits
included; one that a crash cut off counts as ``cut_offs``, and its time not at all. What an instance's end leaves
unfinished is cancelled. A fork counts from its forking on: what its history begins with happened to its origin.
"""

from __future__ import annotations

from typing import Any

from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on, query
from wfes.subscription.reader import Reader
from wfes.subscription.table import Row
from wfes_projections.durations import BAND, place

NAMES_MAX = 1_000
OTHER = "(other)"
ITEM = "*"
WHOLE = ""
"""Stands for a step where durations are those of whole instances."""

_ENDS = {
    "WorkflowCompleted": "completed",
    "WorkflowFailed": "failed",
    "WorkflowAborted": "aborted",
    "WorkflowCancelled": "cancelled",
    "WorkflowTimedOut": "timed_out",
}


class StepRow(Row, table="wfes_statistics", key=["workflow", "step"]):
    """One step of one workflow.

    Attempts: ``started`` is the number of ``StepStarted``, ``retries`` that of attempts that failed and were followed
    by another, ``cut_offs`` that of attempts which a crash or stop cut off and which were made again. ``micros`` is the
    sum of durations.
    """

    workflow: str
    step: str
    started: int = 0
    completed: int = 0
    failed: int = 0
    retries: int = 0
    cancelled: int = 0
    cut_offs: int = 0
    micros: int = 0


class WorkflowRow(Row, table="wfes_statistics_workflows", key="workflow"):
    """One workflow's instances; ``steps`` is how many names of steps it has, ``micros`` the sum of durations."""

    workflow: str
    started: int = 0
    retried: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    cancelled: int = 0
    timed_out: int = 0
    micros: int = 0
    steps: int = 0


class DurationRow(Row, table="wfes_statistics_durations", key=["workflow", "step", "band"]):
    """Counts of durations in the bins of one band, as JSON; see `durations`."""

    workflow: str
    step: str
    band: int
    bins: list[int]


class RunningRow(Row, table="wfes_statistics_instances", key="instance"):
    """An instance that is not over: since when it runs (microseconds), and whether it was ever claimed again."""

    instance: str
    workflow: str
    since: int
    again: bool = False


class OpenRow(Row, table="wfes_statistics_open", key=["instance", "path"]):
    """An attempt that has not ended: what it counts as, and since when it runs (microseconds)."""

    instance: str
    path: str
    workflow: str
    step: str
    since: int


class Statistics(Projection):
    """How steps and workflows did."""

    name = "wfes_statistics"
    version = 1
    tables = (StepRow, WorkflowRow, DurationRow, RunningRow, OpenRow)

    # -- Instances ---------------------------------------------------------------------------------------------------

    @on("WorkflowStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        """An instance begins, as soon as it may run."""
        start: Any = event.event
        if event.copied:
            return
        rows.put(RunningRow(event.instance, start.workflow, max(start.at, start.not_before)))
        row = _workflow(rows, start.workflow)
        row.started += 1
        rows.put(row)

    @on("HistoryForked")
    def forked(self, event: ProjectionEvent, rows: Rows) -> None:
        """A fork begins, unless it is over already."""
        if event.copied or event.event.over:  # type: ignore[attr-defined]
            return
        row = _workflow(rows, event.workflow or "")
        row.started += 1
        rows.put(row)
        rows.put(RunningRow(event.instance, row.workflow, event.event.at, again=True))

    @on("WorkflowRetried")
    def retried(self, event: ProjectionEvent, rows: Rows) -> None:
        """It goes on: its clock starts afresh."""
        if event.copied:
            return
        row = _workflow(rows, event.workflow or "")
        row.retried += 1
        rows.put(row)
        rows.put(RunningRow(event.instance, row.workflow, event.event.at, again=True))

    @on("RunClaimed")
    def claimed(self, event: ProjectionEvent, rows: Rows) -> None:
        """From the second claim on, a step may start anew because a crash cut it off."""
        claim: Any = event.event
        if claim.epoch == 2:
            row = rows.get(RunningRow, event.instance)
            if row is not None:
                row.again = True
                rows.put(row)

    @on(*_ENDS)
    def ended(self, event: ProjectionEvent, rows: Rows) -> None:
        """It is over, and what it left unfinished with it."""
        instance = rows.get(RunningRow, event.instance)
        if instance is None:
            return
        rows.delete(RunningRow, event.instance)
        micros = max(0, event.event.at - instance.since)
        row = _workflow(rows, instance.workflow)
        column = _ENDS[event.event.topic]
        setattr(row, column, getattr(row, column) + 1)
        row.micros += micros
        rows.put(row)
        _count_duration(rows, instance.workflow, WHOLE, micros)
        for left in rows.find(OpenRow, instance=event.instance):
            rows.delete(OpenRow, left.instance, left.path)
            step = _step(rows, left.workflow, left.step)
            step.cancelled += 1
            rows.put(step)

    # -- Steps -------------------------------------------------------------------------------------------------------

    @on("StepStarted")
    def begins(self, event: ProjectionEvent, rows: Rows) -> None:
        """An attempt begins, or one that was cut off begins again."""
        start: Any = event.event
        instance = rows.get(RunningRow, event.instance)
        if instance is None:
            return
        path = start.path
        # An attempt of a first run cannot have been cut off, and needs no look.
        before = rows.get(OpenRow, event.instance, path) if instance.again else None
        step = _step(rows, instance.workflow, _name(rows, event.instance, path))
        step.started += 1
        if before is not None:
            step.cut_offs += 1
        rows.put(step)
        rows.put(OpenRow(event.instance, path, instance.workflow, step.step, start.at))

    @on("StepCompleted")
    def completes(self, event: ProjectionEvent, rows: Rows) -> None:
        """It gave its result."""
        step = _attempt_ended(event, rows)
        if step is not None:
            step.completed += 1
            rows.put(step)

    @on("StepFailed")
    def fails(self, event: ProjectionEvent, rows: Rows) -> None:
        """It failed for good."""
        step = _attempt_ended(event, rows)
        if step is not None:
            step.failed += 1
            rows.put(step)

    @on("StepAttemptFailed")
    def backs_off(self, event: ProjectionEvent, rows: Rows) -> None:
        """It failed, and another will be made."""
        step = _attempt_ended(event, rows)
        if step is not None:
            step.retries += 1
            rows.put(step)

    @on("StepCancelled")
    def withdrawn(self, event: ProjectionEvent, rows: Rows) -> None:
        """The handler withdrew it, while it ran or backed off."""
        if event.copied:
            return
        done: Any = event.event
        left = rows.get(OpenRow, event.instance, done.path)
        if left is not None:
            rows.delete(OpenRow, event.instance, done.path)
            step = _step(rows, left.workflow, left.step)
        else:
            step = _step(rows, event.workflow or "", _name(rows, event.instance, done.path))
        step.cancelled += 1
        rows.put(step)

    # -- Queries -----------------------------------------------------------------------------------------------------

    @query
    def counted(
        self, rows: Reader, workflow: str | None = None
    ) -> tuple[list[WorkflowRow], list[StepRow], list[DurationRow]]:
        """Everything counted, of one workflow or of all: by workflow, by step, and the sketches of both."""
        condition = "" if workflow is None else "workflow = :workflow"
        params: dict[str, Any] = {} if workflow is None else {"workflow": workflow}
        return (
            rows.select(WorkflowRow, condition, **params),
            rows.select(StepRow, condition, **params),
            rows.select(DurationRow, condition, **params),
        )


def _workflow(rows: Rows, workflow: str) -> WorkflowRow:
    return rows.get(WorkflowRow, workflow) or WorkflowRow(workflow)


def _step(rows: Rows, workflow: str, step: str) -> StepRow:
    row = rows.get(StepRow, workflow, step)
    if row is not None:
        return row
    whole = _workflow(rows, workflow)
    if whole.steps >= NAMES_MAX:
        return rows.get(StepRow, workflow, OTHER) or StepRow(workflow, OTHER)
    whole.steps += 1
    rows.put(whole)
    return StepRow(workflow, step)


def _attempt_ended(event: ProjectionEvent, rows: Rows) -> StepRow | None:
    """The row of a step whose attempt is over, its duration counted; still to be put."""
    end: Any = event.event
    attempt = rows.get(OpenRow, event.instance, end.path)
    if attempt is None:
        return None
    rows.delete(OpenRow, event.instance, end.path)
    micros = max(0, end.at - attempt.since)
    _count_duration(rows, attempt.workflow, attempt.step, micros)
    step = _step(rows, attempt.workflow, attempt.step)
    step.micros += micros
    return step


def _count_duration(rows: Rows, workflow: str, step: str, micros: int) -> None:
    band, bin = place(micros)
    row = rows.get(DurationRow, workflow, step, band) or DurationRow(workflow, step, band, [0] * BAND)
    row.bins[bin] += 1
    rows.put(row)


def _name(rows: Rows, instance: str, path: str) -> str:
    """What a step's attempt counts as.

    What lies in a step that is under way is an inner step of its function; under a path that is none, the item of a
    map or batch, whose name is a number or a key.
    """
    if "/" not in path:
        return path.partition("#")[0]
    around, _, last = path.rpartition("/")
    outer = rows.get(OpenRow, instance, around)
    if outer is not None:
        return f"{outer.step}/{last.partition('#')[0]}"
    further, slash, name = around.rpartition("/")
    name = name.partition("#")[0]
    if not slash:
        return f"{name}/{ITEM}"
    outer = rows.get(OpenRow, instance, further)
    return f"{further.partition('#')[0] if outer is None else outer.step}/{name}/{ITEM}"
