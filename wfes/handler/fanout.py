"""``map``, ``for_each`` and ``batch``: many steps under one name, so many at a time.

Driven by the futures' own callbacks instead of a task an item, so that 100,000 items cost what their steps cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from wfes import errors
from wfes.core.ids import check_name
from wfes.handler.attempts import StepAsk
from wfes.handler.scope import Scope

Items = list[tuple[str, int, Any]]
"""The last part of an item's path, its index, the item."""

Watcher = Callable[[str, str, int], None]
watchers: list[Watcher] = []
"""Told the instance, the path and the number of items of every fan-out made in this process, from the loop's thread:
how many there will be is not in the log, and a progress bar wants to know. They must not raise."""


def keyed(name: str, items: list[Any], key: Callable[[Any], str] | None) -> Items:
    """The items of a map with the last parts of their paths.

    Raises:
        ValueError: two items have the same key, or a key cannot be part of a path.
    """
    if key is None:
        return [(str(index), index, item) for index, item in enumerate(items)]
    found: Items = []
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        text = check_name(key(item), f"key of an item of {name!r}")
        if text in seen:
            raise ValueError(
                f"items {seen[text]} and {index} of {name!r} have the same key {text!r}; keys must differ"
            )
        seen[text] = index
        found.append((text, index, item))
    return found


def batches(name: str, items: list[Any], batch_size: int) -> Items:
    """The items cut into consecutive batches, each known by the index of its first item.

    Raises:
        ValueError: ``batch_size`` is less than 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size of {name!r} must be a whole number of at least 1, not {batch_size!r}")
    return [
        (str(first), first, items[first : first + batch_size]) for first in range(0, len(items), batch_size)
    ]


class FanOut:
    """The running of one step a item, ``concurrency`` at a time.

    On a failure (unless it ``collects``) no further item begins; those that run are awaited, and the failure that
    was released first, which is the earliest in the log, is raised.
    """

    def __init__(
        self,
        scope: Scope,
        items: Items,
        ask: Callable[[str, int, Any], StepAsk],
        concurrency: int,
        *,
        collects: bool,
    ) -> None:
        self._scope = scope
        self._items = items
        self._ask = ask
        self._concurrency = concurrency
        self._collects = collects
        self.keep = True
        self._results: list[Any] = []
        self._next = 0
        self._running: dict[int, asyncio.Future[Any]] = {}
        self._failure: BaseException | None = None
        self._over: asyncio.Future[None] | None = None

    async def results(self) -> list[Any]:
        """Runs everything; the results in item order."""
        if self._items:
            if self.keep:
                self._results = [None] * len(self._items)
            await self._run()
        return self._results

    async def nothing(self) -> None:
        """Runs everything."""
        await self.results()

    async def _run(self) -> None:
        self._over = asyncio.get_running_loop().create_future()
        try:
            self._fill()
            await self._over
        except BaseException:
            self._over.cancel()
            for future in list(self._running.values()):
                future.cancel()
            raise
        if self._failure is not None:
            raise self._failure

    def _fill(self) -> None:
        while (
            self._next < len(self._items) and len(self._running) < self._concurrency and self._failure is None
        ):
            number = self._next
            self._next += 1
            future = self._scope.execution.open(self._scope, self._ask(*self._items[number]))
            self._running[number] = future
            future.add_done_callback(partial(self._done, number))

    def _done(self, number: int, future: asyncio.Future[Any]) -> None:
        self._running.pop(number, None)
        assert self._over is not None
        if self._over.done():
            if not future.cancelled():
                future.exception()
            return
        self._take(number, future)
        try:
            self._fill()
        except errors.Suspended as error:
            self._failure = error
        if not self._running:
            self._over.set_result(None)

    def _take(self, number: int, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._failure = self._failure or asyncio.CancelledError()
            return
        error = future.exception()
        if error is None:
            if self.keep:
                self._results[number] = future.result()
        elif self._collects and isinstance(error, errors.WfesError):
            if self.keep:
                self._results[number] = error
        else:
            self._failure = self._failure or error
