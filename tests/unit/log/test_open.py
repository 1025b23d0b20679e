"""URLs, and every way in which an SQLite file cannot be a log."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from wfes.errors import LogUnavailable
from wfes.log.memory import MemoryLog
from wfes.log.open import open_log
from wfes.log.port import Log
from wfes.log.sqlite import SQLiteLog
from wfes.log.sqlite_errors import unavailable
from wfes.log.statements import schema, statement


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative, absolute = open_log("sqlite:///a.db"), open_log(f"sqlite:///{tmp_path}/b%20c?.db")
    assert isinstance(relative, SQLiteLog)
    assert relative.path == tmp_path / "a.db"
    assert isinstance(absolute, SQLiteLog)
    assert absolute.path == tmp_path / "b c?.db"
    assert isinstance(open_log("sqlite://"), MemoryLog)
    for log in (relative, absolute):
        log.open([])
        log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"a.db", "b c?.db"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("shop.db", "accepted are 'sqlite:///file.db'"),
        ("", "accepted are"),
        ("sqlite:shop.db", "accepted are"),
        ("mysql://host/db", "accepted are"),
        ("sqlite://shop.db", "names a host"),
        ("sqlite:///a%00b", "NUL"),
        ("postgresql://me:secret@host/db?nonsense=1", "no PostgreSQL URL"),
    ],
)
def test_what_is_no_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        open_log(url)
    assert "secret" not in str(caught.value)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="not None"):
        open_log(None)  # type: ignore[arg-type]


def refused(log: Log) -> str:
    with pytest.raises(LogUnavailable) as caught:
        log.open([])
    with pytest.raises(LogUnavailable):
        log.begin()
    return caught.value.reason


def at(path: Path) -> Log:
    return open_log(f"sqlite:///{path}")


def test_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and no database at all\n" * 100)
    assert "not an SQLite database" in refused(at(path))
    assert path.read_text().startswith("these are my notes")


def test_missing_directory(tmp_path: Path) -> None:
    assert "does not exist" in refused(at(tmp_path / "missing" / "log.db"))


def test_directories_and_files_mixed_up(tmp_path: Path) -> None:
    assert "is a directory" in refused(at(tmp_path))
    path = tmp_path / "file"
    path.write_text("x")
    assert "not a directory" in refused(at(path / "log.db"))


def test_newer_schema(tmp_path: Path) -> None:
    log = at(tmp_path / "log.db")
    log.open([])
    transaction = log.begin()
    transaction.query(statement("sqlite", "set_meta"), ("schema", "99"))
    transaction.commit()
    log.close()
    reason = refused(at(tmp_path / "log.db"))
    assert "version 99" in reason
    assert "newer release" in reason


def deny(monkeypatch: pytest.MonkeyPatch, right: int) -> None:
    """Lets every path lack this right."""

    def access(path: object, mode: int) -> bool:
        return not mode & right

    monkeypatch.setattr(os, "access", access)


def test_read_only_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    log = at(path)
    log.open([])
    log.close()
    path.chmod(stat.S_IRUSR)
    if os.access(path, os.W_OK):  # this user may write everything
        deny(monkeypatch, os.W_OK)
    assert "is read-only" in refused(at(path))


def test_read_only_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "fixed"
    directory.mkdir()
    directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(directory, os.W_OK):
        deny(monkeypatch, os.W_OK)
    assert "is read-only" in refused(at(directory / "log.db"))
    directory.chmod(stat.S_IRWXU)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    path.touch()
    deny(monkeypatch, os.R_OK)
    assert "may not read" in refused(at(path))


def test_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfes.log.sqlite.BUSY_SECONDS", 0.05)
    one, two = at(tmp_path / "log.db"), at(tmp_path / "log.db")
    one.open([])
    two.open([])
    transaction = one.begin()
    with pytest.raises(LogUnavailable, match="locked") as caught:
        two.begin()
    assert caught.value.retryable
    transaction.rollback()
    two.begin().rollback()
    one.close()
    two.close()


@pytest.mark.skipif(sys.platform == "win32", reason="SQLite's limits differ")
def test_a_full_disk_is_told_and_passes(tmp_path: Path) -> None:
    """``max_page_count`` is how SQLite itself can be made to find no space."""
    log = at(tmp_path / "log.db")
    log.open([])
    transaction = log.begin()
    (limit,) = transaction.query("PRAGMA page_count")[0]
    transaction.query(f"PRAGMA max_page_count = {limit + 2}")
    with pytest.raises(LogUnavailable, match="no space") as caught:
        transaction.insert([(1, "i", 1, "T", bytes(100_000))])
    assert caught.value.retryable
    transaction.rollback()
    assert log.max_notification_id() == 0
    transaction = log.begin()
    transaction.query("PRAGMA max_page_count = 1000000")
    transaction.insert([(1, "i", 1, "T", bytes(100_000))])
    transaction.commit()
    assert log.max_notification_id() == 1
    log.close()


def test_mistakes_in_statements_are_raised_as_they_are(tmp_path: Path) -> None:
    log = at(tmp_path / "log.db")
    log.open([])
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        log.read("SELECT * FROM nowhere")
    transaction = log.begin()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        transaction.query("SELECT * FROM nowhere")
    transaction.rollback()
    log.close()
    assert unavailable("u", ValueError()) is None


def test_settings(tmp_path: Path) -> None:
    log = at(tmp_path / "log.db")
    log.open([])
    transaction = log.begin()
    assert transaction.query("PRAGMA journal_mode") == [("wal",)]
    assert transaction.query("PRAGMA synchronous") == [(2,)]
    transaction.rollback()
    log.close()


def test_reading_cannot_write(tmp_path: Path) -> None:
    log = at(tmp_path / "log.db")
    log.open([])
    with pytest.raises(LogUnavailable, match="read-only"):
        log.read("DELETE FROM wfes_events")
    log.close()


def test_users_tables_in_the_same_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.execute("CREATE TABLE events (id)")
    connection.close()
    log = at(path)
    log.open([])
    transaction = log.begin()
    assert transaction.query("PRAGMA user_version") == [(7,)]
    names = {row[0] for row in transaction.query("SELECT name FROM sqlite_master WHERE sql IS NOT NULL")}
    assert {name for name in names if not name.startswith(("wfes_", "sqlite_"))} == {"events"}
    transaction.rollback()
    log.close()


def test_every_schema_version_leads_to_the_newest(tmp_path: Path) -> None:
    """A database of each released schema version is brought up, and has what a new one has."""

    def shape(log: Log) -> list[tuple[object, ...]]:
        return log.read("SELECT type, name, sql FROM sqlite_master ORDER BY name")

    new = at(tmp_path / "new.db")
    new.open([])
    for version in range(len(schema("sqlite")) + 1):
        path = tmp_path / f"{version}.db"
        connection = sqlite3.connect(path)
        for migration in schema("sqlite")[:version]:
            for sql in migration:
                connection.execute(sql)
        if version:
            connection.execute(statement("sqlite", "set_meta"), ("schema", str(version)))
        connection.commit()
        connection.close()
        log = at(path)
        log.open([])
        assert shape(log) == shape(new)
        log.close()
    new.close()
