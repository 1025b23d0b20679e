"""The buffer of rows: over a store it is the same as writing there at once; what an event did can be taken back."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.subscription import buffer, tables
from wfes.subscription.buffer import Rows
from wfes.subscription.table import SQLITE, Row, Stored, Table
from wfes.subscription.tables import Tables


class One(Row, table="ones", key="id"):
    id: int
    team: int | None = None


class Two(Row, table="twos", key=("a", "b"), indexes=["team"]):
    a: int
    b: int
    team: int | None = None


class Other(Row, table="others", key="id"):
    id: int


@dataclass
class Store:
    """A store in dictionaries."""

    rows: dict[Table, dict[Stored, Stored]] = field(default_factory=lambda: {One.table: {}, Two.table: {}})
    reads: int = 0

    def get(self, table: Table, key: Stored) -> Stored | None:
        self.reads += 1
        return self.rows[table].get(key)

    def find(self, table: Table, equal: Mapping[str, Any]) -> list[Stored]:
        return [
            stored
            for stored in self.rows[table].values()
            if all(stored[table.place(name)] == value for name, value in equal.items())
        ]

    def write(self, rows: Rows) -> None:
        for table, gone, new in rows.pending():
            for key in gone:
                self.rows[table].pop(key, None)
            for stored in new:
                self.rows[table][table.key_of(stored)] = stored


def found(rows: Rows, row: type[One | Two], **equal: Any) -> list[Stored]:
    return [row.table.stored(each) for each in rows.find(row, **equal)]


numbers = st.integers(0, 2)
teams = st.none() | st.integers(0, 1)
ones = st.builds(One, numbers, teams)
twos = st.builds(Two, numbers, numbers, teams)
actions = st.lists(
    st.tuples(st.just("put"), ones | twos)
    | st.tuples(st.just("delete"), ones | twos)
    | st.tuples(st.sampled_from(["begin", "undo", "flush", "rollback", "forget"]), st.none()),
    max_size=40,
)


@given(actions, st.booleans(), st.integers(1, 4))
def test_a_buffer_shows_what_direct_writes_would(
    actions: list[tuple[str, One | Two | None]], empty: bool, kept_max: int
) -> None:
    """`direct` is written at once; it goes back to where the event began at an undo, to the store at a rollback."""
    store, direct, begun = Store(), Store(), Store()
    rows = Rows([One, Two], store, empty=empty)
    rows.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer, "KEPT_MAX", kept_max)
        for action, row in actions:
            if row is not None:
                stored = row.table.stored(row)
                key = row.table.key_of(stored)
                if action == "put":
                    rows.put(row)
                    direct.rows[row.table][key] = stored
                else:
                    rows.delete(type(row), *key)
                    direct.rows[row.table].pop(key, None)
            elif action == "begin":
                rows.begin()
                begun = copied(direct)
            elif action == "undo":
                rows.undo()
                direct = copied(begun)
            elif action == "flush":
                store.write(rows)
                rows.applied()
                assert rows.changes == 0
                assert store.rows == direct.rows
                begun = copied(direct)
            elif action == "rollback":
                rows.discard()
                direct, begun = copied(store), copied(store)
            elif not rows.changes or not empty:
                rows.forget()
            check(rows, direct)
    store.write(rows)
    assert store.rows == direct.rows


def copied(store: Store) -> Store:
    return Store({table: dict(rows) for table, rows in store.rows.items()})


def check(rows: Rows, direct: Store) -> None:
    for number in range(3):
        seen = rows.get(One, number)
        assert (None if seen is None else One.table.stored(seen)) == direct.rows[One.table].get((number,))
        for other in range(3):
            both = rows.get(Two, number, other)
            expected = direct.rows[Two.table].get((number, other))
            assert (None if both is None else Two.table.stored(both)) == expected
        assert found(rows, Two, a=number) == in_order(direct, Two, a=number)
    for team in (None, 0, 1):
        assert found(rows, One, team=team) == in_order(direct, One, team=team)
        assert found(rows, Two, team=team) == in_order(direct, Two, team=team)
        assert found(rows, Two, a=1, team=team) == in_order(direct, Two, a=1, team=team)
    assert found(rows, One) == in_order(direct, One)


def in_order(direct: Store, row: type[Row], **equal: Any) -> list[Stored]:
    return sorted(direct.find(row.table, equal), key=row.table.key_of)


def test_a_row_is_read_once() -> None:
    store = Store()
    rows = Rows([One, Two], store)
    for _ in range(3):
        assert rows.get(One, 1) is None
    rows.put(One(1))
    store.write(rows)
    rows.applied()
    assert rows.get(One, 1) == One(1)
    assert store.reads == 1
    rows.forget()
    assert rows.get(One, 1) == One(1)
    assert store.reads == 2


def test_tables_known_to_be_empty_are_not_read() -> None:
    store = Store()
    rows = Rows([One, Two], store, empty=True)
    assert rows.get(One, 1) is None
    rows.put(One(1))
    store.write(rows)
    rows.applied()
    assert rows.get(One, 1) == One(1)
    assert store.reads == 0


def test_a_row_taken_out_changes_nothing_until_it_is_put() -> None:
    rows = Rows([One], Store())
    rows.put(One(1, 5))
    taken = rows.get(One, 1)
    assert taken is not None
    taken.team = 6
    assert rows.get(One, 1) == One(1, 5)
    rows.put(taken)
    taken.team = 7
    assert rows.get(One, 1) == One(1, 6)


def test_rows_of_others_are_refused() -> None:
    rows = Rows([One], Store())
    with pytest.raises(TypeError, match=r"Other is a row of the table 'others'.*: One; name it in `tables`"):
        rows.put(Other(1))
    with pytest.raises(TypeError, match="'others'"):
        rows.get(Other, 1)
    with pytest.raises(TypeError, match="a key of ones is id; 2 values"):
        rows.delete(One, 1, 2)
    with pytest.raises(TypeError, match="ones has no column 'colour'"):
        rows.find(One, colour=1)
    assert rows.changes == 0


@given(
    st.lists(ones | twos, max_size=20), st.lists(ones | twos, max_size=20), st.sampled_from(["", "__next"])
)
def test_tables_in_a_database_are_a_store(
    puts: list[One | Two], deletes: list[One | Two], suffix: str
) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for row in (One, Two):
        for sql in row.table.create(SQLITE, suffix):
            connection.execute(sql)
    reading = Tables(suffix)
    reading.query = lambda sql, params: connection.execute(sql, params).fetchall()
    rows = Rows([One, Two], reading)
    direct = Store()
    for changes in (puts, deletes):
        for each in changes:
            stored = each.table.stored(each)
            if changes is puts:
                rows.put(each)
                direct.rows[each.table][each.table.key_of(stored)] = stored
            else:
                rows.delete(type(each), *each.table.key_of(stored))
                direct.rows[each.table].pop(each.table.key_of(stored), None)
        tables.write(rows, connection.executemany, suffix)
        rows.applied()
        rows.forget()
        check(rows, direct)
    connection.close()
