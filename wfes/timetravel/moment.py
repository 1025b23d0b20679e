"""Moments of a recorded history at which somebody looks around, and where to go from there.

A *position* is a version: the handler stands where it awaits that event, which it has not been given yet. One more
position, behind the last version, is where the handler stands when it was given everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Protocol

from wfes.timetravel.frames import View


class Kind(Enum):
    """What somebody stopped at."""

    EVENT = "event"
    """An event that the handler is about to be given, or that has just been applied."""
    LINE = "line"
    """A line of the handler's code: a breakpoint, or a step of the debugger's."""
    END = "end"
    """Behind the last event."""
    DIFFERENCE = "difference"
    """The handler's code does not do what is recorded."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run has been stopped.

    Attributes:
        kind: why.
        position: of the event at hand; at a line, of the last one that was given.
        last: the position behind which there is nothing.
        events: how many events there are.
        view: the handler's frames; None where it has none.
        notes: lines to be shown, such as how the handler ended.
    """

    kind: Kind
    position: int
    last: int
    events: int
    view: View | None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Goto:
    """Go to a position, by running again from the beginning where it lies behind."""

    position: int


@dataclass(frozen=True, slots=True)
class Run:
    """Go on; whoever looks stops it by a breakpoint or a step, else the end does."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Look no more."""


Move = Goto | Run | Quit


class Running(Protocol):
    """One run of the handler, for whoever stops in its code."""

    def at_line(self) -> Moment:
        """The moment of a stop in the handler's code."""
        ...

    def goes_on(self, move: Move) -> bool:
        """Takes the move from there; False: the run is over, and its handler is to be dropped."""
        ...


class Front(Protocol):
    """Who looks: a prompt, or a development environment."""

    def begin(self, run: Running) -> None:
        """A run begins, from the first event."""
        ...

    def look(self, moment: Moment) -> Move:
        """Shows a moment and gives where to go from there."""
        ...

    def run_on(self) -> None:
        """The handler goes on after a `Run`: whatever is to stop it is set now."""
        ...

    def run_fast(self) -> None:
        """The handler goes on after a `Goto`: nothing is to stop it before it is there."""
        ...

    def interrupt(self, frame: FrameType | None) -> bool:
        """Somebody pressed Ctrl-C while this frame ran; False: the debugger is to be left."""
        ...
