"""`Rows.find` finds what a search through every row finds, whatever was put, deleted, undone and written before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wfes.subscription.buffer import Rows
from wfes.subscription.table import Row, Stored, Table


class Part(Row, table="parts", key=["whole", "name"]):
    whole: str
    name: int
    colour: str = ""


class Store:
    """A table as a dict."""

    def __init__(self) -> None:
        self.rows: dict[Stored, Stored] = {}

    def get(self, table: Table, key: Stored) -> Stored | None:
        return self.rows.get(key)

    def find(self, table: Table, equal: Mapping[str, Any]) -> Sequence[Stored]:
        places = [(table.place(name), value) for name, value in equal.items()]
        return [row for row in self.rows.values() if all(row[place] == value for place, value in places)]

    def flush(self, rows: Rows) -> None:
        for table, gone, put in rows.pending():
            for key in gone:
                self.rows.pop(key, None)
            for stored in put:
                self.rows[table.key_of(stored)] = stored
        rows.applied()


wholes, names, colours = st.sampled_from("ab"), st.integers(0, 3), st.sampled_from(["red", "blue"])
actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), wholes, names, colours),
        st.tuples(st.just("delete"), wholes, names),
        st.tuples(st.sampled_from(["begin", "undo", "flush", "forget"])),
    ),
    max_size=30,
)


@given(actions, st.booleans())
def test_find_agrees_with_a_search(done: list[tuple[Any, ...]], empty: bool) -> None:
    store = Store()
    rows = Rows([Part], store, empty=empty)
    model: dict[tuple[str, int], str] = {}
    before = dict(model)
    for kind, *args in done:
        match kind:
            case "put":
                rows.put(Part(*args))
                model[args[0], args[1]] = args[2]
            case "delete":
                rows.delete(Part, *args)
                model.pop((args[0], args[1]), None)
            case "undo":
                rows.undo()
                model = dict(before)
            case "flush":
                store.flush(rows)
            case "forget":
                store.flush(rows)
                rows.forget()
            case _:
                rows.begin()
        if kind != "put" and kind != "delete":
            before = dict(model)
        for whole in "ab":
            wanted = [Part(*key, colour) for key, colour in sorted(model.items()) if key[0] == whole]
            assert rows.find(Part, whole=whole) == wanted
            assert rows.find(Part, whole=whole, colour="red") == [p for p in wanted if p.colour == "red"]
        assert rows.find(Part, colour="blue") == [
            Part(*key, colour) for key, colour in sorted(model.items()) if colour == "blue"
        ]
