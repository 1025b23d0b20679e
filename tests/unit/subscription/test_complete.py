"""The engine's own inline projections are complete before its writer starts, or the engine does not open."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from eventsourcing.persistence import StoredEvent

from wfes.core import events as e
from wfes.log.application import body_bytes, chained
from wfes.log.memory import MemoryLog
from wfes.subscription import registry
from wfes.subscription.buffer import Rows
from wfes.subscription.complete import complete
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on
from wfes.subscription.rebuild import bring_up
from wfes.subscription.registry import Entry
from wfes.subscription.table import Row
from wfes_projections import inline


class Started(Row, table="wfes_test_started", key="instance", indexes=["at"]):
    instance: str
    at: int


class Starts(Projection):
    name = "wfes_test_starts"
    tables = (Started,)
    inline = True

    @on("WorkflowStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        rows.put(Started(event.instance, event.event.at))


class Newer(Starts):
    name = "wfes_test_starts"
    version = 2

    @on("WorkflowStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        rows.put(Started(event.instance, -event.event.at))


class Failing(Starts):
    name = "wfes_test_starts"
    version = 3

    @on("WorkflowStarted")
    def started(self, event: ProjectionEvent, rows: Rows) -> None:
        raise ValueError("it cannot")


class Around:
    def data(self, event: e.Event) -> dict[str, Any]:
        return {}

    def origin(self, instance: str) -> tuple[str | None, str | None]:
        return None, None


@pytest.fixture
def log() -> Generator[MemoryLog]:
    made = MemoryLog()
    made.open([])
    bring_up(made, inline())
    transaction = made.begin()
    events: list[tuple[str, e.Event]] = [
        ("a", e.WorkflowStarted(at=1, workflow="w")),
        ("a", e.RunClaimed(at=1, worker="w", epoch=1)),
        ("b", e.WorkflowStarted(at=2, workflow="w")),
    ]
    for stream, event in events:
        version = len(transaction.history(stream)) + 1
        body = e.Recorded(stream, version, event)
        transaction.insert(chained(transaction, [stored(body)]))
    transaction.commit()
    yield made
    made.close()


def stored(recorded: e.Recorded) -> StoredEvent:
    event = recorded.event
    return StoredEvent(recorded.originator_id, recorded.originator_version, event.topic, body_bytes(event))


def rows(log: MemoryLog) -> list[tuple[Any, ...]]:
    return log.read("SELECT instance, at FROM wfes_test_started ORDER BY instance")


def entry(log: MemoryLog) -> Entry | None:
    return registry.find(log.read, "wfes_test_starts")


def test_what_is_missing_is_made_once(log: MemoryLog) -> None:
    assert complete(log, [Starts()], Around(), 9) == ["wfes_test_starts"]
    assert rows(log) == [("a", 1), ("b", 2)]
    assert entry(log) == Entry("wfes_test_starts", 1, 3, updated_at=9)
    assert complete(log, [Starts()], Around(), 10) == []
    assert entry(log) == Entry("wfes_test_starts", 1, 3, updated_at=9)


def test_another_version_is_made_anew(log: MemoryLog) -> None:
    complete(log, [Starts()], Around(), 9)
    assert complete(log, [Newer()], Around(), 10) == ["wfes_test_starts"]
    assert rows(log) == [("a", -1), ("b", -2)]
    assert entry(log) == Entry("wfes_test_starts", 2, 3, updated_at=10, generation=2)


def test_what_cannot_be_made_leaves_everything_as_it_was(log: MemoryLog) -> None:
    complete(log, [Starts()], Around(), 9)
    with pytest.raises(ValueError, match="it cannot"):
        complete(log, [Failing()], Around(), 10)
    assert rows(log) == [("a", 1), ("b", 2)]
    assert entry(log) == Entry("wfes_test_starts", 1, 3, updated_at=9)
