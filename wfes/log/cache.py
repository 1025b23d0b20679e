"""The writer's memory of streams: slim states, newest versions, digests, last rows.

Bounded: what was used longest ago is forgotten, and read from the log again when it is needed. A stream whose
instance one of this process's workers owns stays, for its next event is on its way. An entry always shows what is
committed, plus what the open transaction appended; if that is undone, its entries are dropped.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence

from wfes.core import chain
from wfes.core.events import Event, Recorded
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.log.application import decode, digest
from wfes.log.archive import Archive
from wfes.log.archived import whole_history
from wfes.log.port import StoredRow, WriteTransaction
from wfes.log.rows import OWN, Rows
from wfes.log.weight import LARGE, Weight

KEPT_MAX = 512
"""How many entries that must stay are passed over in one `Cache.trim`, at least."""


ENDED_MAX = 256
"""How many entries of ended instances are kept."""


CLEAN, OWNER, ALL = range(3)
"""Which rows of an entry are to be computed again: none, those that say who owns it, all."""


class Entry:
    """What is known of one stream.

    Attributes:
        version: of its newest event; 0: it does not exist.
        digest: what its next event carries.
        state: its slim state; None for the engine's own streams.
        rows: its inline rows as they stand in the tables; None: not computed yet.
        dirty: which rows the open transaction's appends may have changed: ``CLEAN``, ``OWNER`` or ``ALL``.
        touched: appended to in the open transaction.
        weight: the larger values its state holds.
    """

    __slots__ = ("digest", "dirty", "rows", "state", "stream", "touched", "version", "weight")

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.version = 0
        self.digest = chain.GENESIS
        self.state = None if stream.startswith(OWN) else InstanceState(stream)
        self.rows: Rows | None = None
        self.dirty = CLEAN
        self.touched = False
        self.weight = Weight()


class Cache:
    """Entries by stream, the least recently used ones forgotten.

    Args:
        max_entries: how many streams are remembered.
        max_bytes: how many bytes of larger values they may hold together.
        workers: ids of this process's workers; what they own is not forgotten.
        archive: where histories that left the log are.
    """

    def __init__(
        self,
        max_entries: int,
        max_bytes: int,
        workers: Collection[str],
        archive: Archive | None = None,
    ) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._workers = workers
        self._archive = archive
        self._trimmed_to = 0
        self._over: deque[str] = deque()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, stream: object) -> bool:
        return stream in self._entries

    def peek(self, stream: str) -> Entry | None:
        """The entry, if it is in memory."""
        return self._entries.get(stream)

    def get(self, stream: str, transaction: WriteTransaction) -> Entry:
        """The entry, read from the log if it is not in memory."""
        entry = self._entries.get(stream)
        if entry is not None:
            self._entries.move_to_end(stream)
            return entry
        entry = load(stream, transaction, self._archive)
        self._entries[stream] = entry
        self.weight += entry.weight.total
        return entry

    def take_in(self, rows: Sequence[StoredRow], history: Sequence[Recorded]) -> None:
        """Makes the entry of an instance, if it has none, out of its whole history that was read for something else."""
        stream = history[0].originator_id
        if stream not in self._entries:
            entry = Entry(stream)
            state, weight = entry.state, entry.weight
            assert state is not None
            for row, recorded in zip(rows, history, strict=True):
                evolve(state, recorded.event, recorded.originator_version)
                if len(row[4]) > LARGE or weight.total:
                    weight.count(recorded.event, len(row[4]))
            entry.version = history[-1].originator_version
            entry.digest = chain.digest(*rows[-1][1:])
            self._entries[stream] = entry
            self.weight += weight.total

    def take_absent(self, streams: Iterable[str]) -> None:
        """Makes the entries of streams that were looked for and do not exist."""
        for stream in streams:
            if stream not in self._entries:
                self._entries[stream] = Entry(stream)

    def weigh(self, entry: Entry, event: Event, size: int) -> None:
        """Takes into account what the state of an entry holds after this event, stored in `size` bytes."""
        self.weight += entry.weight.count(event, size)

    def forget(self, stream: str) -> None:
        """Drops an entry: the log says better."""
        entry = self._entries.pop(stream, None)
        if entry is not None:
            self.weight -= entry.weight.total

    def over(self, stream: str) -> None:
        """The instance has ended, and its state is rarely asked for again: only those of the last few stay."""
        self._over.append(stream)
        if len(self._over) > ENDED_MAX:
            stream = self._over.popleft()
            entry = self._entries.get(stream)
            if entry is not None and entry.state is not None and entry.state.ended is not None:
                self.forget(stream)

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()
        self.weight = 0

    def trim(self) -> None:
        """Forgets what is over the bounds. To be called outside transactions.

        What has to stay is passed over as if it were just used, and only so much of it at a time: however many
        instances are owned, a batch pays for about what it added.
        """
        entries = self._entries
        excess = len(entries) - self._max_entries
        if excess > 0 or self.weight > self._max_bytes:
            to_pass = min(len(entries), max(KEPT_MAX, 4 * (len(entries) - self._trimmed_to)))
            while entries and to_pass and (excess > 0 or self.weight > self._max_bytes):
                stream, entry = next(iter(entries.items()))
                owned = entry.state is not None and entry.state.worker in self._workers
                if owned or (excess <= 0 and not entry.weight.total):
                    entries.move_to_end(stream)
                    to_pass -= 1
                else:
                    self.forget(stream)
                    excess -= 1
        self._trimmed_to = len(entries)


def load(stream: str, transaction: WriteTransaction, archive: Archive | None = None) -> Entry:
    """A stream's entry from the log, and from the archive where its events have left the log."""
    entry = Entry(stream)
    state = entry.state
    last = None
    if state is None:
        last = transaction.last(stream)
    else:
        stored = transaction.history(stream)
        if archive is not None:
            stored = whole_history(stored, stream, archive)
        for last in stored:
            event = decode(last).event
            evolve(state, event, last.originator_version)
            entry.weight.count(event, len(last.state))
    if last is not None:
        entry.version = last.originator_version
        entry.digest = digest(last)
    return entry
