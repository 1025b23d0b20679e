"""Rows under change: what the handlers of a projection read and write.

A write-back buffer over a store: a row is read from the store once, changes gather here, and one flush a batch writes
them. So a projection that counts a thousand events into one row costs one statement.

Invariants: a handler reads what it and the handlers before it have put; what an event's handler did before it raised
is undone and nothing else; a row object taken out is the handler's own, and changes nothing until it is put.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from wfes.subscription.table import Row, Stored, Table

R = TypeVar("R", bound=Row)

KEPT_MAX = 50_000
"""Rows remembered between batches."""


class Fetch(Protocol):
    """Where rows are read that are not in the buffer."""

    def get(self, table: Table, key: Stored) -> Stored | None:
        """The stored row with this key."""
        ...

    def find(self, table: Table, equal: Mapping[str, Any]) -> Sequence[Stored]:
        """The stored rows whose columns have these stored values."""
        ...


_ABSENT: Any = object()


class Rows:
    """The rows of one projection, for its handlers.

    >>> class Day(Row, table="orders_by_day", key="day"):
    ...     day: str
    ...     orders: int = 0
    >>> def count(rows: Rows, day: str) -> None:
    ...     found = rows.get(Day, day) or Day(day)
    ...     found.orders += 1
    ...     rows.put(found)
    """

    def __init__(self, tables: Sequence[type[Row]], fetch: Fetch, *, empty: bool = False) -> None:
        """Makes a buffer.

        Args:
            tables: the projection's.
            fetch: reads what is not in the buffer.
            empty: the tables are known to be empty, so nothing has to be read until something was forgotten.
        """
        self._tables = {row.table: row.__name__ for row in tables}
        self._fetch = fetch
        self._empty = empty
        self._changed: dict[Table, dict[Stored, Stored | None]] = {table: {} for table in self._tables}
        self._kept: dict[Table, dict[Stored, Stored | None]] = {table: {} for table in self._tables}
        # Keys by their first part, of tables that have several: what belongs to one instance is found without a search.
        self._families: dict[Table, dict[Any, set[Stored]]] = {
            table: {} for table in self._tables if len(table.key) > 1
        }
        self._undo: list[tuple[dict[Stored, Stored | None], Stored, Any]] = []

    # -- For handlers ------------------------------------------------------------------------------------------------

    def get(self, row: type[R], *key: Any) -> R | None:
        """The row with this key, or None.

        Args:
            row: Its class.
            key: The values of the key's fields, in the key's order.
        """
        table = self._table(row)
        stored = self._stored(table, table.stored_key(key))
        return None if stored is None else table.loaded(stored)

    def find(self, row: type[R], **equal: Any) -> list[R]:
        """The rows whose fields have these values, in the order of their keys.

        The first field of the key, or an index on the fields, makes it quick.

        Args:
            row: Their class.
            equal: Field to value.
        """
        table = self._table(row)
        wanted = table.stored_equal(equal)
        places = [(table.place(name), value) for name, value in wanted.items()]
        found: dict[Stored, Stored] = {}
        kept, changed = self._kept[table], self._changed[table]
        family = self._families.get(table)
        if family is not None and table.key[0] in wanted:
            keys = family.get(wanted[table.key[0]], ())
            kept = {key: kept[key] for key in keys if key in kept} if self._empty else kept
            changed = {key: changed[key] for key in keys if key in changed}
        if not self._empty:
            found = {table.key_of(stored): stored for stored in self._fetch.find(table, wanted)}
        else:
            self._add_matching(found, kept, places)
        self._add_matching(found, changed, places)
        return [table.loaded(found[key]) for key in sorted(found)]

    @staticmethod
    def _add_matching(
        found: dict[Stored, Stored], rows: Mapping[Stored, Stored | None], places: Sequence[tuple[int, Any]]
    ) -> None:
        for key, stored in rows.items():
            if stored is not None and all(stored[place] == value for place, value in places):
                found[key] = stored
            else:
                found.pop(key, None)

    def put(self, row: Row) -> None:
        """Writes a row, in place of the one with its key if there is one.

        Raises:
            TypeError, ValueError: A field holds what its column cannot.
        """
        table = self._table(type(row))
        stored = table.stored(row)
        self._change(table, table.key_of(stored), stored)

    def delete(self, row: type[Row], *key: Any) -> None:
        """Removes the row with this key, if there is one."""
        table = self._table(row)
        self._change(table, table.stored_key(key), None)

    # -- For whoever runs the handlers -------------------------------------------------------------------------------

    def begin(self) -> None:
        """The changes of another event begin."""
        self._undo.clear()

    def undo(self) -> None:
        """Takes back what was changed since `begin`."""
        while self._undo:
            changed, key, before = self._undo.pop()
            if before is _ABSENT:
                del changed[key]
            else:
                changed[key] = before

    @property
    def changes(self) -> int:
        """How many rows are to be written."""
        return sum(len(changed) for changed in self._changed.values())

    def pending(self) -> Iterator[tuple[Table, list[Stored], list[Stored]]]:
        """What is to be written: a table with keys to delete and stored rows to upsert."""
        for table, changed in self._changed.items():
            if changed:
                gone = [key for key, stored in changed.items() if stored is None]
                yield table, gone, [stored for stored in changed.values() if stored is not None]

    def applied(self) -> None:
        """What was pending is written: it is remembered, and the next batch begins."""
        for table, changed in self._changed.items():
            kept = self._kept[table]
            if self._empty:
                # What is gone need not be remembered: whatever is not known here does not exist.
                for key, stored in changed.items():
                    if stored is None:
                        kept.pop(key, None)
                        self._leave_family(table, key)
                    else:
                        kept[key] = stored
            else:
                kept.update(changed)
                self._families.get(table, {}).clear()
            changed.clear()
        self._undo.clear()
        if sum(map(len, self._kept.values())) > KEPT_MAX:
            self.forget()

    def discard(self) -> None:
        """Drops what is pending and what is remembered: somebody else wrote, or the transaction was undone."""
        for changed in self._changed.values():
            changed.clear()
        self._undo.clear()
        self.forget()

    def forget(self) -> None:
        """Drops what is remembered of the store."""
        self._empty = False
        for kept in self._kept.values():
            kept.clear()
        for table, families in self._families.items():
            families.clear()
            for key in self._changed[table]:
                families.setdefault(key[0], set()).add(key)

    # -- Inside ------------------------------------------------------------------------------------------------------

    def _table(self, row: type[Row]) -> Table:
        table = row.table
        if table not in self._tables:
            raise TypeError(
                f"{row.__qualname__} is a row of the table {table.name!r}, which is not one of this projection's: "
                f"{', '.join(self._tables.values())}; name it in `tables`"
            )
        return table

    def _stored(self, table: Table, key: Stored) -> Stored | None:
        found = self._changed[table].get(key, _ABSENT)
        if found is _ABSENT:
            kept = self._kept[table]
            found = kept.get(key, _ABSENT)
            if found is _ABSENT:
                if self._empty:
                    return None
                found = kept[key] = self._fetch.get(table, key)
        return found  # type: ignore[no-any-return]

    def _change(self, table: Table, key: Stored, stored: Stored | None) -> None:
        changed = self._changed[table]
        self._undo.append((changed, key, changed.get(key, _ABSENT)))
        changed[key] = stored
        families = self._families.get(table)
        if families is not None:
            # Never taken back by an undo: a key too many finds nothing.
            family = families.get(key[0])
            if family is None:
                families[key[0]] = {key}
            else:
                family.add(key)

    def _leave_family(self, table: Table, key: Stored) -> None:
        families = self._families.get(table)
        family = None if families is None else families.get(key[0])
        if families is None or family is None:
            return
        family.discard(key)
        if not family:
            del families[key[0]]
