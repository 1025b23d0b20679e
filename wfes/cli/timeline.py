"""What happened in an instance, read off its history: one row per step, wait, child or progress report.

`Timeline` folds a history into rows. It takes the events of `history()` and of `events()` by their names and data, and
knows nothing of databases or terminals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wfes.cli.values import error_text
from wfes.cli.wording import LoggedEvent, described, outside_note, progress_note, wait_note


@dataclass(slots=True)
class Try:
    """One time that a step's function was at work.

    Attributes:
        outcome: "running", "completed", "failed", "cut_off" (whoever ran it was gone), "suspended" (it was left, for a
            wait inside it is long) or "cancelled".
        worker: Who ran it.
    """

    started: datetime
    ended: datetime | None = None
    outcome: str = "running"
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done to the instance from outside, or a change of who runs it.

    Attributes:
        words: What was done.
        actor: Who did it, where that is known.
    """

    at: datetime
    version: int
    type: str
    words: str
    actor: str | None = None


@dataclass(slots=True)
class Row:
    """One path of an instance.

    Attributes:
        kind: "step", "group" (the items of a `map`, which have no step of their own above them), "sleep", "listen",
            "request", "child", "workflow", "call" or "progress".
        status: "started", "waiting", "backoff", "completed", "failed", "timed_out" or "cancelled".
        starts: How many times its function was started; more than the attempts where one was cut off.
        attempts: The number of the last attempt.
        tries: When a step's function was at work.
        inner: The rows under it.
        open_inner, failed_inner: How many of them are open, and have failed; of a group.
    """

    path: str
    kind: str
    status: str
    started: datetime
    ended: datetime | None = None
    starts: int = 0
    attempts: int = 0
    note: str = ""
    target: str | None = None
    value: Any = None
    tries: list[Try] = field(default_factory=list[Try])
    inner: list[Row] = field(default_factory=list["Row"])
    open_inner: int = 0
    failed_inner: int = 0

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def label(self) -> str:
        """What to call it: its name, or for what has none of its own (`#progress#2`, `#start`) what it is."""
        return self.name.strip("#").partition("#")[0] if self.name.startswith("#") else self.name

    @property
    def cut_offs(self) -> int:
        """How often its function was cut off by a crash or stop, which is no attempt, and was started again."""
        return sum(each.outcome == "cut_off" for each in self.tries[:-1])

    @property
    def seconds(self) -> float | None:
        """From its first start to its end; None while it is open."""
        return None if self.ended is None else (self.ended - self.started).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """The row as JSON data, with the rows under it."""
        tree: dict[str, Any] = {
            "path": self.path,
            "kind": self.kind,
            "status": self.status,
            "started_at": self.started,
            "ended_at": self.ended,
            "seconds": self.seconds,
        }
        if self.kind == "step":
            tree["attempts"] = self.attempts
            tree["starts"] = self.starts
            tree["tries"] = [
                {
                    "started_at": each.started,
                    "ended_at": each.ended,
                    "outcome": each.outcome,
                    "worker": each.worker,
                }
                for each in self.tries
            ]
        if self.note:
            tree["note"] = self.note
        if self.target:
            tree["target"] = self.target
        if self.inner:
            tree["inner"] = [row.to_json() for row in self.inner]
        return tree


_OPENS = {
    "SleepScheduled": "sleep",
    "ListenStarted": "listen",
    "RequestIssued": "request",
    "ChildStarted": "child",
    "WaitStarted": "workflow",
}
_CLOSES = {
    "StepCompleted": "completed",
    "StepFailed": "failed",
    "StepCancelled": "cancelled",
    "SleepEnded": "completed",
    "ListenEnded": "completed",
    "RequestEnded": "completed",
    "ChildEnded": "completed",
    "WaitEnded": "completed",
    "WaitTimedOut": "timed_out",
    "WaitCancelled": "cancelled",
}
_OPENED_BY = {
    "SleepEnded": "SleepScheduled",
    "ListenEnded": "ListenStarted",
    "RequestEnded": "RequestIssued",
    "ChildEnded": "ChildStarted",
    "WaitEnded": "WaitStarted",
}
ENDS = {
    "WorkflowCompleted": "completed",
    "WorkflowFailed": "failed",
    "WorkflowAborted": "aborted",
    "WorkflowCancelled": "cancelled",
    "WorkflowTimedOut": "timed_out",
}
"""The events that end an instance, and the status they end it with."""


_MARKS = {
    "CancelRequested": "cancel asked for",
    "CancelDelivered": "interrupted",
    "WorkflowPaused": "paused",
    "WorkflowResumed": "resumed",
    "WorkflowRetried": "retried",
    "DeadlineChanged": "deadline set to",
    "EventReceived": "received",
    "HistoryForked": "forked",
    "HistoryArchived": "archived",
}
"""What is done to an instance, in words that go before those of `described`."""
_BARE = frozenset({"WorkflowRetried"})
MARK_CHARS = 70


class Timeline:
    """The rows of one instance; `feed` takes its events in order.

    Attributes:
        rows: Every row by path, in the order they began; groups among them.
        top: The rows that stand under no other.
        claims: Who ran it, from when: (worker, moment), one for each claim.
        marks: What was done to it from outside, and where another worker took it over, in order.
        began, ended: The moments of its first and its last event but for an end, where there is one.
    """

    def __init__(self, events: Iterable[LoggedEvent] = ()) -> None:
        self.rows: dict[str, Row] = {}
        self.top: list[Row] = []
        self.claims: list[tuple[str, datetime]] = []
        self.marks: list[Mark] = []
        self._running: dict[str, Row] = {}
        self._last: datetime | None = None
        self._owned = False
        self._is_new = True
        """Nobody has run it as the instance that it is."""
        self._void: dict[int, Mapping[str, Any]] = {}
        """What stands in a fork's history and says nothing there, by version: its results may be given by path."""
        self.began: datetime | None = None
        self.ended: datetime | None = None
        for event in events:
            self.feed(event)

    def feed(self, event: LoggedEvent) -> Row | None:
        """Takes the next event; gives the row it changed, if it is about one."""
        if self.began is None:
            self.began = event.at
        kind, data = event.type, event.data
        if kind != "HistoryArchived":  # which comes long after
            self.ended = event.at if kind in ENDS else None
        self._marked(event)
        before, self._last = self._last, event.at
        if kind == "RunClaimed":
            self._claimed(event, before)
            return None
        if kind == "RunReleased":
            self._owned = False
            for path in data.get("suspended") or ():
                self._try_ended(path, "suspended", event.at)
            return None
        if kind in ENDS:
            self._owned = False
            for path in [*self._running]:
                self._try_ended(path, "cancelled", event.at)
            return None
        if kind == "HistoryForked":
            self._owned, self._is_new = False, True
            for path in [*self._running]:
                self._try_ended(path, "suspended", event.at)
            return None
        if kind == "EventVoided":
            self._void[event.version] = data
            return None
        path = data.get("path")
        if not isinstance(path, str):
            return None
        if kind == "StepStarted":
            return self._step_started(path, event)
        if kind == "ResultReused":
            return self._reused(path, event)
        if kind in _OPENS:
            return self._opened(path, _OPENS[kind], event)
        if kind in ("ProgressRecorded", "CallRecorded"):
            return self._happened(path, event)
        row = self.rows.get(path)
        if row is None:
            return None
        if kind == "StepAttemptFailed":
            row.status = "backoff"
            self._try_ended(path, "failed", event.at)
            row.note = error_text(data.get("error"))
        elif kind in ("DataProvided", "TargetEnded"):
            row.note = outside_note(event)
        elif kind in _CLOSES:
            self._closed(row, _CLOSES[kind], event)
        return row

    def _marked(self, event: LoggedEvent) -> None:
        label = _MARKS.get(event.type)
        if label is not None:
            told = "" if event.type in _BARE else described(event, MARK_CHARS)
            words = f"{label} {told}".rstrip()
            self.marks.append(Mark(event.at, event.version, event.type, words, event.actor))

    def _claimed(self, event: LoggedEvent, before: datetime | None) -> None:
        worker = str(event.data.get("worker") or event.worker or "")
        former = self.claims[-1][0] if self.claims and not self._is_new else worker
        self._is_new = False
        if self._owned:
            # Whoever had it was gone; when, is not recorded: what it recorded last is the last sign of it.
            for path in [*self._running]:
                self._try_ended(path, "cut_off", before or event.at)
        if self._owned or worker != former:
            words = (
                f"taken over from {former} by {worker}" if worker != former else f"taken up again by {worker}"
            )
            self.marks.append(Mark(event.at, event.version, event.type, words))
        self._owned = True
        self.claims.append((worker, event.at))

    def _try_ended(self, path: str, outcome: str, at: datetime) -> None:
        row = self._running.pop(path, None)
        if row is not None and row.tries:
            row.tries[-1].outcome, row.tries[-1].ended = outcome, max(at, row.tries[-1].started)

    def _step_started(self, path: str, event: LoggedEvent) -> Row:
        row = self.rows.get(path)
        if row is None or row.kind == "group":
            row = self._added(Row(path, "step", "started", event.at))
        elif row.ended is not None:
            self._reopened(row)
        self._try_ended(path, "cut_off", event.at)
        row.status, row.ended = "started", None
        row.starts += 1
        row.attempts = int(event.data.get("attempt") or 1)
        row.tries.append(Try(event.at, worker=event.worker or ""))
        self._running[path] = row
        return row

    def _opened(self, path: str, kind: str, event: LoggedEvent) -> Row:
        data = event.data
        row = self._added(Row(path, kind, "waiting", event.at, note=wait_note(kind, data)))
        row.target = data.get("instance") or data.get("id")
        return row

    def _reused(self, path: str, event: LoggedEvent) -> Row:
        """A path was given a result that was there before."""
        void = self._void.get(int(event.data.get("version") or 0))
        row = self.rows.get(path)
        if row is None:
            kind = _OPENS.get(_OPENED_BY.get(str(void.get("event")), ""), "step") if void else "step"
            row = self._added(Row(path, kind, "waiting", event.at))
        self._closed(row, "completed", event)
        row.note = ""
        if void is not None and void.get("event") == "StepCompleted":
            body: Mapping[str, Any] = void.get("body") or {}
            row.value = body.get("result")
        return row

    def _happened(self, path: str, event: LoggedEvent) -> Row:
        data = event.data
        if event.type == "ProgressRecorded":
            row = Row(path, "progress", "completed", event.at, event.at, note=progress_note(data))
        else:
            failed = data.get("error") is not None
            note = f"{data.get('call')}: {error_text(data['error'])}" if failed else str(data.get("call"))
            row = Row(path, "call", "failed" if failed else "completed", event.at, event.at, note=note)
        return self._added(row)

    def _closed(self, row: Row, status: str, event: LoggedEvent) -> None:
        was_open = row.ended is None
        row.status, row.ended = status, event.at
        self._try_ended(row.path, status if status in ("completed", "failed") else "cancelled", event.at)
        if event.type == "StepCompleted":
            row.value = event.data.get("result")
            row.note = ""
        elif event.type == "StepFailed":
            row.attempts = int(event.data.get("attempts") or row.attempts)
            row.note = error_text(event.data.get("error"))
        if was_open:
            self._ended(row)

    def _added(self, row: Row) -> Row:
        """Puts a new row at its place; a parent that has no step of its own becomes a group."""
        known = self.rows.get(row.path)
        if known is not None:
            row.inner, row.open_inner, row.failed_inner = known.inner, known.open_inner, known.failed_inner
        self.rows[row.path] = row
        parent = row.path.rpartition("/")[0]
        above = None
        if parent:
            above = self.rows.get(parent) or self._added(Row(parent, "group", "started", row.started))
        siblings = self.top if above is None else above.inner
        place = (
            next((n for n, other in enumerate(siblings) if other is known), None)
            if known is not None
            else None
        )
        if place is None:
            siblings.append(row)
        else:
            siblings[place] = row
        if above is not None and above.kind == "group" and row.ended is None:
            if known is None or known.ended is not None:
                above.open_inner += 1
            if above.ended is not None:
                self._reopened(above)
            above.status, above.ended = "started", None
        elif above is not None and above.kind == "group" and above.open_inner == 0 and above.ended is None:
            above.status, above.ended = "completed", row.ended
            self._ended(above)
        return row

    def _reopened(self, row: Row) -> None:
        """What had ended goes on; called before it says so."""
        above = self.rows.get(row.path.rpartition("/")[0])
        if above is None or above.kind != "group":
            return
        above.open_inner += 1
        above.failed_inner -= row.status == "failed"
        if above.ended is not None:
            self._reopened(above)
            above.status, above.ended = "started", None

    def _ended(self, row: Row) -> None:
        """Ends the group above, if this was the last of its rows that was open."""
        above = self.rows.get(row.path.rpartition("/")[0])
        if above is None or above.kind != "group":
            return
        above.open_inner -= 1
        above.failed_inner += row.status == "failed"
        if above.open_inner == 0 and above.ended is None:
            above.ended = row.ended
            above.status = "failed" if above.failed_inner else "completed"
            self._ended(above)


def walk(rows: Sequence[Row]) -> Iterable[Row]:
    """The rows and all that stand under them, each before its own."""
    for row in rows:
        yield row
        yield from walk(row.inner)
