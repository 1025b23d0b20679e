"""Tables beside tables: making those that are built anew, and putting them in the live ones' place at once.

Invariants: a table's live name always leads to whole rows of one version; a table whose place was taken keeps the
suffix `OLD` until it is gone, which holds nobody else up: it is emptied in pieces and then dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def exchange(target: Target, names: Sequence[str], dialect: Dialect) -> None:
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


def sweep(store: Store, table: str, key: Sequence[str]) -> None:
    """Removes a table whose place was taken, if there is one, in short transactions.

    Args:
        store: where it is.
        table: its live name.
        key: the columns of its key.
    """
    name = table + OLD
    columns = ", ".join(key)
    place = f"({columns})" if len(key) > 1 else columns
    some = f"SELECT {columns} FROM {name} LIMIT {CHUNK_ROWS}"

    def remove(target: Target) -> bool:
        target.query(f"DELETE FROM {name} WHERE {place} IN ({some})")
        if target.query(f"SELECT 1 FROM {name} LIMIT 1"):
            return True
        target.query(f"DROP TABLE {name}")
        return False

    if exists(store, name):
        while store.write(remove):
            pass


def exists(store: Store, table: str) -> bool:
    """Whether there is a table of this name."""
    with store.snapshot() as view:
        return table_exists(view.query, store.dialect, table)


def table_exists(query: registry.Query, dialect: Dialect, table: str) -> bool:
    """Whether there is a table of this name, as a transaction or a snapshot sees it."""
    if dialect.name == "sqlite":
        return bool(query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))
    return bool(query("SELECT 1 FROM information_schema.tables WHERE table_name = ?", (table,)))
