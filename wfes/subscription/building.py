"""Building a projection's rows anew beside the live ones, and swapping them.

The same runner that follows the log fills tables of its own from the beginning, from the archives too, while the live
rows are served and kept up to date. Then one transaction handles what is left and puts the new tables in the live
ones' place by renaming, so readers see the old rows or the new ones, and never go back in the log.

Invariants: a build that was cut off goes on where it stood, or is begun again; of several engines that build the same
rows one gets through, and the others take what it made.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from wfes.errors import ArchiveUnavailable, LogUnavailable
from wfes.errors.storage import without_password
from wfes.log.port import Log
from wfes.subscription import registry
from wfes.subscription.dependents import InTheWay
from wfes.subscription.projection import Projection
from wfes.subscription.registry import BUILDING, LIVE, STOPPED, Entry
from wfes.subscription.runner import Around, Failure, Runner
from wfes.subscription.stores import Overtaken, Store, Target, apply_in
from wfes.subscription.swap import TableTaken, begin_next, forget_next, replace, sweep
from wfes.subscription.table import NEXT

logger = logging.getLogger("wfes.projections")

WRITE_SECONDS = 0.1
"""How long events are handled at a stretch before their rows are written."""
STANDBY_SECONDS = 2.0
"""How long another engine's build has to stand still until it is taken over."""
LOOK_SECONDS = 0.1
BACKOFF_SECONDS = 0.5
REST_PAGES_MAX = 4
"""Pages that are handled inside the last transaction at most."""

Progress = Callable[[int, int], object]
"""Told positions of the log: how many are done, and of how many."""
Join = Callable[[Target], object]
"""Lets an inline projection take part, inside the transaction that swapped its rows."""


@dataclass(frozen=True, slots=True)
class Built:
    """How a build ended.

    Attributes:
        entry: what the live rows are of now; None: there are none.
        failure: the handler that raised: nothing was swapped.
    """

    entry: Entry | None
    failure: Failure | None = None


class Cancelled(Exception):
    """The engine is being closed."""


class Build:
    """One build. Used by one thread.

    Args:
        projection: whose rows.
        store: where they are.
        log: the open log.
        around: shows events.
        now: the clock, microseconds since the Unix epoch.
        stopping: set when the engine closes.
        anew: build also where the live rows are of this version, and from the beginning.
        progress: told how far it is.
        join: what to do in the last transaction, for an inline projection.
    """

    def __init__(
        self,
        projection: Projection,
        store: Store,
        log: Log,
        around: Around,
        now: Callable[[], int],
        *,
        stopping: threading.Event,
        anew: bool,
        progress: Progress | None = None,
        join: Join | None = None,
    ) -> None:
        self._projection = projection
        self._store = store
        self._log = log
        self._around = around
        self._now = now
        self._stopping = stopping
        self._anew = anew
        self._progress = progress
        self._join = join
        self._tables = [row.table for row in projection.tables]
        self._first_generation: int | None = None
        self._stood_by = False

    def run(self) -> Built:
        """Builds and swaps; blocks.

        Raises:
            Cancelled: the engine is being closed; another one goes on.
            TableTaken: somebody else's table has the name of one that is needed; the rows there are stay.
            InTheWay: something of a user's leads to the live tables and could not be led to new ones; they stay.
        """
        while True:
            try:
                self._sweep()
                built = self._attempt()
                self._sweep()
                return built
            except Overtaken:
                built_by_another = self._stand_by()
                self._stood_by = True
                if built_by_another is not None:
                    return built_by_another
            except (TableTaken, InTheWay) as error:
                self._store.write(partial(self._refused, error=str(error)))
                raise
            except (LogUnavailable, ArchiveUnavailable) as error:
                logger.warning("building projection %r waits: %s", self._projection.name, error)
                self._pause(BACKOFF_SECONDS)

    def _attempt(self) -> Built:
        entry = self._store.write(self._begin)
        if entry.name == self._projection.name:
            return Built(entry)
        runner = Runner(
            self._projection,
            self._store,
            self._log,
            self._around,
            entry,
            suffix=NEXT,
            empty=entry.position == 0,
            now=self._now,
        )
        while True:
            if self._fill(runner):
                swapped = self._store.write(lambda target: self._swap(target, runner))
                if swapped is not None:
                    return Built(swapped)
            if runner.failure is not None:
                runner.write()
                return Built(None, runner.failure)

    def _begin(self, target: Target) -> Entry:
        """What is to be filled; the live rows' own entry where there is nothing to build."""
        projection = self._projection
        live = registry.find(target.query, projection.name)
        begun = registry.find(target.query, projection.name + NEXT)
        if live is None:
            raise LookupError(
                f"projection {projection.name!r} has no rows in {without_password(self._store.url)}"
            )
        if self._first_generation is None:
            self._first_generation = live.generation
        done = not self._anew or live.generation != self._first_generation
        if live.version > projection.version or (live.version == projection.version and done):
            if begun is None or begun.status != BUILDING or not self._is_begun(target, begun):
                return live
            # Somebody was asked to make these rows anew: if nobody is at it any more, it is gone on with here.
            if not self._stood_by:
                raise Overtaken(begun)
        if begun is not None and self._is_begun(target, begun) and not self._anew:
            return dataclasses.replace(begun, status=registry.BUILDING, error=None, error_position=None)
        self._anew = False
        highest = max(live.generation, 0 if begun is None else begun.generation)
        fresh = Entry(projection.name, projection.version, updated_at=self._now(), generation=highest + 1)
        return begin_next(target, self._store.url, self._store.dialect, fresh, self._tables)

    def _is_begun(self, target: Target, begun: Entry) -> bool:
        """Whether somebody has begun with just these tables."""
        names = {table.name + NEXT for table in self._tables}
        return begun.version == self._projection.version and names == set(
            registry.owned(target.query, begun.name)
        )

    def _fill(self, runner: Runner) -> bool:
        """Handles what is in the log, and writes now and then; whether it has got to the head, or fails."""
        while True:
            if self._stopping.is_set():
                raise Cancelled
            began = time.monotonic()
            head = self._log.max_notification_id()
            more = True
            while more and not runner.full and time.monotonic() - began < WRITE_SECONDS:
                more = runner.read(head)
            if self._progress is not None:
                self._progress(min(runner.position, head), head)
            if not more and runner.failure is None:
                return True
            runner.write()
            if runner.failure is not None:
                return False

    def _swap(self, target: Target, runner: Runner) -> Entry | None:
        """Inside the last transaction: handles the rest, and swaps. None: there is too much left for it."""
        name = self._projection.name
        live = registry.find(target.query, name)
        if live is None:
            raise Overtaken(None)
        # What the live rows reflect is committed, so it can be read by others too.
        upto = self._log.max_notification_id() if self._join is not None else live.position or 0
        pages = 0
        while runner.position < upto:
            if pages == REST_PAGES_MAX:
                return None
            runner.read(upto)
            pages += 1
            if runner.failure is not None:
                return None
        to = runner.target()
        apply_in(target, runner.entry, to, runner.changes())
        replace(target, self._store.url, self._store.dialect, name, self._tables)
        registry.remove(target.query, to.name)
        target.moved(to.name, None)
        entry = dataclasses.replace(to, name=name, status=LIVE)
        registry.put(target.query, entry)
        if (entry.position or 0) > (live.position or 0):
            target.moved(name, entry.position)
        if self._join is not None:
            self._join(target)
        return entry

    def _refused(self, target: Target, error: str) -> None:
        """Says of the new rows why they cannot be made; where the old ones are as good, nothing is left of them."""
        name, version = self._projection.name + NEXT, self._projection.version
        live = registry.find(target.query, self._projection.name)
        if live is not None and live.version == version:
            forget_next(target, self._projection.name)
            return
        begun = registry.find(target.query, name) or Entry(name, version, 0)
        stopped = dataclasses.replace(
            begun, version=version, status=STOPPED, error=error, error_position=None, updated_at=self._now()
        )
        registry.put(target.query, stopped)

    def _stand_by(self) -> Built | None:
        """Another engine builds the same rows: waits for it. None: it does not any more."""
        seen: Entry | None = None
        since = time.monotonic()
        while True:
            with self._store.snapshot() as view:
                live = registry.find(view.query, self._projection.name)
                begun = registry.find(view.query, self._projection.name + NEXT)
            if live is not None and (
                live.version > self._projection.version
                or (live.version == self._projection.version and live.generation != self._first_generation)
            ):
                return Built(live)
            if begun is None:
                return None
            if seen is None or begun.position != seen.position or begun.generation != seen.generation:
                seen, since = begun, time.monotonic()
                if self._progress is not None:
                    self._progress(begun.position or 0, self._log.max_notification_id())
            elif time.monotonic() - since > STANDBY_SECONDS:
                return None
            self._pause(LOOK_SECONDS)

    def _sweep(self) -> None:
        sweep(self._store, self._projection.name)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Cancelled
