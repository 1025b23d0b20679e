"""Tables beside tables: making those that are built anew, and putting them in the live ones' place at once.

Invariants: a table's live name always leads to whole rows of one version; a table whose place was taken keeps the
suffix `OLD` until it is gone, which holds nobody else up: it is emptied in pieces and then dropped. A table that was
not made for the projection is never touched, and views of users read the new tables as they read the old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from wfes.errors import WfesError
from wfes.errors.storage import without_password
from wfes.log.rows import Target as RowsTarget
from wfes.subscription import registry
from wfes.subscription.dependents import check_droppable, check_replaceable, led_over
from wfes.subscription.registry import BUILDING, Entry
from wfes.subscription.stores import Store, Target
from wfes.subscription.table import NEXT, OLD, Dialect, Table

CHUNK_ROWS = 2_000
"""Rows of an old table that one transaction removes."""


class TableTaken(WfesError, ValueError):
    """A table that a projection needs is somebody else's; it is left alone."""

    def __init__(self, url: str, table: str, projection: str, owner: str | None) -> None:
        super().__init__(
            f"{without_password(url)} has a table {table!r} already, which is not one of projection {projection!r}"
            + ("" if owner is None else f" but of projection {owner.removesuffix(NEXT)!r}")
            + "; give the projection's table another name"
        )


def make_tables(target: Target, url: str, dialect: Dialect, entry: Entry, tables: Sequence[Table]) -> None:
    """Makes a projection's tables where it has none yet.

    Args:
        target: an open transaction.
        url: the database's, for errors.
        dialect: of the database.
        entry: what the rows are of.
        tables: the projection's.

    Raises:
        TableTaken: there is a table of such a name.
    """
    for table in tables:
        _check_free(target, url, dialect, table.name, entry.name, ())
        for sql in table.create(dialect, label=f"_{entry.generation}"):
            target.query(sql)
        registry.own(target.query, table.name, entry.name)


def begin_next(target: Target, url: str, dialect: Dialect, entry: Entry, tables: Sequence[Table]) -> Entry:
    """Makes empty tables beside the live ones, in place of any that were begun.

    Args:
        target: an open transaction.
        url: the database's, for errors.
        dialect: of the database.
        entry: of the projection, with its live name; its generation and version are the new rows'.
        tables: the projection's.

    Returns:
        What the new tables' rows are of: nothing yet.

    Raises:
        TableTaken: somebody else's table has a name that is needed.
        InTheWay: something of a user's leads to a live table, and could not be led to the new one.
    """
    name = entry.name + NEXT
    check_replaceable(target.query, url, dialect, registry.owned(target.query, entry.name))
    _drop_tables(target, name)
    for table in tables:
        for suffix in ("", OLD, NEXT):
            _check_free(target, url, dialect, table.name + suffix, entry.name, (entry.name,))
        for sql in table.create(dialect, NEXT, f"_{entry.generation}"):
            target.query(sql)
        registry.own(target.query, table.name + NEXT, name)
    begun_entry = Entry(
        name, entry.version, 0, BUILDING, updated_at=entry.updated_at, generation=entry.generation
    )
    registry.put(target.query, begun_entry)
    target.moved(name, None)
    return begun_entry


def forget_next(target: Target, name: str) -> None:
    """Removes what was begun beside a projection's live tables, in an open transaction."""
    _drop_tables(target, name + NEXT)
    registry.remove(target.query, name + NEXT)
    target.moved(name + NEXT, None)


def forget(target: Target, url: str, dialect: Dialect, name: str) -> None:
    """Removes everything that a projection has, in an open transaction.

    Args:
        target: the transaction.
        url: the database's, for errors.
        dialect: of the database.
        name: the projection's.

    Raises:
        InTheWay: something of a user's leads to one of its tables.
    """
    check_droppable(target.query, url, dialect, registry.owned(target.query, name))
    forget_next(target, name)
    _drop_tables(target, name)
    registry.remove(target.query, name)
    target.moved(name, None)


def _drop_tables(target: Target, owner: str) -> None:
    for table in registry.owned(target.query, owner):
        target.query(f"DROP TABLE IF EXISTS {table}")
        registry.disown(target.query, table)


def _check_free(
    target: Target, url: str, dialect: Dialect, table: str, projection: str, owners: Sequence[str]
) -> None:
    """Refuses a table's name that leads to a table which was made for none of these."""
    if table_exists(target.query, dialect, table):
        owner = registry.owner(target.query, table)
        if owner not in owners:
            raise TableTaken(url, table, projection, owner)


def replace(target: Target, url: str, dialect: Dialect, name: str, tables: Sequence[Table]) -> None:
    """Puts a projection's new tables in the place of all that it has, in an open transaction.

    Args:
        target: the transaction.
        url: the database's, for errors.
        dialect: of the database.
        name: the projection's.
        tables: the new ones.

    Raises:
        TableTaken: somebody else's table has a name that is needed.
        InTheWay: a user's view does not fit the new tables.
    """
    had = [table for table in registry.owned(target.query, name) if not table.endswith(OLD)]
    new = [table.name for table in tables]
    for table in new:
        _check_free(target, url, dialect, table, name, (name,))
    for table in had:
        _check_free(target, url, dialect, table + OLD, name, ())
    with _renaming(target, url, dialect, had):
        for table in had:
            registry.disown(target.query, table)
            if table_exists(target.query, dialect, table):
                target.query(f"ALTER TABLE {table} RENAME TO {table}{OLD}")
                registry.own(target.query, table + OLD, name)
        for table in new:
            target.query(f"ALTER TABLE {table}{NEXT} RENAME TO {table}")
            registry.disown(target.query, table + NEXT)
            registry.own(target.query, table, name)


@contextmanager
def _renaming(target: RowsTarget, url: str, dialect: Dialect, names: Sequence[str]) -> Generator[None]:
    """While tables are renamed: else users' views would go on reading the old ones."""
    sqlite = dialect.name == "sqlite"
    if sqlite:
        target.query("PRAGMA legacy_alter_table = ON")
    with led_over(target, url, dialect, names):
        yield
    if sqlite:
        target.query("PRAGMA legacy_alter_table = OFF")


def exchange(target: RowsTarget, url: str, names: Sequence[str], dialect: Dialect) -> None:
    """Puts the engine's own new tables in the live ones' place, in an open transaction.

    Args:
        target: the transaction.
        url: the database's, for errors.
        names: the tables' live names.
        dialect: of the database.

    Raises:
        InTheWay: something of a user's leads to an old one, and cannot be led to the new one.
    """
    with _renaming(target, url, dialect, names):
        for name in names:
            if table_exists(target.query, dialect, name):  # an older version may not have had it
                target.query(f"ALTER TABLE {name} RENAME TO {name}{OLD}")
            target.query(f"ALTER TABLE {name}{NEXT} RENAME TO {name}")


def left_over(query: registry.Query, name: str) -> list[str]:
    """The tables of a projection that had their place taken and are still there."""
    return [table for table in registry.owned(query, name) if table.endswith(OLD)]


def sweep(store: Store, name: str) -> None:
    """Removes what tables of a projection had their place taken, in short transactions.

    Args:
        store: where they are.
        name: the projection's.
    """
    with store.snapshot() as view:
        old = {
            table: key_of(view.query, store.dialect, table) if exists else []
            for table in left_over(view.query, name)
            for exists in [table_exists(view.query, store.dialect, table)]
        }
    for table, key in old.items():
        _remove(store.write, store.dialect, table, key)


def sweep_tables(
    query: registry.Query,
    write: Callable[[Callable[[Any], bool]], bool],
    dialect: Dialect,
    keys: Mapping[str, Sequence[str]],
) -> None:
    """As `sweep`, for tables known by their live names and the columns of their keys."""
    for name, key in keys.items():
        if table_exists(query, dialect, name + OLD):
            _remove(write, dialect, name + OLD, key)


def _remove(
    write: Callable[[Callable[[Any], bool]], bool], dialect: Dialect, name: str, key: Sequence[str]
) -> None:
    """Empties a table in pieces, and drops it."""
    columns = ", ".join(key)
    place = f"({columns})" if len(key) > 1 else columns

    def remove(target: Any) -> bool:
        if not table_exists(target.query, dialect, name):  # another engine has removed it
            registry.disown(target.query, name)
            return False
        target.query(f"DELETE FROM {name} WHERE {place} IN (SELECT {columns} FROM {name} LIMIT {CHUNK_ROWS})")
        if target.query(f"SELECT 1 FROM {name} LIMIT 1"):
            return True
        target.query(f"DROP TABLE {name}")
        registry.disown(target.query, name)
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
    """Whether there is a table or a view of this name, as a transaction or a snapshot sees it."""
    if dialect.name == "sqlite":
        sql = "SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?"
        return bool(query(sql, (table,)))
    sql = "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = ?"
    return bool(query(sql, (table,)))
