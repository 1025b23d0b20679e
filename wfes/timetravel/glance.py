"""One look at one moment, as data: for programs, which have no use for a prompt."""

from __future__ import annotations

from types import FrameType
from typing import Any

from wfes.timetravel.moment import Moment, Move, Quit, Running

TEXT_CHARS_MAX = 10_000
"""A variable's text up to this length is given."""


class Glance:
    """A front that looks once.

    Attributes:
        seen: what there was, once it has looked: ``event``, ``events``, ``at`` (what was stopped at), ``notes``, and
            the handler's ``frames``, the innermost first, each with ``file``, ``line``, ``function`` and its
            ``locals`` as Python writes them.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def begin(self, run: Running) -> None:
        """There is nothing to prepare."""

    def look(self, moment: Moment) -> Move:
        """Notes the moment."""
        places = () if moment.view is None else moment.view.places[: moment.view.index + 1]
        self.seen = {
            "event": min(moment.position, moment.events),
            "events": moment.events,
            "at": moment.kind.value,
            "notes": list(moment.notes),
            "frames": [_described(frame, line) for frame, line in reversed(places)],
        }
        return Quit()

    def run_on(self) -> None:
        """Nothing stops in the handler's code."""

    def run_fast(self) -> None:
        """Nothing stops in the handler's code."""

    def interrupt(self, frame: FrameType | None) -> bool:
        """Ctrl-C ends it."""
        return False


def _described(frame: FrameType, line: int) -> dict[str, Any]:
    return {
        "file": frame.f_code.co_filename,
        "line": line,
        "function": frame.f_code.co_qualname,
        "locals": {name: _text(value) for name, value in frame.f_locals.items()},
    }


def _text(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"<no text: {type(error).__name__}: {error}>"
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[: TEXT_CHARS_MAX - 1]}…"
