"""What a log tells about a crash: which steps ran once, which again, and how many results were reused.

Pure: it reads one instance's history, which is all there is to know.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wfes.cli.screen import Part
from wfes.cli.values import counted, span
from wfes.cli.wording import LoggedEvent


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a crash.

    Attributes:
        workers: Who ran it, in order; each once in a row.
        once: Paths of steps whose function was started once.
        again: Paths of steps that were started more than once, and how often.
        reused: How many results stood in the log when the last worker took over, and were not computed again.
        repeated: Paths recorded as completed more than once: none, or the engine broke its word.
        gap_seconds: From the last event before the last take-over to the take-over.
    """

    workers: list[str]
    once: list[str]
    again: dict[str, int]
    reused: int
    repeated: list[str]
    gap_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "workers": self.workers,
            "once": self.once,
            "again": self.again,
            "results_reused": self.reused,
            "recorded_twice": self.repeated,
            "gap_seconds": self.gap_seconds,
        }

    def lines(self, width: int) -> list[list[Part]]:
        """The account for people, names wrapped to `width` characters."""
        first, last = self.workers[0], self.workers[-1]
        lines: list[list[Part]] = [
            [("What the log says about the crash", "strong")],
            [f"  worker {first} was killed; worker {last} took over {span(max(self.gap_seconds, 0))} later"],
            [
                f"  {counted(self.reused, 'result')} stood in the log before that and were ",
                ("reused", "good"),
                ", none of them computed again",
            ],
        ]
        inner = [path for path in self.once if path.count("/") > 1]
        outer = [path for path in self.once if path.count("/") <= 1]
        more = f", {len(inner)} of them inner steps of packages; the others:" if inner else ""
        lines.append([("  ran once", "good"), f": {counted(len(self.once), 'step')}{more}"])
        lines += _wrapped([path.rpartition("/")[2] for path in outer], width)
        lines.append([("  ran twice", "wait"), f": {counted(len(self.again), 'step')} that ran at the kill"])
        lines += _wrapped(
            [path if count == 2 else f"{path} ({count} times)" for path, count in self.again.items()], width
        )
        if self.repeated:
            lines.append([("  recorded twice", "bad"), f": {', '.join(self.repeated)}"])
        return lines


def account(events: Sequence[LoggedEvent]) -> Account:
    """The account of an instance's history; meaningful where a worker took over from one that died."""
    starts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    workers: list[str] = []
    reused, gap = 0, 0.0
    for number, event in enumerate(events):
        path = str(event.data.get("path"))
        match event.type:
            case "StepStarted":
                starts[path] += 1
            case "StepCompleted":
                ends[path] += 1
            case "RunClaimed":
                worker = str(event.data.get("worker"))
                if workers and workers[-1] != worker:
                    reused = ends.total()
                    gap = (event.at - events[number - 1].at).total_seconds()
                if not workers or workers[-1] != worker:
                    workers.append(worker)
            case _:
                pass
    return Account(
        workers=workers or ["unknown"],
        once=[path for path, count in starts.items() if count == 1],
        again={path: count for path, count in starts.items() if count > 1},
        reused=reused,
        repeated=[path for path, count in ends.items() if count > 1],
        gap_seconds=gap,
    )


def _wrapped(names: Sequence[str], width: int) -> list[list[Part]]:
    text = ", ".join(names) or "none"
    return [[(f"    {line}", "dim")] for line in textwrap.wrap(text, width, break_on_hyphens=False)]
