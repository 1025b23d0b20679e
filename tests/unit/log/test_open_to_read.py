"""Opening a log for reading alone: nothing of it is made or changed, and nothing is written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from wfes.core import chain
from wfes.errors import LogUnavailable
from wfes.log.memory import MemoryLog
from wfes.log.open import open_log
from wfes.log.port import Log
from wfes.log.sqlite import SQLiteLog


def append(log: Log, version: int) -> None:
    write = log.begin()
    write.insert([(version, "a", version, "RunReleased", chain.GENESIS + b'{"at":1}')])
    write.commit()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


def test_it_is_read_and_followed_and_refuses_to_write(url: str) -> None:
    writer, reader = open_log(url), open_log(url)
    writer.open([])
    append(writer, 1)
    assert reader.open_to_read()
    assert [found.originator_version for found in reader.select_events("a")] == [1]
    assert reader.topics() == {"RunReleased"}
    for refused in (reader.begin, reader.lend):
        with pytest.raises(LogUnavailable, match="for reading alone"):
            refused()
    reader.changed()
    append(writer, 2)
    assert reader.changed()
    assert not reader.changed()
    assert reader.max_notification_id() == 2
    reader.close()
    reader.close()
    writer.close()


def test_where_there_is_no_log(url: str) -> None:
    for _ in range(2):  # a first look makes nothing
        log = open_log(url)
        assert not log.open_to_read()
        log.close()
    log = open_log(url)
    log.open([])
    log.close()
    log = open_log(url)
    assert log.open_to_read()
    log.close()


def test_another_schema_is_refused(url: str) -> None:
    log = open_log(url)
    log.open([])
    for version, says in (("99", "newer release"), ("1", "let one who may write")):
        write = log.begin()
        write.query("UPDATE wfes_meta SET value = ? WHERE name = 'schema'", (version,))
        write.commit()
        with pytest.raises(LogUnavailable, match=says):
            open_log(url).open_to_read()
    log.close()


def test_what_nobody_changes_is_not_read_on_once_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where SQLite can make no files beside it, a file is read as one that never changes; if it does, that is told."""
    path = tmp_path / "log.db"
    log = SQLiteLog(path)
    log.open([])
    append(log, 1)
    log.close()
    connect = sqlite3.connect

    def unable(name: str, *args: object, **options: object) -> sqlite3.Connection:
        if name.endswith("?mode=ro"):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(name, *args, **options)  # type: ignore[call-overload, no-any-return]

    reader = SQLiteLog(path)
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", unable)
        assert reader.open_to_read()
    assert reader.max_notification_id() == 1
    assert not reader.changed()
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE wfes_meta SET value = value")
        other.commit()
        with pytest.raises(LogUnavailable, match="changed while it was open"):
            reader.changed()
    reader.close()


def test_a_log_in_memory_has_nothing_to_read() -> None:
    assert not MemoryLog().open_to_read()


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(LogUnavailable, match="not an SQLite database"):
        SQLiteLog(path).open_to_read()
