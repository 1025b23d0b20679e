"""Every wait of an instance, the ended ones with what they gave: sleeps, listens, requests, children, instances.

The fold's state keeps open waits alone; this reads them off the events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wfes.core import events as e
from wfes.core.codec import Json
from wfes.runtime.values import Values
from wfes.views import moment


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitView:
    """A wait as it was at some moment.

    Attributes:
        kind: `sleep`, `listen`, `request`, `child` or `workflow`.
        name: What it waits for: the event's, request's or workflow's name; an instance's id; of a sleep, its path.
        status: `waiting`, `completed`, `timed_out` or `cancelled`.
        result: What it gave, as plain data: the event's payload, the answer; of an instance, how that ended.
        since: When it began.
        until: When it ends by itself, or None.
        ended_at: When it was over, or None.
    """

    kind: str
    name: str
    status: str
    result: Any = None
    since: datetime
    until: datetime | None = None
    ended_at: datetime | None = None


@dataclass(slots=True)
class PathWait:
    """The same as the events have it: a tree, and times in microseconds."""

    kind: str
    name: str
    since: int
    until: int | None
    status: str = "waiting"
    result: Json = None
    ended_at: int | None = None

    def compared(self) -> tuple[Any, ...]:
        """What of it two runs can be compared by."""
        name = "" if self.kind == "workflow" else self.name
        return self.kind, name, self.status, self.result

    def view(self, values: Values) -> WaitView:
        """The wait for people."""
        return WaitView(
            kind=self.kind,
            name=self.name,
            status=self.status,
            result=values.open(self.result),
            since=moment(self.since),
            until=moment(self.until),
            ended_at=moment(self.ended_at),
        )


def waits_of(history: Iterable[e.Recorded]) -> dict[str, PathWait]:
    """The waits that a history has, by path, in the order they began; those that a new start of the instance, or its
    end, left open count as cancelled."""
    found: dict[str, PathWait] = {}
    outside: dict[int, Json] = {}
    for recorded in history:
        event = recorded.event
        match event:
            case e.EventReceived():
                outside[recorded.originator_version] = event.payload
            case e.DataProvided():
                outside[recorded.originator_version] = event.data
            case e.TargetEnded():
                outside[recorded.originator_version] = {"status": event.status, "output": event.output}
            case e.SleepScheduled():
                found[event.path] = PathWait("sleep", event.path, event.at, event.until)
            case e.ListenStarted():
                found[event.path] = PathWait("listen", event.event, event.at, event.until)
            case e.RequestIssued():
                found[event.path] = PathWait("request", event.name, event.at, event.until)
            case e.ChildStarted():
                found[event.path] = PathWait("child", event.workflow, event.at, event.until)
            case e.WaitStarted():
                found[event.path] = PathWait("workflow", event.instance, event.at, event.until)
            case e.SleepEnded():
                _end(found, event, "completed", None)
            case e.ListenEnded():
                _end(found, event, "completed", outside.pop(event.received, None))
            case e.RequestEnded():
                _end(found, event, "completed", outside.pop(event.provided, None))
            case e.ChildEnded() | e.WaitEnded():
                _end(found, event, "completed", outside.pop(event.ended, None))
            case e.WaitTimedOut():
                _end(found, event, "timed_out", None)
            case e.WaitCancelled():
                _end(found, event, "cancelled", None)
            case _ if event.terminal:
                for wait in found.values():
                    if wait.status == "waiting":
                        wait.status, wait.ended_at = "cancelled", event.at
            case _:
                pass
    return found


def _end(found: dict[str, PathWait], event: e.At, status: str, result: Json) -> None:
    wait = found.get(event.path)
    if wait is not None:
        wait.status, wait.result, wait.ended_at = status, result, event.at
