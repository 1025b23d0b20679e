"""A call of ``step``: something to await."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Call(Coroutine[Any, Any, T]):
    """A call of ``step``: awaitable once; hashes by its number, so that sets of calls iterate alike in every run."""

    __slots__ = ("_begin", "_begun", "_running", "number")

    def __init__(self, number: int, begin: Callable[[], Awaitable[T]]) -> None:
        self.number = number
        self._begin = begin
        self._begun = False
        self._running: Generator[Any, None, T] | None = None

    def __hash__(self) -> int:
        return self.number

    def __await__(self) -> Generator[Any, None, T]:
        if self._begun:
            raise RuntimeError("a step call can be awaited once; make a task of it to await it again")
        self._begun = True
        return self._begin().__await__()

    # A coroutine too, so that `create_task` and `TaskGroup.create_task` take it.

    def send(self, value: Any, /) -> Any:
        if self._running is None:
            self._running = self.__await__()
        return self._running.send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> Any:
        if self._running is None:
            self._begun = True
            raise typ if val is None else val
        return self._running.throw(typ if val is None else val)

    def close(self) -> None:
        self._begun = True
        if self._running is not None:
            self._running.close()
