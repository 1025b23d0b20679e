"""How a projection is written: a class with name, version, tables, a handler per event type and queries.

The same class runs in two ways. *Following*, it catches up from the log; its rows and its place in the log are one
transaction. *Inline*, its rows are written in the very transaction that appends the events. It knows nothing of
databases, transactions or threads, so it can be run, rebuilt and checked anywhere.

Everything that can be seen to be wrong is refused when the class is made.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from wfes.core.events import CATALOGUE
from wfes.errors.storage import without_password
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.reader import Reader
from wfes.subscription.table import Row

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")
H = TypeVar("H", bound=Callable[..., None])

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
_MARK = "__wfes_on__"


class Named(Protocol):
    """A workflow, as far as a projection knows it."""

    name: str


@dataclass(frozen=True, slots=True)
class _On:
    topics: tuple[str, ...]
    workflow: str | None


def on(*events: str, workflow: str | Named | None = None) -> Callable[[H], H]:
    """Makes a method of a projection the handler of these events.

    The method gets the event and the projection's rows. Several handlers of one event run in the order they are
    written in. A handler must do nothing but read the event and change rows: it is run again when the projection is
    rebuilt, and a rebuild must give the same rows.

    Args:
        events: Names of events, such as "WorkflowCompleted"; none: every event.
        workflow: Only events of this workflow's instances.

    Raises:
        ValueError: There is no event of that name.
        TypeError: What is marked is no plain method that takes an event and rows.
    """
    for name in events:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"@on takes names of events, not {name!r}: write @on('WorkflowCompleted'), or @on() for every event"
            )
        if name not in CATALOGUE:
            raise ValueError(
                f"@on names {name!r}, and there is no such event; the events are {', '.join(sorted(CATALOGUE))}"
            )
    wanted = workflow if workflow is None or isinstance(workflow, str) else workflow.name
    mark = _On(tuple(dict.fromkeys(events)), wanted)

    def mark_it(method: H) -> H:
        _check_method(method, "on", ("self", "event", "rows"))
        cast(Any, method).__dict__.setdefault(_MARK, []).append(mark)
        return method

    return mark_it


def _check_method(method: object, mark: str, parameters: Sequence[str]) -> None:
    """Refuses what would do nothing when it is called, or cannot be called."""
    name = getattr(method, "__qualname__", repr(method))
    if not inspect.isfunction(method):
        raise TypeError(f"@{mark} marks {name}, which is no method")
    if (
        inspect.iscoroutinefunction(method)
        or inspect.isgeneratorfunction(method)
        or inspect.isasyncgenfunction(method)
    ):
        raise TypeError(
            f"@{mark} marks {name}, which is async or a generator; it must be a plain method, for nobody awaits it: "
            "rows are read and written in memory"
        )
    try:
        inspect.signature(method).bind(*parameters)
    except TypeError as error:
        if mark == "on" or "too many" in str(error):
            raise TypeError(
                f"@{mark} marks {name}, which cannot be called with {', '.join(parameters)} ({error})"
            ) from None


@dataclass(frozen=True, slots=True)
class Query(Generic[T_co]):
    """A question to a projection; `Engine.query` answers it.

    Attributes:
        projection: The projection's class.
        name: The query's name.
        run: Reads the answer.
    """

    projection: type[Projection]
    name: str
    run: Callable[[Projection, Reader], T_co]


class _Query(Generic[P, T]):
    """A query as it stands in its class: called, it makes the question."""

    def __init__(self, method: Callable[Concatenate[Any, Reader, P], T]) -> None:
        self._method = method
        self.__doc__ = method.__doc__
        self.__name__ = method.__name__

    @overload
    def __get__(self, instance: None, owner: type[Projection]) -> Callable[P, Query[T]]: ...
    @overload
    def __get__(self, instance: Projection, owner: type[Projection]) -> Callable[P, Query[T]]: ...

    def __get__(self, instance: Projection | None, owner: type[Projection]) -> Callable[P, Query[T]]:
        method = self._method

        def ask(*args: P.args, **kwargs: P.kwargs) -> Query[T]:
            return Query(
                owner, method.__name__, lambda projection, rows: method(projection, rows, *args, **kwargs)
            )

        ask.__doc__ = method.__doc__
        ask.__name__ = method.__name__
        return ask


def query(method: Callable[Concatenate[Any, Reader, P], T]) -> _Query[P, T]:
    """Makes a method of a projection a query: it gets a `Reader` of the rows, and what else the caller passes.

    `OrdersByDay.best(3)` is then a question that `await engine.query(OrdersByDay.best(3))` answers. All that one query
    reads is of one moment.
    """
    _check_method(method, "query", ("self", "rows"))
    return _Query(method)


Handler = Callable[["Projection", ProjectionEvent, Rows], None]


@dataclass(frozen=True, slots=True)
class _Handling:
    method: Handler
    workflow: str | None


class Projection:
    """A read model of the log; see the module's text and `on`, `query`, `Row`.

    Attributes:
        name: Its name, unique in an engine; names beginning with `wfes_` are the engine's own.
        version: Raised whenever the handlers or the tables change; it is then rebuilt beside the old rows.
        tables: The classes of its rows.
        inline: Its rows are written with the events, in one transaction, and are never behind; every append that
            concerns it then costs a little more. False: it follows the log, a moment behind.
        url: The database of its rows, where that is not the log's own.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    tables: ClassVar[Sequence[type[Row]]]
    inline: bool = False
    url: str | None = None
    _handlers: ClassVar[Mapping[str, Sequence[_Handling]]] = {}
    _always: ClassVar[Sequence[_Handling]] = ()

    def __init__(self, *, inline: bool | None = None, url: str | None = None) -> None:
        """Makes it for one engine.

        Args:
            inline: Overrides the class's `inline`.
            url: Keeps its rows in another database: `sqlite:///reports.db` or `postgresql://host/reports`.

        Raises:
            ValueError: Inline and in another database, which cannot be one transaction.
            TypeError: The class is not complete.
        """
        if type(self) is Projection or not getattr(self, "name", None):
            raise TypeError(
                f"{type(self).__qualname__} has no name; a projection is a class with name and tables"
            )
        if inline is not None:
            self.inline = inline
        if url is not None:
            self.url = url
        if self.inline and self.url is not None:
            raise ValueError(
                f"projection {self.name!r} is inline and in another database ({without_password(self.url)!r}); rows "
                "there cannot be part of the append's transaction: leave out one of them"
            )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name: object = getattr(cls, "name", None)
        if name is None:
            return  # a base class of the user's own
        if not isinstance(name, str) or not _NAME.match(name):
            raise ValueError(
                f"name of {cls.__qualname__} is {name!r}; it must be lower-case letters, digits, - and _, at most 64"
            )
        version: object = cls.version
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(
                f"version of projection {name!r} is {version!r}; it must be a whole number from 1 on"
            )
        _check_tables(cls)
        handlers, always = _collected(cls)
        if not handlers and not always:
            raise TypeError(f"projection {name!r} handles no event; mark a method with @on(...)")
        cls._handlers, cls._always = handlers, always

    def __repr__(self) -> str:
        return f"<Projection {self.name!r} version {self.version}>"

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the events it handles; empty: every event."""
        return () if self._always else tuple(sorted(self._handlers))

    def handles(self, topic: str) -> bool:
        """Whether it has a handler for events of this name."""
        return bool(self._always) or topic in self._handlers

    def handle(self, event: ProjectionEvent, rows: Rows) -> None:
        """Runs the handlers of an event. What they raise comes out."""
        for handling in self._handlers.get(event.event.topic, self._always):
            if handling.workflow is None or handling.workflow == event.workflow:
                handling.method(self, event, rows)


def _check_tables(cls: type[Projection]) -> None:
    tables: Any = getattr(cls, "tables", ())
    rows: list[Any] = list(cast("Sequence[Any]", tables)) if isinstance(tables, (list, tuple)) else [tables]
    for row in rows:
        if not (isinstance(row, type) and issubclass(row, Row) and "table" in row.__dict__):
            raise TypeError(
                f"tables of projection {cls.name!r} holds {row!r}; it must be classes such as "
                'class Day(Row, table="orders_by_day", key="day")'
            )
    names: list[str] = [row.table.name for row in rows]
    if not names or len(set(names)) < len(names):
        raise TypeError(
            f"projection {cls.name!r} needs one or several tables of different names, not {names!r}"
        )


def _marked(cls: type[Projection]) -> Iterator[tuple[Handler, _On]]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if hasattr(member, _MARK) or name in found:
                found[name] = member
    for member in found.values():
        for mark in getattr(member, _MARK, ()):
            yield member, mark


def _collected(cls: type[Projection]) -> tuple[dict[str, list[_Handling]], list[_Handling]]:
    marked = list(_marked(cls))
    always = [_Handling(method, mark.workflow) for method, mark in marked if not mark.topics]
    topics = dict.fromkeys(topic for _, mark in marked for topic in mark.topics)
    return {
        topic: [
            _Handling(method, mark.workflow)
            for method, mark in marked
            if not mark.topics or topic in mark.topics
        ]
        for topic in topics
    }, always
