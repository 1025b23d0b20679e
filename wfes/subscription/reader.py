"""Reading a projection's rows: what its queries are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from wfes.subscription.table import Row, Stored, Table, encoded

R = TypeVar("R", bound=Row)

_READS = re.compile(r"\s*(select|with|values)\b", re.IGNORECASE)
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")

Read = Callable[[str, Sequence[object] | Mapping[str, object]], Sequence[tuple[Any, ...]]]
"""Runs one statement; ``?`` or ``:name`` for parameters."""


class Reader:
    """Reads the rows of one projection, all of one moment of the log.

    Conditions are standard SQL with `:name` for the values passed by name.
    """

    def __init__(self, tables: Sequence[type[Row]], read: Read, suffix: str = "") -> None:
        """Makes a reader.

        Args:
            tables: the projection's.
            read: runs one statement in a snapshot.
            suffix: of the tables' names.
        """
        self._tables = {row.table.name: row.table for row in tables}
        self._read = read
        self._suffix = suffix

    def get(self, row: type[R], *key: Any) -> R | None:
        """The row with this key, or None."""
        table = self._table(row)
        found = self._read(table.get(self._suffix), table.stored_key(key))
        return table.loaded(found[0]) if found else None

    def select(
        self,
        row: type[R],
        where: str = "",
        *,
        order: str = "",
        limit: int | None = None,
        **params: Any,
    ) -> list[R]:
        """Rows, as their class.

        Args:
            row: Their class.
            where: A condition, such as `"total > :least"`.
            order: Names of fields to order by, with `-` for falling: `"-total, day"`. Rows that are alike in these,
                and all rows where none are named, are in the order of their keys.
            limit: How many at most.
            params: The values that `where` names.

        Raises:
            TypeError: There is no such field to order by.
            ValueError: The limit is negative.
        """
        table = self._table(row)
        sql = f"{table.select(where, self._suffix)} ORDER BY {_ordering(table, order)}"
        values = {name: encoded(value) for name, value in params.items()}
        if limit is not None:
            if limit < 0:
                raise ValueError(f"limit is {limit!r}; it must not be negative")
            sql += " LIMIT :wfes_limit"
            values["wfes_limit"] = limit
        return [table.loaded(stored) for stored in self._read(sql, values)]

    def count(self, row: type[Row], where: str = "", **params: Any) -> int:
        """How many rows there are, or how many meet a condition."""
        table = self._table(row)
        condition = f" WHERE {where}" if where else ""
        sql = f"SELECT count(*) FROM {table.name}{self._suffix}{condition}"
        found = self._read(sql, {name: encoded(value) for name, value in params.items()})
        return int(found[0][0])

    def sql(self, statement: str, **params: Any) -> Sequence[Stored]:
        """Rows of any `SELECT`, as plain tuples of what the columns hold.

        Args:
            statement: The statement; `{orders_by_day}` stands for that table of the projection.
            params: The values it names with `:name`.

        Raises:
            KeyError: The projection has no table of that name.
            ValueError: The statement does more than read.
        """
        if not _READS.match(statement):
            raise ValueError(f"a query only reads: {statement[:80]!r} must be a SELECT")

        def named(found: re.Match[str]) -> str:
            name = found[1]
            if name not in self._tables:
                raise KeyError(f"the projection has no table {name!r}; it has {', '.join(self._tables)}")
            return name + self._suffix

        values = {name: encoded(value) for name, value in params.items()}
        return self._read(_PLACE.sub(named, statement), values)

    def _table(self, row: type[Row]) -> Table:
        table = row.table
        if table.name not in self._tables:
            raise TypeError(
                f"{row.__qualname__} is a row of the table {table.name!r}, which is not one of this projection's: "
                f"{', '.join(self._tables)}"
            )
        return table


def _ordering(table: Table, order: str) -> str:
    parts = [part.strip() for part in order.split(",") if part.strip()]
    named = {part.removeprefix("-") for part in parts}
    # Without the key, which of several alike rows comes first would be the database's mood.
    parts += [part for part in table.key if part not in named]
    listed: list[str] = []
    for part in parts:
        name = part.removeprefix("-")
        table.place(name)
        listed.append(f"{name} DESC" if part.startswith("-") else name)
    return ", ".join(listed)
