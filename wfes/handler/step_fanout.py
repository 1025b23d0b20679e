"""The part of ``step`` that runs many steps under one name; and what all its calls share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from wfes.core import durations
from wfes.core.durations import Duration
from wfes.core.retry import Retry
from wfes.core.types import ABSENT
from wfes.handler.asks import Ask
from wfes.handler.attempts import StepAsk
from wfes.handler.call import Call
from wfes.handler.changes import Was
from wfes.handler.fanout import FanOut, batches, keyed, watchers
from wfes.handler.scope import Scope, current

if TYPE_CHECKING:
    from wfes.handler.execution import Execution

T = TypeVar("T")
Item = TypeVar("Item")


class StepFanOut:
    """``map``, ``for_each`` and ``batch`` of one execution."""

    __slots__ = ("_calls", "_execution")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._calls = 0

    # ---------------------------------------------------------------------------------------------- fan-out

    @overload
    def map(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., Awaitable[T]],
        *,
        concurrency: int = 10,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        key: Callable[[Item], str] | None = None,
        on_error: Literal["raise"] = "raise",
        returns: type[Any] | None = None,
        thread: bool = True,
        was: Was | None = None,
    ) -> Call[list[T]]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., T],
        *,
        concurrency: int = 10,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        key: Callable[[Item], str] | None = None,
        on_error: Literal["raise"] = "raise",
        returns: type[Any] | None = None,
        thread: bool = True,
        was: Was | None = None,
    ) -> Call[list[T]]: ...

    @overload
    def map(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., Any],
        *,
        concurrency: int = 10,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        key: Callable[[Item], str] | None = None,
        on_error: Literal["collect"],
        returns: type[Any] | None = None,
        thread: bool = True,
        was: Was | None = None,
    ) -> Call[list[Any]]: ...

    def map(
        self,
        name: str,
        items: Iterable[Any],
        fn: Callable[..., Any],
        *,
        concurrency: int = 10,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        key: Callable[[Any], str] | None = None,
        on_error: Literal["raise", "collect"] = "raise",
        returns: Any = None,
        thread: bool = True,
        was: Was | None = None,
    ) -> Call[Any]:
        """Runs ``fn(item)`` for each item as a recorded step ``name/0``, ``name/1``, …; results in item order.

        Args:
            name: the name of the whole.
            items: what to map over.
            fn: called with each item.
            concurrency: how many run at a time.
            max_attempts, retry, timeout, returns, thread: as for a single step.
            key: a stable id of an item, which takes the place of its number in the path.
            was: as for a single step: the name, or names, that the whole had before.
            on_error: ``"raise"``: the failure earliest in the log is raised once running items are recorded;
                ``"collect"``: failed items give their ``StepError``.

        Raises:
            StepError: an item failed for good, and ``on_error`` is ``"raise"``.
            ValueError: two items have the same key, or ``concurrency`` is less than 1.
        """
        found = list(items)
        fan = self._fan_out(
            name,
            keyed(name, found, key),
            fn,
            concurrency,
            max_attempts,
            retry,
            timeout,
            on_error,
            returns,
            thread,
            was,
        )
        return Call(self._number(), fan.results)

    def for_each(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., Any],
        *,
        concurrency: int = 10,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        key: Callable[[Item], str] | None = None,
        on_error: Literal["raise", "collect"] = "raise",
        returns: type[Any] | None = None,
        thread: bool = True,
        was: Was | None = None,
    ) -> Call[None]:
        """As ``map``, with the results not kept."""
        found = list(items)
        fan = self._fan_out(
            name,
            keyed(name, found, key),
            fn,
            concurrency,
            max_attempts,
            retry,
            timeout,
            on_error,
            returns,
            thread,
            was,
        )
        fan.keep = False
        return Call(self._number(), fan.nothing)

    def batch(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., Any],
        *,
        batch_size: int = 20,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        thread: bool = True,
        was: Was | None = None,
    ) -> Call[None]:
        """Runs ``fn(batch)`` for consecutive batches, one after another, each a recorded step ``name/FIRST``.

        Raises:
            StepError: a batch failed for good.
            ValueError: ``batch_size`` is less than 1.
        """
        found = batches(name, list(items), batch_size)
        fan = self._fan_out(name, found, fn, 1, max_attempts, retry, timeout, "raise", None, thread, was)
        fan.keep = False
        return Call(self._number(), fan.nothing)

    def _fan_out(
        self,
        name: str,
        items: list[tuple[str, int, Any]],
        fn: Callable[..., Any],
        concurrency: int,
        max_attempts: int | None,
        retry: Retry | None,
        timeout: Duration | None,
        on_error: str,
        returns: Any,
        thread: bool,
        was: Was | None,
    ) -> FanOut:
        if not callable(fn):
            raise TypeError(f"step {name!r} takes a function of one item, not {fn!r}")
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ValueError(
                f"concurrency of {name!r} must be a whole number of at least 1, not {concurrency!r}"
            )
        if on_error not in ("raise", "collect"):
            raise ValueError(f'on_error of {name!r} must be "raise" or "collect", not {on_error!r}')
        scope = self._scope()
        path = scope.claim(name, was)
        policy = self._retry(retry, max_attempts)
        limit = self._timeout(timeout)

        def ask(key: str, index: int, item: Any) -> StepAsk:
            return StepAsk(
                self._execution,
                f"{path}/{key}",
                nested=bool(scope.path),
                fn=fn,
                args=(item,),
                retry=policy,
                timeout=limit,
                returns=ABSENT if returns is None else returns,
                thread=thread,
                once=False,
                index=index,
            )

        for watcher in watchers:
            watcher(self._execution.id, path, len(items))
        return FanOut(scope, items, ask, concurrency, collects=on_error == "collect")

    # ------------------------------------------------------------------------------------------------ inside

    def _scope(self) -> Scope:
        scope = current()
        if scope is None or scope.execution is not self._execution:
            return self._execution.root
        return scope

    def _number(self) -> int:
        self._calls += 1
        return self._calls

    def _call(self, scope: Scope, make: Callable[[], Ask]) -> Call[Any]:
        execution = self._execution
        return Call(self._number(), lambda: execution.open(scope, make()))

    def _retry(self, retry: Retry | None, max_attempts: int | None) -> Retry:
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry is {retry!r}; it must be a Retry, such as Retry(max_attempts=3)")
        policy = self._execution.workflow.retry if retry is None else retry
        return policy if max_attempts is None else policy.with_max_attempts(max_attempts)

    def _timeout(self, timeout: Duration | None) -> int | None:
        if timeout is None:
            return self._execution.workflow.timeout_micros
        return durations.micros(timeout, "timeout")
