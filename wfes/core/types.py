"""Declared types: pydantic adapters, made once a type, and what the codec asks of them.

Invariants: `rebuild(dump(value, type_), type_)` goes by field names, never aliases, in pydantic's lax mode, so that
a model's own settings (aliases, strictness, computed fields) do not stand between a value and its return. Adapters
are kept in caches of bounded size, because a program may make types without end.
"""

# Values here are of any type at all; pyright calls what isinstance() narrows them to partially unknown.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import dataclasses
from collections import deque
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, TypeAdapter

_ADAPTERS_MAX = 2_048
_UNHASHABLE_MAX = 64


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
"""No type is declared; `None` cannot say that, for it is itself a type."""


def adapter(type_: object) -> TypeAdapter[Any]:
    """The pydantic adapter of a type or annotation; `ABSENT` stands for any JSON value.

    Raises:
        pydantic.errors.PydanticUserError: pydantic cannot validate this type.
    """
    if type_ is ABSENT:
        type_ = Any
    try:
        # `int | str` and `str | int` are equal and hash alike, yet pydantic tries their members in order: the text
        # of an annotation tells them apart. A class is known by itself.
        return _adapter(type_, None if isinstance(type_, type) else repr(type_))
    except TypeError:
        if _is_hashable(type_):
            raise
    for known, made in _unhashable:
        if known is type_:
            return made
    fresh: TypeAdapter[Any] = TypeAdapter(cast(Any, type_))
    _unhashable.append((type_, fresh))
    return fresh


@lru_cache(maxsize=_ADAPTERS_MAX)
def _adapter(type_: Any, text: str | None) -> TypeAdapter[Any]:
    del text  # a part of the cache's key only
    return TypeAdapter(type_)


_unhashable: deque[tuple[object, TypeAdapter[Any]]] = deque(maxlen=_UNHASHABLE_MAX)


def _is_hashable(type_: object) -> bool:
    try:
        hash(type_)
    except TypeError:
        return False
    return True


def json_schema(type_: object, mode: Literal["validation", "serialization"] = "validation") -> dict[str, Any]:
    """The JSON Schema of a type; `{}`, which anything fits, for `ABSENT`.

    Args:
        type_: A type or annotation.
        mode: "validation" for what comes in, "serialization" for what goes out.
    """
    return adapter(type_).json_schema(mode=mode)


def name_of(type_: object) -> str:
    """A type or annotation as a person writes it."""
    return type_.__qualname__ if type(type_) is type else repr(type_)


def dump(value: object, type_: object) -> Any:
    """`value` as plain Python data after its declared type; what does not fit the type is an error.

    Raises:
        Exception: pydantic, or a serializer of the user's own, cannot do it.
    """
    return adapter(type_).dump_python(value, mode="python", warnings="error", round_trip=True, by_alias=False)


def rebuild(data: Any, type_: object) -> Any:
    """The value whose `dump` is `data`.

    Raises:
        pydantic.ValidationError: `data` does not fit the type.
    """
    return adapter(type_).validate_python(data, strict=False, by_name=True, by_alias=False)


def rebuilt_equal(value: Any, back: Any) -> bool:
    """Whether `back` is of `value`'s type and equal to it, field by field, nan being equal to nan.

    Inside, a number may have become an equal one of another type (a float field that was given an int), but an Enum's
    member must not have become its bare value.
    """
    return type(value) is type(back) and _equal(value, back)


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Enum) or isinstance(b, Enum):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, BaseModel):
        return type(a) is type(b) and _model_parts_equal(a, b)
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(
            _equal(getattr(a, field.name, ABSENT), getattr(b, field.name, ABSENT))
            for field in dataclasses.fields(a)
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return (
            len(a) == len(b)
            and all(map(_equal, a.keys(), b.keys()))
            and all(map(_equal, a.values(), b.values()))
        )
    for kind in (list, tuple):
        if isinstance(a, kind) and isinstance(b, kind):
            return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, float) and isinstance(b, float) and a != a:
        return b != b
    return bool(a == b)


def _model_parts_equal(a: BaseModel, b: BaseModel) -> bool:
    return (
        all(
            _equal(a.__dict__.get(name, ABSENT), b.__dict__.get(name, ABSENT))
            for name in type(a).__pydantic_fields__
        )
        and _equal(a.__pydantic_extra__, b.__pydantic_extra__)
        and _equal(a.__pydantic_private__, b.__pydantic_private__)
    )
