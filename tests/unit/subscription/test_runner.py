"""Two runners over the same rows: whoever is second never builds on what it read between the other's commits."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from wfes.core.events import ProgressRecorded, Recorded
from wfes.log.application import body_bytes, chained
from wfes.log.cache import Cache
from wfes.log.port import Member
from wfes.log.rows import InlineRows
from wfes.log.sqlite import SQLiteLog
from wfes.log.transaction import Transaction
from wfes.subscription import registry
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on
from wfes.subscription.registry import LIVE, Entry
from wfes.subscription.runner import Runner
from wfes.subscription.stores import LogStore, Overtaken
from wfes.subscription.table import SQLITE, Row
from wfes_projections import Archived


class Count(Row, table="counts", key="id"):
    id: int
    events: int = 0


class Counting(Projection):
    name = "counting"
    tables = (Count,)

    @on("ProgressRecorded")
    def count(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Count, 1) or Count(1)
        assert row.events < event.version, "it was counted before"
        row.events += 1
        rows.put(row)


class Bold(Counting):
    """Notices nothing."""

    name = "counting"

    @on("ProgressRecorded")
    def count(self, event: ProjectionEvent, rows: Rows) -> None:
        row = rows.get(Count, 1) or Count(1)
        row.events += 1
        rows.put(row)


class _Blind:
    def expect(self, events: Any) -> None: ...

    def data(self, event: Any) -> dict[str, Any]:
        return {}

    def origin(self, instance: str) -> tuple[None, None]:
        return None, None


class Bench:
    """A log, its store, and runners on it."""

    def __init__(self, path: Path) -> None:
        self.log = SQLiteLog(path)
        self.log.open([registry.CREATE, *Archived().create, *Count.table.create(SQLITE)])
        self.store = LogStore(self.log, self._submit)
        self.store.write(lambda target: registry.put(target.query, Entry("counting", 1, 0, LIVE)))
        self._written = 0

    def _submit(self, member: Member) -> None:
        transaction: Any = self.log.begin()
        try:
            result = member.run(Transaction(transaction, Cache(1, 1, ()), InlineRows(()), {}, 1))
            transaction.commit()
        except Exception as error:
            member.failed(error)
        else:
            member.done(result)
        finally:
            transaction.rollback()

    def append(self, count: int) -> None:
        events = [ProgressRecorded(at=1, path="", message="") for _ in range(count)]
        transaction = self.log.begin()
        recorded = [Recorded("a", self._written + n, event) for n, event in enumerate(events, 1)]
        bodies = [
            _body(each.originator_id, each.originator_version, each.event.topic, body_bytes(each.event))
            for each in recorded
        ]
        transaction.insert(chained(transaction, bodies))
        transaction.commit()
        self._written += count

    def runner(self, projection: type[Projection]) -> Runner:
        with self.store.snapshot() as view:
            entry = registry.find(view.query, "counting")
        assert entry is not None
        return Runner(projection(), self.store, self.log, _Blind(), entry, now=lambda: 1)

    def turn(self, runner: Runner) -> None:
        runner.read(self.log.max_notification_id())
        runner.write()

    @property
    def counted(self) -> tuple[int, int | None, str]:
        ((events,),) = self.log.read("SELECT events FROM counts")
        entry = registry.find(self.log.read, "counting")
        assert entry is not None
        return events, entry.position, entry.status


def _body(stream: str, version: int, topic: str, body: bytes) -> Any:
    from eventsourcing.persistence import StoredEvent

    return StoredEvent(stream, version, topic, body)


@pytest.fixture
def bench(tmp_path: Path) -> Generator[Bench]:
    bench = Bench(tmp_path / "log.db")
    yield bench
    bench.log.close()


def test_rows_that_another_wrote_first_are_not_counted_on(bench: Bench) -> None:
    """It knows the old checkpoint and reads the new rows: what it makes of them is one page too much, even where both
    come to the same place."""
    bench.append(3)
    late = bench.runner(Bold)
    bench.turn(bench.runner(Bold))
    bench.turn(late)
    assert bench.counted == (3, 3, LIVE)
    bench.append(2)
    bench.turn(late)
    assert bench.counted == (5, 5, LIVE)


def test_a_handler_that_notices_them_stops_nothing(bench: Bench) -> None:
    bench.append(3)
    late = bench.runner(Counting)
    bench.turn(bench.runner(Counting))
    with pytest.raises(Overtaken):
        bench.turn(late)
    assert late.failure is not None
    assert bench.counted == (3, 3, LIVE)


def test_who_is_behind_is_refused(bench: Bench) -> None:
    bench.append(3)
    late = bench.runner(Bold)
    bench.turn(bench.runner(Bold))
    bench.append(1)
    with pytest.raises(Overtaken):
        bench.turn(late)
    assert bench.counted == (3, 3, LIVE)
