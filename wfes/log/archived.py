"""Reading a log as if nothing had ever left it: what was archived is read from the archive, where it stood.

``stored_history`` reads one stream, ``whole_log`` everything in the order of positions, ``missed`` tells a follower of
the log when it has to use that. Readers that only want what happens now use the log itself.

Invariants: every event is given once, whatever is archived meanwhile; memory is bounded: what has to be sorted lies in
a temporary database on disk.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence

from eventsourcing.persistence import Notification

from wfes.core.events import HistoryArchived
from wfes.errors import ArchiveUnavailable
from wfes.log import blocks
from wfes.log.application import decode
from wfes.log.archive import Archive
from wfes.log.port import Log

PAGE = 5_000
"""Events of the log read at once."""

TOPIC = HistoryArchived.topic
MISSED = "SELECT 1 FROM wfes_archived WHERE last_position > ? LIMIT 1"
"""Whether some events behind a position have left the log; inside a transaction, else `missed`."""

logger = logging.getLogger("wfes.log")


def tombstone(stored: Notification) -> HistoryArchived | None:
    """What stands in the log in an archived history's place, if this is it."""
    if stored.topic != TOPIC:
        return None
    event = decode(stored).event
    assert isinstance(event, HistoryArchived)
    return event


def stored_history(
    log: Log, stream: str, *, after: int = 0, upto: int | None = None, limit: int | None = None
) -> Sequence[Notification]:
    """The stored events of a stream with a version above ``after``, up to ``upto``, wherever they are.

    Raises:
        ArchiveUnavailable: some of them are archived, and cannot be read.
    """
    found = log.select_events(stream, gt=after, lte=upto, limit=limit)
    if found and found[0].originator_version == after + 1:
        return found
    if not found and (upto is None or upto <= after):
        return found
    first = log.select_events(stream, limit=1)
    stone = tombstone(first[0]) if first else None
    if stone is None or after >= stone.versions:
        return found
    last = stone.versions if upto is None else upto
    whole = [
        stored
        for stored in blocks.history(log.archive, stream, stone)
        if after < stored.originator_version <= last
    ]
    if upto is None or upto > stone.versions:
        whole.extend(first)
    return whole if limit is None else whole[:limit]


def whole_history(stored: Sequence[Notification], stream: str, archive: Archive) -> Sequence[Notification]:
    """All stored events of a stream, given those that stand in the log.

    Where the archive cannot be read it is only these: the state they amount to is a hollow one.
    """
    stone = tombstone(stored[0]) if stored else None
    if stone is None:
        return stored
    try:
        return [*blocks.history(archive, stream, stone), *stored]
    except ArchiveUnavailable as error:
        logger.info("%s; only what the log itself says about it is known", error)
        return stored


def missed(log: Log, after: int) -> bool:
    """Whether some events behind a position have left the log.

    To be asked *after* reading what stands there: who then hears that none have, has missed none.
    """
    return bool(log.read(MISSED, (after,)))


def whole_log(
    log: Log, after: int = 0, topics: Sequence[str] = (), *, upto: int | None = None, lenient: bool = False
) -> Iterator[Notification]:
    """Every stored event behind a position, archived or not, in order.

    Args:
        log: an open log.
        after: the position.
        topics: only events of these.
        upto: the last position; default: the log's newest as of now.
        lenient: leave out what is in an archive that cannot be read; what stands in the log in its place is given.

    Raises:
        ArchiveUnavailable: an archive cannot be read, or holds something else than what was archived.
    """
    end = log.max_notification_id() if upto is None else upto
    if TOPIC not in log.topics():
        yield from _pages(log, after, end, topics)
        return
    with _Spill(log, after, lenient) as spill:
        while after < end:
            page = log.select_notifications(after, PAGE, end, topics, inclusive_of_start=False)
            upto = page[-1].id if len(page) == PAGE else end
            # After the page: what left the log before it was read is known now.
            spill.take_in(after)
            yield from _merged(page, spill.between(after, upto, topics))
            after = upto


def _pages(log: Log, after: int, end: int, topics: Sequence[str]) -> Iterator[Notification]:
    while page := log.select_notifications(after, PAGE, end, topics, inclusive_of_start=False):
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].id


def _merged(page: Sequence[Notification], archived: Iterator[Notification]) -> Iterator[Notification]:
    """Both in the order of positions; what is in both, once."""
    other = next(archived, None)
    for stored in page:
        while other is not None and other.id < stored.id:
            yield other
            other = next(archived, None)
        if other is not None and other.id == stored.id:
            other = next(archived, None)
        yield stored
    if other is not None:
        yield other
        yield from archived


class _Spill:
    """Archived events behind a position, sorted in a temporary database.

    SQLite keeps what fits into its cache in memory and the rest in a file that vanishes with the connection.
    """

    def __init__(self, log: Log, after: int, lenient: bool) -> None:
        self._log = log
        self._lenient = lenient
        self._seen = after
        self._rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute("PRAGMA synchronous = OFF")
        self._rows.execute(
            "CREATE TABLE archived (position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, topic TEXT, "
            "state BLOB)"
        )

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def take_in(self, after: int) -> None:
        """Takes in the histories behind a position that have been archived since it was called last."""
        head = self._log.max_notification_id()
        while page := self._log.select_notifications(
            self._seen, PAGE, head, (TOPIC,), inclusive_of_start=False
        ):
            self._take_page(page, after)
            self._seen = page[-1].id
        self._seen = head

    def _take_page(self, page: Sequence[Notification], after: int) -> None:
        by_block: dict[tuple[str, int], dict[str, HistoryArchived]] = {}
        for stored in page:
            stone = tombstone(stored)
            if stone is not None and stone.last > after:
                block = by_block.setdefault((stone.file, stone.offset), {})
                block[str(stored.originator_id)] = stone
        self._rows.execute("BEGIN")
        for stones in by_block.values():
            try:
                self._insert(stones, after)
            except ArchiveUnavailable as error:
                if not self._lenient:
                    raise
                logger.warning("%s; only what the log itself says about it is known", error)
                self._delete(stones)
        self._rows.execute("COMMIT")

    def _insert(self, stones: dict[str, HistoryArchived], after: int) -> None:
        self._rows.executemany(
            "INSERT OR IGNORE INTO archived VALUES (?, ?, ?, ?, ?)",
            (
                (found.id, found.originator_id, found.originator_version, found.topic, found.state)
                for found in blocks.histories(self._log.archive, stones)
                if found.id > after
            ),
        )

    def _delete(self, stones: dict[str, HistoryArchived]) -> None:
        """Half a history is none."""
        for stream, stone in stones.items():
            self._rows.execute(
                "DELETE FROM archived WHERE position BETWEEN ? AND ? AND stream = ?",
                (stone.first, stone.last, stream),
            )

    def between(self, after: int, upto: int, topics: Sequence[str]) -> Iterator[Notification]:
        """What is behind ``after``, up to ``upto``, in order."""
        wanted = frozenset(topics)
        rows = self._rows.execute(
            "SELECT stream, version, topic, state, position FROM archived "
            "WHERE position > ? AND position <= ? ORDER BY position",
            (after, upto),
        )
        for row in rows:
            if not wanted or row[2] in wanted:
                yield Notification(*row)
