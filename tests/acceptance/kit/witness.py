"""Notes which process committed which event: the only witness of a write by a worker that owned nothing any more.

In the log an owner's events do not say who wrote them. So each process of a chaos run wraps its log and notes, once a
commit has been answered, its events' positions in the file ``witness-PID``. A commit whose answer was lost is not
noted: nothing is said about its events.
"""

from __future__ import annotations

import os
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
                if pid is not None and f"-{pid}-" not in owner:
                    problems.append(
                        f"{stream} version {version}: {event.topic} by process {pid}, owned by {owner}"
                    )
    return problems
