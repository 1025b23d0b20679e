"""``wfes_timers``: what is due, and when: every open wait with a bound, backoff, asyncio timer, start and deadline.

A row stands from the event that sets the time to the one that makes it void; none survives its instance's end. It says
what ``InstanceState.due_at`` is made of. Following, because nothing in the engine depends on it: what wakes an instance
is in ``wfes_work``.

A wait and a step have their path; an asyncio timer, a delayed start and a deadline have none, and get a name that no
path can have, for it begins with ``#``.
"""

from __future__ import annotations

from typing import Any

from wfes.core import events as e
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on, query
from wfes.subscription.reader import Reader
from wfes.subscription.table import Row

START = "#start"
DEADLINE = "#deadline"

KINDS = ("sleep", "listen", "request", "child", "workflow", "timer", "retry", "start", "deadline")

_WAITS: dict[type[e.Event], str] = {
    e.SleepScheduled: "sleep",
    e.ListenStarted: "listen",
    e.RequestIssued: "request",
    e.ChildStarted: "child",
    e.WaitStarted: "workflow",
}


class DueRow(
    Row,
    table="wfes_timers",
    key=["instance", "path"],
    indexes=[["due", "instance", "path"], ["workflow", "due", "instance", "path"]],
):
    """One thing that is due: moments in microseconds; ``kind`` is one of ``KINDS``."""

    instance: str
    path: str
    workflow: str
    kind: str
    due: int
    since: int


class InterruptedRow(Row, table="wfes_timers_interrupted", key="instance"):
    """An instance on its way to its end, which no bound concerns any more."""

    instance: str


class Timers(Projection):
    """What is due, of all instances that are not over."""

    name = "wfes_timers"
    version = 1
    tables = (DueRow, InterruptedRow)

    @on("WorkflowStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        """A delayed start, and the bound on the whole life."""
        start: Any = event.event
        if start.not_before:
            rows.put(DueRow(event.instance, START, start.workflow, "start", start.not_before, start.at))
        if start.deadline is not None:
            rows.put(DueRow(event.instance, DEADLINE, start.workflow, "deadline", start.deadline, start.at))

    @on("RunClaimed")
    def claimed(self, event: ProjectionEvent, rows: Rows) -> None:
        """It runs: timers kept for its rest are the new owner's to make again."""
        claim: Any = event.event
        if claim.epoch == 1:
            rows.delete(DueRow, event.instance, START)
            return
        for row in rows.find(DueRow, instance=event.instance):
            if row.kind in ("timer", "start"):
                rows.delete(DueRow, row.instance, row.path)

    @on("HistoryForked")
    def forked(self, event: ProjectionEvent, rows: Rows) -> None:
        """What has its outcome already is not waited for; a bound that a retry of the origin set is not the fork's."""
        fork: Any = event.event
        rows.delete(DueRow, event.instance, DEADLINE)
        for path in fork.results:
            rows.delete(DueRow, event.instance, path)

    @on("DeadlineChanged")
    def bounded(self, event: ProjectionEvent, rows: Rows) -> None:
        """The bound is another one."""
        change: Any = event.event
        if rows.get(InterruptedRow, event.instance) is None:
            self._put(event, rows, DEADLINE, "deadline", change.deadline, change.at)

    @on("WorkflowRetried")
    def retried(self, event: ProjectionEvent, rows: Rows) -> None:
        """It goes on, with or without a bound; nothing was due since its end."""
        retry: Any = event.event
        if retry.deadline is not None:
            self._put(event, rows, DEADLINE, "deadline", retry.deadline, retry.at)

    @on("CancelDelivered")
    def interrupted(self, event: ProjectionEvent, rows: Rows) -> None:
        """The bound means nothing any more, nor does another one that is set now."""
        rows.put(InterruptedRow(event.instance))
        rows.delete(DueRow, event.instance, DEADLINE)

    @on("WorkflowCompleted", "WorkflowFailed", "WorkflowAborted", "WorkflowCancelled", "WorkflowTimedOut")
    def ended(self, event: ProjectionEvent, rows: Rows) -> None:
        """Nothing is due any more."""
        for row in rows.find(DueRow, instance=event.instance):
            rows.delete(DueRow, row.instance, row.path)

    @on("WorkflowCancelled", "WorkflowTimedOut")
    def gone(self, event: ProjectionEvent, rows: Rows) -> None:
        """An interruption ends in one of these."""
        rows.delete(InterruptedRow, event.instance)

    @on("SleepScheduled", "ListenStarted", "RequestIssued", "ChildStarted", "WaitStarted")
    def waits(self, event: ProjectionEvent, rows: Rows) -> None:
        """A wait, where it has a bound."""
        wait: Any = event.event
        if wait.until is not None:
            self._put(event, rows, wait.path, _WAITS[type(wait)], wait.until, wait.at)

    @on(
        "SleepEnded",
        "ListenEnded",
        "RequestEnded",
        "ChildEnded",
        "WaitEnded",
        "WaitTimedOut",
        "WaitCancelled",
        "StepFailed",
        "StepCancelled",
    )
    def over(self, event: ProjectionEvent, rows: Rows) -> None:
        """A wait is over, or a step that may have been in backoff."""
        done: Any = event.event
        rows.delete(DueRow, event.instance, done.path)

    @on("StepAttemptFailed")
    def backs_off(self, event: ProjectionEvent, rows: Rows) -> None:
        """The next attempt is due."""
        failure: Any = event.event
        self._put(event, rows, failure.path, "retry", failure.retry_at, failure.at)

    @on("StepStarted")
    def begins(self, event: ProjectionEvent, rows: Rows) -> None:
        """A step's attempt is made."""
        start: Any = event.event
        # The first attempt of a step has no backoff before it, unless it lies in another, which makes its own anew.
        if start.attempt > 1 or "/" in start.path:
            rows.delete(DueRow, event.instance, start.path)

    @on("TimerScheduled")
    def timer(self, event: ProjectionEvent, rows: Rows) -> None:
        """An asyncio timer that is to wake the instance."""
        timer: Any = event.event
        self._put(
            event, rows, timer_path(timer.delay, timer.number), "timer", timer.due, timer.due - timer.delay
        )

    @on("TimerFired")
    def fired(self, event: ProjectionEvent, rows: Rows) -> None:
        """An asyncio timer fired."""
        timer: Any = event.event
        rows.delete(DueRow, event.instance, timer_path(timer.delay, timer.number))

    @staticmethod
    def _put(event: ProjectionEvent, rows: Rows, path: str, kind: str, due: int, since: int) -> None:
        rows.put(DueRow(event.instance, path, event.workflow or "", kind, due, since))

    @query
    def due(
        self,
        rows: Reader,
        *,
        workflow: str | None = None,
        instance: str | None = None,
        kind: str | None = None,
        after: int | None = None,
        before: int | None = None,
        behind: tuple[int, str, str] | None = None,
        limit: int = 100,
    ) -> list[DueRow]:
        """What is due, the next first; moments in microseconds.

        Args:
            workflow: only of this workflow's instances.
            instance: only of this one.
            kind: only of this kind.
            after: only what is due at this moment or later.
            before: only what is due before this moment.
            behind: due, instance and path of the last one known.
            limit: so many at most.
        """
        texts: list[str] = []
        params: dict[str, Any] = {}
        for text, name, value in (
            ("workflow = :workflow", "workflow", workflow),
            ("instance = :instance", "instance", instance),
            ("kind = :kind", "kind", kind),
            ("due >= :after", "after", after),
            ("due < :before", "before", before),
        ):
            if value is not None:
                texts.append(text)
                params[name] = value
        if behind is not None:
            texts.append("(due, instance, path) > (:due, :behind, :path)")
            params["due"], params["behind"], params["path"] = behind
        return rows.select(DueRow, " AND ".join(texts), order="due, instance, path", limit=limit, **params)

    @query
    def next(self, rows: Reader, workflow: str | None = None) -> DueRow | None:
        """What is due next, of all or of one workflow."""
        if workflow is None:
            found = rows.select(DueRow, order="due, instance, path", limit=1)
        else:
            found = rows.select(
                DueRow, "workflow = :workflow", order="due, instance, path", limit=1, workflow=workflow
            )
        return found[0] if found else None


def timer_path(delay: int, number: int) -> str:
    """What an asyncio timer is called: its delay in microseconds, and its number among those of that delay."""
    return f"#timer/{delay}/{number}"
