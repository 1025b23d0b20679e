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
    """The waits that a history has, by path, in the order they began; those that its end left open count as
    cancelled. A fork that was given what a wait of its origin's gave has that wait."""
    outside: dict[int, Json] = {}
    waits, origins = _Waits(outside), _Waits(outside)
    for recorded in history:
        event, version = recorded.event, recorded.originator_version
        if isinstance(event, e.EventVoided):
            origins.feed(e.CATALOGUE[event.event](**event.body), version)
        elif isinstance(event, e.ResultReused):
            given = origins.found.get(event.path)
            if given is not None:
                waits.found[event.path] = given
        else:
            waits.feed(event, version)
    return waits.found


class _Waits:
    """Takes events in order. What came from outside stands in `outside`, by version."""

    def __init__(self, outside: dict[int, Json]) -> None:
        self.found: dict[str, PathWait] = {}
        self._outside = outside

    def feed(self, event: e.Event, version: int) -> None:
        """Takes the next event."""
        match event:
            case e.EventReceived():
                self._outside[version] = event.payload
            case e.DataProvided():
                self._outside[version] = event.data
            case e.TargetEnded():
                self._outside[version] = {"status": event.status, "output": event.output}
            case e.SleepScheduled():
                self.found[event.path] = PathWait("sleep", event.path, event.at, event.until)
            case e.ListenStarted():
                self.found[event.path] = PathWait("listen", event.event, event.at, event.until)
            case e.RequestIssued():
                self.found[event.path] = PathWait("request", event.name, event.at, event.until)
            case e.ChildStarted():
                self.found[event.path] = PathWait("child", event.workflow, event.at, event.until)
            case e.WaitStarted():
                self.found[event.path] = PathWait("workflow", event.instance, event.at, event.until)
            case _:
                self._over(event)

    def _over(self, event: e.Event) -> None:
        match event:
            case e.SleepEnded():
                self._end(event, "completed")
            case e.ListenEnded():
                self._end(event, "completed", self._outside.get(event.received))
            case e.RequestEnded():
                self._end(event, "completed", self._outside.get(event.provided))
            case e.ChildEnded() | e.WaitEnded():
                self._end(event, "completed", self._outside.get(event.ended))
            case e.WaitTimedOut():
                self._end(event, "timed_out")
            case e.WaitCancelled():
                self._end(event, "cancelled")
            case _ if event.terminal:
                for wait in self.found.values():
                    if wait.status == "waiting":
                        wait.status, wait.ended_at = "cancelled", event.at
            case _:
                pass

    def _end(self, event: e.At, status: str, result: Json = None) -> None:
        wait = self.found.get(event.path)
        if wait is not None:
            wait.status, wait.result, wait.ended_at = status, result, event.at
