"""Several worker processes under one parent: `wfes worker MODULE --processes N`.

The parent runs no instance and opens no log. It starts the processes, starts one again that died (soon the first
time, ever later while it keeps dying), passes a stop on, and ends when all have ended.

Invariants: a signal to the parent reaches each process once, for they are no part of the terminal's foreground group;
a process whose parent is gone, however it went, stops cleanly by itself, for the pipe it reads from has ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

PAUSE_MIN_SECONDS = 0.5
PAUSE_MAX_SECONDS = 30.0
"""How long to wait before a process that died is started again: twice as long each time, up to this."""
WELL_SECONDS = 60.0
"""A process that lived so long was well: if it dies, that is the first time again."""
USAGE_EXIT = 2
"""A process that ends so was called wrongly, and would be again."""


class Processes:
    """The processes and their parent.

    Args:
        command: What each process runs.
        environment: Its environment.
        number: How many there are.
        say: Prints a line for people.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        number: int,
        say: Callable[[str], None],
    ) -> None:
        self._command = command
        self._environment = environment
        self._number = number
        self._say = say
        self._running: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._stops = 0
        self._code = 0

    async def run(self) -> int:
        """Runs until SIGTERM or SIGINT, and until every process has ended.

        Returns:
            The exit code: 0, if every process ended well after the stop.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            await asyncio.gather(*(self._keep(place) for place in range(1, self._number + 1)))
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        return self._code

    def _stop(self) -> None:
        """Passes a stop on; a second one ends processes that are still at it."""
        self._stopping.set()
        self._stops += 1
        for process in self._running.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)

    async def _keep(self, place: int) -> None:
        """Keeps one process running."""
        loop = asyncio.get_running_loop()
        pause = PAUSE_MIN_SECONDS
        while not self._stopping.is_set():
            began = loop.time()
            process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, stdin=PIPE, process_group=0
            )
            self._running[place] = process
            if self._stopping.is_set():
                process.send_signal(signal.SIGTERM)
            code = await process.wait()
            del self._running[place]
            if self._stopping.is_set():
                # Before it is up, the signal ends it at once: nothing was begun.
                well = code == 0 or (code == -signal.SIGTERM and self._stops == 1)
                self._code = self._code or (0 if well else 1)
                return
            if code == USAGE_EXIT:
                self._code = USAGE_EXIT
                self._stop()
                return
            if loop.time() - began >= WELL_SECONDS:
                pause = PAUSE_MIN_SECONDS
            self._say(
                f"worker process {place} of {self._number} (pid {process.pid}) {_ended(code)}; "
                f"another one is started in {pause:g} s"
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, PAUSE_MAX_SECONDS)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def stop_with_parent() -> None:
    """In such a process: stops it cleanly when its parent is gone."""

    def wait() -> None:
        with suppress(OSError, ValueError):
            while os.read(sys.stdin.fileno(), 1_024):
                """The parent writes nothing."""
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="wfes-parent", daemon=True).start()
