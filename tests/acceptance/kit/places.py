"""Where a trial's log is: in a SQLite file in the trial's folder, or where the folder's file ``url`` says.

And how to read it without an engine, and without the adapter under test.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, LiteralString, cast
from urllib.parse import urlencode, urlsplit

import pg_server

DATABASES = ("sqlite", "postgresql")


class NoLog(Exception):
    """There is no log, or it has no tables yet."""


def url_of(folder: Path) -> str:
    """The log's URL in a trial's folder."""
    given = folder / "url"
    return given.read_text() if given.exists() else f"sqlite:///{folder}/log.db"


def put(folder: Path, url: str) -> None:
    """The log of the trial in this folder is there, and its archives in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    query = urlencode({"archive": str(folder / "archive")})
    (folder / "url").write_text(urlsplit(url)._replace(query=query).geturl())


@contextmanager
def placed(folder: Path, database: str) -> Generator[Path]:
    """A trial's folder, made if it is missing, with an empty log in a database of this kind."""
    folder.mkdir(parents=True, exist_ok=True)
    if database == "sqlite":
        yield folder
        return
    with pg_server.database() as url:
        put(folder, url)
        yield folder


@contextmanager
def copied(made: Path, folder: Path) -> Generator[Path]:
    """A trial's folder with a copy of another's, its log and archives included; nobody has that one open."""
    shutil.copytree(made, folder)
    url = url_of(made)
    if url.startswith("sqlite"):
        yield folder
        return
    with pg_server.database(urlsplit(url).path[1:]) as own:
        put(folder, own)
        yield folder


def archives(folder: Path) -> Path:
    """Where the archives of a trial's log are."""
    return folder / ("log.db.archive" if url_of(folder).startswith("sqlite") else "archive")


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a query gives.

    Raises:
        NoLog: what it asks for is not there.
    """
    url = url_of(folder)
    if url.startswith("sqlite"):
        path = folder / "log.db"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                return connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            raise NoLog(str(error)) from error
    return _postgres_rows(url, sql)


def _postgres_rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    # Not where SQLite is meant: these libraries are an extra.
    import psycopg

    plain = urlsplit(url)._replace(query="").geturl()
    with psycopg.connect(plain, autocommit=True) as connection:
        try:
            return connection.execute(cast("LiteralString", sql)).fetchall()
        except psycopg.errors.UndefinedTable as error:
            raise NoLog(str(error)) from error


def tamper(folder: Path, sql: str) -> None:
    """Changes the database as somebody may who has all rights to it."""
    url = url_of(folder)
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(folder / "log.db")) as file, file:
            file.execute(sql)
        return
    import psycopg

    with psycopg.connect(urlsplit(url)._replace(query="").geturl(), autocommit=True) as connection:
        connection.execute(cast("LiteralString", sql))


def content(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, but for the workers and the counter of commits, which do not come from the log."""
    if url_of(folder).startswith("sqlite"):
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
    else:
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    names = {name for (name,) in rows(folder, tables)} - {"wfes_workers", "wfes_head"}
    return {name: sorted(rows(folder, f'SELECT * FROM "{name}"'), key=repr) for name in sorted(names)}
