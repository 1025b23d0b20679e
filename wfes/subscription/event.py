"""What a projection's handler is given: an event of the log at its place.

Everything beyond the stored event is found when it is asked for, and once: user values are opened, the instance's
workflow and key are looked up. So a handler that needs neither pays for neither.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from wfes.core.events import Event, Recorded

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Surroundings(Protocol):
    """What is known around events: how to show them, and whose they are."""

    def data(self, event: Event) -> dict[str, Any]:
        """The event's own fields by name, user values as plain Python values."""
        ...

    def origin(self, instance: str) -> tuple[str | None, str | None]:
        """Workflow and key of an instance; None of what is not known."""
        ...


class ProjectionEvent:
    """An event of the log, as a projection's handler gets it.

    Attributes:
        position: Its place in the whole log, rising.
        instance: Whose history it stands in; a name beginning with `$` is one of the engine's own streams.
        version: Its number in that history: 1, 2, …
        event: The event as the engine has it: times in microseconds, user values as stored JSON trees.
        copied: Whether it is a copy that the history of a fork begins with. It is part of what the fork is, but it
            happened to its origin: a projection that counts what happens leaves it out.
    """

    __slots__ = ("_around", "_data", "_origin", "copied", "event", "instance", "position", "version")

    def __init__(self, recorded: Recorded, around: Surroundings) -> None:
        self.position = recorded.position
        self.instance = recorded.originator_id
        self.version = recorded.originator_version
        self.event = recorded.event
        self.copied = recorded.copied is not None
        self._around = around
        self._data: dict[str, Any] | None = None
        self._origin: tuple[str | None, str | None] | None = None

    def __repr__(self) -> str:
        return f"<{self.type} at {self.position}, version {self.version} of {self.instance!r}>"

    @property
    def type(self) -> str:
        """The event's name."""
        return self.event.topic

    @property
    def at(self) -> datetime:
        """When it was made; aware, UTC."""
        return _EPOCH + timedelta(microseconds=self.event.at)

    @property
    def data(self) -> dict[str, Any]:
        """Its own fields by name; user values as plain Python values, errors as `ErrorInfo`, moments as `datetime`."""
        if self._data is None:
            self._data = self._around.data(self.event)
        return self._data

    @property
    def workflow(self) -> str | None:
        """The workflow of the instance; None for the engine's own streams."""
        return self._whose()[0]

    @property
    def key(self) -> str | None:
        """The key of the instance, where it has one."""
        return self._whose()[1]

    def _whose(self) -> tuple[str | None, str | None]:
        if self._origin is None:
            self._origin = self._around.origin(self.instance)
        return self._origin
