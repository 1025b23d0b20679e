"""What the processes of ``test_followed`` do: write a log at once, and follow it with a projection meanwhile.

``python followed.py NAME FOLDER [WORD...]``, as with ``scenarios``. Each writer keeps a ledger of what it has
committed; the projection keeps one of what it was shown, and of the first event that was not the next one.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from places import rows as stored_rows
from places import url_of

from wfes import Engine, Projection, ProjectionEvent, Reader, Row, Rows, on, query
from wfes.core import chain
from wfes.core.events import ProgressRecorded
from wfes.log.application import body_bytes
from wfes.log.open import open_log
from wfes.log.port import StoredRow, Tx

STREAMS = 40
"""Streams of each writer's own; there is one more that all of them share."""
SHARED = "$trial/shared"
BATCH_MAX = 400
VALUE_MAX = 1_000_000


class Stream(Row, table="followed_streams", key="stream"):
    """How far a stream was shown."""

    stream: str
    version: int = 0
    events: int = 0


class Whole(Row, table="followed_whole", key="id"):
    """How far the log was shown, and what was wrong first."""

    id: int = 1
    events: int = 0
    sum: int = 0
    position: int = 0
    wrong: str | None = None


class Followed(Projection):
    """Is shown each event once and in order, or says which one was not."""

    name = "followed"
    tables = (Stream, Whole)

    @on("ProgressRecorded")
    def shown(self, event: ProjectionEvent, rows: Rows) -> None:
        """Counts one more event."""
        stream = rows.get(Stream, event.instance) or Stream(event.instance)
        whole = rows.get(Whole, 1) or Whole()
        if whole.wrong is None:
            if event.version != stream.version + 1:
                whole.wrong = f"version {event.version} of {event.instance} after {stream.version}"
            elif event.position <= whole.position:
                whole.wrong = f"position {event.position} after {whole.position}"
        stream.version = event.version
        stream.events += 1
        whole.events += 1
        whole.sum += int(event.event.message)  # type: ignore[attr-defined]
        whole.position = event.position
        rows.put(stream)
        rows.put(whole)

    @query
    def found(self, rows: Reader) -> dict[str, Any]:
        """All of it."""
        whole = rows.get(Whole, 1) or Whole()
        streams = {row.stream: row.version for row in rows.select(Stream) if row.version == row.events}
        return {"streams": streams, "events": whole.events, "sum": whole.sum, "wrong": whole.wrong}


def followed(folder: Path, mode: str) -> Followed:
    """The projection as this mode has it: ``following``, ``own`` (a database of its own) or ``inline``."""
    if mode == "own":
        log = url_of(folder)
        return Followed(
            url=f"sqlite:///{folder}/rows.db" if log.startswith("sqlite") else f"{log}&schema=reports"
        )
    return Followed(inline=mode == "inline")


# ---------------------------------------------------------------------------------------------- writers


class Ledger:
    """What a writer has committed."""

    def __init__(self, writer: str) -> None:
        self._own = [f"$trial/{writer}/{number}" for number in range(STREAMS)]
        self.tails: dict[str, tuple[int, bytes]] = dict.fromkeys(self._own, (0, chain.GENESIS))
        self.shared = 0
        self.events = 0
        self.sum = 0

    def chosen(self, chance: random.Random, most: int) -> list[tuple[str, int]]:
        """A batch: streams and values. Some events go to the shared stream."""
        return [
            (chance.choice(self._own) if chance.random() > 0.02 else SHARED, chance.randrange(VALUE_MAX))
            for _ in range(chance.randint(1, max(1, min(BATCH_MAX, most))))
        ]

    def committed(self, batch: Sequence[tuple[str, int]]) -> None:
        """A batch is in the log."""
        self.shared += sum(1 for stream, _ in batch if stream == SHARED)
        self.events += len(batch)
        self.sum += sum(value for _, value in batch)

    def write(self, path: Path) -> None:
        """Leaves it to whoever compares."""
        streams = {stream: version for stream, (version, _) in self.tails.items() if stream != SHARED}
        told = {"streams": streams, "shared": self.shared, "events": self.events, "sum": self.sum}
        path.write_text(json.dumps(told))


def _event(value: int) -> ProgressRecorded:
    return ProgressRecorded(at=1, path="", message=str(value))


def write(folder: Path, writer: str, count: str) -> None:
    """Appends so many events through the log's adapter: batches of any size, with pauses before and inside the
    transaction, a tenth of them rolled back after the insert."""
    chance = random.Random(writer)
    log = open_log(url_of(folder))
    log.open([])
    ledger = Ledger(writer)
    while (left := int(count) - ledger.events) > 0:
        if chance.random() < 0.3:
            time.sleep(chance.expovariate(1 / 0.004))
        batch = ledger.chosen(chance, left)
        transaction = log.begin()
        try:
            tails = dict(ledger.tails)
            last = transaction.last(SHARED)
            if last is not None:
                tails[SHARED] = (
                    last.originator_version,
                    chain.digest(SHARED, last.originator_version, last.topic, last.state),
                )
            transaction.insert(_rows(transaction.head, batch, tails))
            if chance.random() < 0.1:
                time.sleep(chance.expovariate(1 / 0.003))
            if chance.random() < 0.1:
                continue  # rolled back: none of it ever happened
            transaction.commit()
        finally:
            transaction.rollback()
        ledger.tails = tails
        ledger.committed(batch)
    log.close()
    ledger.write(folder / f"ledger-{writer}")


def _rows(
    position: int, batch: Sequence[tuple[str, int]], tails: dict[str, tuple[int, bytes]]
) -> list[StoredRow]:
    rows: list[StoredRow] = []
    for stream, value in batch:
        position += 1
        version, tail = tails.get(stream, (0, chain.GENESIS))
        state = tail + body_bytes(_event(value))
        rows.append((position, stream, version + 1, ProgressRecorded.topic, state))
        tails[stream] = version + 1, chain.digest(stream, version + 1, ProgressRecorded.topic, state)
    return rows


class _Undone(Exception):
    """A member changes its mind after it has appended."""


class _Append:
    """A member of an engine's queue that appends a batch, or undoes it, and the whole transaction with it."""

    def __init__(self, batch: Sequence[tuple[str, int]], undone: bool) -> None:
        self.batch = batch
        self._undone = undone
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def run(self, tx: Tx) -> dict[str, int]:
        versions = {stream: tx.append(stream, [_event(value)]) for stream, value in self.batch}
        if self._undone:
            raise _Undone
        return versions

    def done(self, result: dict[str, int]) -> None:
        self.versions = result
        self.future.set_result(True)

    def failed(self, error: Exception) -> None:
        if isinstance(error, _Undone):
            self.future.set_result(False)
        else:
            self.future.set_exception(error)


async def write_by_engine(folder: Path, writer: str, count: str) -> None:
    """Appends so many events through the writer of an engine that has no projection, several members at once."""
    chance = random.Random(writer)
    ledger = Ledger(writer)
    async with Engine(url_of(folder), worker=False) as engine:
        queue = engine._parts._writer
        assert queue is not None
        while (left := int(count) - ledger.events) > 0:
            if chance.random() < 0.3:
                await asyncio.sleep(chance.expovariate(1 / 0.004))
            share = -(-left // 3)
            members = [
                _Append(ledger.chosen(chance, share), chance.random() < 0.1)
                for _ in range(chance.randint(1, 3))
            ]
            for member in members:
                queue.submit(member)
            for member in members:
                if await member.future:
                    ledger.committed(member.batch)
                    ledger.tails.update({s: (v, b"") for s, v in member.versions.items()})
    ledger.write(folder / f"ledger-{writer}")


# ------------------------------------------------------------------------------------------- followers


async def follow(folder: Path, mode: str, follower: str) -> None:
    """Follows until all is written and handled; prints what the rows then say."""
    async with Engine(url_of(folder), worker=False, projections=[followed(folder, mode)]) as engine:
        (folder / f"ready-{follower}").touch()
        while not (folder / "written").exists():
            await asyncio.sleep(0.05)
        began = time.monotonic()
        head = (await engine.instances(limit=1)).position
        answer = await engine.query(Followed.found(), at_least=head)
        print(json.dumps({**answer.value, "seconds": time.monotonic() - began}))


def expected(folder: Path) -> dict[str, Any]:
    """What the writers' ledgers say, all together; and what the log itself says must be the same."""
    ledgers = [json.loads(path.read_text()) for path in sorted(folder.glob("ledger-*"))]
    streams = {stream: version for told in ledgers for stream, version in told["streams"].items() if version}
    streams[SHARED] = sum(told["shared"] for told in ledgers)
    counted = stored_rows(
        folder,
        "SELECT originator_id, count(*), max(originator_version) FROM wfes_events"
        " WHERE topic = 'ProgressRecorded' GROUP BY originator_id",
    )
    assert {stream: version for stream, _, version in counted} == streams
    assert all(count == version for _, count, version in counted)
    return {
        "streams": streams,
        "events": sum(told["events"] for told in ledgers),
        "sum": sum(told["sum"] for told in ledgers),
        "wrong": None,
    }


if __name__ == "__main__":
    _, name, place, *rest = sys.argv
    found = globals()[name](Path(place), *rest)
    if found is not None:
        asyncio.run(found)
