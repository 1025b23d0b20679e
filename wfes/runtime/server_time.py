"""The time by which all engines on one database server live: the server's.

Machines disagree about the time, and what one of them starts another ends. So where a server keeps the log, its wall
clock counts for all of them (guarantee G7), and an engine asks for it when it opens and every few seconds from then on.
In between it goes by its own monotonic clock, so that a wall clock of this machine that is set or stands wrong does
nothing at all. It is never ahead of the server by more than two monotonic clocks drift apart between two looks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from wfes.errors import WfesError
from wfes.log.port import Log
from wfes.log.statements import statement
from wfes.runtime.clock import Clock, SystemClock

LOOK_SECONDS = 10.0
"""How often the server's clock is looked at."""
_LOOKS = 3
"""How often at a time: the quickest answer counts."""


class ServerTime:
    """Keeps an engine's clock at the server's time.

    Args:
        read: gives the server's time in nanoseconds since the Unix epoch.
        clock: what is kept at it.
        monotonic: this machine's monotonic clock in nanoseconds, which the clock goes by.
    """

    def __init__(
        self, read: Callable[[], int], clock: SystemClock, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._read = read
        self._clock = clock
        self._monotonic = monotonic

    def look(self) -> None:
        """Looks at the server's clock. From any thread.

        Raises:
            LogUnavailable: it cannot be asked now.
        """
        answers: list[tuple[int, int]] = []
        for _ in range(_LOOKS):
            asked = self._monotonic()
            now = self._read()
            # It was read at some moment between the question and the answer.
            answers.append((now - self._monotonic(), now - asked))
        least, most = min(answers, key=lambda answer: answer[1] - answer[0])
        ahead = self._clock.ahead
        if ahead is None or not least <= ahead <= most:
            self._clock.ahead = least

    async def keep(self) -> None:
        """Looks from time to time, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            # While the server is away nothing can be recorded either; whoever writes says so.
            with suppress(WfesError):
                await asyncio.to_thread(self.look)


def server_time(log: Log, clock: Clock) -> ServerTime | None:
    """What keeps a clock at the time of a log's server; None where there is no server, or the clock is a test's."""
    if log.dialect != "postgresql" or not isinstance(clock, SystemClock):
        return None
    sql = statement("postgres", "clock")
    return ServerTime(lambda: int(log.read(sql)[0][0]) * 1_000, clock)
