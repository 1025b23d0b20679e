"""The part of ``step`` that writes to the log's own database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from wfes.core.durations import Duration
from wfes.core.retry import Retry
from wfes.core.types import ABSENT
from wfes.handler.call import Call
from wfes.handler.changes import Was
from wfes.handler.step_fanout import StepFanOut
from wfes.handler.transaction import TransactionAsk

T = TypeVar("T")


class StepTransaction(StepFanOut):
    """``transaction`` of one execution."""

    __slots__ = ()

    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: type[Any] | None = None,
        was: Was | None = None,
    ) -> Call[T]: ...

    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[..., T],
        *args: Any,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: type[Any] | None = None,
        was: Was | None = None,
    ) -> Call[T]: ...

    def transaction(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        max_attempts: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        was: Was | None = None,
    ) -> Call[Any]:
        """Runs ``fn(connection, *args)`` in a transaction of the log's own database: exactly once.

        What it writes and the step's completion are committed together; if it raises, both are undone. It may
        neither commit nor write to tables whose names begin with ``wfes_``, and asks for no steps of its own.

        Args:
            name: the step's name in this scope.
            fn: an ``async def`` or a plain function. It gets a ``sqlite3.Connection`` or a psycopg ``Connection``
                (``AsyncConnection``, if it is an ``async def``).
            args: what it is called with, behind the connection.
            max_attempts, retry, returns, was: as for a single step.
            timeout: bound on one attempt; default: the workflow's ``timeout``. On SQLite, where nobody else can
                write meanwhile, never more than 1 s.

        Raises:
            StepError: the last attempt failed, or took too long; none of its rows is there.
            UnstorableValue: the result cannot be recorded.
            ValueError: the name is empty, too long, or has a ``/`` or ``#``.
        """
        if not callable(fn):
            raise TypeError(
                f"transaction {name!r} takes a function of a connection, not {fn!r}: "
                "step.transaction(name, fn, *args)"
            )
        scope = self._scope()
        path = scope.claim(name, was)
        policy = self._retry(retry, max_attempts)
        limit = self._timeout(timeout)

        def ask() -> TransactionAsk:
            return TransactionAsk(
                self._execution,
                path,
                nested=bool(scope.path),
                fn=fn,
                args=args,
                retry=policy,
                timeout=limit,
                returns=ABSENT if returns is None else returns,
            )

        return self._call(scope, ask)
