"""How a projection is written: what its class says, what is refused when it is made, which handlers run, what queries
read."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime
from typing import Any

import pytest

from wfes.core import events as e
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on, query
from wfes.subscription.reader import Reader
from wfes.subscription.table import SQLITE, Row


class Day(Row, table="days", key="day", indexes=["total"]):
    day: date
    orders: int = 0
    total: float = 0.0


class Seen(Row, table="seen", key="position"):
    position: int
    by: str


class OrdersByDay(Projection):
    """The example everybody begins with."""

    name = "orders_by_day"
    tables = (Day,)

    @on("WorkflowCompleted", workflow="checkout")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        day = rows.get(Day, event.at.date()) or Day(event.at.date())
        day.orders += 1
        rows.put(day)

    @query
    def best(self, rows: Reader, limit: int = 10) -> list[Day]:
        """The best days."""
        return rows.select(Day, order="-total", limit=limit)


class Around:
    """What is known around events."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def data(self, event: e.Event) -> dict[str, Any]:
        self.asked.append("data")
        return {"output": 1}

    def origin(self, instance: str) -> tuple[str | None, str | None]:
        self.asked.append("origin")
        return (None, None) if instance.startswith("$") else (instance.split("-")[0], "k")


class Nothing:
    def get(self, table: Any, key: Any) -> None:
        return None

    def find(self, table: Any, equal: Any) -> list[Any]:
        return []


def shown(event: e.Event, instance: str = "checkout-1", position: int = 7) -> tuple[ProjectionEvent, Around]:
    around = Around()
    return ProjectionEvent(e.Recorded(instance, 3, event, position), around), around


def handled(projection: Projection, event: e.Event, instance: str = "checkout-1") -> list[Any]:
    rows = Rows(projection.tables, Nothing())
    rows.begin()
    projection.handle(shown(event, instance)[0], rows)
    return [stored for _, _, new in rows.pending() for stored in new]


# ---------------------------------------------------------------------------------------------- handlers


def test_handlers_of_an_event() -> None:
    projection = OrdersByDay()
    assert projection.topics == ("WorkflowCompleted",)
    assert projection.handles("WorkflowCompleted")
    assert not projection.handles("WorkflowFailed")
    assert handled(projection, e.WorkflowCompleted(at=0)) == [("1970-01-01", 1, 0.0)]
    assert handled(projection, e.WorkflowCompleted(at=0), "other-1") == []
    assert handled(projection, e.WorkflowCompleted(at=0), "$own") == []
    assert handled(projection, e.WorkflowFailed(at=0)) == []


def test_several_handlers_run_in_the_order_they_are_written_in() -> None:
    class Order(Projection):
        name = "order"
        tables = (Seen,)

        @on("WorkflowFailed", "WorkflowCompleted")
        def first(self, event: ProjectionEvent, rows: Rows) -> None:
            rows.put(Seen(1, "first"))

        @on()
        def every(self, event: ProjectionEvent, rows: Rows) -> None:
            found = rows.get(Seen, 1)
            rows.put(Seen(1, f"{found.by if found else ''} every"))

        @on("WorkflowCompleted")
        @on("StepStarted")
        def last(self, event: ProjectionEvent, rows: Rows) -> None:
            found = rows.get(Seen, 1)
            rows.put(Seen(1, f"{found.by if found else ''} last"))

    assert Order().topics == ()
    assert Order().handles("WorkflowPaused")
    assert handled(Order(), e.WorkflowCompleted(at=0)) == [(1, "first every last")]
    assert handled(Order(), e.WorkflowFailed(at=0)) == [(1, "first every")]
    assert handled(Order(), e.StepStarted(at=0, path="s")) == [(1, " every last")]
    assert handled(Order(), e.WorkflowPaused(at=0)) == [(1, " every")]


def test_a_subclass_may_replace_handlers_and_add_some() -> None:
    class More(OrdersByDay):
        name = "more"
        tables = (Day, Seen)  # type: ignore[assignment]

        @on("WorkflowCompleted")
        def completed(self, event: ProjectionEvent, rows: Rows) -> None:
            rows.put(Seen(event.position, "more"))

        @on("WorkflowFailed")
        def failed(self, event: ProjectionEvent, rows: Rows) -> None:
            rows.put(Seen(event.position, "failed"))

    assert More().topics == ("WorkflowCompleted", "WorkflowFailed")
    assert handled(More(), e.WorkflowCompleted(at=0), "any-1") == [(7, "more")]
    assert handled(OrdersByDay(), e.WorkflowCompleted(at=0)) == [("1970-01-01", 1, 0.0)]

    class Less(OrdersByDay):
        name = "less"
        tables = (Seen,)  # type: ignore[assignment]
        completed = None  # type: ignore[assignment]

        @on("WorkflowFailed")
        def failed(self, event: ProjectionEvent, rows: Rows) -> None: ...

    assert Less().topics == ("WorkflowFailed",)


def test_a_workflow_may_be_named_by_itself() -> None:
    class Checkout:
        name = "checkout"

    class Its(Projection):
        name = "its"
        tables = (Seen,)

        @on("WorkflowCompleted", workflow=Checkout())
        def completed(self, event: ProjectionEvent, rows: Rows) -> None:
            rows.put(Seen(event.position, "it"))

    assert handled(Its(), e.WorkflowCompleted(at=0)) == [(7, "it")]
    assert handled(Its(), e.WorkflowCompleted(at=0), "other-1") == []


# ------------------------------------------------------------------------------------------------ events


def test_an_event_is_opened_only_when_it_is_asked() -> None:
    event, around = shown(e.WorkflowCompleted(at=1_500_000))
    assert (event.position, event.instance, event.version, event.type) == (
        7,
        "checkout-1",
        3,
        "WorkflowCompleted",
    )
    assert event.at == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert repr(event) == "<WorkflowCompleted at 7, version 3 of 'checkout-1'>"
    assert around.asked == []
    assert event.data is event.data
    assert (event.workflow, event.key, event.workflow) == ("checkout", "k", "checkout")
    assert around.asked == ["data", "origin"]


# ----------------------------------------------------------------------------------------------- queries


def reader(*days: Day, suffix: str = "") -> Reader:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for sql in Day.table.create(SQLITE, suffix):
        connection.execute(sql)
    connection.executemany(Day.table.upsert(suffix), [Day.table.stored(day) for day in days])
    return Reader([Day], lambda sql, params: connection.execute(sql, params).fetchall(), suffix)


DAYS = [Day(date(2026, 1, number), number, total) for number, total in ((1, 5.0), (2, 9.0), (3, 9.0))]


def test_a_query_is_a_question_until_it_is_asked() -> None:
    question = OrdersByDay.best(limit=1)
    assert (question.projection, question.name) == (OrdersByDay, "best")
    assert OrdersByDay.best.__doc__ == "The best days."
    assert question.run(OrdersByDay(), reader(*DAYS)) == [DAYS[1]]
    assert OrdersByDay().best().run(OrdersByDay(), reader(*DAYS)) == [DAYS[1], DAYS[2], DAYS[0]]
    with pytest.raises(TypeError, match="unexpected keyword argument 'most'"):
        OrdersByDay.best(most=1).run(OrdersByDay(), reader())  # type: ignore[call-arg]


@pytest.mark.parametrize("suffix", ["", "__next"])
def test_what_a_reader_reads(suffix: str) -> None:
    rows = reader(*DAYS, suffix=suffix)
    assert rows.get(Day, date(2026, 1, 2)) == DAYS[1]
    assert rows.get(Day, date(2026, 1, 9)) is None
    assert rows.select(Day) == DAYS
    assert rows.select(Day, order="-total, -day") == [DAYS[2], DAYS[1], DAYS[0]]
    assert rows.select(Day, "day >= :since AND total > :least", since=date(2026, 1, 2), least=1) == DAYS[1:]
    assert rows.select(Day, limit=0) == []
    assert rows.count(Day) == 3
    assert rows.count(Day, "total = :total", total=9) == 2
    assert rows.sql("SELECT sum(orders) FROM {days} WHERE day > :day", day=date(2026, 1, 1)) == [(5,)]


def test_what_a_reader_refuses() -> None:
    rows = reader()
    with pytest.raises(
        TypeError, match=r"Seen is a row of the table 'seen'.*not one of this projection's: days"
    ):
        rows.get(Seen, 1)
    with pytest.raises(TypeError, match="days has no column 'colour'"):
        rows.select(Day, order="-colour")
    with pytest.raises(ValueError, match="limit is -1"):
        rows.select(Day, limit=-1)
    with pytest.raises(KeyError, match="seen"):
        rows.sql("SELECT * FROM {seen}")
    with pytest.raises(ValueError, match="naive"):
        rows.select(Day, "day > :day", day=datetime(2026, 1, 1))


# ----------------------------------------------------------------------------------------------- refusals


@on("WorkflowCompleted")
def handler(self: Any, event: ProjectionEvent, rows: Rows) -> None: ...


GOOD: dict[str, Any] = {"name": "good", "tables": (Day,), "handler": handler}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": "Good"}, ValueError, "name of Bad is 'Good'; it must be lower-case"),
        ({"name": "x" * 65}, ValueError, "at most 64"),
        ({"name": 5}, ValueError, "name of Bad is 5"),
        (
            {"version": 0},
            ValueError,
            "version of projection 'good' is 0; it must be a whole number from 1 on",
        ),
        ({"version": True}, ValueError, "is True"),
        ({"version": "2"}, ValueError, "is '2'"),
        ({"tables": ()}, TypeError, "'good' needs one or several tables"),
        ({"tables": (Day, Day)}, TypeError, r"of different names, not \['days', 'days'\]"),
        ({"tables": (Row,)}, TypeError, "tables of projection 'good' holds .*Row"),
        ({"tables": "days"}, TypeError, "holds 'days'; it must be classes such as"),
        ({"tables": None}, TypeError, "holds None"),
        ({"handler": None}, TypeError, r"'good' handles no event; mark a method with @on"),
    ],
)
def test_a_wrong_class_is_refused_when_it_is_made(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        type("Bad", (Projection,), {**GOOD, **changes})


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(
        ValueError, match="@on names 'OrderPaid', and there is no such event; the events are Backfill"
    ):
        on("OrderPaid")


def test_a_projection_without_a_name_is_a_base() -> None:
    class Base(Projection):
        @on("WorkflowCompleted")
        def completed(self, event: ProjectionEvent, rows: Rows) -> None: ...

    class Made(Base):
        name = "made"
        tables = (Day,)

    assert Made().topics == ("WorkflowCompleted",)
    with pytest.raises(TypeError, match="has no name"):
        Base()
    with pytest.raises(TypeError, match="has no name"):
        Projection()


def test_what_an_engine_chooses() -> None:
    assert not OrdersByDay().inline
    assert OrdersByDay(inline=True).inline
    assert OrdersByDay(url="sqlite:///reports.db").url == "sqlite:///reports.db"
    with pytest.raises(ValueError, match="'orders_by_day' is inline and in another database"):
        OrdersByDay(inline=True, url="sqlite:///reports.db")


async def later(self: Any, event: ProjectionEvent, rows: Rows) -> None:
    """Would never be awaited."""


def one_by_one(self: Any, event: ProjectionEvent, rows: Rows) -> Any:
    """Would never be run."""
    yield 1


def narrow(self: Any, event: ProjectionEvent) -> None:
    """Has no place for rows."""


def blind(self: Any) -> int:
    """Reads nothing."""
    return 1


CANNOT_RUN: list[tuple[Any, Any, str]] = [
    (on("WorkflowCompleted"), later, "@on marks later, which is async"),
    (on(), one_by_one, "@on marks one_by_one, which is async or a generator"),
    (on(), narrow, r"@on marks narrow, which cannot be called with self, event, rows"),
    (on, narrow, "@on takes names of events, not .*: write @on"),
    (on(), OrdersByDay, "@on marks OrdersByDay, which is no method"),
    (query, later, "@query marks later, which is async"),
    (query, blind, "@query marks blind, which cannot be called with self, rows"),
]


@pytest.mark.parametrize(("mark", "marked", "message"), CANNOT_RUN)
def test_what_cannot_be_run_is_refused_where_it_is_marked(mark: Any, marked: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mark(marked)
