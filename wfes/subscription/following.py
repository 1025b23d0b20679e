"""Following the log: one thread that keeps the rows of all of an engine's following projections up to date.

The thread sleeps until the writer tells of a new head (its own commits and those of other processes alike), then each
projection reads what concerns it, runs its handlers and writes rows and checkpoint in one transaction. While things
happen it writes at most every `PACE_SECONDS` and at least every `BATCH_SECONDS`, so that a busy log is followed in a
few transactions a second and an idle one costs nothing at all.

The eventsourcing library's subscriptions give every subscriber a thread and a queue, and hand over one event at a time
with a tracking object each; its runners then write one transaction an event. That is one commit to the disk an event,
where a page of them needs one: too slow for a log that takes thousands of events a second. So only its tracking
recorder is used (`wfes.subscription.stores`), where rows have a database of their own.

Invariants: an event is in a projection's rows exactly once, however many engines follow the same log and whenever one
of them dies: what is written is refused unless the checkpoint is still the one it was built on. Whoever is refused
stands by, and takes over when the checkpoint stays behind the log. A projection whose handler raises stops, says where
and why, and stops nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from wfes.errors import ArchiveUnavailable, LogUnavailable, UnknownEvent
from wfes.errors.storage import without_password
from wfes.log.port import Log
from wfes.subscription import registry
from wfes.subscription.projection import Projection
from wfes.subscription.registry import BUILDING, LIVE, STOPPED, Entry
from wfes.subscription.runner import Around, Failure, Runner
from wfes.subscription.stores import Overtaken, Store, Target
from wfes.subscription.swap import left_over, make_tables
from wfes.subscription.table import NEXT

logger = logging.getLogger("wfes.projections")

PACE_SECONDS = 0.02
"""How soon after a turn the next one comes at the earliest."""
BATCH_SECONDS = 0.05
"""How long events are handled at a stretch before they are written."""
CHECKPOINT_SECONDS = 1.0
"""How long a checkpoint may stay behind where no event concerned the projection."""
STANDBY_SECONDS = 2.0
"""How long a checkpoint has to stay where it is, behind the log, until somebody else takes over."""
LOOK_SECONDS = 0.25
"""How often who stands by looks at the checkpoint while it is behind."""
STOPPED_LOOK_SECONDS = 1.0
"""How often it is looked whether somebody wants a stopped projection tried again."""
BACKOFF_MIN_SECONDS = 0.05
BACKOFF_MAX_SECONDS = 2.0

NEW = "new"
FOLLOWING = "following"
STANDBY = "standby"
HALTED = "halted"
OUTDATED = "outdated"
SUPERSEDED = "superseded"
JOINED = "joined"
BROKEN = "broken"


class Follow:
    """One projection that an engine follows; but for `wanted`, `again` and `asked` it belongs to the following thread.

    Attributes:
        projection: what is followed.
        store: where its rows are.
        mode: `NEW`: not looked at yet; `FOLLOWING`; `STANDBY`: another engine follows it; `HALTED`: a handler raised;
            `OUTDATED`: its rows are of an older version and are being built anew; `SUPERSEDED`: they are of a newer
            one; `JOINED`: it is inline, and kept up to date by the writer; `BROKEN`: `trouble` says why.
        entry: what its rows were of when this was last known.
        trouble: why it cannot go on at the moment, if so.
    """

    def __init__(self, projection: Projection, store: Store) -> None:
        self.projection = projection
        self.store = store
        self.mode = NEW
        self.entry: Entry | None = None
        self.trouble: Exception | None = None
        self.wanted = 0
        """Somebody waits for the checkpoint to get here."""
        self.again = False
        """The rows are to be looked at anew."""
        self.asked = False
        """Somebody asks who follows it."""
        self._runner: Runner | None = None
        self._due: float | None = 0.0
        self._written_at = 0.0
        self._moved_at = 0.0
        self._pause = BACKOFF_MIN_SECONDS

    @property
    def due(self) -> float | None:
        """When it has to be looked at without being woken, monotonic seconds; None: never."""
        return self._due

    def is_caught_up(self, head: int) -> bool:
        """Whether there is nothing this engine could do for it now."""
        if self.again or self.mode == NEW:
            return False
        runner = self._runner
        if self.mode != FOLLOWING or runner is None:
            return True
        return (
            runner.position >= head and not runner.pending and self.entry_position >= min(self.wanted, head)
        )

    @property
    def entry_position(self) -> int:
        """The checkpoint that is known of."""
        return 0 if self.entry is None else self.entry.position or 0

    def turn(self, follower: Following) -> None:
        """Does what there is to do now, for a bounded time."""
        self._due = None
        try:
            if self.asked:
                self.asked = False
                follower.answer(self)
            if self.again:
                self.again = False
                self.mode = NEW
            if self.mode == NEW:
                self._begin(follower)
            elif self.mode == STANDBY:
                self._stand_by(follower)
            elif self.mode == HALTED or (self.mode == JOINED and not follower.joined(self)):
                self._look_again(follower)
            if self.mode == FOLLOWING:
                self._follow(follower)
            self._well()
        except Overtaken:
            self._be_overtaken(follower)
        except (LogUnavailable, ArchiveUnavailable) as error:
            self._wait_out(error)
        except UnknownEvent as error:
            self._break(error)
            logger.error("projection %r is not followed any further: %s", self.projection.name, error)
        except Exception as error:
            self._break(error)
            logger.exception("projection %r cannot be followed by this engine", self.projection.name)

    # -- What it does in each mode -----------------------------------------------------------------------------------

    def _begin(self, follower: Following) -> None:
        """Finds out what the rows are of, and makes the tables where there are none."""
        self.store.open()
        entry = self._read()
        if entry is None:
            entry = self.store.write(lambda target: created(target, self, follower.now()))
        self.entry = entry
        version = self.projection.version
        if entry.version < version:
            self.mode = OUTDATED
            follower.outdated(self)
        elif entry.version > version:
            self.mode = SUPERSEDED
            logger.warning(
                "projection %r is version %d in %s, and this program has version %d: it is not followed here",
                entry.name,
                entry.version,
                without_password(self.store.url),
                version,
            )
        else:
            self._check_columns()
            self._start(follower, entry)
            if self._is_unfinished():
                follower.outdated(self)  # which goes on with that
        follower.told()

    def _is_unfinished(self) -> bool:
        """Whether rows were being made anew, or replaced ones removed, when somebody's engine was closed or died."""
        name = self.projection.name
        with self.store.snapshot() as view:
            begun = registry.find(view.query, name + NEXT)
            return bool(left_over(view.query, name)) or (begun is not None and begun.status == BUILDING)

    def _check_columns(self) -> None:
        with self.store.snapshot() as view:
            for row in self.projection.tables:
                try:
                    view.query(row.table.select("1 = 0"))
                except LogUnavailable:
                    raise
                except Exception as error:
                    raise TypeError(
                        f"the table {row.table.name!r} of projection {self.projection.name!r} was made for other "
                        f"columns ({error}); raise the projection's version, and it is built anew"
                    ) from error

    def _start(self, follower: Following, entry: Entry) -> None:
        if self.projection.inline and entry.status == LIVE and follower.join(self):
            self.mode = JOINED
            return
        self._runner = follower.runner(self, entry)
        self.mode = FOLLOWING

    def _follow(self, follower: Following) -> None:
        runner = self._runner
        assert runner is not None
        began = time.monotonic()
        head = follower.head
        more = True
        while more:
            more = runner.read(head)
            if runner.full or time.monotonic() - began > BATCH_SECONDS:
                break
        behind = runner.position > self.entry_position
        waited_for = self.entry_position < min(self.wanted, runner.position)
        idle = time.monotonic() - self._written_at
        moved = False
        made = runner.entry.status == BUILDING and not more and runner.failure is None
        due = behind and idle >= CHECKPOINT_SECONDS
        if runner.pending or runner.failure or made or waited_for or due:
            runner.write(LIVE if made else None)
            self._written_at = time.monotonic()
            self.entry = runner.entry
            moved = True
        elif behind:
            self._due = self._written_at + CHECKPOINT_SECONDS
        if runner.failure is not None:
            self._halt(runner.failure)
        elif runner.position < follower.head:
            self._due = 0.0
        elif self.projection.inline and not runner.pending and follower.join(self):
            self.mode = JOINED
            self._runner = None
            moved = True
        if moved:
            follower.told()

    def _halt(self, failure: Failure) -> None:
        self.mode = HALTED
        self._runner = None
        self._due = time.monotonic() + STOPPED_LOOK_SECONDS
        logger.error(
            "projection %r is stopped: its handler raised at position %d, %s: %s; the engine and other projections "
            "go on. Mend it and open the engine again, or let it try again: wfes projections retry %s",
            self.projection.name,
            failure.position,
            failure.event,
            failure.error,
            self.projection.name,
            exc_info=failure.raised,
        )

    def _be_overtaken(self, follower: Following) -> None:
        """Another engine follows these rows, or has replaced them."""
        self._runner = None
        self.mode = STANDBY
        self._moved_at = time.monotonic()
        self._due = 0.0
        follower.told()

    def _stand_by(self, follower: Following) -> None:
        entry = self._read()
        known, self.entry = self.entry, entry
        now = time.monotonic()
        if entry is None or known is None or known.generation != entry.generation:
            self._begin(follower)
            return
        if entry.position != known.position:
            self._moved_at = now
            follower.told()
        if entry.status == STOPPED:
            self.mode = HALTED
            self._due = now + STOPPED_LOOK_SECONDS
        elif (entry.position or 0) >= follower.head:
            self._moved_at = now
            if self.wanted > (entry.position or 0):
                self._due = now + PACE_SECONDS
        elif now - self._moved_at > STANDBY_SECONDS:
            self._begin(follower)
        else:
            self._due = now + (PACE_SECONDS if self.wanted > (entry.position or 0) else LOOK_SECONDS)

    def _look_again(self, follower: Following) -> None:
        entry = self._read()
        if entry is None or entry.status != STOPPED:
            self._begin(follower)
        else:
            self.entry = entry
            self.mode = HALTED
            self._due = time.monotonic() + STOPPED_LOOK_SECONDS

    def _read(self) -> Entry | None:
        with self.store.snapshot() as view:
            return registry.find(view.query, self.projection.name)

    # -- Trouble -----------------------------------------------------------------------------------------------------

    def _well(self) -> None:
        if self.trouble is not None and self.mode != BROKEN:
            logger.warning("projection %r goes on", self.projection.name)
            self.trouble = None
            self._pause = BACKOFF_MIN_SECONDS

    def _wait_out(self, error: Exception) -> None:
        if self.trouble is None:
            logger.warning("projection %r waits: %s", self.projection.name, error)
        self.trouble = error
        self._due = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, BACKOFF_MAX_SECONDS)

    def _break(self, error: Exception) -> None:
        self.mode = BROKEN
        self.trouble = error
        self._runner = None


def created(target: Target, follow: Follow, now: int) -> Entry:
    """Makes a projection's tables and its row in the table of projections, unless somebody else has."""
    projection = follow.projection
    found = registry.find(target.query, projection.name)
    if found is not None:
        return found
    entry = Entry(projection.name, projection.version, 0, BUILDING, updated_at=now)
    tables = [row.table for row in projection.tables]
    make_tables(target, follow.store.url, follow.store.dialect, entry, tables)
    registry.put(target.query, entry)
    return entry


class Following:
    """Follows projections with one thread.

    Args:
        log: the open log.
        around: shows events; used by the thread alone.
        now: the clock, microseconds since the Unix epoch.
        told: called from the thread when a checkpoint or a mode has changed.
        outdated: called from the thread with a projection whose rows are of an older version.
        join: called from the thread with an inline projection that has caught up; whether the writer keeps it now.
        joined: called from the thread with an inline projection; whether the writer keeps it, as far as is known.
        answer: called from the thread with a projection about which somebody asks who follows it.
    """

    def __init__(
        self,
        log: Log,
        around: Around,
        now: Callable[[], int],
        *,
        told: Callable[[], None],
        outdated: Callable[[Follow], None],
        join: Callable[[Follow], bool],
        joined: Callable[[Follow], bool],
        answer: Callable[[Follow], None],
    ) -> None:
        self.head = 0
        self.now = now
        self.told = told
        self.outdated = outdated
        self.join = join
        self.joined = joined
        self.answer = answer
        self._log = log
        self._around = around
        self._follows: list[Follow] = []
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._hurry = False

    def add(self, follow: Follow) -> None:
        """Follows one more; starts the thread with the first."""
        self._follows.append(follow)
        if self._thread is None:
            self.head = max(self.head, self._log.max_notification_id())
            self._thread = threading.Thread(target=self._run, name="wfes-projections", daemon=True)
            self._thread.start()
        self._wake.set()

    def tell(self, head: int) -> None:
        """The log has got to this position. From any thread, cheap."""
        if head > self.head:
            self.head = head
            if self._follows:
                self._wake.set()

    def want(self, follow: Follow, position: int) -> None:
        """Somebody waits for this checkpoint."""
        if position > follow.wanted:
            follow.wanted = position
        self._hurry = True
        self._wake.set()

    def look(self, follow: Follow) -> None:
        """The rows were changed from outside: they are looked at anew."""
        follow.again = True
        self._hurry = True
        self._wake.set()

    def ask(self, follow: Follow) -> None:
        """Somebody asks who follows it."""
        follow.asked = True
        self._hurry = True
        self._wake.set()

    @property
    def quiet(self) -> bool:
        """Whether nothing is left to be done; makes the thread do it at once if there is."""
        if not self._follows or self._thread is None:
            return True
        if all(follow.is_caught_up(self.head) for follow in self._follows) and not self._busy:
            return True
        self._hurry = True
        self._wake.set()
        return False

    def runner(self, follow: Follow, entry: Entry, **options: Any) -> Runner:
        """A runner over the rows of a projection."""
        return Runner(
            follow.projection, follow.store, self._log, self._around, entry, now=self.now, **options
        )

    def stop(self) -> None:
        """Ends the thread; blocks until it has."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._busy = True
            for follow in list(self._follows):
                woken = follow.trouble is None and follow.mode in (NEW, FOLLOWING, STANDBY, JOINED)
                if (
                    woken
                    or follow.again
                    or follow.asked
                    or (follow.due is not None and follow.due <= time.monotonic())
                ):
                    follow.turn(self)
                    if self._stopping.is_set():
                        return
            self._busy = False
            if any(follow.due == 0.0 for follow in self._follows):
                continue
            self._rest(began)

    def _rest(self, began: float) -> None:
        """Sleeps until there is something to do, and at least as long as the pace says."""
        dues = [follow.due for follow in self._follows if follow.due is not None]
        timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
        self._wake.wait(timeout)
        pace = began + PACE_SECONDS - time.monotonic()
        if pace > 0 and not self._hurry:
            self._stopping.wait(pace)
        self._hurry = False
        self._wake.clear()
