"""Tables of projections: what a row class declares, and the statements that keep it.

A row is a plain dataclass; its table, columns and keys follow from its annotations, so that a projection says nothing
about any database. A database's own types stand in one `Dialect`; the statements are standard SQL with ``?`` for
parameters and need nothing else.

Invariants: a table's live name is the declared one, and a copy that is built beside it has a suffix; what a column
gives back equals what was put into it; a value that its column cannot hold is refused when it is put, naming it.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from operator import attrgetter
from typing import Any, ClassVar, Self, Union, cast, dataclass_transform, get_args, get_origin

import orjson

from wfes.subscription.words import RESERVED

Stored = tuple[Any, ...]
"""A row, or a row's key, as its columns hold it."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}\Z")
_NAME_MAX = 63
_INTEGER_MAX = 1 << 63
NEXT = "__next"
"""Suffix of a table that is being built to take the live one's place."""
ASKED = "__asked"
"""Suffix of the name under which somebody asks who follows a projection."""
OLD = "__old"
"""Suffix of a table whose place was taken, until it is gone."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a database calls the kinds of columns.

    Attributes:
        name: the database's name.
        types: kind of column to SQL type.
    """

    name: str
    types: Mapping[str, str]


SQLITE = Dialect(
    "sqlite",
    {
        "str": "TEXT",
        "int": "INTEGER",
        "float": "REAL",
        "bool": "INTEGER",
        "bytes": "BLOB",
        "datetime": "TEXT",
        "date": "TEXT",
        "Decimal": "TEXT",
        "json": "TEXT",
    },
)
POSTGRESQL = Dialect(
    "postgresql",
    {
        # In the order of code points, as Python has it, whatever the database's own collation is.
        "str": 'TEXT COLLATE "C"',
        "int": "BIGINT",
        "float": "DOUBLE PRECISION",
        "bool": "SMALLINT",
        "bytes": "BYTEA",
        "datetime": 'TEXT COLLATE "C"',
        "date": 'TEXT COLLATE "C"',
        "Decimal": 'TEXT COLLATE "C"',
        "json": "TEXT",
    },
)
DIALECTS: Mapping[str, Dialect] = {given.name: given for given in (SQLITE, POSTGRESQL)}
"""By the name that a log gives its own."""


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError(f"{value!r} is naive; give it a time zone")
    # Always UTC and of one width, so that text compares as time does.
    return value.astimezone(UTC).isoformat(timespec="microseconds")


_DECODE: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "Decimal": Decimal,
    "json": orjson.loads,
}
_KINDS: dict[Any, str] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    bytes: "bytes",
    datetime: "datetime",
    date: "date",
    Decimal: "Decimal",
}
_ACCEPTED = (
    "str, int, float, bool, bytes, datetime, date, Decimal, a dict, a list or Any (as JSON), "
    "or one of these with | None"
)


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        return _UNFIT
    if not value.isascii():
        value.encode()  # half of a surrogate pair is no text: UnicodeEncodeError is a ValueError
    return value if type(value) is str else str.__str__(value)


def _whole(value: Any) -> Any:
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, int):
            return _UNFIT
        value = int(value)
    if not -_INTEGER_MAX <= value < _INTEGER_MAX:
        raise ValueError("it does not fit into 64 bits")
    return value


def _real(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (float, int)):
        return _UNFIT
    value = float(value)
    if value != value:
        raise ValueError("no database compares nan; leave it out")
    return value


def _flag(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else _UNFIT


def _content(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytes) else _UNFIT


def _when(value: Any) -> Any:
    return _moment(value) if isinstance(value, datetime) else _UNFIT


def _day(value: Any) -> Any:
    # A datetime is no date, whatever Python's classes say.
    return value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else _UNFIT


def _exact(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else _UNFIT


def _tree(value: Any) -> Any:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


_UNFIT: Any = object()
_STORE: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "int": _whole,
    "float": _real,
    "bool": _flag,
    "bytes": _content,
    "datetime": _when,
    "date": _day,
    "Decimal": _exact,
    "json": _tree,
}
"""By kind: a value as its column holds it, or `_UNFIT`."""


def encoded(value: Any) -> Any:
    """A value of a query's parameter as a column of its type holds it.

    Raises:
        ValueError: a moment has no time zone.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: its name, that of the row class's field.
        kind: what it holds: ``str``, ``int``, …, ``json``.
        nullable: whether it may hold None.
    """

    name: str
    kind: str
    nullable: bool


class Table:
    """A table as a row class declares it.

    Attributes:
        name: its name in the database.
        row: the row class.
        columns: in the order of the fields.
        key: names of the columns that identify a row.
        indexes: names of columns, an index each.
    """

    def __init__(
        self,
        name: str,
        row: type[Row],
        columns: Sequence[Column],
        key: Sequence[str],
        indexes: Sequence[Sequence[str]],
    ) -> None:
        self.name = name
        self.row = row
        self.columns = tuple(columns)
        self.key = tuple(key)
        self.indexes = tuple(tuple(index) for index in indexes)
        names = [column.name for column in self.columns]
        places = [names.index(part) for part in self.key]
        self._places = places
        self._place = {column.name: place for place, column in enumerate(self.columns)}
        self._one_key = places[0] if len(places) == 1 else -1
        getter = attrgetter(*names)
        self._values: Callable[[Any], Stored] = getter if len(names) > 1 else lambda row: (getter(row),)
        self._store = [(_STORE[column.kind], column) for column in self.columns]
        self._decoders = [
            (place, _DECODE[column.kind])
            for place, column in enumerate(self.columns)
            if column.kind in _DECODE
        ]

    def __repr__(self) -> str:
        return f"<Table {self.name!r}>"

    # -- Values ------------------------------------------------------------------------------------------------------

    def stored(self, row: Row) -> Stored:
        """A row as its columns hold it.

        Raises:
            TypeError: a field holds what its column cannot.
            ValueError: a number is out of bounds, or a moment has no time zone.
        """
        stored: list[Any] = []
        for value, (store, column) in zip(self._values(row), self._store, strict=True):
            if value is None and column.nullable:
                stored.append(None)
                continue
            try:
                found = store(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise self._refused(column, value, error) from error
            if found is _UNFIT or value is None:
                raise self._unfit(column, value)
            stored.append(found)
        return tuple(stored)

    def _value(self, place: int, value: Any) -> Any:
        """One column's value as it holds it."""
        store, column = self._store[place]
        if value is None and column.nullable:
            return None
        try:
            found = store(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._refused(column, value, error) from error
        if found is _UNFIT or value is None:
            raise self._unfit(column, value)
        return found

    def _refused(self, column: Column, value: Any, error: Exception) -> ValueError | TypeError:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return kind(f"{self.name}.{column.name} cannot hold {value!r}: {error}")

    def _unfit(self, column: Column, value: Any) -> TypeError:
        wanted = column.kind + (" or None" if column.nullable else "")
        return TypeError(f"{self.name}.{column.name} is {value!r}; it must be {wanted}")

    def loaded(self, stored: Stored) -> Any:
        """The row of what its columns hold."""
        if not self._decoders:
            return self.row(*stored)
        values = list(stored)
        for place, decode in self._decoders:
            if values[place] is not None:
                values[place] = decode(values[place])
        return self.row(*values)

    def key_of(self, stored: Stored) -> Stored:
        """The key of a stored row."""
        if self._one_key >= 0:
            return (stored[self._one_key],)
        return tuple([stored[place] for place in self._places])

    def stored_key(self, key: Sequence[Any]) -> Stored:
        """A key given as Python values, as the columns hold it.

        Raises:
            TypeError: it has another number of parts than the table's key, or one that its column cannot hold.
            ValueError: as for `stored`.
        """
        if len(key) != len(self.key):
            raise TypeError(
                f"a key of {self.name} is {', '.join(self.key)}; {len(key)} values were given: {tuple(key)!r}"
            )
        return tuple([self._value(place, part) for place, part in zip(self._places, key, strict=True)])

    def stored_equal(self, equal: Mapping[str, Any]) -> dict[str, Any]:
        """Columns and the values they must have, as they hold them.

        Raises:
            TypeError: the table has no such column, or it cannot hold the value.
            ValueError: as for `stored`.
        """
        return {
            name: None if value is None else self._value(self.place(name), value)
            for name, value in equal.items()
        }

    def place(self, column: str) -> int:
        """Where a column stands.

        Raises:
            TypeError: the table has no such column.
        """
        try:
            return self._place[column]
        except KeyError:
            raise TypeError(
                f"{self.name} has no column {column!r}; it has {', '.join(self._place)}"
            ) from None

    # -- Statements --------------------------------------------------------------------------------------------------

    def create(self, dialect: Dialect, suffix: str = "", label: str = "") -> list[str]:
        """The statements that make the table and its indexes.

        Args:
            dialect: the database's.
            suffix: of the table's name.
            label: part of the indexes' names, which are unique in a database and stay when a table is renamed.
        """
        columns = [
            f"{column.name} {dialect.types[column.kind]}{'' if column.nullable else ' NOT NULL'}"
            for column in self.columns
        ]
        name = self.name + suffix
        made = [
            f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(columns)}, PRIMARY KEY ({', '.join(self.key)}))"
        ]
        made.extend(
            f"CREATE INDEX IF NOT EXISTS {self._index(index, label)} ON {name} ({', '.join(index)})"
            for index in self.indexes
        )
        return made

    def _index(self, columns: Sequence[str], label: str) -> str:
        """The name of an index; a long one is cut, and told apart by a digest, because databases cut names as well."""
        name = f"{self.name}__{'_'.join(columns)}"
        if len(name) + len(label) > _NAME_MAX:
            digest = sha256(name.encode()).hexdigest()[:8]
            name = f"{name[: _NAME_MAX - len(label) - 9]}_{digest}"
        return name + label

    @property
    def _listed(self) -> str:
        return ", ".join(column.name for column in self.columns)

    def upsert(self, suffix: str = "") -> str:
        """The statement that writes one row; its parameters are the stored row."""
        rest = [column.name for column in self.columns if column.name not in self.key]
        change = (
            "DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in rest)
            if rest
            else "DO NOTHING"
        )
        return (
            f"INSERT INTO {self.name}{suffix} ({self._listed}) VALUES ({', '.join('?' * len(self.columns))}) "
            f"ON CONFLICT ({', '.join(self.key)}) {change}"
        )

    def delete(self, suffix: str = "") -> str:
        """The statement that removes one row; its parameters are the stored key."""
        return f"DELETE FROM {self.name}{suffix} WHERE {' AND '.join(f'{part} = ?' for part in self.key)}"

    def select(self, where: str = "", suffix: str = "") -> str:
        """The statement that reads whole rows."""
        return f"SELECT {self._listed} FROM {self.name}{suffix}{f' WHERE {where}' if where else ''}"

    def get(self, suffix: str = "") -> str:
        """The statement that reads one row; its parameters are the stored key."""
        return self.select(" AND ".join(f"{part} = ?" for part in self.key), suffix)


@dataclass_transform(field_specifiers=(dataclasses.field,))
class Row:
    """A row of a projection's table: a dataclass whose fields are the columns.

    Declared with the table's name and key, and its indexes where there are queries that want them. Fields hold `str`,
    `int`, `float`, `bool`, `bytes`, aware `datetime`, `date`, `Decimal` or, as JSON, a `dict`, a `list` or `Any`; with
    `| None` they may be empty.

    >>> from datetime import date
    >>> class Day(Row, table="orders_by_day", key="day", indexes=["total"]):
    ...     day: date
    ...     orders: int = 0
    ...     total: float = 0.0
    >>> Day(date(2026, 3, 1), total=9.5)
    Day(day=datetime.date(2026, 3, 1), orders=0, total=9.5)
    """

    table: ClassVar[Table]

    def __init_subclass__(
        cls, *, table: str, key: str | Sequence[str], indexes: Sequence[str | Sequence[str]] = ()
    ) -> None:
        super().__init_subclass__()
        dataclass(cls)
        cls.table = _table(cls, table, key, indexes)

    @classmethod
    def new(cls, *key: Any) -> Self:
        """A row with this key and every other field at its default."""
        return cls(**dict(zip(cls.table.key, key, strict=True)))


def _table(cls: type[Row], name: object, key: object, indexes: Sequence[str | Sequence[str]]) -> Table:
    where = f"class {cls.__qualname__}"
    if not isinstance(name, str) or not _NAME.match(name) or NEXT in name or OLD in name:
        raise ValueError(
            f"table of {where} is {name!r}; it must be lower-case letters, digits and underscores, at most 48"
        )
    _check_word(f"table of {where}", name)
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise TypeError(f"a field of {where} has a type that is not defined: {error}") from error
    columns = [_column(where, field.name, hints[field.name]) for field in dataclasses.fields(cast(Any, cls))]
    if not columns:
        raise TypeError(f"{where} has no fields; a row needs at least its key")
    known = [column.name for column in columns]
    keys = _names(where, "key", key, known)
    for part in keys:
        if columns[known.index(part)].nullable or columns[known.index(part)].kind == "json":
            raise TypeError(f"{where}: the key's field {part!r} may be neither None nor JSON")
    return Table(name, cls, columns, keys, [_names(where, "indexes", index, known) for index in indexes])


def _check_word(what: str, name: str) -> None:
    if name in RESERVED:
        raise ValueError(
            f"{what} is named {name!r}, which is a word of SQL itself; choose another name, such as {name + '_'!r}"
        )


def _names(where: str, what: str, given: object, known: Sequence[str]) -> tuple[str, ...]:
    names: tuple[Any, ...] = (given,) if isinstance(given, str) else tuple(cast("Sequence[Any]", given))
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: {what} names {name!r}, which is no field; it has {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{where}: {what} is {given!r}; it must name one or several fields, each once")
    return names


def _column(where: str, name: str, hint: Any) -> Column:
    if not _NAME.match(name):
        raise ValueError(
            f"{where}: {name!r} is no column's name; use lower-case letters, digits and underscores"
        )
    _check_word(f"{where}: a field", name)
    nullable = False
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        nullable = len(rest) < len(get_args(hint))
        hint = rest[0] if len(rest) == 1 else hint
    if hint is Any:
        return Column(name, "json", True)
    if get_origin(hint) in (dict, list) or hint in (dict, list):
        return Column(name, "json", nullable)
    kind = _KINDS.get(hint)
    if kind is None:
        raise TypeError(f"{where}: the field {name!r} is {hint!r}; a column holds {_ACCEPTED}")
    return Column(name, kind, nullable)
