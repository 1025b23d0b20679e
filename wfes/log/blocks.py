"""What stands in a block of an archive: histories as JSON lines, every event with its place and its stored bytes.

One line an event: ``{"position", "instance", "version", "type", "prev", "body"}``; ``prev`` is the predecessor's
digest in hex and ``body`` the stored JSON as text, so that the two together are the stored bytes exactly. All
events of an instance stand in one block, in order; a block may hold several instances.

Invariants: what ``history`` gives is byte for byte what was in the log: each event is checked against the chain up to
the digest that the log itself keeps, before it is given; memory is bounded by one line and one part of the block.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import orjson
from eventsourcing.persistence import Notification

from wfes.core import chain
from wfes.core.events import HistoryArchived
from wfes.errors import ArchiveUnavailable
from wfes.log.application import digest
from wfes.log.archive import Archive

_dumps = orjson.dumps
_loads = orjson.loads


def line(stored: Notification) -> bytes:
    """A stored event as a line of a block."""
    state = stored.state
    return (
        _dumps(
            {
                "position": stored.id,
                "instance": stored.originator_id,
                "version": stored.originator_version,
                "type": stored.topic,
                "prev": state[: chain.SIZE].hex(),
                "body": state[chain.SIZE :].decode(),
            }
        )
        + b"\n"
    )


def event(line: bytes) -> Notification:
    """The stored event of a line.

    Raises:
        ValueError: it is no such line.
    """
    try:
        found: dict[str, Any] = _loads(line)
        return Notification(
            found["instance"],
            found["version"],
            found["type"],
            bytes.fromhex(found["prev"]) + found["body"].encode(),
            found["position"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no event of an archive: {error!r}") from error


def broken_link(history: Sequence[Notification]) -> int | None:
    """The first version of a whole history that does not stand where the chain says; None: it is sound."""
    tail = chain.GENESIS
    for version, stored in enumerate(history, 1):
        if stored.originator_version != version or stored.state[: chain.SIZE] != tail:
            return version
        tail = digest(stored)
    return None


def history(archive: Archive, instance: str, stone: HistoryArchived) -> Iterator[Notification]:
    """The events of an archived instance, in order, each one checked.

    Args:
        archive: where they are.
        instance: whose they are.
        stone: what the log says about them.

    Raises:
        ArchiveUnavailable: they cannot be read, or are not what was archived; it names the version that is not.
    """
    return _checked(_of(archive, {instance}, stone), instance, stone, _place(archive, stone))


def unchecked(archive: Archive, instance: str, stone: HistoryArchived) -> Iterator[Notification]:
    """What stands in an archive as the events of an instance, whether it is sound or not.

    Raises:
        ArchiveUnavailable: it cannot be read.
    """
    return _of(archive, {instance}, stone)


def histories(archive: Archive, stones: dict[str, HistoryArchived]) -> Iterator[Notification]:
    """The events of several instances of one block, as they stand there, each history checked as in ``history``."""
    some = next(iter(stones.values()))
    place = _place(archive, some)
    streams: dict[str, _Check] = {}
    for stored in _of(archive, stones.keys(), some):
        instance = str(stored.originator_id)
        check = streams.get(instance)
        if check is None:
            check = streams[instance] = _Check(instance, stones[instance], place)
        yield from check.pushed(stored)
    for instance, stone in stones.items():
        yield from (streams.get(instance) or _Check(instance, stone, place)).ended()


def _checked(
    found: Iterator[Notification], instance: str, stone: HistoryArchived, place: str
) -> Iterator[Notification]:
    check = _Check(instance, stone, place)
    for stored in found:
        yield from check.pushed(stored)
        if check.is_complete:
            break
    yield from check.ended()


class _Check:
    """Lets the events of one history through, each once its successor, or the log's own digest, vouches for it."""

    def __init__(self, instance: str, stone: HistoryArchived, place: str) -> None:
        self._instance = instance
        self._stone = stone
        self._place = place
        self._held: Notification | None = None
        self._tail = chain.GENESIS
        self._count = 0

    @property
    def is_complete(self) -> bool:
        """Whether all of it came."""
        return self._count == self._stone.versions

    def pushed(self, stored: Notification) -> Iterator[Notification]:
        """Takes the next event; gives the one before it, which is sound."""
        if self.is_complete:
            return
        if stored.originator_version != self._count + 1:
            raise self._wrong(self._count + 1, "is missing")
        if stored.state[: chain.SIZE] != self._tail:
            raise self._wrong(max(1, self._count), "is not what was archived")
        self._count += 1
        self._tail = digest(stored)
        before, self._held = self._held, stored
        if before is not None:
            yield before

    def ended(self) -> Iterator[Notification]:
        """Gives the last event, if all came and are sound."""
        if not self.is_complete:
            raise self._wrong(self._count + 1, "is missing")
        if self._tail.hex() != self._stone.digest:
            raise self._wrong(self._count, "is not what was archived")
        if self._held is not None:
            yield self._held

    def _wrong(self, version: int, what: str) -> ArchiveUnavailable:
        return ArchiveUnavailable(self._place, f"version {version} {what}", self._instance)


def _place(archive: Archive, stone: HistoryArchived) -> str:
    return f"{archive.where}/{stone.file}"


def _of(archive: Archive, instances: Collection[str], stone: HistoryArchived) -> Iterator[Notification]:
    """The events of these instances in a block."""
    some = next(iter(instances)) if len(instances) == 1 else None
    try:
        for found in _lines(archive.read(stone.file, stone.offset, stone.length)):
            stored = event(found)
            if stored.originator_id in instances:
                yield stored
    except ArchiveUnavailable as error:
        raise ArchiveUnavailable(error.place, error.reason, some) from error
    except (zlib.error, ValueError, EOFError) as error:
        reason = f"its block at byte {stone.offset:,} was changed or damaged ({error})"
        raise ArchiveUnavailable(_place(archive, stone), reason, some) from error


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    rest = b""
    for part in parts:
        *whole, rest = (rest + unpacker.decompress(part)).split(b"\n")
        yield from whole
    if not unpacker.eof:
        raise EOFError("it ends early")
    if rest:
        yield rest
