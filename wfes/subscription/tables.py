"""The rows of projections inside one open transaction: reading them for handlers, and writing what handlers changed.

It knows statements and one way to run them, and neither which database that is nor when the transaction ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from wfes.errors import LogUnavailable
from wfes.subscription.buffer import Rows
from wfes.subscription.table import Stored, Table

Query = Callable[[str, Sequence[object]], Sequence[Stored]]
Many = Callable[[str, Sequence[Sequence[object]]], object]


@cache
def _get(table: Table, suffix: str) -> str:
    return table.get(suffix)


@cache
def _find(table: Table, suffix: str, columns: tuple[tuple[str, bool], ...]) -> str:
    conditions = [f"{name} IS NULL" if empty else f"{name} = ?" for name, empty in columns]
    return table.select(" AND ".join(conditions), suffix)


@cache
def _upsert(table: Table, suffix: str) -> str:
    return table.upsert(suffix)


@cache
def _delete(table: Table, suffix: str) -> str:
    return table.delete(suffix)


class Tables:
    """Where the rows of a projection are: what its buffer reads from.

    Attributes:
        query: runs one statement in the open transaction; whoever opens one sets it.
        trouble: why the database could not be read, if it could not.
    """

    def __init__(self, suffix: str = "") -> None:
        """Makes one.

        Args:
            suffix: of the tables' names.
        """
        self.query: Query | None = None
        self.trouble: LogUnavailable | None = None
        self._suffix = suffix

    def get(self, table: Table, key: Stored) -> Stored | None:
        """The stored row with this key."""
        found = self._read(_get(table, self._suffix), key)
        return found[0] if found else None

    def find(self, table: Table, equal: Mapping[str, Any]) -> Sequence[Stored]:
        """The stored rows whose columns have these stored values."""
        columns = tuple((name, value is None) for name, value in equal.items())
        return self._read(
            _find(table, self._suffix, columns), [value for value in equal.values() if value is not None]
        )

    def _read(self, sql: str, params: Sequence[object]) -> Sequence[Stored]:
        assert self.query is not None, "rows are read outside a transaction"
        try:
            return self.query(sql, params)
        except LogUnavailable as error:
            # Whatever the handler makes of it: this is not its failure.
            self.trouble = error
            raise


def write(rows: Rows, many: Many, suffix: str = "") -> None:
    """Writes what is pending in a buffer.

    Args:
        rows: the buffer; it is to be told with `applied` that this was done.
        many: runs one statement for many rows in the open transaction.
        suffix: of the tables' names.
    """
    for table, gone, new in rows.pending():
        if gone:
            many(_delete(table, suffix), gone)
        if new:
            many(_upsert(table, suffix), new)
