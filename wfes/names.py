"""`Event` and `Request`: names that carry the type of what comes under them.

Either is usable wherever the bare name is, and tells type checkers and pydantic what to expect. Frozen, compared by
name and type.
"""

from __future__ import annotations

import builtins
from typing import Any, Generic, NoReturn, TypeVar, cast, overload

from pydantic import ValidationError

from wfes.errors import InvalidData
from wfes.validation import checked_name, checked_type, explained, fitted

T = TypeVar("T")


class _TypedName(Generic[T]):
    """A name and the type of its payload."""

    __slots__ = ("name", "type")

    _kind = "name"
    _forbidden = ""

    name: str
    type: builtins.type[T]

    def __init__(self, name: str, type: object = Any) -> None:
        checked_name(name, self._kind, forbidden=self._forbidden)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "type", checked_type(type, f"{self._kind} {name!r}"))

    def validate(self, payload: Any) -> T:
        """The payload as one of the declared type; a model may be given as a dict.

        Raises:
            InvalidData: It does not fit.
        """
        try:
            return cast(T, fitted(self.type, payload))
        except ValidationError as error:
            raise InvalidData(self.name, explained(error), kind=self._kind) from error

    def __setattr__(self, attribute: str, value: object) -> NoReturn:
        raise AttributeError(f"{self!r} is frozen; its {attribute!r} cannot be set")

    def __delattr__(self, attribute: str) -> NoReturn:
        raise AttributeError(f"{self!r} is frozen; its {attribute!r} cannot be deleted")

    def __eq__(self, other: Any) -> bool:
        if builtins.type(self) is not builtins.type(other):
            return NotImplemented
        return bool(self.name == other.name and self.type == other.type)

    def __hash__(self) -> int:
        return hash((builtins.type(self), self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.type(self), (self.name, self.type)

    def __repr__(self) -> str:
        # A generic such as `list[int]` has the qualified name of its origin: its text says more.
        declared: Any = self.type
        text = declared.__qualname__ if isinstance(declared, builtins.type) else repr(declared)
        suffix = "" if text in ("Any", "typing.Any") else f", {text}"
        return f"{builtins.type(self).__name__}({self.name!r}{suffix})"


class Event(_TypedName[T]):
    """The name of an event sent to instances, and the type of its payload.

    Args:
        name: The event's name, at most 200 characters.
        type: The payload's type; anything pydantic validates. Without it: any JSON value.

    >>> paid = Event("order.paid", int)
    >>> paid.validate("3")
    3
    """

    __slots__ = ()
    _kind = "event"

    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...

    @overload
    def __init__(self: Event[Any], name: str, type: object = ...) -> None: ...

    def __init__(self, name: str, type: object = Any) -> None:
        super().__init__(name, type)


class Request(_TypedName[T]):
    """The name of data a handler asks for, and its type.

    Args:
        name: The request's name, at most 200 characters, without `/` and `#`.
        type: The data's type; anything pydantic validates. Without it: any JSON value.

    >>> Request("approval", bool).validate("yes")
    True
    """

    __slots__ = ()
    _kind = "request"
    _forbidden = "/#"

    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...

    @overload
    def __init__(self: Request[Any], name: str, type: object = ...) -> None: ...

    def __init__(self, name: str, type: object = Any) -> None:
        super().__init__(name, type)
