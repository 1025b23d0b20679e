"""A call of ``step``: something to await."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Call(Generic[T]):
    """A call of ``step``: awaitable once; hashes by its number, so that sets of calls iterate alike in every run."""

    __slots__ = ("_begin", "_begun", "number")

    def __init__(self, number: int, begin: Callable[[], Awaitable[T]]) -> None:
        self.number = number
        self._begin = begin
        self._begun = False

    def __hash__(self) -> int:
        return self.number

    def __await__(self) -> Generator[Any, None, T]:
        if self._begun:
            raise RuntimeError("a step call can be awaited once; make a task of it to await it again")
        self._begun = True
        return self._begin().__await__()
