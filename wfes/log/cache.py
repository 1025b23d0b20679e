"""The writer's memory of streams: slim states, newest versions, digests, last rows.

Bounded: what was used longest ago is forgotten, and read from the log again when it is needed. A stream whose
instance one of this process's workers owns stays, for its next event is on its way. An entry always shows what is
committed, plus what the open transaction appended; if that is undone, its entries are dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

from wfes.core import chain
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.log.application import decode, digest
from wfes.log.port import WriteTransaction
from wfes.log.rows import OWN, Rows


class Entry:
    """What is known of one stream.

    Attributes:
        version: of its newest event; 0: it does not exist.
        digest: what its next event carries.
        state: its slim state; None for the engine's own streams.
        rows: its inline rows as they stand in the tables; None: not computed yet.
        dirty: appended to in the open transaction in a way that may change rows.
        touched: appended to in the open transaction.
        weight: bytes of the larger values its state holds.
    """

    __slots__ = ("digest", "dirty", "rows", "state", "stream", "touched", "version", "weight")

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.version = 0
        self.digest = chain.GENESIS
        self.state = None if stream.startswith(OWN) else InstanceState(stream)
        self.rows: Rows | None = None
        self.dirty = False
        self.touched = False
        self.weight = 0


class Cache:
    """Entries by stream, the least recently used ones forgotten.

    Args:
        max_entries: how many streams are remembered.
        max_bytes: how many bytes of larger values they may hold together.
        workers: ids of this process's workers; what they own is not forgotten.
    """

    def __init__(self, max_entries: int, max_bytes: int, workers: Collection[str]) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._workers = workers
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
        entry = load(stream, transaction)
        self._entries[stream] = entry
        self.weight += entry.weight
        return entry

    def forget(self, stream: str) -> None:
        """Drops an entry: the log says better."""
        entry = self._entries.pop(stream, None)
        if entry is not None:
            self.weight -= entry.weight

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()
        self.weight = 0

    def trim(self, keep: Callable[[Entry], bool] | None = None) -> None:
        """Forgets what is over the bounds. To be called outside transactions."""
        excess = len(self._entries) - self._max_entries
        if excess <= 0 and self.weight <= self._max_bytes:
            return
        for stream in list(self._entries):
            if excess <= 0 and self.weight <= self._max_bytes:
                break
            entry = self._entries[stream]
            state = entry.state
            if (state is not None and state.worker in self._workers) or (keep and keep(entry)):
                continue
            self.forget(stream)
            excess -= 1


LARGE = 4096
"""From how many bytes on a stored event counts as holding a larger value."""


def load(stream: str, transaction: WriteTransaction) -> Entry:
    """A stream's entry from the log."""
    entry = Entry(stream)
    state = entry.state
    last = None
    if state is None:
        last = transaction.last(stream)
    else:
        for last in transaction.history(stream):
            evolve(state, decode(last).event, last.originator_version)
            if len(last.state) > LARGE:
                entry.weight += len(last.state)
    if last is not None:
        entry.version = last.originator_version
        entry.digest = digest(last)
    return entry
