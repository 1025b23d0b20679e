"""What came to an instance from outside: noted in order, consumed by owner events only."""

from __future__ import annotations

from typing import Any

from wfes.core import events as e


class Inbox:
    """The events from outside that an execution knows of.

    Attributes:
        seen: version of the newest one.
        answers: paths of answered requests, to the version of the answer.
        ends: paths of waits whose target has ended, to the version that says so.
    """

    __slots__ = ("_events", "_reserved", "_unconsumed", "answers", "ends", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.answers: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self._events: dict[int, e.Event] = {}
        self._unconsumed: dict[int, str] = {}
        self._reserved: set[int] = set()

    def note(self, event: e.Event, version: int) -> None:
        """Takes in one event from outside."""
        if version > self.seen:
            self.seen = version
        match event:
            case e.EventReceived():
                self._events[version] = event
                if version not in self._reserved:
                    self._unconsumed[version] = event.event
            case e.DataProvided():
                self._events[version] = event
                self.answers[event.path] = version
            case e.TargetEnded():
                self._events[version] = event
                self.ends[event.path] = version
            case _:
                """Nothing that is asked for by version."""

    def keep(self, event: e.Event, version: int) -> None:
        """Keeps an event of a void part of the history, whose outcome may be used again."""
        self._events[version] = event

    def reserve(self, version: int) -> None:
        """Notes, before it is taken in, that this event was consumed in a void part of the history: nobody else's."""
        self._reserved.add(version)

    def take(self, name: str, until: int | None = None) -> int | None:
        """Consumes the oldest unconsumed event of this name that came by ``until``; its version."""
        for version, other in self._unconsumed.items():
            if other == name and (until is None or self._events[version].at <= until):
                del self._unconsumed[version]
                return version
        return None

    def consume(self, version: int) -> None:
        """Notes that the history says this event was consumed."""
        self._unconsumed.pop(version, None)

    def forget(self, event: e.Event) -> None:
        """What the handler was given by this end is not asked for again."""
        match event:
            case e.ListenEnded(received=version):
                self._events.pop(version, None)
            case e.RequestEnded(provided=version, path=path):
                self._events.pop(version, None)
                self.answers.pop(path, None)
            case e.ChildEnded(ended=version, path=path) | e.WaitEnded(ended=version, path=path):
                self._events.pop(version, None)
                self.ends.pop(path, None)
            case _:
                """Names nothing from outside."""

    def at(self, version: int) -> Any:
        """The event at this version."""
        return self._events[version]
