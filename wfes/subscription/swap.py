"""Tables beside tables: making those that are built anew, and putting them in the live ones' place at once.

Invariants: a table's live name always leads to whole rows of one version; a table whose place was taken keeps the
suffix `OLD` until it is gone, which holds nobody else up: it is emptied in pieces and then dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wfes.log.rows import Target as RowsTarget
from wfes.subscription import registry
from wfes.subscription.registry import BUILDING, Entry
from wfes.subscription.stores import Store, Target
from wfes.subscription.table import NEXT, OLD, Dialect, Table

CHUNK_ROWS = 2_000
"""Rows of an old table that one transaction removes."""


def begin_next(target: Target, tables: Sequence[Table], dialect: Dialect, entry: Entry) -> Entry:
    """Makes empty tables beside the live ones, in place of any that were begun.

    Args:
        target: an open transaction.
        tables: the projection's.
        dialect: of the database.
        entry: of the projection, with its live name; its generation and version are the new rows'.

    Returns:
        What the new tables' rows are of: nothing yet.
    """
    for table in tables:
        target.query(f"DROP TABLE IF EXISTS {table.name}{NEXT}")
        for sql in table.create(dialect, NEXT, f"_{entry.generation}"):
            target.query(sql)
    begun = Entry(
        entry.name + NEXT,
        entry.version,
        0,
        BUILDING,
        updated_at=entry.updated_at,
        generation=entry.generation,
    )
    registry.put(target.query, begun)
    target.moved(begun.name, None)
    return begun


def exchange(target: RowsTarget, names: Sequence[str], dialect: Dialect) -> None:
    """Puts the new tables in the live ones' place, in an open transaction.

    Args:
        target: the transaction.
        names: the tables' live names.
        dialect: of the database.
    """
    sqlite = dialect.name == "sqlite"
    if sqlite:
        # Else SQLite would rewrite users' views so that they go on reading the old table.
        target.query("PRAGMA legacy_alter_table = ON")
    for name in names:
        if table_exists(target.query, dialect, name):  # an older version may not have had it
            target.query(f"ALTER TABLE {name} RENAME TO {name}{OLD}")
        target.query(f"ALTER TABLE {name}{NEXT} RENAME TO {name}")
    if sqlite:
        target.query("PRAGMA legacy_alter_table = OFF")


def sweep(store: Store, tables: Sequence[Table]) -> None:
    """Removes what tables had their place taken, in short transactions.

    Args:
        store: where they are.
        tables: with their live names.
    """
    with store.snapshot() as view:
        old = [table for table in tables if table_exists(view.query, store.dialect, table.name + OLD)]
    for table in old:
        _remove(store.write, table.name + OLD, table.key)


def sweep_tables(
    query: registry.Query,
    write: Callable[[Callable[[Any], bool]], bool],
    dialect: Dialect,
    keys: Mapping[str, Sequence[str]],
) -> None:
    """As `sweep`, for tables known by their live names and the columns of their keys."""
    for name, key in keys.items():
        if table_exists(query, dialect, name + OLD):
            _remove(write, name + OLD, key)


def _remove(write: Callable[[Callable[[Any], bool]], bool], name: str, key: Sequence[str]) -> None:
    """Empties a table in pieces, and drops it."""
    columns = ", ".join(key)
    place = f"({columns})" if len(key) > 1 else columns

    def remove(target: Any) -> bool:
        target.query(f"DELETE FROM {name} WHERE {place} IN (SELECT {columns} FROM {name} LIMIT {CHUNK_ROWS})")
        if target.query(f"SELECT 1 FROM {name} LIMIT 1"):
            return True
        target.query(f"DROP TABLE {name}")
        return False

    while write(remove):
        pass


def columns_of(query: registry.Query, dialect: Dialect, table: str) -> list[str]:
    """The names of a table's columns, in their order."""
    if dialect.name == "sqlite":
        return [row[0] for row in query("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,))]
    sql = (
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position"
    )
    return [row[0] for row in query(sql, (table,))]


def key_of(query: registry.Query, dialect: Dialect, table: str) -> list[str]:
    """The names of the columns of a table's primary key, in its order."""
    if dialect.name == "sqlite":
        sql = "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk"
        return [row[0] for row in query(sql, (table,))]
    sql = (
        "SELECT k.column_name FROM information_schema.table_constraints c "
        "JOIN information_schema.key_column_usage k USING (constraint_schema, constraint_name, table_name) "
        "WHERE constraint_schema = current_schema() AND c.constraint_type = 'PRIMARY KEY' AND table_name = ? "
        "ORDER BY k.ordinal_position"
    )
    return [row[0] for row in query(sql, (table,))]


def table_exists(query: registry.Query, dialect: Dialect, table: str) -> bool:
    """Whether there is a table of this name, as a transaction or a snapshot sees it."""
    if dialect.name == "sqlite":
        return bool(query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))
    sql = "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = ?"
    return bool(query(sql, (table,)))
