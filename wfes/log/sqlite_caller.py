"""A caller's own SQLite connection, on the log's file.

Only statements that his transaction takes anyway are run on it. The file has one write lock: whoever has written in an
open transaction holds it, this way or any other, and everybody else's writes wait for that transaction's end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wfes.log.callers import described
from wfes.log.port import Handed
from wfes.log.sqlite_errors import unavailable
from wfes.log.statements import statement


class SQLiteCaller:
    """The port's Caller.

    Args:
        url: what errors call the log.
        path: the log's file.
        connection: the caller's connection.

    Raises:
        TypeError: it is no `sqlite3.Connection`.
    """

    def __init__(self, url: str, path: Path, connection: object) -> None:
        if not isinstance(connection, sqlite3.Connection):
            raise TypeError(
                f"connection= is a {described(connection)}; the log is in SQLite, so it must be a sqlite3.Connection "
                f"to the file {str(path)!r}"
            )
        self._url = url
        self._path = path
        self._connection: sqlite3.Connection = connection
        self._schema = ""

    def _run(self, sql: str, params: Sequence[object] = ()) -> list[Any]:
        try:
            cursor = self._connection.cursor(sqlite3.Cursor)
            cursor.row_factory = None
            return cursor.execute(sql, params).fetchall()
        except sqlite3.ProgrammingError as error:
            if "thread" in str(error):
                raise ValueError(
                    "connection= belongs to another thread than the one that this call runs in; open it with "
                    f"check_same_thread=False ({error})"
                ) from error
            raise ValueError(f"connection= cannot be used: {error}") from error
        except sqlite3.Error as error:
            raise unavailable(self._url, error) or error from error

    async def check(self) -> None:
        files = [(str(row[1]), str(row[2])) for row in self._run("PRAGMA database_list")]
        for schema, file in files:
            if file and _is_same(Path(file), self._path):
                self._schema = schema.replace('"', '""')
                return
        names = ", ".join(repr(file or "memory") for _, file in files)
        raise ValueError(
            f"connection= leads to {names}, and the log is in {str(self._path)!r}: only rows of one and the same file "
            "can be committed together"
        )

    def _statement(self, name: str) -> str:
        return statement("sqlite", name).replace("wfes_outbox", f'"{self._schema}".wfes_outbox')

    async def has_start(self, id: str) -> bool:
        return bool(self._run(self._statement("has_start"), (id,)))

    async def insert(self, handed: Handed) -> None:
        row = (handed.kind, handed.id, handed.at, handed.command, handed.content)
        self._run(self._statement("hand_over"), row)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
