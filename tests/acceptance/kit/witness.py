"""Who did what: which process committed which event, and whether each call of a step's function was one that it had
announced.

In the log an owner's events do not say who wrote them. So each process of a chaos run wraps its log and notes, once a
commit has been answered, its events' positions in the file ``witness-PID``. A commit whose answer was lost is not
noted: nothing is said about its events.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from wfes.core import events as e
from wfes.log.port import Log, StoredRow


class _Write:
    """A write transaction that notes what it has committed."""

    def __init__(self, write: Any, file: int) -> None:
        self._write = write
        self._file = file
        self._positions: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._write, name)

    def insert(self, rows: Sequence[StoredRow]) -> None:
        self._write.insert(rows)
        self._positions += [row[0] for row in rows]

    def commit(self) -> None:
        self._write.commit()
        if self._positions:
            os.write(self._file, "".join(f"{position}\n" for position in self._positions).encode())


class _Witness:
    """A log whose write transactions are watched."""

    def __init__(self, log: Any, file: int) -> None:
        self._log = log
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def begin(self) -> _Write:
        return _Write(self._log.begin(), self._file)

    def lend(self) -> _Lent:
        return _Lent(self._log.lend(), self._file)


class _Lent:
    """What is lent to a step's function; the transaction that its completion is appended to is watched."""

    def __init__(self, lent: Any, file: int) -> None:
        self._lent = lent
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lent, name)

    def write(self) -> _Write:
        return _Write(self._lent.write(), self._file)


def watching(folder: Path, log: Log) -> Log:
    """The log, with a witness of what this process commits."""
    file = os.open(folder / f"witness-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    return cast("Log", _Witness(log, file))


def writers(folder: Path) -> dict[int, int]:
    """By position, the process that wrote the event there, as far as it was noted."""
    found: dict[int, int] = {}
    for path in folder.glob("witness-*"):
        text = path.read_text()
        pid = int(path.name.partition("-")[2])
        # A kill may have cut the last line off.
        found |= dict.fromkeys(map(int, text[: text.rfind("\n") + 1].split()), pid)
    return found


def process_of(worker: str) -> int:
    """The process that a worker's id names."""
    return int(worker.rsplit("-", 2)[1])


def calls_in(path: Path) -> list[tuple[str, str, int, int]]:
    """The calls noted in this file: instance, path, attempt, process."""
    if not path.exists():
        return []
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    return [(id, step, int(attempt), int(pid)) for id, step, attempt, pid in lines]


def unannounced(
    histories: Mapping[str, Sequence[e.Recorded]], calls: Sequence[tuple[str, str, int, int]]
) -> list[str]:
    """Calls of a step's function beyond those that their own process had announced in the log (G1, G2).

    A process may call a function whose start it has recorded even when it was taken over meanwhile and another one has
    completed the step: it cannot know yet. It calls it once a start, and after a completion there are no more starts.
    So this needs to know nothing of when a call was made.
    """
    starts: Counter[tuple[str, str, int, int]] = Counter()
    for id, history in histories.items():
        pid = 0
        attempts: dict[str, int] = {}
        suspended: Sequence[str] = ()
        for event in (recorded.event for recorded in history):
            match event:
                case e.RunClaimed():
                    pid = process_of(event.worker)
                    # Left while they waited inside, they are called again without another start.
                    again, suspended = suspended, ()
                    starts.update((id, path.replace(" ", "_"), attempts[path], pid) for path in again)
                case e.RunReleased():
                    suspended = event.suspended
                case e.StepStarted():
                    attempts[event.path] = event.attempt
                    starts[id, event.path.replace(" ", "_"), event.attempt, pid] += 1
                case _:
                    """Says nothing of calls."""
    return [
        f"{id} {path} attempt {attempt} was called {count} times by {pid}, which had announced "
        f"{starts[id, path, attempt, pid]}"
        for (id, path, attempt, pid), count in Counter(calls).items()
        if count > starts[id, path, attempt, pid]
    ]


def stale(
    histories: Mapping[str, Sequence[e.Recorded]],
    positions: Mapping[tuple[str, int], int],
    by: Mapping[int, int],
) -> list[str]:
    """Owner's events that another process wrote than the one whose worker had claimed the instance (G5).

    Args:
        histories: the events by stream.
        positions: by stream and version, an event's position.
        by: what `writers` gave.
    """
    problems: list[str] = []
    for stream, history in histories.items():
        owner = ""
        for recorded in history:
            event, version = recorded.event, recorded.originator_version
            if isinstance(event, e.RunClaimed):
                owner = event.worker
            elif event.owner:
                pid = by.get(positions[stream, version])
                if pid is not None and (not owner or pid != process_of(owner)):
                    problems.append(
                        f"{stream} version {version}: {event.topic} by process {pid}, owned by {owner}"
                    )
    return problems
