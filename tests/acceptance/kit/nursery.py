"""A process that has everything imported and no thread, and forks one child a run: a kill costs milliseconds.

As a script it reads trials from its standard input, a JSON object a line, and answers with what was wrong, a line
each. A trial is a folder, the ids of cases, and the kills: each the text of a fault (``kill:before:7``), or a number of
seconds after which the child gets SIGKILL. After the last of them a child runs everything to its end, undisturbed, and
checks what is in the folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import checks
import driver
from scenarios import environment

from wfes.log import faults

CHILD_SECONDS_MAX = 50.0


def _in_child(function: Callable[[], None], folder: Path, kill_after: float | None) -> int:
    """Runs a function in a forked child; returns the child's wait status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            (folder / "failed").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    ended = os.pidfd_open(pid)
    try:
        limit = CHILD_SECONDS_MAX if kill_after is None else kill_after
        if not select.select([ended], [], [], limit)[0]:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        return status
    finally:
        os.close(ended)


def _drive(folder: Path, ids: Sequence[str], fault: str) -> None:
    """What a child does that is to be killed."""
    with faults.installed(fault):
        asyncio.run(driver.drive(folder, ids))


def _finish(folder: Path, ids: Sequence[str]) -> None:
    """What the last child does: everything, and the checks; writes what is wrong."""
    with faults.installed("slow:999999:0"):  # Nothing goes wrong; commits are counted.
        wrong = asyncio.run(driver.drive(folder, ids))
    problems = [f"{id}: {what}" for id, what in wrong.items()] + checks.problems_of(folder)
    (folder / "problems").write_text(json.dumps(problems))


def run_trial(folder: Path, ids: Sequence[str], kills: Sequence[str | float]) -> dict[str, Any]:
    """Runs one trial in this process's children.

    Returns:
        ``problems``, how many children were ``killed``, and the ``seconds`` it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    killed = 0
    problems: list[str] = []
    marks: list[tuple[set[tuple[str, str]], int]] = []
    calls = folder / "calls"
    for kill in kills:
        fault, after = (kill, None) if isinstance(kill, str) else ("", kill)
        status = _in_child(partial(_drive, folder, ids, fault), folder, after)
        killed += os.WIFSIGNALED(status)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            problems.append((folder / "failed").read_text())
        marks.append((checks.settled(folder), calls.stat().st_size if calls.exists() else 0))
    status = _in_child(partial(_finish, folder, ids), folder, None)
    if status:
        failed = folder / "failed"
        problems.append(failed.read_text() if failed.exists() else f"the last child ended with {status}")
    else:
        problems += json.loads((folder / "problems").read_text())
    for settled, size in marks:
        recorded = {(id, path.replace(" ", "_")) for id, path in settled}
        again = [call for call in checks.calls_in(calls, size) if call[:2] in recorded]
        problems += [f"{call} was called although its result was recorded" for call in again]
    return {"problems": problems, "killed": killed, "seconds": time.monotonic() - began}


class Nursery:
    """The client's side of a nursery process."""

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def run(self, folder: Path, ids: Sequence[str], kills: Sequence[str | float]) -> dict[str, Any]:
        """Runs one trial there; see ``run_trial``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), list(ids), list(kills)]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _main() -> None:
    warnings.simplefilter("error")
    for line in sys.stdin:
        folder, ids, kills = json.loads(line)
        print(json.dumps(run_trial(Path(folder), ids, kills)), flush=True)


if __name__ == "__main__":
    _main()
