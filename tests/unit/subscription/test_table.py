"""Tables of projections: what a row class says becomes columns; what they take, give back and refuse."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.subscription.table import SQLITE, Row, encoded


class Everything(Row, table="everything", key=("name", "number"), indexes=["day", ("flag", "moment")]):
    name: str
    number: int
    real: float
    flag: bool
    content: bytes
    moment: datetime
    day: date
    exact: Decimal
    tree: dict[str, Any]
    maybe: str | None = None
    anything: Any = None
    items: list[int] | None = None


class Named(Row, table="named", key="name"):
    name: str


TABLE = Everything.table
MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def row(**fields: Any) -> Everything:
    values: dict[str, Any] = {
        "name": "n",
        "number": 1,
        "real": 1.5,
        "flag": True,
        "content": b"\0x",
        "moment": MOMENT,
        "day": date(2026, 3, 1),
        "exact": Decimal("1.10"),
        "tree": {"b": [1], "a": None},
    }
    return Everything(**(values | fields))


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for row_class in (Everything, Named):
        for sql in row_class.table.create(SQLITE):
            connection.execute(sql)
    return connection


MAX = 2**63
rows = st.builds(
    row,
    name=st.text(st.characters(codec="utf-8")),
    number=st.integers(-MAX, MAX - 1),
    real=st.floats(allow_nan=False) | st.integers(-(2**80), 2**80),
    flag=st.booleans(),
    content=st.binary(),
    moment=st.datetimes(
        timezones=st.timezones(), min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)
    ),
    day=st.dates(),
    exact=st.decimals(allow_nan=False),
    tree=st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(-(2**53), 2**53) | st.booleans()),
    maybe=st.none() | st.text(st.characters(codec="utf-8")),
    anything=st.none() | st.lists(st.text(st.characters(codec="utf-8"))),
)


@given(rows)
def test_a_column_gives_back_what_it_was_given_from_the_buffer_as_from_the_database(made: Everything) -> None:
    connection = database()
    stored = TABLE.stored(made)
    connection.execute(TABLE.upsert(), stored)
    (found,) = connection.execute(TABLE.get(), TABLE.key_of(stored)).fetchall()
    connection.close()
    assert found == stored
    assert [type(value) for value in found] == [type(value) for value in stored]
    loaded = TABLE.loaded(found)
    assert loaded == TABLE.loaded(stored)
    assert loaded == row(**(vars(made) | {"real": float(made.real), "moment": made.moment.astimezone(UTC)}))
    assert TABLE.stored(loaded) == stored


@given(st.datetimes(timezones=st.timezones()), st.datetimes(timezones=st.timezones()))
def test_moments_compare_as_texts_as_they_do_in_time(one: datetime, other: datetime) -> None:
    try:
        texts = encoded(one), encoded(other)
    except OverflowError:  # before the year 1 in UTC
        return
    assert (texts[0] < texts[1]) is (one.astimezone(UTC) < other.astimezone(UTC))


def test_statements() -> None:
    assert TABLE.create(SQLITE, "__next", "_2") == [
        (
            "CREATE TABLE IF NOT EXISTS everything__next (name TEXT NOT NULL, number INTEGER NOT NULL, "
            "real REAL NOT NULL, flag INTEGER NOT NULL, content BLOB NOT NULL, moment TEXT NOT NULL, "
            "day TEXT NOT NULL, exact TEXT NOT NULL, tree TEXT NOT NULL, maybe TEXT, anything TEXT, items TEXT, "
            "PRIMARY KEY (name, number))"
        ),
        "CREATE INDEX IF NOT EXISTS everything__day_2 ON everything__next (day)",
        "CREATE INDEX IF NOT EXISTS everything__flag_moment_2 ON everything__next (flag, moment)",
    ]
    assert Named.table.upsert() == "INSERT INTO named (name) VALUES (?) ON CONFLICT (name) DO NOTHING"
    assert Named.table.delete("__next") == "DELETE FROM named__next WHERE name = ?"
    assert Named.table.select("name > ?") == "SELECT name FROM named WHERE name > ?"
    assert Named.table.get() == "SELECT name FROM named WHERE name = ?"


def test_a_row_is_replaced_by_another_of_its_key() -> None:
    connection = database()
    for number in (1, 2):
        connection.execute(TABLE.upsert(), TABLE.stored(row(maybe=str(number))))
        connection.execute(Named.table.upsert(), Named.table.stored(Named("n")))
    (found,) = connection.execute(TABLE.select()).fetchall()
    assert TABLE.loaded(found).maybe == "2"
    connection.execute(TABLE.delete(), TABLE.key_of(found))
    assert connection.execute(TABLE.select()).fetchall() == []
    assert connection.execute(Named.table.select()).fetchall() == [("n",)]
    connection.close()


class Colour(str, Enum):  # noqa: UP042 - of this kind, str() gives another text
    RED = "red"


class Level(IntEnum):
    HIGH = 3


def test_what_is_more_than_a_plain_value_is_stored_as_one() -> None:
    stored = TABLE.stored(row(name=Colour.RED, number=Level.HIGH, real=2))
    assert stored[:3] == ("red", 3, 2.0)
    assert [type(value) for value in stored[:3]] == [str, int, float]


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("name", 5, TypeError, r"everything\.name is 5; it must be str$"),
        ("name", None, TypeError, r"everything\.name is None; it must be str$"),
        ("maybe", 5, TypeError, r"everything\.maybe is 5; it must be str or None$"),
        ("name", "\ud800", ValueError, r"everything\.name cannot hold .*surrogates not allowed"),
        ("number", True, TypeError, "must be int"),
        ("number", 1.0, TypeError, "must be int"),
        ("number", MAX, ValueError, "does not fit into 64 bits"),
        ("real", "1", TypeError, "must be float"),
        ("real", True, TypeError, "must be float"),
        ("real", float("nan"), ValueError, "no database compares nan"),
        ("real", 10**400, ValueError, "too large"),
        ("flag", 1, TypeError, "must be bool"),
        ("content", "x", TypeError, "must be bytes"),
        ("moment", MOMENT.replace(tzinfo=None), ValueError, "is naive; give it a time zone"),
        ("moment", date(2026, 1, 1), TypeError, "must be datetime"),
        ("day", MOMENT, TypeError, "must be date"),
        ("exact", 1.5, TypeError, "must be Decimal"),
        ("tree", object(), TypeError, r"everything\.tree cannot hold"),
        ("tree", None, TypeError, "must be json"),
        ("anything", {1, 2}, TypeError, r"everything\.anything cannot hold"),
    ],
)
def test_what_a_column_cannot_hold_is_refused(
    field: str, value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TABLE.stored(row(**{field: value}))


def test_keys_and_conditions_are_of_the_columns_types() -> None:
    assert TABLE.stored_key(["n", 1]) == ("n", 1)
    with pytest.raises(
        TypeError, match=r"a key of everything is name, number; 1 values were given: \('n',\)"
    ):
        TABLE.stored_key(["n"])
    with pytest.raises(TypeError, match=r"everything\.number is '1'; it must be int"):
        TABLE.stored_key(["n", "1"])
    with pytest.raises(TypeError, match=r"everything\.name is None"):
        TABLE.stored_key([None, 1])
    assert TABLE.stored_equal({"tree": {"b": 1}, "maybe": None}) == {"tree": '{"b":1}', "maybe": None}
    moment = MOMENT.astimezone(timezone(timedelta(hours=2)))
    assert TABLE.stored_equal({"moment": moment}) == {"moment": "2026-03-01T12:30:00.000000+00:00"}
    with pytest.raises(TypeError, match="everything has no column 'colour'; it has name, number"):
        TABLE.stored_equal({"colour": 1})


def test_parameters_of_queries() -> None:
    assert [encoded(value) for value in (True, MOMENT, date(2026, 1, 2), Decimal("1.0"), "x", None)] == [
        1,
        "2026-03-01T12:30:00.000000+00:00",
        "2026-01-02",
        "1.0",
        "x",
        None,
    ]
    with pytest.raises(ValueError, match="naive"):
        encoded(MOMENT.replace(tzinfo=None))


def test_new_rows_have_a_key_and_defaults() -> None:
    class Day(Row, table="days", key="day"):
        day: date
        total: float = 0.0

    assert Day.new(date(2026, 1, 1)) == Day(date(2026, 1, 1), 0.0)


def declare(namespace: dict[str, Any], **options: Any) -> type[Row]:
    metaclass: Any = type(Row)
    made: type[Row] = metaclass("Bad", (Row,), namespace, **options)
    return made


@pytest.mark.parametrize(
    ("fields", "options", "error", "message"),
    [
        (
            {"a": str},
            {"table": "Orders", "key": "a"},
            ValueError,
            "table of class Bad is 'Orders'; it must be",
        ),
        ({"a": str}, {"table": "x__next", "key": "a"}, ValueError, "'x__next'"),
        ({"a": str}, {"table": "x" * 49, "key": "a"}, ValueError, "at most 48"),
        ({"a": str}, {"table": 5, "key": "a"}, ValueError, "table of class Bad is 5"),
        ({}, {"table": "x", "key": "a"}, TypeError, "has no fields"),
        ({"a": str}, {"table": "x", "key": "b"}, ValueError, "key names 'b', which is no field; it has a"),
        ({"a": str}, {"table": "x", "key": ()}, ValueError, "must name one or several fields"),
        ({"a": str}, {"table": "x", "key": ("a", "a")}, ValueError, "each once"),
        ({"a": str | None}, {"table": "x", "key": "a"}, TypeError, "'a' may be neither None nor JSON"),
        ({"a": Any}, {"table": "x", "key": "a"}, TypeError, "'a' may be neither None nor JSON"),
        ({"a": str}, {"table": "x", "key": "a", "indexes": ["c"]}, ValueError, "indexes names 'c'"),
        ({"a": set[str]}, {"table": "x", "key": "a"}, TypeError, "'a' is set.*a column holds str, int"),
        ({"a": str | int}, {"table": "x", "key": "a"}, TypeError, "'a' is str | int"),
        ({"A": str}, {"table": "x", "key": "A"}, ValueError, "'A' is no column's name"),
        (
            {"order": str},
            {"table": "x", "key": "order"},
            ValueError,
            "a field is named 'order', which is a word",
        ),
        ({"a": str}, {"table": "user", "key": "a"}, ValueError, "'user', which is a word of SQL.*'user_'"),
        ({"a": "Missing"}, {"table": "x", "key": "a"}, TypeError, "a type that is not defined.*Missing"),
    ],
)
def test_a_wrong_declaration_is_refused_when_the_class_is_made(
    fields: dict[str, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        declare({"__annotations__": fields, "__module__": __name__, "__qualname__": "Bad"}, **options)
