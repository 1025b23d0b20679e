"""When histories are archived by themselves: once they are older than their workflow's retention.

Owns one timer. A pass is made when the oldest ended instance of a workflow with a retention is due, at most hourly and
not right at the start; while nothing has ended there is no timer at all, so that an idle engine does nothing. Of
several engines on a log, the one that has the archive's lock makes the pass, and the others leave it to that one.

Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from wfes.core import events as e
from wfes.core.durations import SECOND
from wfes.core.events import Recorded
from wfes.errors import WfesError
from wfes.log.port import Log
from wfes.runtime.clock import Cancellable, Clock
from wfes.runtime.pruning import Archivist

logger = logging.getLogger("wfes")

FIRST_MICROS = 60 * SECOND
"""How long after the start the first pass is made at the earliest."""
INTERVAL_MICROS = 3600 * SECOND
"""How long after a pass the next one is made at the earliest."""

_OLDEST = """SELECT retention, (SELECT min(ended_at) FROM wfes_ended
    WHERE wfes_ended.workflow = wfes_retention.workflow) FROM wfes_retention"""


class Retention:
    """Archives by itself what its workflows' retentions allow."""

    def __init__(self, log: Log, archivist: Archivist, clock: Clock) -> None:
        """Makes one; `start` sets it to work."""
        self._log = log
        self._archivist = archivist
        self._clock = clock
        self._not_before = 0
        self._shortest: int | None = None
        """The shortest retention; None: there is none."""
        self._timer: Cancellable | None = None
        self._pass: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def is_busy(self) -> bool:
        """Whether a pass is being made."""
        return self._pass is not None

    def start(self) -> None:
        """Looks when something is due."""
        self._not_before = self._clock.now() + FIRST_MICROS
        self._look()

    async def stop(self) -> None:
        """Ends a pass that is being made, behind its batch; what it has moved stays moved."""
        self._stopped = True
        self._disarm()
        if self._pass is not None:
            await asyncio.wait([self._pass])

    def tell(self, events: Sequence[Recorded]) -> None:
        """Takes what was committed, by whomever."""
        for recorded in events:
            event = recorded.event
            if isinstance(event, e.WorkflowDefined):
                if event.retention is not None or self._shortest is not None:
                    self._disarm()
                    self._look()
            elif event.terminal and self._timer is None and self._shortest is not None:
                self._arm(event.at + self._shortest)

    def _look(self) -> None:
        """Sets the timer by what is in the log."""
        try:
            rows = self._log.read(_OLDEST)
        except WfesError as error:
            logger.warning(
                "whether ended instances are to be archived is looked up again in an hour: %s", error
            )
            self._arm(self._clock.now() + INTERVAL_MICROS)
            return
        self._shortest = min((retention for retention, _ in rows), default=None)
        due = min((ended + retention for retention, ended in rows if ended is not None), default=None)
        if due is not None:
            self._arm(due)

    def _arm(self, due: int) -> None:
        if self._timer is None and self._pass is None and not self._stopped:
            self._timer = self._clock.call_at(max(due, self._not_before), self._begin)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        if not self._stopped:
            self._pass = asyncio.get_running_loop().create_task(self._make_pass())

    async def _make_pass(self) -> None:
        try:
            now = self._clock.now()
            ended_upto = {workflow: now - kept for workflow, kept in self._archivist.retentions().items()}
            done = await self._archivist.prune(ended_upto, wait=False, stopped=lambda: self._stopped)
            if done.instances:
                logger.info("archived %d ended instances with %d events", done.instances, done.events)
        except WfesError as error:
            logger.warning(
                "ended instances could not be archived, which is tried again in an hour: %s", error
            )
        except Exception:
            logger.exception("ended instances could not be archived, which is tried again in an hour")
        finally:
            self._not_before = self._clock.now() + INTERVAL_MICROS
            self._pass = None
        if not self._stopped:
            self._look()
