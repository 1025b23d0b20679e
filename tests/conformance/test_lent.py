"""The semantics of what a log lends to functions, and of its outbox, checked on every adapter."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from wfes.errors import ForbiddenInTransaction, LogUnavailable
from wfes.log.open import open_log
from wfes.log.port import Lent, Log, StoredRow

TABLE = "CREATE TABLE IF NOT EXISTS mine (number BIGINT)"


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Log]:
    match request.param:
        case "memory":
            log = open_log("sqlite://")
        case "sqlite":
            log = open_log(f"sqlite:///{tmp_path}/log.db")
        case _:
            log = open_log(request.getfixturevalue("postgres_url"))
    log.open([TABLE])
    yield log
    log.close()


def row(position: int, stream: str, version: int) -> StoredRow:
    return position, stream, version, "T", b"{}"


def use(lent: Lent, sql: str = "INSERT INTO mine VALUES (1)") -> None:
    """Runs a statement as a function does: in another thread than the engine's."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            lent.connection.execute(sql)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def numbers(log: Log) -> list[int]:
    return [found[0] for found in log.read("SELECT number FROM mine")]


def test_rows_and_events_are_committed_together(log: Log) -> None:
    lent = log.lend()
    use(lent)
    lent.settle()
    write = lent.write()
    write.insert([row(1, "a", 1)])
    assert numbers(log) == [] or log.url == "sqlite://"
    write.commit()
    assert numbers(log) == [1]
    assert [found.originator_id for found in log.select_events("a")] == ["a"]
    assert log.max_notification_id() == 1


def test_rolled_back_together(log: Log) -> None:
    lent = log.lend()
    use(lent)
    lent.settle()
    write = lent.write()
    write.insert([row(1, "a", 1)])
    write.rollback()
    assert numbers(log) == []
    assert list(log.select_events("a")) == []
    assert log.max_notification_id() == 0


def test_given_back_before_it_is_written_to(log: Log) -> None:
    lent = log.lend()
    use(lent)
    lent.rollback()
    lent.rollback()
    lent.close()
    lent.close()
    assert numbers(log) == []
    write = log.begin()
    write.insert([row(1, "a", 1)])
    write.commit()


def test_the_write_sees_what_others_have_committed(log: Log) -> None:
    lent = log.lend()
    use(lent)
    if log.lends_seconds is None:
        between = log.begin()
        between.insert([row(1, "b", 1)])
        between.commit()
    write = lent.write()
    first = write.head
    write.insert([row(first + 1, "a", 1)])
    write.commit()
    assert log.max_notification_id() == first + 1


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "DELETE FROM wfes_outbox"])
def test_what_is_forbidden_is_refused_and_told(log: Log, sql: str) -> None:
    lent = log.lend()
    use(lent)
    with pytest.raises(Exception, match=r"not authorized|is not for a function"):
        use(lent, sql)
    assert lent.refused is not None
    with pytest.raises(ForbiddenInTransaction, match="is not for a function"):
        lent.settle()
    lent.rollback()
    lent.close()
    assert numbers(log) == []


@pytest.mark.parametrize("log", ["postgresql"], indirect=True)
def test_a_transaction_that_was_ended_behind_our_back_is_noticed(log: Log) -> None:
    lent = log.lend()
    use(lent, "DO $$ BEGIN PERFORM set_config('wfes.lent', '', true); END $$")
    with pytest.raises(ForbiddenInTransaction):
        lent.settle()
    lent.rollback()
    lent.close()


@pytest.mark.parametrize("log", ["postgresql"], indirect=True)
def test_what_a_commit_would_refuse_is_the_functions_failure(log: Log) -> None:
    log.close()
    log = open_log(log.url)
    log.open(["CREATE TABLE IF NOT EXISTS once (n BIGINT UNIQUE DEFERRABLE INITIALLY DEFERRED)"])
    lent = log.lend()
    use(lent, "INSERT INTO once VALUES (1), (1)")
    with pytest.raises(Exception, match="duplicate key"):
        lent.settle()
    lent.rollback()
    lent.close()
    log.close()


@pytest.mark.parametrize("log", ["postgresql"], indirect=True)
def test_a_lost_transaction_cannot_be_written(log: Log) -> None:
    lent = log.lend()
    use(lent)
    lent.rollback()
    with pytest.raises(LogUnavailable):
        lent.write()
    lent.close()
    assert numbers(log) == []


def test_nothing_is_handed_over_at_first(log: Log) -> None:
    assert not log.handed_over()
    write = log.begin()
    write.query(
        "INSERT INTO wfes_outbox (kind, id, at, command) VALUES (?, ?, ?, ?)", ("start", "i", 1, "{}")
    )
    write.commit()
    assert log.handed_over() or log.url == "sqlite://"
    write = log.begin()
    write.query("UPDATE wfes_outbox SET refused = ?", ("{}",))
    write.commit()
    assert not log.handed_over()
