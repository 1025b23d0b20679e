"""When a worker claims, how much, and from whom.

A claim is asked for when something may have become runnable, never on a schedule; one timer waits for the next
instance that becomes due by itself. What a claim takes is decided in its transaction (`wfes.runtime.claims`).

*Spread.* A worker that runs next to nothing takes at once what there is. One that has work, and peers that run the
same workflows, thinks of them: it leaves a start of its own process unclaimed, looks at what is runnable a moment later
(the more it has, the later), and takes its part of that. Whoever has nothing to do was there first; and whoever is done
with its part is back for more, so the quick run more than the slow. A worker without such peers does nothing of this.

Invariants: at most one claim is in the writer's queue; what is left to others is looked at again soon, so nothing
stays behind if they do not come. Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from wfes.core import events as e
from wfes.core.durations import SECOND
from wfes.errors import WfesError
from wfes.log.port import Log
from wfes.runtime.claims import CLAIMS_MAX, Claimed, ClaimRunnable, Share, Work
from wfes.runtime.clock import Cancellable, Clock
from wfes.runtime.executions import SCAN_SECONDS, Executions
from wfes.runtime.membership import Queue
from wfes.runtime.watch import Sighting

_log = logging.getLogger("wfes")

SHARE_SECONDS = 1.5
"""How long the other workers have to take their part of what a dead one owned, before this one takes the rest."""
AGAIN_MICROS = SECOND // 2
"""How long to wait before what is left of it is looked at again."""
RETRY_MICROS = SECOND
"""How long to wait before a claim that failed, or found rows it could not take, is tried again."""
ENOUGH = 8
"""From so many executions on a worker thinks of its peers; so many it takes of what there is, if its part is less."""
MOMENT_SECONDS = 0.02
"""How long it leaves them at least: a hint of what is runnable takes about half of it."""
MOMENTS_MAX = 4
"""So many times as long it leaves them at most, where it has much."""
MUCH = 64
"""So many executions make it wait for one moment more."""

Json = Any


class Claiming:
    """Asks for claims on behalf of a worker, and lets the executions begin that they bring.

    Attributes:
        worker: who claims.
        accepting: whether anything is to be claimed now.
        peers: ids of the other workers that claim and know one of these workflows.
        queueing: some instance waits for a slot of its workflow's limited concurrency.
        left_to_others: dead workers that own only what is not known here.
    """

    def __init__(
        self,
        log: Log,
        writer: Queue,
        clock: Clock,
        work: Work,
        codes: Mapping[str, Json],
        executions: Executions,
        bury: Callable[[str], object],
    ) -> None:
        """Makes it; `begin` lets it claim.

        Args:
            log: an open log.
            writer: its writer.
            clock: tells the time and calls back.
            work: what is to be done for these workflows.
            codes: by workflow, what is run here.
            executions: where what is claimed begins.
            bury: removes what a dead worker has left behind whose last instance was taken over.
        """
        self.worker = ""
        self.accepting = False
        self.peers: list[str] = []
        self.queueing = False
        self.left_to_others: set[str] = set()
        self._log = log
        self._writer = writer
        self._clock = clock
        self._work = work
        self._codes = codes
        self._executions = executions
        self._bury = bury
        self._loop = asyncio.get_running_loop()
        self._dead: dict[str, float] = {}
        """Dead workers that may own something still, and since when, by the loop's clock, they are known to be."""
        self._tickets = 0
        self._wanted = False
        self._more = False
        self._check_at: asyncio.Handle | None = None
        self._is_later = False
        self._claiming = False
        self._due: int | None = None
        self._timer: Cancellable | None = None

    def begin(self, worker: str) -> None:
        """Claims from now on, as this worker."""
        self.worker = worker
        self.accepting = True
        self.want()

    def pause(self) -> None:
        """Asks for no claim until `begin` is called again."""
        self.accepting = False

    def end(self) -> None:
        """Asks for no claim any more."""
        self.accepting = False
        self._set_timer(None)

    @property
    def quiet(self) -> bool:
        """Whether nothing is about to be claimed."""
        return not self._claiming and self._check_at is None

    # ------------------------------------------------------------------------------- starts in this process

    def ticket(self, workflow: str) -> bool:
        """Keeps a place for an instance that is about to be started here, if it is to be claimed with its start.

        Args:
            workflow: the workflow's name.
        """
        if not self.accepting or workflow not in self._codes:
            return False
        if self._executions.free <= 0 or self._has_enough():
            return False
        self._tickets += 1
        self._executions.reserve(1)
        return True

    def use_ticket(self, id: str, history: list[e.Recorded]) -> None:
        """The start was committed with the claim: it begins."""
        self._tickets -= 1
        self._executions.begin(id, history)

    def release_ticket(self) -> None:
        """Gives the place back: the start was refused, or did not claim."""
        self._tickets -= 1
        self._executions.give_back(1)
        self.freed(due=False)

    def _has_enough(self) -> bool:
        """Whether what else there is is for the peers as well."""
        return bool(self.peers) and self._executions.present + self._tickets >= ENOUGH

    # ---------------------------------------------------------------------------------- the other workers

    def bereaved(self, dead: str) -> None:
        """What this worker owned is to be taken over."""
        self._dead[dead] = self._loop.time()

    def saw(self, sighting: Sighting) -> None:
        """What is new about the other workers."""
        if not self.accepting:
            return
        census = sighting.census
        self.peers = census.peers
        for id in census.alive:
            self._dead.pop(id, None)
        dead = [*census.dead, *sighting.orphaned]
        self.left_to_others.intersection_update(dead)
        new = [id for id in dead if id not in self._dead and id not in self.left_to_others]
        if new:
            _log.info("worker %s is gone: going on with its instances", ", ".join(new))
            self._dead.update(dict.fromkeys(new, self._loop.time()))
            self.want()
        elif not census.alive and not census.dead:
            # The last of the others has left, perhaps with instances that are to go on here.
            self._arm(self._clock.now())
        elif sighting.due is not None:
            self._arm(sighting.due)

    def _share(self, since: float) -> Share:
        """Which part is this worker's of what one owned that is known to be dead since then."""
        if not self.peers or self._loop.time() - since >= SHARE_SECONDS:
            return Share()
        everybody = sorted((self.worker, *self.peers))
        return Share(everybody.index(self.worker), len(everybody))

    # ------------------------------------------------------------------------------------------- claiming

    def freed(self, due: bool) -> None:
        """There is room for somebody else's turn.

        Args:
            due: what had it may be due again.
        """
        self._wanted = self._wanted or due
        if self._wanted:
            self.want()

    def want(self) -> None:
        """Something may be runnable: looks once for all that happens until then, at the loop's next turn or, where
        the peers are thought of, a moment later."""
        self._wanted = True
        if self._claiming:
            return
        later = self._has_enough()
        if self._check_at is not None:
            if later or not self._is_later:
                return
            self._check_at.cancel()
        self._is_later = later
        if later:
            moments = min(1 + self._executions.present / MUCH, MOMENTS_MAX)
            self._check_at = self._loop.call_later(MOMENT_SECONDS * moments, self._check)
        else:
            self._check_at = self._loop.call_soon(self._check)

    def _check(self) -> None:
        self._check_at = None
        if not self.accepting or self._claiming or not self._codes:
            return
        if not self._more:  # else the last claim saw it: nothing has to be read
            try:
                due, self.queueing = self._work.look(self._log.read)
            except WfesError:
                self._arm(self._clock.now() + RETRY_MICROS)
                return
            if not self._dead and (due is None or due > self._clock.now()):
                self._wanted = False
                self._set_timer(due)
                return
        limit = min(self._executions.free, CLAIMS_MAX)
        if limit <= 0:
            # Still wanted: whoever leaves looks again.
            if self._executions.make_room():
                self._loop.call_later(SCAN_SECONDS, self._look_again)
            return
        self._wanted = self._more = False
        self._claiming = True
        self._executions.reserve(limit)
        dead = {id: self._share(since) for id, since in self._dead.items()}
        member = ClaimRunnable(
            self.worker,
            self._codes,
            self._work,
            limit,
            dead,
            functools.partial(self._claimed, limit),
            functools.partial(self._claim_failed, limit),
            among=1 + len(self.peers),
            at_least=ENOUGH,
        )
        self._writer.submit(member)

    def _look_again(self) -> None:
        if self._wanted and self.accepting:
            self.want()

    def _claimed(self, limit: int, claimed: Claimed) -> None:
        self._claiming = False
        self.queueing = claimed.queueing
        for history in claimed.histories:
            self._executions.begin(history[0].originator_id, history)
        for dead in claimed.cleared:
            self._dead.pop(dead, None)
            self._bury(dead)
        for dead in claimed.foreign:
            self._dead.pop(dead, None)
            self.left_to_others.add(dead)
        self._executions.give_back(limit - len(claimed.histories))
        self._more = claimed.more and claimed.progressed
        self._wanted |= claimed.left and claimed.progressed
        if self._wanted or self._more:
            self.want()
            return
        due = claimed.next_due
        now = self._clock.now()
        self._set_timer(now + RETRY_MICROS if due is not None and due <= now else due)
        if self._dead:
            self._arm(now + AGAIN_MICROS)

    def _claim_failed(self, limit: int, error: Exception) -> None:
        self._claiming = False
        self._executions.give_back(limit)
        if self.accepting:
            _log.error("claiming instances failed: %s", error, exc_info=error)
            self._arm(self._clock.now() + RETRY_MICROS)

    # ---------------------------------------------------------------------------------------------- the timer

    def _arm(self, due: int) -> None:
        """Looks again at `due`, or earlier if that was so already."""
        if self._due is None or due < self._due:
            self._set_timer(due)

    def _set_timer(self, due: int | None) -> None:
        if due is not None and due == self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due if self.accepting else None
        if self._due is not None:
            self._timer = self._clock.call_at(self._due, self._timer_due)

    def _timer_due(self) -> None:
        self._due = None
        self._timer = None
        self.want()
