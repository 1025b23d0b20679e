"""Moving the histories of ended instances from the log into its archive.

A batch is read, written to the archive and synced to disk, and only then deleted from the log, in the transaction that
appends what says where it went (``HistoryArchived``). So a crash at any moment loses nothing: what it leaves in the
archive without the log saying so is never read, and the history is archived again.

Invariants: only what has ended is moved, and nothing that an open wait is for; whether an instance is still as it was
read is looked up in the deleting transaction; an instance whose hash chain is broken stays where it is. Batches are
bounded, so other writers get their turn between any two; one process archives at a time, which the archive's lock
decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from eventsourcing.persistence import Notification

from wfes.core import events as e
from wfes.core.durations import SECOND
from wfes.core.evolve import fold
from wfes.core.state import InstanceState
from wfes.errors import ArchiveUnavailable
from wfes.log.application import decode, digest
from wfes.log.archive import block
from wfes.log.blocks import broken_link, line
from wfes.log.port import Log, Member, Tx

logger = logging.getLogger("wfes")

INSTANCES_MAX = 100
"""Most histories one transaction archives."""
EVENTS_MAX = 5_000
"""From how many events on a transaction takes no further history."""
BYTES_MAX = 8 << 20
"""From how many bytes of them on it takes no further history."""
BLOCK_BYTES = 256 * 1024
"""From how many bytes of lines on a block takes no further history."""
LOCK_SECONDS = 60.0
"""How long to wait for another process that is archiving."""
_LOCK_PAUSE_SECONDS = 0.02
_PAGE = 5_000

_FIRST_WORKFLOW = "SELECT min(workflow) FROM wfes_ended WHERE workflow > ?"
_CANDIDATES = """SELECT ended_at, id FROM wfes_ended
    WHERE workflow = ? AND ended_at <= ? AND (ended_at, id) > (?, ?)
        AND NOT EXISTS (SELECT 1 FROM wfes_waiters WHERE target = wfes_ended.id)
    ORDER BY ended_at, id LIMIT ?"""
_RETENTIONS = "SELECT workflow, retention FROM wfes_retention ORDER BY workflow"
_WAITED_FOR = "SELECT target FROM wfes_waiters WHERE target IN ({})"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was moved from the log to its archive.

    Attributes:
        instances: How many histories.
        events: How many events they had.
        bytes: How many bytes these took in the log.
        files: Paths of the archive's files that they are in now.
    """

    instances: int = 0
    events: int = 0
    bytes: int = 0
    files: tuple[str, ...] = ()

    def plus(self, other: Pruned) -> Pruned:
        """Both together."""
        return Pruned(
            self.instances + other.instances,
            self.events + other.events,
            self.bytes + other.bytes,
            tuple(dict.fromkeys((*self.files, *other.files))),
        )


@dataclass(frozen=True, slots=True)
class _History:
    """An ended instance and its events as they are stored."""

    state: InstanceState
    stored: Sequence[Notification]

    @property
    def size(self) -> int:
        return sum(len(each.state) for each in self.stored)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Histories to be moved by one transaction; ``cursor``: of the last one looked at; ``more``: perhaps others."""

    histories: list[_History]
    cursor: tuple[int, str]
    more: bool


class Archivist:
    """Moves histories, batch by batch. On the event loop's thread; reading and packing happen in others."""

    def __init__(self, log: Log, submit: Callable[[Member], None], now: Callable[[], int]) -> None:
        """Makes one.

        Args:
            log: an open log whose projections are brought up.
            submit: queues a member for the log's writer.
            now: the wall clock, in microseconds.
        """
        self._log = log
        self._submit = submit
        self._now = now

    def retentions(self) -> dict[str, int]:
        """By workflow, how many microseconds an ended instance's history stays in the log."""
        return {str(workflow): int(retention) for workflow, retention in self._log.read(_RETENTIONS)}

    def with_ended(self) -> list[str]:
        """The workflows that have ended instances whose histories are in the log."""
        found: list[str] = []
        last = ""
        while (last := self._log.read(_FIRST_WORKFLOW, (last,))[0][0]) is not None:
            found.append(last)
        return found

    async def prune(
        self,
        ended_upto: Mapping[str, int],
        *,
        dry_run: bool = False,
        actor: str | None = None,
        wait: bool = True,
        progress: Callable[[Pruned], object] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Pruned:
        """Moves the histories of the instances that ended up to a moment.

        Args:
            ended_upto: that moment by workflow, in microseconds.
            dry_run: only count.
            actor: who asked.
            wait: wait for another process that is archiving; else leave the rest to it.
            progress: called after each batch with what was moved so far.
            stopped: asked before each batch whether to leave the rest.

        Raises:
            ArchiveUnavailable: the archive cannot be written, or another process keeps it too long; what was moved
                before stays moved.
            LogUnavailable: the log cannot be written.
        """
        total = Pruned()
        for workflow, upto in ended_upto.items():
            cursor = (-(2**63), "")
            more = True
            while more and not stopped():
                if not dry_run and not await self._locked(wait):
                    return total
                try:
                    batch = await asyncio.to_thread(self._read, workflow, upto, cursor)
                    total = total.plus(await self._moved(batch, actor, dry_run))
                finally:
                    if not dry_run:
                        self._log.archive.unlock()
                cursor, more = batch.cursor, batch.more
                if progress is not None and batch.histories:
                    progress(total)
        return total

    async def _locked(self, wait: bool) -> bool:
        until = time.monotonic() + LOCK_SECONDS
        while not self._log.archive.try_lock():
            if not wait:
                return False
            if time.monotonic() > until:
                raise ArchiveUnavailable(
                    self._log.archive.where,
                    f"another process has been archiving there for more than {LOCK_SECONDS:g}s; try again later",
                )
            await asyncio.sleep(_LOCK_PAUSE_SECONDS)
        return True

    # -------------------------------------------------------------------------------------- reading

    def _read(self, workflow: str, upto: int, cursor: tuple[int, str]) -> _Batch:
        rows = self._log.read(_CANDIDATES, (workflow, upto, *cursor, INSTANCES_MAX))
        histories: list[_History] = []
        events = size = 0
        for ended_at, id in rows:
            cursor = (ended_at, id)
            found = self._history(id)
            if found is not None:
                histories.append(found)
                events += len(found.stored)
                size += found.size
                if events >= EVENTS_MAX or size >= BYTES_MAX:
                    return _Batch(histories, cursor, more=True)
        return _Batch(histories, cursor, more=len(rows) == INSTANCES_MAX)

    def _history(self, id: str) -> _History | None:
        """An instance's history, if it is one to be moved."""
        stored: list[Notification] = []
        while page := self._log.select_events(id, gt=len(stored), limit=_PAGE):
            if page[0].originator_version != len(stored) + 1:
                return None  # archived since it was found
            stored.extend(page)
            if len(page) < _PAGE:
                break
        broken = broken_link(stored)
        if broken is not None:
            logger.error(
                "instance %s is not archived: its hash chain is broken at version %d, which was changed after it was "
                "written; it stays in the log",
                id,
                broken,
            )
            return None
        state = fold(id, map(decode, stored))
        return _History(state, stored) if state.is_over and state.archived is None else None

    # --------------------------------------------------------------------------------------- moving

    async def _moved(self, batch: _Batch, actor: str | None, dry_run: bool) -> Pruned:
        histories = batch.histories
        if dry_run or not histories:
            return _counted(histories)
        entries = await asyncio.to_thread(self._written, histories)
        move = _Move(entries, actor, asyncio.get_running_loop().create_future())
        self._submit(move)
        moved = await move.future
        found = [history for history in histories if history.state.id in moved]
        files = tuple(dict.fromkeys(f"{self._log.archive.where}/{stone.file}" for _, stone in entries))
        return replace(_counted(found), files=files if found else ())

    def _written(self, histories: Sequence[_History]) -> list[tuple[str, e.HistoryArchived]]:
        """Writes histories to the archive; what the log is to say about each, whose time is set later."""
        blocks: list[bytes] = []
        placed: list[tuple[_History, int]] = []
        lines: list[bytes] = []
        size = 0
        for history in histories:
            placed.append((history, len(blocks)))
            for stored in history.stored:
                lines.append(line(stored))
                size += len(lines[-1])
            if size >= BLOCK_BYTES:
                blocks.append(block(b"".join(lines)))
                lines.clear()
                size = 0
        if lines:
            blocks.append(block(b"".join(lines)))
        day = datetime.fromtimestamp(self._now() / SECOND, UTC).date().isoformat()
        file, offsets = self._log.archive.append(day, blocks)
        return [
            (history.state.id, _stone(history, file, offsets[number], len(blocks[number])))
            for history, number in placed
        ]


class _Move:
    """Deletes archived histories from the log and says in it where they are: a member of the writer's queue.

    Gives the ids of those that were still as they were read.
    """

    withdrawable = True

    def __init__(
        self,
        entries: Sequence[tuple[str, e.HistoryArchived]],
        actor: str | None,
        future: asyncio.Future[set[str]],
    ) -> None:
        self._entries = entries
        self._actor = actor
        self.future = future

    def run(self, tx: Tx) -> set[str]:
        ids = [id for id, _ in self._entries]
        marks = ", ".join("?" * len(ids))
        waited_for = {row[0] for row in tx.query(_WAITED_FOR.format(marks), ids)}
        ready = [
            (id, stone)
            for id, stone in self._entries
            if id not in waited_for and _is_as_read(tx.state(id), stone)
        ]
        for id, stone in ready:
            tx.delete_history(id, stone.versions)
            tx.append(id, [replace(stone, at=tx.now, actor=self._actor)])
        return {id for id, _ in ready}

    def done(self, result: set[str]) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _is_as_read(state: InstanceState | None, stone: e.HistoryArchived) -> bool:
    # Events never change, so the same newest version means the same history.
    return state is not None and state.version == stone.versions and state.is_over


def _stone(history: _History, file: str, offset: int, length: int) -> e.HistoryArchived:
    state, stored = history.state, history.stored
    return e.HistoryArchived(
        at=0,
        workflow=state.workflow,
        status=str(state.status),
        versions=state.version,
        digest=digest(stored[-1]).hex(),
        file=file,
        offset=offset,
        length=length,
        first=stored[0].id,
        last=stored[-1].id,
        created=state.created_at,
        ended=state.status_since,
        key=state.key,
        generation=state.generation,
        parent=state.parent,
        conversation=state.conversation,
        trigger=state.trigger,
        tags=state.tags,
    )


def _counted(histories: Sequence[_History]) -> Pruned:
    return Pruned(
        len(histories), sum(len(each.stored) for each in histories), sum(each.size for each in histories)
    )
