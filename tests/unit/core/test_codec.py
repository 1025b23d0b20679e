"""The codec: what is stored comes back exactly, and what would not come back is refused."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import enum
import math
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Generic, NamedTuple, Optional, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, SecretStr, computed_field
from typing_extensions import TypedDict

from wfes.core import codec
from wfes.core.codec import ABSENT, as_blob, blob_ref, decode, dumps, encode, loads, size_bound
from wfes.errors import UnknownEvent, UnstorableValue

# -- Exact equality ---------------------------------------------------------------------------------


def float_key(value: float) -> object:
    return "nan" if math.isnan(value) else struct.pack("<d", value)


def exact(value: Any) -> object:
    """A value whose plain equality is type-and-value equality of `value` at every depth."""
    kind = type(value)
    if kind is float:
        return "float", float_key(value)
    if kind in (list, tuple):
        return kind.__name__, [exact(item) for item in value]
    if kind in (set, frozenset):
        return kind.__name__, sorted(map(exact, value), key=repr)
    if kind is dict:
        return "dict", [(exact(key), exact(item)) for key, item in value.items()]
    if kind is datetime or kind is time:
        return kind.__name__, value.replace(tzinfo=None).isoformat(), value.fold, repr(value.tzinfo)
    if kind is Decimal:
        return "Decimal", value.as_tuple()
    return kind.__name__, repr(value)


def is_stored_form(tree: Any) -> bool:
    kind = type(tree)
    if kind is list:
        return all(map(is_stored_form, tree))
    if kind is dict:
        return all(type(key) is str and is_stored_form(item) for key, item in tree.items())
    return kind in (NoneType, bool, int, float, str)


ZONES = ["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
offsets = st.timedeltas(min_value=timedelta(hours=-23), max_value=timedelta(hours=23)) | st.integers(
    -1439, 1439
).map(lambda minutes: timedelta(minutes=minutes))
zones: st.SearchStrategy[tzinfo | None] = (
    st.none()
    | st.just(UTC)
    | st.builds(timezone, offsets)
    | st.builds(timezone, offsets, st.text(max_size=5))
    | st.sampled_from(ZONES).map(ZoneInfo)
)


def placed(at: Any, zone: tzinfo | None, fold: int) -> Any:
    return at.replace(tzinfo=zone, fold=fold)


datetimes: st.SearchStrategy[datetime] = st.builds(
    placed,
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),
    zones,
    st.sampled_from([0, 1]),
)
times: st.SearchStrategy[time] = st.builds(placed, st.times(), zones, st.sampled_from([0, 1]))
texts = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["~", "~tuple", "~x", "\ud83d\ude00", "é"]
)
scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**300, -(10**300)])
    | st.floats()
    | texts
    | st.binary()
    | datetimes
    | st.dates()
    | times
    | st.timedeltas()
    | st.decimals().filter(lambda value: not value.is_snan())
    | st.uuids()
)
hashables: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(hashables, max_size=4)
        | st.frozensets(hashables, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=12,
)


# -- Native values ----------------------------------------------------------------------------------


@given(values)
@example({"~tuple": [1]})
@example({"~blob": {"sha256": "", "size": 1}})
@example({"a": 1, "~typed": 2})
@example([-0.0, math.inf, -math.inf, math.nan])
@example(datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")))
@example(Decimal("sNaN123"))
@example(time(1, tzinfo=timezone(timedelta(microseconds=1))))
@example(datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=-1), "~\ud800")))
@example({True: "a", None: "b", 2: "c", (): "d", frozenset(): "e"})
def test_native_values_come_back_exactly(value: Any) -> None:
    tree = encode(value, where="value")
    assert is_stored_form(tree)
    assert exact(decode(tree)) == exact(value)
    stored = dumps(tree)
    assert exact(loads(stored)) == exact(tree)
    assert exact(decode(loads(stored))) == exact(value)
    assert size_bound(tree) >= len(stored)
    assert as_blob(tree) is None


@given(values)
def test_a_declared_type_does_not_touch_native_values(value: Any) -> None:
    tree = encode(value, where="value", type_=list[bytes])
    assert exact(decode(tree, list[bytes])) == exact(value)


@given(st.sets(hashables))
def test_sets_are_stored_in_one_order(value: set[Any]) -> None:
    again: set[Any] = set()
    for item in sorted(value, key=hash, reverse=True):
        again.add(item)
    assert dumps(encode(value, where="value")) == dumps(encode(again, where="value"))


def containers(value: Any) -> list[Any]:
    """Every mutable container in a value, itself included."""
    kind = type(value)
    if kind is dict:
        return [value, *containers(list(value.items()))[1:]]
    if kind not in (list, tuple, set, frozenset):
        return []
    inner = [found for item in value for found in containers(item)]
    return inner if kind in (tuple, frozenset) else [value, *inner]


@given(values)
def test_nothing_mutable_is_shared(value: Any) -> None:
    tree = encode(value, where="value")
    first, second = decode(tree), decode(tree)
    pools = [containers(value), containers(tree), containers(first), containers(second)]
    seen = [id(item) for pool in pools for item in {id(item): item for item in pool}.values()]
    assert len(seen) == len(set(seen))


def test_the_stored_form_is_what_is_documented() -> None:
    assert encode((1, b"x"), where="") == {"~tuple": [1, {"~bytes": "eA=="}]}
    assert encode({2, 1}, where="") == {"~set": [1, 2]}
    assert encode({"~a": 1}, where="") == {"~dict": [["~a", 1]]}
    assert encode({1: 2}, where="") == {"~dict": [[1, 2]]}
    assert encode(2**64, where="") == {"~int": "10000000000000000"}
    assert encode(math.inf, where="") == {"~float": "inf"}
    assert encode(timedelta(1, 2, 3), where="") == {"~timedelta": [1, 2, 3]}
    assert encode(date(2024, 1, 2), where="") == {"~date": "2024-01-02"}
    assert encode(Decimal("1.50"), where="") == {"~decimal": "1.50"}
    assert encode(UUID(int=1), where="") == {"~uuid": "00000000000000000000000000000001"}
    at = datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))
    assert encode(at, where="") == {"~datetime": "2024-10-27T02:30:00", "zone": "Europe/Paris", "fold": 1}
    assert encode(time(1, 2, tzinfo=UTC), where="") == {"~time": "01:02:00+00:00"}
    named = timezone(timedelta(hours=1), "CET")
    assert encode(time(1, tzinfo=named), where="") == {
        "~time": "01:00:00",
        "offset": 3_600_000_000,
        "name": "CET",
    }


def test_an_int_may_have_more_digits_than_python_prints() -> None:
    assert decode(encode([10**5000, -(10**5000)], where="")) == [10**5000, -(10**5000)]


def test_a_blob_reference_is_told_from_user_data() -> None:
    ref = blob_ref("ab" * 32, 7)
    assert as_blob(ref) == ("ab" * 32, 7)
    assert as_blob(encode(ref, where="")) is None
    assert decode(encode(ref, where="")) == ref
    with pytest.raises(ValueError, match="resolved"):
        decode(ref)


def test_a_newer_tag_stops_the_reader() -> None:
    with pytest.raises(UnknownEvent, match="~quaternion"):
        decode([{"~quaternion": 1}])


# -- Refusals ---------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


class Item(BaseModel):
    name: str
    price: float = 0.0


@dataclasses.dataclass
class Node:
    value: Any
    children: list[Node] = dataclasses.field(default_factory=list["Node"])


class Text(str):
    pass


Pair: Any = namedtuple("Pair", "a b")  # pyright: ignore[reportUntypedNamedTuple]


class Offset(tzinfo):
    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(0)

    def dst(self, dt: datetime | None) -> None:
        return None

    def tzname(self, dt: datetime | None) -> str:
        return "offset"


@pytest.mark.parametrize(
    ("value", "type_name", "hint"),
    [
        (Colour.RED, "Colour", "returns="),
        (Level.LOW, "Level", "returns="),
        (Point(1, 2), "Point", "returns="),
        (Item(name="tea"), "Item", "returns="),
        (Node(1), "Node", "returns="),
        (Text("a"), "Text", "store str"),
        (defaultdict(int, {"a": 1}), "defaultdict", "store dict"),
        (OrderedDict[str, int](a=1), "OrderedDict", "store dict"),
        (Counter("aab"), "Counter", "store dict"),
        (Pair(1, 2), "Pair", "returns="),
        (object(), "object", "plain data"),
        (bytearray(b"x"), "bytearray", "list"),
        (range(3), "range", "list"),
        (iter([1]), "list_iterator", "list"),
        (1j, "complex", "plain data"),
        (Item, "ModelMetaclass", ""),
        (datetime(2024, 1, 1, tzinfo=Offset()), "Offset", "zoneinfo"),
    ],
)
def test_what_does_not_come_back_is_refused(value: Any, type_name: str, hint: str) -> None:
    for nested in (value, [value], ({"a": value},), {1: value}):
        with pytest.raises(UnstorableValue) as caught:
            encode(nested, where="result of step 'charge'")
        assert caught.value.type_name.rpartition(".")[2] == type_name
        assert "result of step 'charge'" in str(caught.value)
        assert hint in caught.value.hint


def test_an_unawaited_call_is_named() -> None:
    async def forgotten() -> None: ...

    call = forgotten()
    with pytest.raises(UnstorableValue, match="await it"):
        encode(call, where="value")
    call.close()


def test_cycles_and_depth_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    wide: dict[str, Any] = {}
    wide["a"] = wide["b"] = wide
    pair: list[Any] = [1]
    pair.append((pair, pair))
    for value in (cycle, wide, pair):
        with pytest.raises(UnstorableValue, match="holds itself"):
            encode(value, where="value")
        with pytest.raises(UnstorableValue, match="holds itself"):
            encode(value, where="value", type_=list[Any])
    node = Node(1)
    node.children.append(node)
    with pytest.raises(UnstorableValue):
        encode(node, where="value", type_=Node)


WRAPPERS: list[Callable[[Any], Any]] = [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), lambda v: {1: v}]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_what_is_deep_but_allowed_is_written_and_read(wrap: Callable[[Any], Any]) -> None:
    value: Any = None
    deepest = None
    for _ in range(codec.DEPTH_MAX + 1):
        value = wrap(value)
        try:
            deepest = encode(value, where="value"), value
        except UnstorableValue:
            break
    else:
        raise AssertionError("no limit was met")
    assert deepest is not None
    tree, stored = deepest
    assert decode(loads(dumps({"e": {"v": tree}}))["e"]["v"]) == stored


# -- Declared types ---------------------------------------------------------------------------------

T = TypeVar("T")


class Order(BaseModel):
    """Everything a model may hold."""

    id: UUID
    colour: Colour
    items: list[Item]
    placed: datetime
    where: Path
    point: Point
    by_level: dict[Level, tuple[int, ...]] = {}
    note: Optional["Note"] = None  # noqa: UP037, UP045


class Note(BaseModel):
    text: str


class Aliased(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", serialize_by_alias=True)
    size: int = Field(alias="Size", serialization_alias="SIZE")
    colour: Colour = Colour.RED

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.size


class Box(BaseModel, Generic[T]):
    content: T


class Movie(TypedDict):
    title: str
    item: Item


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


@dataclasses.dataclass(eq=False, slots=True)
class Plain:
    total: float
    colour: Colour = Colour.RED


TEA = Item(name="tea", price=2.5)
ORDER = Order(
    id=UUID(int=7),
    colour=Colour.BLUE,
    items=[TEA, Item(name="cup")],
    placed=datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
    where=Path("/tmp/x"),
    point=Point(1, 2),
    by_level={Level.LOW: (1, 2)},
    note=Note(text="hi"),
)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (TEA, Item),
        (ORDER, Order),
        ([TEA, None], list[Item | None]),
        ((1, TEA), tuple[int, Item]),
        ({"a": [TEA]}, dict[str, list[Item]]),
        (Colour.RED, Colour),
        (Level.LOW, Level),
        ({Colour.RED: 1}, dict[Colour, int]),
        ({Colour.RED}, set[Colour]),
        (Point(1, 2), Point),
        (Node(1, [Node((2, b"x")), Node(None)]), Node),
        (Aliased(Size=3), Aliased),
        (Box[Item](content=TEA), Box[Item]),
        (Movie(title="x", item=TEA), Movie),
        (Extra.model_validate({"a": 1, "b": (2,)}), Extra),
        (RootModel[list[Item]]([TEA]), RootModel[list[Item]]),
        (TEA, Annotated[Item, Field(description="unhashable")]),
        (TEA, Optional[Item]),  # noqa: UP045
        (TEA, Colour | Item),
        (defaultdict(int, {"a": 1}), defaultdict[str, int]),
        (OrderedDict[str, int](a=1), OrderedDict[str, int]),
        (Path("/tmp"), Path),
    ],
)
def test_declared_types_rebuild_their_values(value: Any, type_: Any) -> None:
    tree = encode(value, where="value", type_=type_)
    assert list(tree) == [codec.TYPED]
    stored = dumps(tree)
    assert loads(stored) == tree
    back = decode(loads(stored), type_)
    assert type(back) is type(value)
    assert back == value
    assert repr(back) == repr(value)
    assert back is not value or isinstance(value, enum.Enum)
    plain = decode(tree)  # an auditor without the code
    assert exact(decode(encode(plain, where="plain"))) == exact(plain)
    assert encode(back, where="value", type_=type_) == tree


def test_nan_and_identity_equality_do_not_stand_in_the_way() -> None:
    tree = encode(Plain(total=math.nan), where="value", type_=Plain)
    back = decode(tree, Plain)
    assert math.isnan(back.total)
    assert back.colour is Colour.RED
    assert encode([Item(name="a", price=math.nan)], where="value", type_=list[Item])


def test_an_int_in_a_float_field_is_equal_enough() -> None:
    assert decode(encode(Plain(total=5), where="value", type_=Plain), Plain).total == 5


def test_a_value_without_models_ignores_the_model_it_is_declared_as() -> None:
    assert encode({"name": "tea"}, where="value", type_=Item) == {"name": "tea"}
    assert decode({"name": "tea"}, Item) == {"name": "tea"}
    assert encode([], where="value", type_=list[Item]) == []


class Special(Item):
    extra: int = 1


class Excluding(BaseModel):
    a: int
    b: int = Field(default=1, exclude=True)


class Private(BaseModel):
    a: int
    _b: int = PrivateAttr(default=1)


text: Any = "5"


def private() -> Private:
    value = Private(a=1)
    value._b = 2
    return value


class Failing(BaseModel):
    a: int

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (TEA, Any),
        ([TEA], list),
        (TEA, ABSENT),
        (TEA, Colour),
        (TEA, dict[str, Any]),
        ([Special(name="a")], list[Item]),
        (Special(name="a"), Item),
        ({"secret": SecretStr("x")}, dict[str, SecretStr]),
        (Excluding(a=1, b=2), Excluding),
        (private(), Private),
        ([Level.LOW], list[Any]),
        (Node([Level.LOW]), Node),
        (Node(object()), Node),
        (object(), object),
        (TEA, "Unknown"),
        (Item.model_construct(name=3), Item),
        (Plain(total=text), Plain),
    ],
)
def test_a_type_that_does_not_rebuild_its_value_is_refused(value: Any, type_: Any) -> None:
    with pytest.raises(UnstorableValue, match="declare"):
        encode(value, where="value", type_=type_)


def test_a_models_own_equality_is_not_asked() -> None:
    assert decode(encode(Failing(a=1), where="value", type_=Failing), Failing).a == 1


def test_equal_unions_in_another_order_keep_their_own_adapter() -> None:
    from wfes.core import types

    assert types.adapter(int | str) is types.adapter(int | str)
    assert types.adapter(int | str) is not types.adapter(str | int)
    annotated = Annotated[int, Field(gt=1)]
    assert types.adapter(annotated) is types.adapter(annotated)
    assert types.json_schema(ABSENT) == {}
    assert types.json_schema(Item)["properties"]["name"]["type"] == "string"
