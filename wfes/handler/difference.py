"""What is said where a handler's code does not do what its history says it did.

A difference is data first: the event that could not be reproduced, what the history has there and what the code does
instead. Its text is what a person reads in a paused instance's reason, in ``wfes replay`` and in a failing test.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from wfes.core import events as e
from wfes.version import __version__

if TYPE_CHECKING:
    from types import FrameType

    from wfes.definition import Workflow
    from wfes.handler.execution import Execution


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the user's source.

    Attributes:
        file: its path, as Python knows it.
        line: the number of the line, from 1.
        function: the name of the function there.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @classmethod
    def of(cls, frame: FrameType) -> Place:
        """Where a frame stands."""
        return cls(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first point at which code and history part.

    Attributes:
        version: the event of the history that was not reproduced; 0 where the replay never got to one.
        path: the step or wait it is about, or None.
        expected: what the history has there.
        actual: what the code does instead.
        place: the line of the handler where it does, or where it stands; None where that is unknown.
        recorded: the code that recorded this event, where it is known: its ``version`` (the author's label),
            ``digest``, ``python`` and ``wfes``.
        code: the code that ran now, by the same names.
        note: what else helps, or None.
    """

    version: int
    path: str | None
    expected: str
    actual: str
    place: Place | None = None
    recorded: dict[str, Any] | None = None
    code: dict[str, Any] | None = None
    note: str | None = None

    def __str__(self) -> str:
        where = f"version {self.version} of the history" if self.version else "the history"
        at = "" if self.place is None else f" (at {self.place})"
        lines = [f"{where} differs:", f"  recorded: {self.expected}"]
        lines.append(f"  now:      {self.actual}{at}")
        lines.extend(f"  {name:<9} {text}" for name, text in self._codes())
        if self.note is not None:
            lines.append(f"  note:     {self.note}")
        return "\n".join(lines)

    def _codes(self) -> list[tuple[str, str]]:
        """What differs between the code that recorded and the code that ran now."""
        if self.code is None or self.recorded is None:
            return []
        found: list[tuple[str, str]] = []
        for name, title in (("version", "label:"), ("python", "Python:"), ("digest", "digest:")):
            then, today = (str(code.get(name, "none"))[:12] for code in (self.recorded, self.code))
            if then != today:
                found.append((title, f"recorded under {then}, run now under {today}"))
        return found


def code_of(workflow: Workflow[Any, Any]) -> dict[str, Any]:
    """What is recorded in a claim as the code that ran: label, digest, the versions that matter for replay, and the
    handler's module, for whoever debugs it later."""
    code = {
        "version": workflow.version,
        "digest": workflow.digest,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "wfes": __version__,
        "module": _importable(workflow),
    }
    return {name: value for name, value in code.items() if value is not None}


def _importable(workflow: Workflow[Any, Any]) -> str | None:
    """The name that the handler's module is imported by, or None where that is not known.

    The module of a program that is run is `__main__`, which is another one for whoever looks at it later. By
    `python -m shop` it is `shop`, and so it is by `python shop.py`.
    """
    if workflow.module != "__main__":
        return workflow.module
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None or os.path.realpath(file) != os.path.realpath(workflow.handler.__code__.co_filename):
        return None
    spec = getattr(main, "__spec__", None)
    name = Path(file).stem if spec is None else spec.name
    return name if all(part.isidentifier() for part in name.split(".")) else None


def recorded_by(history: Iterable[e.Recorded], version: int) -> dict[str, Any] | None:
    """The code that recorded the event of this version, as the claim before it says."""
    found: dict[str, Any] | None = None
    for recorded in history:
        if recorded.originator_version > version:
            break
        if isinstance(recorded.event, e.RunClaimed):
            found = recorded.event.code
    return found or None


def standing(execution: Execution) -> Place | None:
    """Where in the user's source the handler stands, or where it ended."""
    main = execution.main
    if main is None:
        return None
    code = execution.workflow.handler.__code__
    frame: Any = None
    awaited: Any = main.get_coro()
    while awaited is not None:
        found = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if found is None:
            break
        if frame is None or found.f_code.co_filename == code.co_filename:
            frame = found
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    if frame is not None:
        return Place.of(frame)
    return Place(code.co_filename, _ended_at(main, code.co_filename) or code.co_firstlineno, code.co_name)


def whereabouts(execution: Execution) -> str:
    """Where in the user's source the handler stands, for the end of a report; empty where that is unknown."""
    place = standing(execution)
    return "" if place is None else f" (at {place})"


def _ended_at(main: asyncio.Task[Any], source: str) -> int | None:
    """The line of the user's source that an exception left the handler by."""
    if not main.done() or main.cancelled() or (error := main.exception()) is None:
        return None
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == source]
    return lines[-1] if lines else None
