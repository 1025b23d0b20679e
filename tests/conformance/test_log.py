"""The semantics of the Log port, checked on every adapter."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from eventsourcing.persistence import IntegrityError, Notification

from wfes.core import chain
from wfes.core import events as e
from wfes.core.events import Recorded
from wfes.errors import LogUnavailable
from wfes.log.application import LogApplication, decode, digest
from wfes.log.memory import MemoryLog
from wfes.log.open import open_log
from wfes.log.port import Log, StoredRow, WriteTransaction
from wfes.log.postgres import PostgresLog
from wfes.log.sqlite import SQLiteLog

TABLE = "CREATE TABLE IF NOT EXISTS wfes_test (id TEXT PRIMARY KEY, number BIGINT)"


def _url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "sqlite://"
        case "sqlite":
            return f"sqlite:///{tmp_path}/log.db"
        case _:
            url: str = request.getfixturevalue("postgres_url")
            return url


@pytest.fixture(params=["memory", "sqlite", "postgresql", "pooler"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    if request.param != "pooler":
        yield _url(request, tmp_path)
        return
    from pooler import Pooler

    direct = _url(request, tmp_path)
    with Pooler(direct) as pooler:
        yield pooler.url(direct)


@pytest.fixture
def log(url: str) -> Generator[Log]:
    log = open_log(url)
    log.open([TABLE])
    yield log
    log.close()


def row(position: int, stream: str, version: int, state: bytes = b"{}", topic: str = "T") -> StoredRow:
    return position, stream, version, topic, state


def append(log: Log, *rows: StoredRow) -> None:
    transaction = log.begin()
    transaction.insert(rows)
    transaction.commit()


def places(found: Sequence[Notification]) -> list[tuple[int, str, int]]:
    return [(n.id, str(n.originator_id), n.originator_version) for n in found]


def fill(log: Log) -> None:
    append(log, row(1, "a", 1), row(2, "b", 1), row(3, "a", 2, topic="U"))
    append(log, row(4, "a", 3), row(5, "b", 2, topic="U"))


def test_is_a_log(log: Log) -> None:
    assert isinstance(log, Log)


def test_empty(log: Log) -> None:
    assert log.max_notification_id() == 0
    assert list(log.select_events("a")) == []
    assert list(log.select_notifications(None, 10)) == []
    transaction = log.begin()
    assert transaction.head == 0
    assert transaction.last("a") is None
    assert list(transaction.history("a")) == []
    assert list(transaction.news(0)) == []
    transaction.rollback()


def test_reads_streams(log: Log) -> None:
    fill(log)
    assert places(log.select_events("a")) == [(1, "a", 1), (3, "a", 2), (4, "a", 3)]
    assert places(log.select_events("a", gt=1)) == [(3, "a", 2), (4, "a", 3)]
    assert places(log.select_events("a", lte=2)) == [(1, "a", 1), (3, "a", 2)]
    assert places(log.select_events("a", gt=1, lte=2)) == [(3, "a", 2)]
    assert places(log.select_events("a", desc=True)) == [(4, "a", 3), (3, "a", 2), (1, "a", 1)]
    assert places(log.select_events("a", desc=True, limit=1)) == [(4, "a", 3)]
    assert places(log.select_events("a", limit=2)) == [(1, "a", 1), (3, "a", 2)]
    assert places(log.select_events("c")) == []
    (found,) = log.select_events("b", lte=1)
    assert (found.topic, found.state) == ("T", b"{}")


def test_reads_in_log_order(log: Log) -> None:
    fill(log)
    everything = [(1, "a", 1), (2, "b", 1), (3, "a", 2), (4, "a", 3), (5, "b", 2)]
    assert places(log.select_notifications(None, 100)) == everything
    assert places(log.select_notifications(2, 2)) == everything[1:3]
    assert places(log.select_notifications(2, 2, inclusive_of_start=False)) == everything[2:4]
    assert places(log.select_notifications(0, 100, stop=3)) == everything[:3]
    assert places(log.select_notifications(0, 100, topics=["U"])) == [everything[2], everything[4]]
    assert places(log.select_notifications(6, 100)) == []
    assert log.max_notification_id() == 5


def test_reads_many_histories_at_once(log: Log) -> None:
    fill(log)
    transaction = log.begin()
    transaction.insert([row(6, "c", 1), row(7, "a", 4)])
    whole = transaction.histories(["c", "nowhere", "a"], 100)
    assert {stream: list(rows) for stream, rows in whole.items()} == {
        "a": [row(1, "a", 1), row(3, "a", 2, topic="U"), row(4, "a", 3), row(7, "a", 4)],
        "c": [row(6, "c", 1)],
    }
    # It stops between two streams, after one at least.
    assert {stream: len(rows) for stream, rows in transaction.histories(["a", "b", "c"], 1).items()} == {
        "a": 4
    }
    assert set(transaction.histories(["a", "b", "c"], 5)) == {"a", "b"}
    assert dict(transaction.histories([], 5)) == {}
    # Nothing is left open that would stand in the way of the end.
    transaction.commit()
    assert log.max_notification_id() == 7


def test_topics(log: Log) -> None:
    assert log.topics() == set()
    fill(log)
    assert log.topics() == {"T", "U"}
    transaction = log.begin()
    transaction.insert([row(6, "a", 4, topic="V")])
    transaction.rollback()
    assert log.topics() == {"T", "U"}
    append(log, row(6, "a", 4, topic="V"))
    assert log.topics() == {"T", "U", "V"}


def test_transaction_reads_what_is_committed_and_its_own(log: Log) -> None:
    fill(log)
    transaction = log.begin()
    assert transaction.head == 5
    assert places(transaction.news(3)) == [(4, "a", 3), (5, "b", 2)]
    transaction.insert([row(6, "a", 4)])
    assert transaction.head == 6
    assert places(list(transaction.history("a", 2))) == [(4, "a", 3), (6, "a", 4)]
    last = transaction.last("a")
    assert last is not None
    assert last.originator_version == 4
    transaction.rollback()


@pytest.mark.parametrize("taken", [row(6, "a", 2), row(6, "b", 2)])
def test_a_taken_version_is_refused(log: Log, taken: StoredRow) -> None:
    fill(log)
    transaction = log.begin()
    with pytest.raises(IntegrityError):
        transaction.insert([taken])
    transaction.rollback()
    assert log.max_notification_id() == 5


def test_a_version_taken_twice_in_one_transaction_is_refused(log: Log) -> None:
    transaction = log.begin()
    transaction.insert([row(1, "a", 1)])
    with pytest.raises(IntegrityError):
        transaction.insert([row(2, "a", 1)])
    transaction.rollback()
    assert log.max_notification_id() == 0


def test_rollback_undoes_everything(log: Log) -> None:
    fill(log)
    transaction = log.begin()
    transaction.insert([row(6, "a", 4)])
    transaction.executemany("INSERT INTO wfes_test VALUES (?, ?)", [("x", 1)])
    transaction.put_blob("00", b"blob")
    transaction.rollback()
    transaction.rollback()
    assert log.max_notification_id() == 5
    assert log.read("SELECT * FROM wfes_test") == []
    assert log.get_blob("00") is None
    append(log, row(6, "c", 1))
    assert places(log.select_events("c")) == [(6, "c", 1)]


def test_rows_beside_the_log(log: Log) -> None:
    transaction = log.begin()
    transaction.executemany("INSERT INTO wfes_test VALUES (?, ?)", [("x", 1), ("y", 2)])
    assert transaction.query("SELECT number FROM wfes_test WHERE id = ?", ("y",)) == [(2,)]
    assert transaction.query("SELECT number FROM wfes_test WHERE id = :id", {"id": "x"}) == [(1,)]
    transaction.insert([row(1, "a", 1)])
    transaction.commit()
    assert log.read("SELECT id FROM wfes_test ORDER BY number") == [("x",), ("y",)]
    assert log.read("SELECT id FROM wfes_test WHERE number = ?", (2,)) == [("y",)]
    assert log.read_at("SELECT count(*) FROM wfes_test") == ([(2,)], 1)
    rows = log.read("SELECT id, number FROM wfes_test WHERE id = 'x'")
    assert rows == [("x", 1)]
    assert isinstance(rows[0], tuple)


def test_a_snapshot_shows_one_moment(log: Log) -> None:
    fill(log)
    with log.snapshot() as snapshot:
        assert snapshot.position == 5
        assert snapshot.query("SELECT count(*) FROM wfes_test") == [(0,)]

        def write() -> None:
            transaction = log.begin()
            transaction.executemany("INSERT INTO wfes_test VALUES (?, ?)", [("x", 1)])
            transaction.insert([row(6, "a", 4)])
            transaction.commit()

        writer = threading.Thread(target=write)
        writer.start()
        if not isinstance(log, MemoryLog):  # there a writer waits for the snapshot's end
            writer.join(10)
            assert log.max_notification_id() == 6
        assert snapshot.query("SELECT id FROM wfes_test WHERE number = :number", {"number": 1}) == []
        assert snapshot.position == 5
    writer.join(10)
    with log.snapshot() as snapshot:
        assert (snapshot.query("SELECT id FROM wfes_test"), snapshot.position) == ([("x",)], 6)


def test_a_row_taken_is_an_integrity_error(log: Log) -> None:
    transaction = log.begin()
    with pytest.raises(IntegrityError):
        transaction.executemany("INSERT INTO wfes_test VALUES (?, ?)", [("x", 1), ("x", 2)])
    transaction.rollback()


def test_readers_see_no_open_transaction(log: Log) -> None:
    fill(log)
    transaction = log.begin()
    transaction.insert([row(6, "a", 4)])
    transaction.executemany("INSERT INTO wfes_test VALUES (?, ?)", [("x", 1)])
    seen: list[object] = []

    def look() -> None:
        seen.append(log.read_at("SELECT count(*) FROM wfes_test"))

    reader = threading.Thread(target=look)
    reader.start()
    if not isinstance(log, MemoryLog):  # there a reader waits for the transaction's end
        reader.join(10)
        assert seen == [([(0,)], 5)]
    transaction.rollback()
    reader.join(10)
    assert seen == [([(0,)], 5)]


def test_a_transaction_reads_news_by_topic_and_so_many(log: Log) -> None:
    fill(log)
    transaction = log.begin()
    transaction.insert([row(6, "a", 4, topic="Other"), row(7, "c", 1, topic="Other")])
    assert places(transaction.news(4, ["Other"])) == [(6, "a", 4), (7, "c", 1)]
    assert places(transaction.news(0, ["Other"], 1)) == [(6, "a", 4)]
    assert places(transaction.news(0, [], 2)) == places(transaction.news(0))[:2]
    assert places(transaction.news(7, ["Other"])) == []
    assert [stored.originator_version for stored in transaction.history("a", limit=1)] == [1]
    assert [stored.originator_version for stored in transaction.history("a", 1, 2)] == [2, 3]
    transaction.rollback()


def test_a_transaction_reads_large_values(log: Log) -> None:
    transaction = log.begin()
    transaction.put_blob("ab", b"before")
    transaction.commit()
    transaction = log.begin()
    transaction.put_blob("cd", b"now")
    assert [transaction.get_blob(name) for name in ("ab", "cd", "ef")] == [b"before", b"now", None]
    transaction.rollback()


def test_blobs(log: Log) -> None:
    transaction = log.begin()
    transaction.put_blob("ab", b"\x00\xff")
    transaction.put_blob("ab", b"\x00\xff")
    transaction.commit()
    assert log.get_blob("ab") == b"\x00\xff"
    assert log.get_blob("cd") is None


def test_own_commits_are_no_change(log: Log) -> None:
    fill(log)
    assert not log.changed()
    log.read("SELECT 1")
    assert not log.changed()


def test_closed_log_says_so(log: Log) -> None:
    log.close()
    log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        log.begin()


def test_close_can_be_called_before_open(url: str) -> None:
    open_log(url).close()


def test_library_application(log: Log) -> None:
    """Appending through the library gives the same stored form, chained, and its readers give events back."""
    assert isinstance(log, (MemoryLog, SQLiteLog, PostgresLog))
    with LogApplication(log) as application:
        started = Recorded("i", 1, e.WorkflowStarted(at=1, workflow="w", tags=("x", "y")))
        claimed = Recorded("i", 2, e.RunClaimed(at=2, worker="k", epoch=1))
        application.events.put([started, claimed])
        application.events.put([Recorded("i", 3, e.StepStarted(at=3, path="a"))])
        stored = list(log.select_events("i"))
        assert [decode(found).event for found in stored[:2]] == [started.event, claimed.event]
        expected = chain.GENESIS
        for found in stored:
            assert found.state[: chain.SIZE] == expected
            expected = digest(found)
        versions = [found.originator_version for found in application.events.get("i", gt=1)]
        assert versions == [2, 3]
        section = application.notification_log.select(start=2, limit=5)
        assert [found.id for found in section] == [2, 3]
        with pytest.raises(IntegrityError):
            application.events.put([started])
        assert log.max_notification_id() == 3


def _another(log: Log) -> Log:
    other = open_log(log.url)
    other.open([TABLE])
    return other


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_log(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Log]:
    """A log that several processes may open."""
    log = open_log(_url(request, tmp_path))
    log.open([TABLE])
    yield log
    log.close()


def test_reopened_log_has_everything(shared_log: Log) -> None:
    fill(shared_log)
    shared_log.close()
    other = _another(shared_log)
    try:
        assert places(other.select_notifications(4, 9)) == [(4, "a", 3), (5, "b", 2)]
        append(other, row(6, "a", 4))
        assert other.max_notification_id() == 6
    finally:
        other.close()


def test_positions_are_never_used_again(shared_log: Log) -> None:
    fill(shared_log)
    transaction = shared_log.begin()
    transaction.query("DELETE FROM wfes_events WHERE notification_id > 3")
    transaction.commit()
    transaction = shared_log.begin()
    assert transaction.head == 5
    transaction.rollback()
    assert shared_log.max_notification_id() == 5


def test_others_commits_are_a_change(shared_log: Log) -> None:
    other = _another(shared_log)
    try:
        shared_log.begin().rollback()
        transaction = shared_log.begin()
        assert not transaction.others
        transaction.rollback()
        assert not shared_log.changed()
        fill(other)
        assert shared_log.changed()
        assert not shared_log.changed()
        append(other, row(6, "a", 4))
        transaction = shared_log.begin()
        assert places(list(transaction.news(5))) == [(6, "a", 4)]
        assert transaction.others
        transaction.rollback()
        assert not shared_log.changed()
    finally:
        other.close()


def test_two_writers_take_turns(shared_log: Log) -> None:
    other = _another(shared_log)
    try:
        first = shared_log.begin()
        second: list[WriteTransaction] = []
        waiting = threading.Thread(target=lambda: second.append(other.begin()))
        waiting.start()
        first.insert([row(1, "a", 1)])
        assert not second
        first.commit()
        waiting.join(10)
        assert second[0].head == 1
        with pytest.raises(IntegrityError):
            second[0].insert([row(2, "a", 1)])
        second[0].rollback()
    finally:
        other.close()


def test_a_deleted_history_leaves_its_versions_and_positions_unused(log: Log) -> None:
    fill(log)
    write = log.begin()
    write.delete_history("a", 2)
    assert places(write.history("a")) == [(4, "a", 3)]
    last = write.last("a")
    assert last is not None
    assert last.originator_version == 3
    write.commit()
    assert places(log.select_events("a")) == [(4, "a", 3)]
    assert places(log.select_events("a", desc=True, limit=5)) == [(4, "a", 3)]
    assert places(log.select_events("a", gt=1)) == [(4, "a", 3)]
    assert places(log.select_events("a", lte=2)) == []
    assert places(log.select_events("b")) == [(2, "b", 1), (5, "b", 2)]
    assert [found.id for found in log.select_notifications(None, 10)] == [2, 4, 5]
    assert [found.id for found in log.select_notifications(2, 1, inclusive_of_start=False)] == [4]
    assert log.max_notification_id() == 5
    append(log, row(6, "a", 4))
    assert places(log.select_events("a")) == [(4, "a", 3), (6, "a", 4)]
    transaction = log.begin()
    with pytest.raises(IntegrityError):
        transaction.insert([row(7, "a", 3)])
    transaction.rollback()


def test_the_deletion_of_a_history_is_undone_with_its_transaction(log: Log) -> None:
    fill(log)
    transaction = log.begin()
    transaction.delete_history("a", 2)
    transaction.rollback()
    assert places(log.select_events("a")) == [(1, "a", 1), (3, "a", 2), (4, "a", 3)]


def test_a_log_remembers_the_topics_of_what_was_deleted(log: Log) -> None:
    append(log, row(1, "a", 1, topic="U"), row(2, "a", 2, topic="T"))
    transaction = log.begin()
    transaction.delete_history("a", 1)
    transaction.commit()
    assert log.topics() == {"T", "U"}
