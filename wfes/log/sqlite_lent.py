"""What SQLite lends to a step's function: a connection of its own, in a transaction that holds the file's write lock.

The function gets a real `sqlite3.Connection`. SQLite itself asks an authorizer about each statement, so that nothing
that ends the transaction, leads out of the file or writes to the log's own tables is ever prepared. Past its time the
connection interrupts whatever runs on it, and takes no more writes, whatever thread still holds it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from wfes.errors import ForbiddenInTransaction
from wfes.log import lent

LENDS_SECONDS = 1.0
"""How long a step's function may keep what it is lent: nobody else writes to the log meanwhile."""
CHECK_EVERY_INSTRUCTIONS = 1_000
"""How often a running statement is asked whether its time is over."""

_TABLES = {
    sqlite3.SQLITE_INSERT: "INSERT",
    sqlite3.SQLITE_UPDATE: "UPDATE",
    sqlite3.SQLITE_DELETE: "DELETE",
    sqlite3.SQLITE_CREATE_TABLE: "CREATE TABLE",
    sqlite3.SQLITE_DROP_TABLE: "DROP TABLE",
    sqlite3.SQLITE_CREATE_INDEX: "CREATE INDEX",
    sqlite3.SQLITE_DROP_INDEX: "DROP INDEX",
    sqlite3.SQLITE_CREATE_TRIGGER: "CREATE TRIGGER",
    sqlite3.SQLITE_DROP_TRIGGER: "DROP TRIGGER",
    sqlite3.SQLITE_CREATE_VIEW: "CREATE VIEW",
    sqlite3.SQLITE_DROP_VIEW: "DROP VIEW",
    sqlite3.SQLITE_ALTER_TABLE: "ALTER TABLE",
}
_ROWS = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)
_ELSEWHERE = {sqlite3.SQLITE_ATTACH: "ATTACH", sqlite3.SQLITE_DETACH: "DETACH"}
_ABOUT_PRAGMAS = frozenset(
    {
        *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo"),
        *("foreign_key_list", "foreign_key_check", "database_list", "function_list", "collation_list"),
    }
)
_VALUE_PRAGMAS = frozenset(("user_version", "foreign_keys", "encoding"))
"""Those that may be read, and not set."""


class ForbiddenStatement(ForbiddenInTransaction, sqlite3.ProgrammingError):
    """As sqlite3 raises what is wrong in a program."""


class LentConnection(sqlite3.Connection):
    """A connection that a step's function may use, and only the engine can end."""

    _held = False
    _engine = 0
    _until = 0.0
    refused: str | None = None
    """What the function tried and must not, if it did."""

    def lend(self, seconds: float) -> None:
        """From here on the function has it. From the engine's thread, inside the transaction."""
        self._held = True
        self._engine = threading.get_ident()
        self._until = time.monotonic() + seconds
        self.set_authorizer(self._authorized)
        self.set_progress_handler(self._is_over, CHECK_EVERY_INSTRUCTIONS)

    def take_back(self) -> None:
        """The function is over: nothing but the engine's thread can prepare a statement any more."""
        self._until = float("inf")
        self.set_progress_handler(None, 0)

    def release(self) -> None:
        """It is a connection as any other again."""
        self._held = False
        self.set_authorizer(None)

    def _is_over(self) -> int:
        return threading.get_ident() != self._engine and time.monotonic() > self._until

    def _authorized(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        if threading.get_ident() == self._engine:
            return sqlite3.SQLITE_OK
        reason = _refusal(action, first, second)
        if reason is None:
            return sqlite3.SQLITE_OK
        self.refused = self.refused or reason
        return sqlite3.SQLITE_DENY

    def _refuse(self, what: str, message: str | None = None) -> NoReturn:
        reason = message or lent.ending(what)
        self.refused = self.refused or reason
        raise ForbiddenStatement(reason)

    def commit(self) -> None:
        if self._held:
            self._refuse("commit()")
        super().commit()

    def rollback(self) -> None:
        if self._held:
            self._refuse("rollback()")
        super().rollback()

    def close(self) -> None:
        if self._held:
            self._refuse("close()", lent.not_inside("close()"))
        super().close()

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        if self._held:
            self._refuse("executescript(), which commits first,")
        return super().executescript(sql_script)

    def __enter__(self) -> Any:
        if self._held:
            self._refuse("`with connection:`, which commits,")
        return super().__enter__()

    def set_authorizer(self, *args: Any, **kwargs: Any) -> None:
        self._check_own("set_authorizer()")
        super().set_authorizer(*args, **kwargs)

    def set_progress_handler(self, *args: Any, **kwargs: Any) -> None:
        self._check_own("set_progress_handler()")
        super().set_progress_handler(*args, **kwargs)

    def _check_own(self, what: str) -> None:
        if self._held and threading.get_ident() != self._engine:
            self._refuse(what, lent.not_inside(what))

    def end(self) -> None:
        """Undoes everything, even while a function is at work: what it does afterwards fails, or changes nothing."""
        self._until = 0.0
        with suppress(sqlite3.Error):
            super().execute("PRAGMA query_only = ON")
        with suppress(sqlite3.Error):
            super().execute("ROLLBACK")

    def shut(self) -> None:
        """Closes it. Not while a function is at work on it."""
        self._held = False
        super().close()


def _refusal(action: int, first: str | None, second: str | None) -> str | None:
    """Why a statement is refused, or None."""
    if action == sqlite3.SQLITE_TRANSACTION:
        return lent.ending(str(first))
    if (elsewhere := _ELSEWHERE.get(action)) is not None:
        return lent.not_inside(elsewhere)
    if action == sqlite3.SQLITE_PRAGMA:
        pragma = str(first).lower()
        allowed = pragma in _ABOUT_PRAGMAS or (pragma in _VALUE_PRAGMAS and second is None)
        return None if allowed else lent.not_inside(f"PRAGMA {first}")
    what = _TABLES.get(action)
    if what is None:
        return None
    for name in (first,) if action in _ROWS else (first, second):
        if name is not None and name.lower().startswith(lent.OWN_PREFIX):
            if action == sqlite3.SQLITE_INSERT and name.lower() == lent.OUTBOX:
                continue
            return lent.own_table(what, name)
    return None
