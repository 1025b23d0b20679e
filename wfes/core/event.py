"""What every event is: its time, who may write it, and who asked for it.

Owns the bases of the catalogue in ``core.events``, which says what an event must keep to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

Json = Any
"""A JSON tree as ``core.codec`` makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event has.

    Attributes:
        at: when it was made, in microseconds since the Unix epoch, by the clock of its maker.
    """

    at: int

    topic: ClassVar[str] = ""
    owner: ClassVar[bool] = False
    """Written by the execution that holds the instance."""
    terminal: ClassVar[bool] = False
    """Ends the instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Event):
    """An event that somebody outside asked for.

    Attributes:
        actor: who asked.
        cause: what led to it: ``{"instance": id, "version": n}``, ``{"trace": id}``, …
    """

    actor: str | None = None
    cause: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned(Event):
    """An event that only the execution holding the instance may write."""

    owner: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class At(Owned):
    """An owner event about one path: a step, a wait or a recorded call of the handler."""

    path: str
