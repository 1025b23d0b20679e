"""Projections without an engine: their handlers over given events, their rows in dicts or in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wfes.core import events as e
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, Query
from wfes.subscription.reader import Reader
from wfes.subscription.table import SQLITE, Row, Stored, Table


class Origins:
    """Whose events are: workflow and key by instance."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str | None, str | None]] = {}

    def notice(self, recorded: e.Recorded) -> None:
        """Remembers a start."""
        event = recorded.event
        if isinstance(event, e.WorkflowStarted):
            self._known[recorded.originator_id] = (event.workflow, event.key)

    def origin(self, instance: str) -> tuple[str | None, str | None]:
        return self._known.get(instance, (None, None))

    def data(self, event: e.Event) -> dict[str, Any]:
        raise AssertionError("these models read the stored event")


class DictStore:
    """Tables as dicts."""

    def __init__(self, tables: Sequence[type[Row]]) -> None:
        self.tables: dict[Table, dict[Stored, Stored]] = {row.table: {} for row in tables}

    def get(self, table: Table, key: Stored) -> Stored | None:
        return self.tables[table].get(key)

    def find(self, table: Table, equal: Mapping[str, Any]) -> Sequence[Stored]:
        places = [(table.place(name), value) for name, value in equal.items()]
        rows = self.tables[table].values()
        return [row for row in rows if all(row[place] == value for place, value in places)]

    def write(self, rows: Rows) -> None:
        for table, gone, put in rows.pending():
            for key in gone:
                self.tables[table].pop(key, None)
            for stored in put:
                self.tables[table][table.key_of(stored)] = stored
        rows.applied()

    def all(self, table: Table) -> list[Stored]:
        return sorted(self.tables[table].values(), key=table.key_of)


class SqliteStore:
    """Tables in an SQLite database in memory."""

    def __init__(self, tables: Sequence[type[Row]]) -> None:
        self.connection = sqlite3.connect(":memory:")
        for row in tables:
            for sql in row.table.create(SQLITE):
                self.connection.execute(sql)

    def get(self, table: Table, key: Stored) -> Stored | None:
        found = self.read(table.get(), key)
        return found[0] if found else None

    def find(self, table: Table, equal: Mapping[str, Any]) -> Sequence[Stored]:
        return self.read(table.select(" AND ".join(f"{name} = :{name}" for name in equal)), equal)

    def write(self, rows: Rows) -> None:
        for table, gone, put in rows.pending():
            if gone:
                self.connection.executemany(table.delete(), gone)
            if put:
                self.connection.executemany(table.upsert(), put)
        rows.applied()

    def all(self, table: Table) -> list[Stored]:
        return self.read(f"{table.select()} ORDER BY {', '.join(table.key)}", ())

    def read(self, sql: str, params: Any) -> list[Stored]:
        return self.connection.execute(sql, params).fetchall()


class Fed:
    """One projection with what it was fed.

    Args:
        projection: Whose handlers run.
        sqlite: Keeps the rows in SQLite, so that queries can be asked.
        empty: The buffer relies on having seen everything, as in a rebuild.
    """

    def __init__(self, projection: Projection, *, sqlite: bool = False, empty: bool = False) -> None:
        self.projection = projection
        self.store: Any = (SqliteStore if sqlite else DictStore)(projection.tables)
        self.rows = Rows(projection.tables, self.store, empty=empty)
        self._origins = Origins()

    def feed(self, events: Iterable[e.Recorded]) -> Fed:
        """Handles events; nothing is written yet."""
        for recorded in events:
            self._origins.notice(recorded)
            if self.projection.handles(recorded.event.topic):
                self.rows.begin()
                self.projection.handle(ProjectionEvent(recorded, self._origins), self.rows)
        return self

    def write(self) -> Fed:
        """Writes what was handled, as at the end of a batch."""
        self.store.write(self.rows)
        return self

    def all(self, row: type[Row]) -> list[Any]:
        """Every row of one table, once everything is written, by key."""
        self.write()
        return [row.table.loaded(stored) for stored in self.store.all(row.table)]

    def stored(self) -> dict[str, list[Stored]]:
        """Every table as it is stored."""
        self.write()
        return {row.table.name: self.store.all(row.table) for row in self.projection.tables}

    def ask(self, query: Query[Any]) -> Any:
        """The answer to a query; for rows in SQLite."""
        self.write()
        reader = Reader(self.projection.tables, self.store.read)
        return query.run(self.projection, reader)
