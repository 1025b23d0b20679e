"""The demo's workers in processes of their own: one that kills itself halfway, and one that carries on."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable

from wfes.cli.app import Failure
from wfes.cli.screen import Part

STOP_SECONDS_MAX = 15


class Crew:
    """Two workers, one after the other.

    Args:
        url: The log they work on.
        say: Prints a line.
    """

    def __init__(self, url: str, say: Callable[..., None]) -> None:
        self._url = url
        self._say: Callable[..., None] = say
        self._processes: list[Process] = []

    async def work(self) -> None:
        """Runs the first until it has killed itself, then the second, which works until it is dismissed.

        Raises:
            Failure: One ended otherwise.
        """
        first = await self._hired("--die")
        problem = await first.communicate()
        if first.returncode != -signal.SIGKILL:
            raise _ended_wrongly(first, problem[1])
        line: list[Part] = [("✗ ", "bad"), f"worker process {first.pid} killed itself with SIGKILL, halfway"]
        self._say(*line)
        second = await self._hired()
        self._say(("→ ", "wait"), f"a new worker process, {second.pid}, is started")
        problem = await second.communicate()
        raise _ended_wrongly(second, problem[1])

    async def dismiss(self) -> None:
        """Stops whoever still works: cleanly, and after a while by force."""
        for process in self._processes:
            if process.returncode is not None:
                continue
            process.terminate()
            try:
                await asyncio.wait_for(process.communicate(), STOP_SECONDS_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _hired(self, *options: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wfes.demo.worker",
            self._url,
            *options,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
        )
        self._processes.append(process)
        return process


def _ended_wrongly(process: Process, stderr: bytes | None) -> Failure:
    said = (stderr or b"").decode(errors="replace").strip().splitlines()
    last = f": {said[-1]}" if said else ""
    return Failure(f"the demo's worker process ended by itself with exit code {process.returncode}{last}")
