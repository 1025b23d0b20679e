"""The writer: one thread that owns all writing to a log, and the reading of what others wrote.

It takes everything queued, runs it in one transaction, commits once, and hands all outcomes to the event loop in one
call: durability costs one fsync a batch. There is no artificial waiting; while one batch is on its way to the disk
the next one gathers.

Invariants:

* Every notable event of the log, whoever wrote it, is delivered exactly once and in log order, before the outcomes of
  the members of its own commit.
* A member that fails harms no other: what it did is undone with the whole batch, and the others run again without it.
* While the database is away nothing is lost and nothing is made up: members wait, the commit whose answer was lost is
  looked up in the log, and only commands that nobody has recorded are given back after ``command_timeout``.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsourcing.persistence import Notification

from wfes.core.events import CATALOGUE, Event, Recorded
from wfes.core.evolve import evolve
from wfes.errors import LogUnavailable, NewerRelease, UnknownEvent
from wfes.errors.storage import without_password
from wfes.log.application import decode, digest
from wfes.log.cache import Cache
from wfes.log.event_rows import EventRows
from wfes.log.outbox import Batch, Outbox
from wfes.log.port import Log, Member, StoredRow, WriteTransaction
from wfes.log.presence import Hints
from wfes.log.rows import InlineRows
from wfes.log.transaction import Reaction, Transaction

if TYPE_CHECKING:
    from wfes.subscription.state import StateProjection

__all__ = ["Batch", "Reaction", "Writer"]

logger = logging.getLogger("wfes.log")

IDLE_MIN_SECONDS = 0.02
IDLE_MAX_SECONDS = 0.15
"""How often an idle writer asks whether another process committed: often while things happen, then ever less."""
UNHINTED_MAX_SECONDS = 0.06
"""The longest an idle writer waits on a log whose hints do not arrive: behind a pooler, or without a connection."""
HINTED_MAX_SECONDS = 0.25
"""And where they do: a hint may be lost, with the process that would have sent it."""
_IDLE_GROWTH = 1.25
BACKOFF_MIN_SECONDS = 0.02
BACKOFF_MAX_SECONDS = 1.0
_NEWS_PAGE = 1000


@dataclass(slots=True)
class _Taken:
    """A member out of the queue. ``since``: monotonic seconds; ``withdrawable``: may be given back unrecorded."""

    member: Member
    since: float
    withdrawable: bool


_Result = tuple[Member, Any, Exception | None]


class _Culprit(Exception):
    """A member raised after it had appended."""

    def __init__(self, taken: _Taken, error: Exception) -> None:
        self.taken = taken
        self.error = error


class _Unknown(Exception):
    """A commit failed, and may or may not have happened."""

    def __init__(self, transaction: Transaction, results: list[_Result], error: Exception) -> None:
        self.transaction = transaction
        self.results = results
        self.error = error


class Writer:
    """Group commit for one process.

    Args:
        log: an open log whose tables are brought up.
        projections: the inline state projections.
        event_rows: the inline projections by event type.
        reactions: by event type, what to append with such an event, in the same transaction.
        clock: wall clock, microseconds since the Unix epoch.
        deliver: called on the event loop's thread with the notable events of each commit, whoever made it.
        relay: called in the writer's thread when others may have committed: gives a member where callers have left
            commands in the outbox, to be run at once.
        refusal: why nothing can be written: every member gets it at once. None: it can.
        queue_max: from how many unresolved members on ``room`` waits.
        batch_max: the most members in one transaction.
        command_timeout: seconds after which commands are given back while the log is in trouble.
        cache_max: how many streams' states are kept.
        cache_bytes_max: how many bytes of larger values they may hold together.

    Attributes:
        workers: ids of this process's workers: states of what they own are kept.
        trouble: why the log cannot be written at the moment, or None.
        commits: how many transactions were committed.
        events: how many events they held.
    """

    def __init__(
        self,
        log: Log,
        *,
        projections: Sequence[StateProjection] = (),
        event_rows: EventRows | None = None,
        reactions: Mapping[type[Event], Reaction] | None = None,
        clock: Callable[[], int],
        deliver: Callable[[Batch], None],
        relay: Callable[[], Member | None] | None = None,
        refusal: LogUnavailable | None = None,
        queue_max: int = 10_000,
        batch_max: int = 2_000,
        command_timeout: float = 10.0,
        cache_max: int = 4_096,
        cache_bytes_max: int = 64 << 20,
    ) -> None:
        self.workers: set[str] = set()
        self.trouble: LogUnavailable | None = None
        self.commits = 0
        self.events = 0
        self._log = log
        self._inline = InlineRows(projections)
        self._event_rows = event_rows
        self._reactions = dict(reactions or {})
        self._clock = clock
        self._deliver = deliver
        self._relay = relay
        self._relay_at = 0.0
        self._refusal = refusal
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._command_timeout = command_timeout
        self._cache = Cache(cache_max, cache_bytes_max, self.workers, log.archive)
        self._queue: queue.SimpleQueue[Member | None] = queue.SimpleQueue()
        self._held: deque[_Taken] = deque()
        self._in_hand = 0
        self._seen = 0
        self._unread = False
        """What others committed may not have been read, though the log was looked at since."""
        self._stopping = threading.Event()
        self._ended = False
        self._broken: Exception | None = None
        self._thread: threading.Thread | None = None
        self._hints: Hints | None = None
        self._hinted = False
        """A hint is in the queue."""
        self._unserved = False
        """One was taken out of it, and no transaction came that would have read what it told of."""
        self._outbox: Outbox | None = None
        self._room: deque[asyncio.Future[None]] = deque()

    # ------------------------------------------------------------------------- on the loop's thread

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread. What is committed from this moment on is delivered, on this loop's thread."""
        if self._thread is not None:
            raise RuntimeError("this writer has been started before")
        self._outbox = Outbox(loop, self._deliver, self._make_room)
        self._seen = self._log.max_notification_id()
        self._thread = threading.Thread(target=self._run, name="wfes-writer", daemon=True)
        self._hints = self._log.hints(self._hint)
        self._thread.start()

    def stop(self) -> None:
        """Writes what is queued and ends the thread; outcomes are delivered before this returns.

        While the log is in trouble nothing waits for it: what is queued fails with that trouble.
        """
        thread = self._thread
        if thread is None or self._outbox is None:
            return
        self._stopping.set()
        self._queue.put(None)
        thread.join()
        self._ended = True
        self._turn_away()
        self._outbox.finish()

    def submit(self, member: Member) -> None:
        """Queues a member. Never blocks; from any thread.

        A member with a true attribute ``withdrawable`` (a command somebody waits for) is given back with
        ``LogUnavailable`` if it could not be recorded within ``command_timeout``; any other waits for ever. After
        `stop` every member is.
        """
        if self._refusal is not None:
            assert self._outbox is not None
            self._outbox.put(None, [(member, None, self._refusal)])
            return
        self._queue.put(member)
        if self._ended:
            self._turn_away()

    def _turn_away(self) -> None:
        """Gives back what came after the thread's last look into the queue."""
        assert self._outbox is not None
        with suppress(queue.Empty):
            while True:
                member = self._queue.get_nowait()
                if member is not None:
                    self._outbox.put(None, [(member, None, self._stopped())])

    def _stopped(self) -> LogUnavailable:
        return LogUnavailable(self._log.url, "this engine has stopped writing to it")

    @property
    def backlog(self) -> int:
        """How many members are not written yet."""
        return self._queue.qsize() + self._in_hand

    async def room(self) -> None:
        """Waits until the queue is below its bound.

        Raises:
            LogUnavailable: the writer stops: nothing more is written.
        """
        while self.backlog >= self._queue_max and not self._stopping.is_set():
            future = asyncio.get_running_loop().create_future()
            self._room.append(future)
            await future
        if self._stopping.is_set():
            raise self._stopped()

    def _make_room(self) -> None:
        while self._room and (self.backlog < self._queue_max or self._stopping.is_set()):
            future = self._room.popleft()
            if not future.done():
                future.set_result(None)

    # ----------------------------------------------------------------------- on the writer's thread

    def _run(self) -> None:
        idle = IDLE_MIN_SECONDS
        self._catch_up()
        while True:
            try:
                first = self._queue.get(timeout=0.0 if self._unserved else idle)
            except queue.Empty:
                self._unserved = False
                found = self._look_around()
                idle = IDLE_MIN_SECONDS if found else min(idle * _IDLE_GROWTH, self._idle_max())
                first = self._handed_over()
                if first is None:
                    continue
            idle = IDLE_MIN_SECONDS
            if first is None and not self._stopping.is_set():
                self._hinted = False
                if self._queue.empty():
                    self._look_around()
                    first = self._handed_over()
                    if first is None:
                        continue
            self._take(first)
            while self._held and self._broken is None:
                batch = [self._held.popleft() for _ in range(min(len(self._held), self._batch_max))]
                self._in_hand = len(batch) + len(self._held)
                self._write(batch)
                self._cache.trim()
                self._take_all()
                if time.monotonic() >= self._relay_at and (relaying := self._handed_over()) is not None:
                    self._take(relaying)
            self._in_hand = 0
            self._fail_if_broken()
            if self._stopping.is_set() and self._queue.empty():
                return

    def _idle_max(self) -> float:
        """The longest that an idle writer waits: where hints arrive, polling only catches those that are lost."""
        if self._hints is None:
            return IDLE_MAX_SECONDS
        return HINTED_MAX_SECONDS if self._hints.heard else UNHINTED_MAX_SECONDS

    def _handed_over(self) -> Member | None:
        """A member that appends what callers have committed in the outbox, if there is any."""
        if self._relay is None or self._broken is not None or self._stopping.is_set():
            return None
        self._relay_at = time.monotonic() + IDLE_MIN_SECONDS
        try:
            return self._relay()
        except LogUnavailable as error:
            self._note_trouble(error)
            return None

    def _hint(self) -> None:
        """Another process hints that it has committed; from any thread."""
        if not self._hinted:
            self._hinted = True
            self._queue.put(None)

    def _take(self, member: Member | None) -> None:
        now = time.monotonic()
        get = self._queue.get_nowait
        held = self._held
        while True:
            if member is not None:
                held.append(_Taken(member, now, getattr(member, "withdrawable", False)))
            else:
                self._hinted = False
                self._unserved = True
            if self._queue.empty():
                return
            member = get()

    def _take_all(self) -> None:
        if not self._queue.empty():
            self._take(None)

    def _write(self, batch: list[_Taken]) -> None:
        """Writes a batch, whatever it takes: every member of it is resolved when this returns."""
        groups = deque(_apart(batch))
        pause = BACKOFF_MIN_SECONDS
        while groups:
            group = groups.popleft()
            if not group:
                continue
            try:
                self._attempt(group)
            except _Culprit as culprit:
                self._refuse(culprit.taken, culprit.error)
                groups.appendleft([taken for taken in group if taken is not culprit.taken])
            except _Unknown as unknown:
                if not self._settle(unknown, group):
                    groups.appendleft(self._wait_out(unknown.error, group, pause))
                    pause = min(pause * 2, BACKOFF_MAX_SECONDS)
            except (UnknownEvent, NewerRelease) as error:
                self._broken = error
                logger.error("%s; this engine stops writing", error)
                groups.appendleft(group)
                for taken in (taken for rest in groups for taken in rest):
                    self._refuse(taken, error)
                return
            except LogUnavailable as error:
                groups.appendleft(self._wait_out(error, group, pause))
                pause = min(pause * 2, BACKOFF_MAX_SECONDS)
            except Exception as error:
                if len(group) == 1:
                    self._refuse(group[0], error)
                else:
                    groups.extendleft([taken] for taken in reversed(group))
            else:
                pause = BACKOFF_MIN_SECONDS
                self._all_well()

    def _attempt(self, group: list[_Taken]) -> None:
        """Runs the group in one transaction and commits it, or undoes everything and raises."""
        begin = _own_begin(group[0]) if group else None
        write = self._log.begin() if begin is None else begin(self._log)
        transaction = Transaction(
            write, self._cache, self._inline, self._reactions, self._clock(), self._event_rows
        )
        try:
            seen, news = self._seen, write.news(self._seen) if write.head > self._seen else ()
            if news:
                self._take_news(news)
            transaction.begin(seen, news)
            self._unserved = False
            results = self._run_members(group, transaction)
            if begin is not None and (error := results[0][2]) is not None:
                raise _Culprit(
                    group[0], error
                )  # what it wrote before this transaction was the writer's goes as well
            transaction.finish()
        except BaseException:
            self._unread = True
            write.rollback()
            transaction.undone()
            raise
        if transaction.appended:
            try:
                write.commit()
            except Exception as error:
                write.rollback()
                raise _Unknown(transaction, results, error) from error
        else:
            write.rollback()
        self._finish(transaction, results, write.head)

    @staticmethod
    def _run_members(group: list[_Taken], transaction: Transaction) -> list[_Result]:
        results: list[_Result] = []
        transaction.foresee([stream for taken in group for stream in getattr(taken.member, "streams", ())])
        for taken in group:
            member = taken.member
            before = transaction.appended
            try:
                results.append((member, member.run(transaction), None))
            except LogUnavailable as error:
                if error.retryable or not getattr(member, "apart", False):
                    raise
                raise _Culprit(taken, error) from error  # it lacks a right that nobody else needs
            except Exception as error:
                if transaction.appended != before or transaction.write.broken:
                    raise _Culprit(taken, error) from error
                results.append((member, None, error))
        return results

    def _finish(self, transaction: Transaction, results: list[_Result], head: int) -> None:
        assert self._outbox is not None
        transaction.committed()
        batch = None
        if transaction.appended:
            self.commits += 1
            self.events += head - self._seen
            self._seen = head
            batch = Batch(head, transaction.notable)
            if self._hints is not None and transaction.notable:
                self._hints.send()
        self._in_hand = len(self._held)
        self._outbox.put(batch, results)

    def _refuse(self, taken: _Taken, error: Exception) -> None:
        assert self._outbox is not None
        self._outbox.put(None, [(taken.member, None, error)])

    # ------------------------------------------------------------------------------------- trouble

    def _settle(self, unknown: _Unknown, group: list[_Taken]) -> bool:
        """Looks up in the log whether a commit happened whose answer is missing. True: it did, all is told."""
        row = unknown.transaction.last_row
        pause = BACKOFF_MIN_SECONDS
        if self._event_rows is not None:
            self._event_rows.doubtful = True
        while row is not None:
            try:
                write = self._log.begin()
                self._unread = True
                try:
                    happened = _stands(write, row)
                finally:
                    write.rollback()
            except LogUnavailable as error:
                if self._stopping.is_set():
                    break
                self._note_trouble(error)
                self._stopping.wait(pause)
                # What was in the commit has to wait for the truth; what came after it was certainly not recorded.
                self._take_all()
                self._give_back_held(error)
                pause = min(pause * 2, BACKOFF_MAX_SECONDS)
                continue
            if happened:
                self._finish(unknown.transaction, unknown.results, row[0])
                self._all_well()
                return True
            break
        unknown.transaction.undone()
        return False

    def _wait_out(self, error: Exception, group: list[_Taken], pause: float) -> list[_Taken]:
        """Waits a moment while the database is away; returns the members that wait on."""
        trouble = error if isinstance(error, LogUnavailable) else LogUnavailable(self._log.url, str(error))
        self._note_trouble(trouble)
        self._stopping.wait(pause)
        self._take_all()
        if self._stopping.is_set():
            for taken in (*group, *self._held):
                self._refuse(taken, trouble)
            self._held.clear()
            return []
        kept = self._give_back(group, trouble)
        self._give_back_held(trouble)
        self._in_hand = len(kept) + len(self._held)
        return kept

    def _give_back_held(self, trouble: LogUnavailable) -> None:
        self._held = deque(self._give_back(self._held, trouble))

    def _give_back(self, members: Iterable[_Taken], trouble: LogUnavailable) -> list[_Taken]:
        """Refuses the commands that have waited for as long as they may; returns the others."""
        limit = time.monotonic() - self._command_timeout
        kept: list[_Taken] = []
        for taken in members:
            if taken.withdrawable and taken.since <= limit:
                self._refuse(taken, trouble)
            else:
                kept.append(taken)
        return kept

    def _note_trouble(self, trouble: LogUnavailable) -> None:
        if self.trouble is None:
            logger.warning("%s; writing waits until it is back", trouble)
        self.trouble = trouble

    def _all_well(self) -> None:
        if self.trouble is not None:
            self.trouble = None
            logger.warning("the log %s is written again", without_password(self._log.url))

    def _fail_if_broken(self) -> None:
        if self._broken is not None:
            self._take_all()
            while self._held:
                self._refuse(self._held.popleft(), self._broken)

    # ------------------------------------------------------------------------------ what others did

    def _look_around(self) -> bool:
        """Reads what other processes committed; whether they did."""
        if self._broken is not None:
            return False
        try:
            found = self._log.changed() or self._unread
            if found:
                while page := self._log.select_notifications(
                    self._seen, _NEWS_PAGE, inclusive_of_start=False
                ):
                    self._take_news(page)
                self._unread = False
        except LogUnavailable as error:
            self._unread = True
            self._note_trouble(error)
            return False
        except UnknownEvent as error:
            self._broken = error
            logger.error("%s; this engine stops writing", error)
            return False
        except Exception as error:
            self._broken = error
            logger.exception(
                "the log %s cannot be followed; this engine stops writing", without_password(self._log.url)
            )
            return False
        self._all_well()
        if found:
            self._catch_up()
        return found

    def _catch_up(self) -> None:
        """Makes a transaction for event projections that others left behind, so that no reader finds them so."""
        if self._event_rows is None or self._broken is not None:
            return
        try:
            if self._event_rows.behind(self._log):
                self._attempt([])
        except NewerRelease as error:
            self._broken = error
            logger.error("%s; this engine stops writing", error)
        except _Unknown as unknown:
            unknown.transaction.undone()
            self._note_trouble(LogUnavailable(self._log.url, str(unknown.error)))
        except LogUnavailable as error:
            self._note_trouble(error)
        except Exception:
            logger.exception(
                "projections of the log %s could not be caught up with it", without_password(self._log.url)
            )

    def _take_news(self, stored: Sequence[Notification]) -> None:
        """Takes in what others committed: states in memory move on, notable events are delivered."""
        assert self._outbox is not None
        notable: list[Recorded] = []
        for notification in stored:
            recorded = self._take_one(notification)
            if recorded is not None:
                notable.append(recorded)
        self._seen = stored[-1].id
        self._outbox.put(Batch(self._seen, notable), [])

    def _take_one(self, notification: Notification) -> Recorded | None:
        stream = str(notification.originator_id)
        cls = CATALOGUE.get(notification.topic)
        entry = self._cache.peek(stream)
        notable = cls is None or not cls.owner or cls.terminal
        if entry is None and not notable:
            return None
        recorded = decode(notification)
        if entry is not None:
            version = recorded.originator_version
            if version != entry.version + 1:
                self._cache.forget(stream)
            else:
                if entry.state is not None:
                    evolve(entry.state, recorded.event, version)
                    self._cache.weigh(entry, recorded.event, len(notification.state))
                entry.version = version
                entry.digest = digest(notification)
                entry.rows = None
        return recorded if notable and recorded.copied is None else None


def _own_begin(taken: _Taken) -> Callable[[Log], WriteTransaction] | None:
    """What begins the member's own transaction, if it has one."""
    return getattr(taken.member, "begin", None)


def _apart(batch: list[_Taken]) -> list[list[_Taken]]:
    """The batch in order, cut so that a member with a transaction of its own is by itself."""
    groups: list[list[_Taken]] = [[]]
    for taken in batch:
        if _own_begin(taken) is None:
            groups[-1].append(taken)
        else:
            groups.extend(([taken], []))
    return [group for group in groups if group]


def _stands(write: WriteTransaction, row: StoredRow) -> bool:
    """Whether the log holds this very row."""
    position, stream, version, _, state = row
    found = write.history(stream, version - 1)
    return bool(found) and found[0].id == position and found[0].state == state
