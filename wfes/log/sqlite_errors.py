"""What SQLite's errors mean for a log: the reason to tell, and whether waiting may help.

One table, by SQLite's primary result code. What is not in it is a mistake in a statement, and is raised as it is.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from wfes.errors import LogUnavailable

_REASONS: dict[int, tuple[str, bool]] = {
    sqlite3.SQLITE_BUSY: ("another process has kept it locked for too long", True),
    sqlite3.SQLITE_LOCKED: ("another connection has kept it locked for too long", True),
    sqlite3.SQLITE_PROTOCOL: ("another process has kept it locked for too long", True),
    sqlite3.SQLITE_FULL: ("no space is left on the disk; it goes on by itself when there is some", True),
    sqlite3.SQLITE_IOERR: ("the disk does not read or write", True),
    sqlite3.SQLITE_NOMEM: ("there is not enough memory", True),
    sqlite3.SQLITE_INTERRUPT: ("the statement was interrupted", True),
    sqlite3.SQLITE_READONLY: (
        "it is read-only; the engine needs to write to the file and its directory",
        False,
    ),
    sqlite3.SQLITE_PERM: ("the process may not open it; check the file's permissions", False),
    sqlite3.SQLITE_AUTH: ("the process may not open it; check the file's permissions", False),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened; check its path and permissions", False),
    sqlite3.SQLITE_NOTADB: ("the file is not an SQLite database; give the path of another one", False),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged; restore it from a backup", False),
}


def unavailable(url: str, error: BaseException) -> LogUnavailable | None:
    """The error to tell for an SQLite error, or None where the database itself is well."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(code, int):
        return None
    found = _REASONS.get(code & 0xFF)
    if found is None:
        return None
    reason, retryable = found
    read_only = code & 0xFF == sqlite3.SQLITE_READONLY
    return LogUnavailable(url, f"{reason} ({error})", retryable=retryable, read_only=read_only)


def check_path(url: str, path: Path) -> None:
    """Says beforehand, and better than SQLite does, why this path cannot hold a log.

    Raises:
        LogUnavailable: the directory is missing, the path is a directory, or rights are.
    """
    directory = path.parent
    if not directory.exists():
        raise LogUnavailable(url, f"the directory {str(directory)!r} does not exist; create it first")
    if not directory.is_dir():
        raise LogUnavailable(url, f"{str(directory)!r} is not a directory")
    if path.is_dir():
        raise LogUnavailable(url, f"{str(path)!r} is a directory; give the path of a file in it")
    if path.exists():
        if not os.access(path, os.R_OK):
            raise LogUnavailable(url, f"the process may not read {str(path)!r}; check its permissions")
        if not os.access(path, os.W_OK):
            reason = f"the file {str(path)!r} is read-only; the engine needs to write to it"
            raise LogUnavailable(url, reason, read_only=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise LogUnavailable(
            url,
            f"the directory {str(directory)!r} is read-only; SQLite needs to make files beside the database",
            read_only=path.exists(),
        )
