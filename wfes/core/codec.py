"""Python values as JSON trees, and back exactly as they were.

A tree holds only what orjson writes and reads back unchanged: None, bool, 64-bit int, finite float, str without lone
surrogates, list, and dict with str keys. Everything else is *tagged*: a dict whose first key starts with `~`.

| value | tree |
| --- | --- |
| int beyond 64 bits | `{"~int": hexadecimal digits}` |
| inf, -inf, nan | `{"~float": "inf"}` |
| str with lone surrogates | `{"~str": base64 of UTF-8, surrogates passed}` |
| bytes | `{"~bytes": base64}` |
| tuple | `{"~tuple": [...]}` |
| set, frozenset | `{"~set": [...]}`, `{"~frozenset": [...]}`, in the order of the items' bytes |
| dict with a key that is no plain str, or starts with `~` | `{"~dict": [[key, value], ...]}` |
| datetime, time | `{"~datetime": ISO text}`, `{"~time": ISO text}`, and `zone` (key), `offset` (µs), `name`, `fold` |
| date, timedelta | `{"~date": ISO text}`, `{"~timedelta": [days, seconds, microseconds]}` |
| Decimal, UUID | `{"~decimal": text}`, `{"~uuid": hexadecimal digits}` |
| a value with models, dataclasses or Enums in it | `{"~typed": tree of its plain data}`: at the root only |
| a value stored beside the log | `{"~blob": {"sha256": hexadecimal digits, "size": bytes}}`: at the root only |
| an encrypted value | `{"~sealed": ...}`: at the root only |

Invariants:
- `decode(encode(value))` has the same types and is equal, at every depth; both give fresh containers, never the
  caller's own.
- Types are matched exactly: a subclass (IntEnum, namedtuple, defaultdict) would not come back as itself, so it needs
  a declared type. What does not come back is refused before anything is recorded.
- No name in a tree is ever imported; a tree can be read as plain data without the code that made it.
- Released tags never change their meaning. A tag this release does not know stops the reader.
"""

# Values here are of any type at all; pyright calls type() of them partially unknown.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from pydantic_core import to_jsonable_python

from wfes.core import types
from wfes.core.types import ABSENT as ABSENT
from wfes.errors import UnknownEvent, UnstorableValue, qualified_name

Json: TypeAlias = Any
"""A tree of None, bool, int, float, str, `list[Json]` and `dict[str, Json]`."""

MARK = "~"
TYPED = "~typed"
BLOB = "~blob"
SEALED = "~sealed"

DEPTH_MAX = 200
"""Levels of JSON containers in one value; orjson writes 254, and an event puts a few around it."""

INT_MIN, INT_MAX = -(2**63), 2**63 - 1

_MINUTE = timedelta(minutes=1)
_MICROSECOND = timedelta(microseconds=1)
_NoneType = type(None)
_PLAIN: frozenset[type] = frozenset({str, int, float, bool, _NoneType})


# -- Bytes ------------------------------------------------------------------------------------------

dumps: Callable[[Json], bytes] = orjson.dumps
loads: Callable[[bytes], Json] = orjson.loads


def size_bound(tree: Json) -> int:
    """At least the number of bytes `dumps(tree)` has: an estimate for scalars, exact for containers."""
    kind = type(tree)
    if kind is str:
        return 6 * len(tree) + 2
    if kind is list or kind is dict:
        return len(orjson.dumps(tree))
    return 32


def blob_ref(sha256_hex: str, size: int) -> Json:
    """The tree that stands for a value stored beside the log.

    Args:
        sha256_hex: SHA-256 of its `dumps`, hexadecimal.
        size: Length of its `dumps` in bytes.
    """
    return {BLOB: {"sha256": sha256_hex, "size": size}}


def as_blob(tree: Json) -> tuple[str, int] | None:
    """The (sha256, size) of a `blob_ref`; None for every other tree."""
    if type(tree) is not dict or BLOB not in tree:
        return None
    ref = cast("dict[str, Any]", tree)[BLOB]
    return ref["sha256"], ref["size"]


# -- Encoding ---------------------------------------------------------------------------------------


def encode(value: object, *, where: str, type_: object = ABSENT) -> Json:
    """A fresh tree for `value`.

    A value made of the natively storable types alone ignores `type_`. Any other is dumped by pydantic after `type_`,
    and refused unless that type rebuilds it equal.

    Args:
        value: What to store.
        where: What it is for, such as "result of step 'charge'"; for the error.
        type_: Its declared type or annotation.

    Raises:
        UnstorableValue: It would not come back as it is.

    >>> encode((1, b"x"), where="example")
    {'~tuple': [1, {'~bytes': 'eA=='}]}
    """
    kind = type(value)
    if kind is str:
        if cast(str, value).isascii():
            return value
    elif value is None or kind is bool:
        return value
    try:
        return _walk(value, 1, _refuse)
    except _Refused as refused:
        if type_ is ABSENT or type_ is Any or refused.is_too_deep:  # Any declares nothing
            raise UnstorableValue(where, refused.type_name, refused.hint) from None
    except RecursionError:
        raise UnstorableValue(where, qualified_name(kind), _TOO_DEEP) from None
    return _encode_typed(value, where, type_)


def _encode_typed(value: object, where: str, type_: object) -> Json:
    try:
        data = types.dump(value, type_)
        tree = {TYPED: _walk(data, 2, _flatten)}
        back = decode(tree, type_)
        is_equal = types.rebuilt_equal(value, back)
    except _Refused as refused:
        raise UnstorableValue(where, refused.type_name, refused.hint) from None
    except Exception as problem:  # pydantic's, or the user's own serializer, validator or __eq__
        reason = f"{type(problem).__name__}: {problem}".strip()
    else:
        if is_equal:
            return tree
        what = (
            "an equal value" if type(back) is type(value) else f"a value of type {qualified_name(type(back))}"
        )
        reason = f"{'not ' if type(back) is type(value) else ''}{what} comes back"
    hint = (
        f"its declared type {types.name_of(type_)} does not rebuild it: {reason};"
        " declare the type it has, every field included"
    )
    raise UnstorableValue(where, qualified_name(type(value)), hint) from None


class _Refused(Exception):
    """A value the walk cannot store; becomes `UnstorableValue`."""

    def __init__(self, value: object, hint: str, *, is_too_deep: bool = False) -> None:
        super().__init__()
        kind = type(value)
        self.type_name = qualified_name(kind)
        self.hint = hint
        self.is_too_deep = is_too_deep


_TOO_DEEP = f"it holds itself, or is nested deeper than {DEPTH_MAX} levels in its stored form; store it flat"

_Leaf: TypeAlias = Callable[[Any, int], Json]


def _walk(value: Any, depth: int, leaf: _Leaf) -> Json:
    """The tree of a value that stands at a level `depth`; `leaf` takes what is of no native type."""
    kind = type(value)
    encoder = _ENCODERS.get(kind)
    return leaf(value, depth) if encoder is None else encoder(value, depth, leaf)


def _as_is(value: Any, depth: int, leaf: _Leaf) -> Json:
    return value


def _int(value: int, depth: int, leaf: _Leaf) -> Json:
    return value if INT_MIN <= value <= INT_MAX else {"~int": format(value, "x")}


def _float(value: float, depth: int, leaf: _Leaf) -> Json:
    return value if math.isfinite(value) else {"~float": repr(value)}


def _is_text(value: str) -> bool:
    """Whether it has no lone surrogates, which are not Unicode text."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _str(value: str, depth: int, leaf: _Leaf) -> Json:
    return value if _is_text(value) else {"~str": _base64(value.encode("utf-8", "surrogatepass"))}


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _bytes(value: bytes, depth: int, leaf: _Leaf) -> Json:
    return {"~bytes": _base64(value)}


def _items(values: Any, depth: int, leaf: _Leaf) -> list[Json]:
    """A fresh list of the trees of `values`, which stands at the level `depth`."""
    if depth > DEPTH_MAX:
        raise _Refused(values, _TOO_DEEP, is_too_deep=True)
    kinds: set[type] = set(map(type, values))
    if len(kinds) == 1:  # the common lists of one scalar type need no loop in Python
        (kind,) = kinds
        if kind is int and min(values) >= INT_MIN and max(values) <= INT_MAX:
            return list(values)
        if kind is str and all(map(str.isascii, values)):
            return list(values)
        if (kind is float and all(map(math.isfinite, values))) or kind is bool:
            return list(values)
    trees: list[Json] = []
    below = depth + 1
    for item in values:  # one Python frame a level: a value may be stored from deep inside a handler
        encoder = _ENCODERS.get(type(item))
        trees.append(leaf(item, below) if encoder is None else encoder(item, below, leaf))
    return trees


def _tuple(value: tuple[Any, ...], depth: int, leaf: _Leaf) -> Json:
    return {"~tuple": _items(value, depth + 1, leaf)}


def _set(value: set[Any], depth: int, leaf: _Leaf) -> Json:
    return {"~set": sorted(_items(value, depth + 1, leaf), key=dumps)}


def _frozenset(value: frozenset[Any], depth: int, leaf: _Leaf) -> Json:
    return {"~frozenset": sorted(_items(value, depth + 1, leaf), key=dumps)}


def _dict(value: dict[Any, Any], depth: int, leaf: _Leaf) -> Json:
    if depth > DEPTH_MAX:
        raise _Refused(value, _TOO_DEEP, is_too_deep=True)
    tree: dict[str, Json] = {}
    below = depth + 1
    for key, item in value.items():
        if type(key) is not str or key[:1] == MARK or not _is_text(key):
            return {"~dict": _pairs(value, depth + 1, leaf)}
        encoder = _ENCODERS.get(type(item))
        tree[key] = leaf(item, below) if encoder is None else encoder(item, below, leaf)
    return tree


def _pairs(value: dict[Any, Any], depth: int, leaf: _Leaf) -> list[Json]:
    if depth + 1 > DEPTH_MAX:
        raise _Refused(value, _TOO_DEEP, is_too_deep=True)
    return [[_walk(key, depth + 2, leaf), _walk(item, depth + 2, leaf)] for key, item in value.items()]


def _datetime(value: datetime, depth: int, leaf: _Leaf) -> Json:
    tree: dict[str, Json] = {"~datetime": value.isoformat()}
    if value.tzinfo is not None or value.fold:
        _describe_zone(value, tree, "~datetime")
    return tree


def _time(value: time, depth: int, leaf: _Leaf) -> Json:
    tree: dict[str, Json] = {"~time": value.isoformat()}
    if value.tzinfo is not None or value.fold:
        _describe_zone(value, tree, "~time")
    return tree


def _describe_zone(value: datetime | time, tree: dict[str, Json], tag: str) -> None:
    """Adds to `tree` what the ISO text does not say."""
    zone = value.tzinfo
    if type(zone) is ZoneInfo and type(zone.key) is str:  # pyright: ignore[reportUnnecessaryComparison]
        tree[tag] = value.replace(tzinfo=None).isoformat()
        tree["zone"] = zone.key
    elif type(zone) is timezone:
        name, offset = zone.tzname(None), zone.utcoffset(None)
        has_own_name = timezone(offset).tzname(None) != name
        if has_own_name or offset % _MINUTE:  # fromisoformat() misreads an offset of a few microseconds
            tree[tag] = value.replace(tzinfo=None).isoformat()
            tree["offset"] = offset // _MICROSECOND
        if has_own_name:
            tree["name"] = _str(name, 0, _refuse)
    elif zone is not None:
        raise _Refused(zone, "give it a datetime.timezone or a zoneinfo.ZoneInfo made from a key")
    if value.fold:
        tree["fold"] = 1


def _date(value: date, depth: int, leaf: _Leaf) -> Json:
    return {"~date": value.isoformat()}


def _timedelta(value: timedelta, depth: int, leaf: _Leaf) -> Json:
    return {"~timedelta": [value.days, value.seconds, value.microseconds]}


def _decimal(value: Decimal, depth: int, leaf: _Leaf) -> Json:
    return {"~decimal": str(value)}


def _uuid(value: UUID, depth: int, leaf: _Leaf) -> Json:
    return {"~uuid": value.hex}


_ENCODERS: dict[type, Callable[[Any, int, _Leaf], Json]] = {
    _NoneType: _as_is,
    bool: _as_is,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    list: _items,
    tuple: _tuple,
    set: _set,
    frozenset: _frozenset,
    dict: _dict,
    datetime: _datetime,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    Decimal: _decimal,
    UUID: _uuid,
}


# -- What is of no native type ----------------------------------------------------------------------


_DECLARE = "declare its type with a return annotation or returns="


def _refuse(value: Any, depth: int) -> Json:
    """The leaf of values without a declared type."""
    kind = type(value)
    if isinstance(value, Enum):
        hint = f"{_DECLARE}, or store its .value"
    elif hasattr(kind, "__pydantic_serializer__"):
        hint = f"{_DECLARE}, or store model_dump()"
    elif hasattr(kind, "__dataclass_fields__") or hasattr(kind, "_fields"):
        hint = f"{_DECLARE}, or store a dict or tuple of its fields"
    elif hasattr(value, "__await__"):
        hint = "await it and store what it gives"
    else:
        native = next((base for base in kind.__mro__[1:] if base in _ENCODERS), None)
        if native is not None:
            hint = f"store {native.__name__}(...) of it, or {_DECLARE}"
        elif hasattr(value, "__iter__"):
            hint = "store a list or dict of what is in it"
        else:
            hint = f"store plain data, or a model or dataclass, and {_DECLARE}"
    raise _Refused(value, hint)


def _flatten(value: Any, depth: int) -> Json:
    """The leaf of what pydantic dumped: goes down to native types; whether it comes back is checked afterwards."""
    if isinstance(value, Enum):
        return _walk(value.value, depth, _flatten)
    for native, plain in _PLAINERS:
        if isinstance(value, native):
            return _walk(plain(value), depth, _flatten)
    return _walk(to_jsonable_python(value), depth, _refuse)


_PLAINERS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes),
    (dict, dict),
    (list, list),
    (tuple, tuple),
    (set, set),
    (frozenset, frozenset),
)


# -- Decoding ---------------------------------------------------------------------------------------


def decode(tree: Json, type_: object = ABSENT) -> Any:
    """The value whose `encode` gave `tree`, always made of fresh containers.

    Args:
        tree: What `encode` gave. A `blob_ref` or a sealed value must have been replaced by its content.
        type_: The declared type. Without it, a value that needed one is given as its plain data.

    Raises:
        UnknownEvent: A newer release wrote the tree.
        ValueError: The tree stands for a value that is not in it; pydantic's `ValidationError` where the declared
            type does not take the data any more.

    >>> decode({"~tuple": [1, {"~bytes": "eA=="}]})
    (1, b'x')
    """
    kind = type(tree)
    if kind in _PLAIN:
        return tree
    if kind is dict and TYPED in tree:
        data = _read(tree[TYPED])
        return data if type_ is ABSENT else types.rebuild(data, type_)
    return _read(tree)


def _read(tree: Json) -> Any:
    kind = type(tree)
    if kind is dict:
        for key in tree:
            if key[:1] == MARK:
                return _read_tagged(key, tree)
            break
        value: dict[str, Any] = {}
        for key, item in tree.items():
            value[key] = item if type(item) in _PLAIN else _read(item)
        return value
    if kind is list:
        return _read_items(tree)
    return tree


def _read_items(trees: list[Json]) -> list[Any]:
    if _PLAIN.issuperset(map(type, trees)):
        return trees.copy()
    values: list[Any] = []
    for tree in trees:
        values.append(tree if type(tree) in _PLAIN else _read(tree))  # noqa: PERF401, no further frame a level
    return values


def _read_tagged(tag: str, tree: dict[str, Json]) -> Any:
    decoder = _DECODERS.get(tag)
    if decoder is not None:
        return decoder(tree[tag], tree)
    if tag in (BLOB, SEALED, TYPED):
        raise ValueError(
            f"a {tag!r} value must be resolved before it is decoded, and stands at the root only"
        )
    raise UnknownEvent(f"value tag {tag}", "a newer release wrote this value")


def _read_text(data: str) -> str:
    return b64decode(data).decode("utf-8", "surrogatepass")


def _read_datetime(text: str, tree: dict[str, Json]) -> datetime:
    value = datetime.fromisoformat(text)
    return (
        value if len(tree) == 1 else value.replace(tzinfo=_read_zone(value, tree), fold=tree.get("fold", 0))
    )


def _read_time(text: str, tree: dict[str, Json]) -> time:
    value = time.fromisoformat(text)
    return (
        value if len(tree) == 1 else value.replace(tzinfo=_read_zone(value, tree), fold=tree.get("fold", 0))
    )


def _read_zone(value: datetime | time, tree: dict[str, Json]) -> Any:
    if "zone" in tree:
        return ZoneInfo(tree["zone"])
    if "offset" in tree:
        offset = timedelta(microseconds=tree["offset"])
        return timezone(offset, _read(tree["name"])) if "name" in tree else timezone(offset)
    return value.tzinfo


_DECODERS: dict[str, Callable[[Any, dict[str, Json]], Any]] = {
    "~int": lambda data, tree: int(data, 16),
    "~float": lambda data, tree: float(data),
    "~str": lambda data, tree: _read_text(data),
    "~bytes": lambda data, tree: b64decode(data),
    "~tuple": lambda data, tree: tuple(_read_items(data)),
    "~set": lambda data, tree: set(_read_items(data)),
    "~frozenset": lambda data, tree: frozenset(_read_items(data)),
    "~dict": lambda data, tree: {_read(key): _read(item) for key, item in data},
    "~datetime": _read_datetime,
    "~date": lambda data, tree: date.fromisoformat(data),
    "~time": _read_time,
    "~timedelta": lambda data, tree: timedelta(*data),
    "~decimal": lambda data, tree: Decimal(data),
    "~uuid": lambda data, tree: UUID(hex=data),
}
