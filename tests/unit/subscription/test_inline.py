"""Inline projections by event type: rows in the append's own transaction, exactly once, and never in anybody's way."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import projected
import pytest
from histories import random_log

from wfes.core import events as e
from wfes.errors import LogUnavailable, NewerRelease, WfesError
from wfes.history import plain_data
from wfes.log.application import decode
from wfes.log.faults import FaultyLog
from wfes.log.open import open_log
from wfes.log.port import Log, Tx
from wfes.log.writer import Batch, Writer
from wfes.runtime.values import Values
from wfes.subscription import inline as inline_module
from wfes.subscription import registry
from wfes.subscription import tables as tables_module
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.inline import GetBlob, InlineProjections, Show
from wfes.subscription.projection import Projection, on
from wfes.subscription.rebuild import bring_up
from wfes.subscription.registry import Entry
from wfes.subscription.stores import LogStore, Overtaken, Target, apply
from wfes.subscription.table import SQLITE, Row
from wfes_projections import inline


class Step(Row, table="steps", key=("instance", "path"), indexes=["workflow"]):
    instance: str
    path: str
    workflow: str | None
    key: str | None
    result: Any
    position: int


class Total(Row, table="totals", key="workflow"):
    workflow: str
    steps: int = 0


class Steps(Projection):
    """A row a step, and how many each workflow did."""

    name = "steps"
    tables = (Step, Total)
    inline = True

    @on("StepCompleted")
    def completed(self, event: ProjectionEvent, rows: Rows) -> None:
        result = event.data["result"]
        step = Step(event.instance, event.data["path"], event.workflow, event.key, None, event.position)
        rows.put(step)
        if result == "boom":
            raise ValueError("boom")
        step.result = result
        rows.put(step)
        workflow = event.workflow or "?"
        total = rows.get(Total, workflow) or Total(workflow)
        total.steps = len(rows.find(Step, workflow=event.workflow))
        rows.put(total)


class Counted(Row, table="counted", key="type"):
    type: str
    count: int = 0


class Counts(Projection):
    """How often each event happened."""

    name = "wfes_counted"
    tables = (Counted,)
    inline = True

    @on()
    def counted(self, event: ProjectionEvent, rows: Rows) -> None:
        found = rows.get(Counted, event.type) or Counted(event.type)
        found.count += 1
        rows.put(found)


def show(get_blob: GetBlob) -> Show:
    values = Values(get_blob)
    return lambda event: plain_data(event, values)


class Call:
    """A member that runs a function and resolves a future."""

    withdrawable = False

    def __init__(self, function: Callable[[Tx], Any]) -> None:
        self.function = function
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def run(self, tx: Tx) -> Any:
        return self.function(tx)

    def done(self, result: Any) -> None:
        self.future.set_result(result)

    def failed(self, error: Exception) -> None:
        self.future.set_exception(error)


class Bench:
    """One process's writer, with inline projections."""

    def __init__(
        self, log: Log, projections: Sequence[Projection], versions: dict[str, int], **options: Any
    ) -> None:
        self.log = log
        self.batches: list[Batch] = []
        self.inline = InlineProjections(projections, show=show, versions=versions, url=log.url)
        self.now = 0
        self.writer = Writer(
            log,
            projections=inline(),
            event_rows=self.inline,
            clock=self._clock,
            deliver=self.batches.append,
            **options,
        )
        self.writer.start(asyncio.get_running_loop())

    def _clock(self) -> int:
        self.now += 1
        return self.now

    def submit(self, function: Callable[[Tx], Any]) -> asyncio.Future[Any]:
        call = Call(function)
        self.writer.submit(call)
        return call.future

    def append(self, stream: str, *events: e.Event) -> asyncio.Future[Any]:
        return self.submit(lambda tx: tx.append(stream, events))

    async def start(self, id: str, **fields: Any) -> None:
        await self.append(
            id, e.WorkflowStarted(at=1, workflow="wf", **fields), e.RunClaimed(at=1, worker="w", epoch=1)
        )

    async def join(self, name: str) -> bool:
        found: bool = await self.submit(lambda tx: self.inline.join(tx, name))
        return found

    async def rejoin(self, name: str) -> bool:
        """As `join`, as an engine's follower does it."""
        store = LogStore(self.log, self.writer.submit)

        def work(target: Target) -> bool:
            assert target.tx is not None
            return self.inline.join(target.tx, name)

        return await asyncio.to_thread(store.write, work)

    def entry(self, name: str = "steps") -> Entry:
        found = registry.find(self.log.read, name)
        assert found is not None
        return found


def step(path: str, result: Any = 1) -> list[e.Event]:
    return [e.StepStarted(at=1, path=path), e.StepCompleted(at=2, path=path, result=result)]


def paths(log: Log) -> list[str]:
    return [row[0] for row in log.read("SELECT path FROM steps ORDER BY position")]


def totals(log: Log) -> list[tuple[Any, ...]]:
    return log.read("SELECT workflow, steps FROM totals ORDER BY workflow")


def counted(log: Log) -> int:
    found: int = log.read("SELECT coalesce(sum(count), 0) FROM counted")[0][0]
    return found


def create(log: Log, *projections: Projection, position: int = 0) -> None:
    """Makes the tables of projections, their rows those of this position."""
    transaction = log.begin()
    for projection in projections:
        for row in projection.tables:
            for sql in row.table.create(SQLITE):
                transaction.query(sql)
        registry.put(transaction.query, Entry(projection.name, projection.version, position))
    transaction.commit()


def opened(url: str) -> FaultyLog:
    log = FaultyLog(open_log(url))
    log.open([])
    bring_up(log, inline())
    return log


@contextmanager
def bench(
    log: Log, *projections: Projection, versions: dict[str, int] | None = None, **options: Any
) -> Generator[Bench]:
    made = Bench(log, projections, versions or {}, **options)
    try:
        yield made
    finally:
        made.writer.stop()


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it did not become true in time"
        await asyncio.sleep(0.002)


Main = Callable[[], Awaitable[None]]


def run(main: Main) -> None:
    async def started() -> None:
        await main()

    asyncio.run(started())


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def log(url: str) -> Generator[FaultyLog]:
    made = opened(url)
    create(made, Steps(), Counts())
    yield made
    made.close()


# --------------------------------------------------------------------------------- the engine's own appends


def test_rows_are_there_with_the_events(log: FaultyLog) -> None:
    async def main() -> None:
        with bench(log, Steps(), Counts()) as one:
            await one.start("a", key="k")
            await one.append("a", *step("s", {"n": 1}))
            assert log.read("SELECT * FROM steps") == [("a", "s", "wf", "k", '{"n":1}', 4)]
            assert totals(log) == [("wf", 1)]
            assert counted(log) == 4
            assert one.entry().position == 4
            assert one.inline.names == {"steps", "wfes_counted"}

    run(main)


def test_a_member_sees_the_rows_of_its_own_appends_and_handlers_those_of_earlier_events(
    log: FaultyLog,
) -> None:
    async def main() -> None:
        with bench(log, Steps()) as one:
            await one.start("a")

            def run(tx: Tx) -> Any:
                tx.append("a", step("s"))
                seen = tx.query("SELECT steps FROM totals")
                tx.append("a", step("t"))
                return seen, tx.query("SELECT steps FROM totals")

            assert await one.submit(run) == ([(1,)], [(2,)])

    run(main)


def test_rows_are_not_there_where_the_events_are_not(log: FaultyLog) -> None:
    async def main() -> None:
        with bench(log, Steps(), Counts()) as one:
            await one.start("a")

            def bad(tx: Tx) -> None:
                tx.append("a", step("bad"))
                tx.query("SELECT 1")
                raise WfesError("too late")

            first = one.append("a", *step("s"))
            second = one.submit(bad)
            third = one.append("a", *step("t"))
            with pytest.raises(WfesError, match="too late"):
                await second
            await asyncio.gather(first, third)
            assert paths(log) == ["s", "t"]
            assert totals(log) == [("wf", 2)]
            assert counted(log) == 6

    run(main)


@pytest.mark.parametrize("fault", ["fail:2", "lost:2", "full:2", "away:2"])
def test_rows_are_exact_whatever_a_commit_meets(log: FaultyLog, fault: str) -> None:
    log.faults = FaultyLog(log, fault).faults
    log.commits = 0

    async def main() -> None:
        with bench(log, Steps(), Counts()) as one:
            await one.start("a")
            await one.append("a", *step("s"))
            await one.append("a", *step("t"))
            assert paths(log) == ["s", "t"]
            assert totals(log) == [("wf", 2)]
            assert counted(log) == log.max_notification_id() == one.entry("wfes_counted").position

    run(main)


def test_large_values_of_the_same_transaction_are_opened(log: FaultyLog) -> None:
    text = "x" * 2_000_000
    sealed = Values(lambda _: None).seal(text, "it")

    class Length(Row, table="lengths", key="path"):
        path: str
        length: int

    class Lengths(Projection):
        name = "lengths"
        tables = (Length,)
        inline = True

        @on("StepCompleted", workflow="wf")
        def completed(self, event: ProjectionEvent, rows: Rows) -> None:
            rows.put(Length(event.data["path"], len(event.data["result"])))

    create(log, Lengths())

    async def main() -> None:
        with bench(log, Lengths()) as one:
            await one.start("a")

            def run(tx: Tx) -> None:
                for sha256, content in sealed.blobs:
                    tx.put_blob(sha256, content)
                tx.append("a", step("s", sealed.tree))

            await one.submit(run)
            assert log.read("SELECT * FROM lengths") == [("s", 2_000_000)]

    run(main)


# ----------------------------------------------------------------------------------------- failing handlers


def test_a_handler_that_raises_stops_its_projection_and_nothing_else(
    log: FaultyLog, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with bench(log, Steps(), Counts()) as one:
            await one.start("a")
            await one.append("a", *step("s"), *step("t", "boom"), *step("u"))
            assert paths(log) == ["s"]
            entry = one.entry()
            assert (entry.status, entry.position, entry.error_position) == ("stopped", 5, 6)
            assert entry.error is not None
            assert entry.error.startswith("ValueError: boom (")
            assert "test_inline.py" in entry.error
            assert one.inline.names == {"wfes_counted"}
            assert "'steps' is stopped at position 6 (StepCompleted, version 6 of 'a')" in caplog.text
            await one.append("a", *step("v"))
            assert paths(log) == ["s"]
            assert counted(log) == 10

    run(main)


def test_a_row_that_the_database_refuses_is_the_failure_of_its_event(log: FaultyLog) -> None:
    transaction = log.begin()
    transaction.query("CREATE UNIQUE INDEX one_each ON steps (result)")
    transaction.commit()

    async def main() -> None:
        with bench(log, Steps(), Counts()) as one:
            await one.start("a")
            await one.append("a", *step("s", 1), *step("t", 2), *step("u", 1), *step("v", 3))
            assert paths(log) == ["s", "t"]
            assert totals(log) == [("wf", 2)]
            entry = one.entry()
            assert (entry.status, entry.position, entry.error_position) == ("stopped", 7, 8)
            assert counted(log) == 10

    run(main)


def test_a_failure_that_was_undone_with_its_batch_is_none(log: FaultyLog) -> None:
    async def main() -> None:
        with bench(log, Steps()) as one:
            await one.start("a")

            def bad(tx: Tx) -> None:
                tx.append("a", step("bad", "boom"))
                tx.query("SELECT 1")
                raise WfesError("too late")

            with pytest.raises(WfesError, match="too late"):
                await one.submit(bad)
            await one.append("a", *step("s"))
            assert paths(log) == ["s"]
            assert one.entry().status == "live"

    run(main)


class Odd(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("raised", [Odd(), SystemExit(3), ValueError("\ud800"), asyncio.CancelledError()])
def test_whatever_is_raised_the_writer_goes_on(log: FaultyLog, raised: BaseException) -> None:
    class Raising(Projection):
        name = "raising"
        tables = (Total,)
        inline = True

        @on("StepCompleted")
        def completed(self, event: ProjectionEvent, rows: Rows) -> None:
            raise raised

    transaction = log.begin()
    registry.put(transaction.query, Entry("raising", 1, 0))
    transaction.commit()

    async def main() -> None:
        with bench(log, Raising(), Counts()) as one:
            await one.start("a")
            await one.append("a", *step("s"))
            entry = one.entry("raising")
            assert entry.status == "stopped"
            assert entry.error is not None
            assert entry.error.startswith(type(raised).__name__)
            assert counted(log) == 4

    run(main)


def test_a_database_that_is_away_is_no_failure_of_a_handler(log: FaultyLog) -> None:
    class Sneaky(Steps):
        name = "steps"

        @on("StepCompleted")
        def completed(self, event: ProjectionEvent, rows: Rows) -> None:
            try:
                super().completed(event, rows)
            except LogUnavailable:
                rows.put(Total("wrong"))

    async def main() -> None:
        with bench(log, Sneaky()) as one:
            await one.start("a")
            query = tables_module.Tables.get
            failures = iter([LogUnavailable(log.url, "away", retryable=True)] * 2)

            def away(self: Any, table: Any, key: Any) -> Any:
                error = next(failures, None)
                if error is not None:
                    self.trouble = error
                    raise error
                return query(self, table, key)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tables_module.Tables, "get", away)
                await one.append("a", *step("s"))
            assert totals(log) == [("wf", 1)]
            assert one.entry().status == "live"

    run(main)


# ------------------------------------------------------------------------------------------- several writers


def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


@contextmanager
def two(tmp_path: Path) -> Generator[tuple[FaultyLog, FaultyLog]]:
    """Two processes' logs on one file, as far as the log can tell."""
    first, second = opened(file_url(tmp_path)), opened(file_url(tmp_path))
    create(first, Steps(), Counts())
    try:
        yield first, second
    finally:
        first.close()
        second.close()


def test_two_writers_that_both_have_it_apply_each_event_once(tmp_path: Path) -> None:
    async def main() -> None:
        with (
            two(tmp_path) as (a, b),
            bench(a, Steps(), Counts()) as one,
            bench(b, Steps(), Counts()) as other,
        ):
            await one.start("a")
            await other.start("b")
            for number in range(30):
                await asyncio.gather(
                    one.append("a", *step(f"s{number}")), other.append("b", *step(f"s{number}"))
                )
            assert totals(a) == [("wf", 60)]
            assert counted(a) == 124

    run(main)


def test_what_a_writer_without_it_appended_is_made_up_for(tmp_path: Path) -> None:
    async def main() -> None:
        with two(tmp_path) as (a, b), bench(a, Steps(), Counts()) as one, bench(b) as other:
            await one.start("a", key="k")
            await other.start("b", key="q")
            for number in range(10):
                await other.append("b", *step(f"s{number}"))
                await one.append("a", *step(f"s{number}"))
            assert totals(a) == [("wf", 20)]
            assert a.read("SELECT DISTINCT instance, key FROM steps") == [("a", "k"), ("b", "q")]
            assert counted(a) == 44

    run(main)


def test_an_idle_writer_makes_up_for_it_too(tmp_path: Path) -> None:
    async def main() -> None:
        with two(tmp_path) as (a, b), bench(a, Steps(), Counts()), bench(b) as other:
            await other.start("b")
            await other.append("b", *step("s"))
            await until(lambda: totals(a) == [("wf", 1)] and counted(a) == 4)

    run(main)


def test_a_stop_that_another_engine_recorded_is_honoured(tmp_path: Path) -> None:
    async def main() -> None:
        with two(tmp_path) as (a, b), bench(a, Steps()) as one, bench(b, Steps()) as other:
            await one.start("a")
            await other.append("a", *step("bad", "boom"))
            await one.append("a", *step("s"))
            assert paths(a) == []
            assert one.inline.names == other.inline.names == frozenset()
            assert one.entry().status == "stopped"

    run(main)


# --------------------------------------------------------------------------------------------------- joining


def test_it_takes_part_again_once_it_is_live(log: FaultyLog) -> None:
    async def main() -> None:
        with bench(log, Steps()) as one:
            await one.start("a")
            await one.append("a", *step("s"), *step("t", "boom"))
            assert not await one.join("steps")

            def retry(tx: Tx) -> None:
                entry = one.entry()
                registry.put(tx.query, Entry("steps", 1, entry.error_position))

            await one.submit(retry)
            both = asyncio.gather(one.append("a", *step("u")), one.join("steps"), one.append("a", *step("v")))
            assert (await both)[1]
            assert paths(log) == ["s", "u", "v"]
            assert totals(log) == [("wf", 3)]

    run(main)


class _Gate(Call):
    """A member that holds the writer up before it begins a transaction, and then makes none."""

    def __init__(self) -> None:
        super().__init__(lambda tx: None)
        self.reached = threading.Event()
        self.release = threading.Event()

    def begin(self, log: Log) -> Any:
        self.reached.set()
        assert self.release.wait(10)
        raise WfesError("let through")

    def failed(self, error: Exception) -> None:
        self.future.set_result(None)


@contextmanager
def together(one: Bench) -> Generator[None]:
    """What is submitted within the block is one transaction, which begins after it."""
    gate = _Gate()
    one.writer.submit(gate)
    assert gate.reached.wait(10)
    yield
    gate.release.set()


def test_who_joins_again_within_a_transaction_is_shown_nothing_twice(log: FaultyLog) -> None:
    """A follower that found its projection left out lets it join; it takes part again already by then, and the rows of
    events of this very transaction are written."""

    async def main() -> None:
        with bench(log, Steps(), Counts()) as one:
            await one.start("a")
            with together(one):
                appended = one.append("a", *step("s"))
                joining = [asyncio.ensure_future(one.rejoin(name)) for name in ("steps", "wfes_counted")]
                await until(lambda: one.writer.backlog == 4)
                commits = one.writer.commits
            assert await asyncio.gather(*joining) == [True, True]
            await appended
            assert one.writer.commits == commits + 1
            assert one.entry().status == "live", one.entry().error
            assert paths(log) == ["s"]
            assert totals(log) == [("wf", 1)]
            assert counted(log) == 4
            await one.append("a", *step("t"))
            assert totals(log) == [("wf", 2)]

    run(main)


def test_what_was_made_up_for_in_a_transaction_is_not_written_over_in_it(tmp_path: Path) -> None:
    """A follower brings rows that it made before the writer made up for the same events, and for more."""

    async def main() -> None:
        with two(tmp_path) as (a, b), bench(a, Steps()) as one, bench(b) as other:
            await one.start("a")
            base = one.entry()
            stale = [(Total.table.upsert(""), [("wf", 1)])]
            with together(one):
                await other.append("a", *step("s"))
                await other.append("a", *step("t"))
                store = LogStore(a, one.writer.submit)
                to = dataclasses.replace(base, position=4)
                late = asyncio.ensure_future(asyncio.to_thread(apply, store, base, to, stale))
                await until(lambda: one.writer.backlog == 2)
            with pytest.raises(Overtaken):
                await late
            assert totals(a) == [("wf", 2)]
            assert one.entry().position == 6

    run(main)


def test_who_is_too_far_behind_does_not_join(log: FaultyLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_module, "JOIN_EVENTS_MAX", 5)

    async def main() -> None:
        with bench(log) as other:
            await other.start("a")
            for number in range(8):
                await other.append("a", *step(f"s{number}"))
        with bench(log, Steps(), Counts()) as one:
            await one.append("a", *step("t"))
            assert one.inline.names == {"wfes_counted"}, "the engine's own is brought up, however far behind"
            assert counted(log) == 20
            assert not await one.join("steps")
            assert paths(log) == []
            monkeypatch.setattr(inline_module, "JOIN_EVENTS_MAX", 9)
            assert await one.join("steps")
            assert totals(log) == [("wf", 9)]

    run(main)


def test_rows_of_another_version_are_left_alone(log: FaultyLog) -> None:
    class Newer(Steps):
        version = 2

    async def main() -> None:
        with bench(log, Newer()) as one:
            await one.start("a")
            await one.append("a", *step("s"))
            assert paths(log) == []
            assert not await one.join("steps")

    run(main)


def test_a_writer_at_rest_takes_part_at_its_first_append(log: FaultyLog) -> None:
    async def main() -> None:
        with bench(log, Steps()) as one:
            await one.start("a")
        with bench(log, Steps()) as one:
            await one.append("a", *step("s"))
            assert paths(log) == ["s"]

    run(main)


# --------------------------------------------------------------------------------------------------- fencing


@pytest.mark.parametrize("name", ["wfes_work", "wfes_counted"])
def test_a_newer_release_stops_this_process_from_writing(tmp_path: Path, name: str) -> None:
    versions = {given.name: given.version for given in inline()}
    name = next(each for each in [*versions, "wfes_counted"] if each.endswith(name.removeprefix("wfes_")))

    async def main() -> None:
        with two(tmp_path) as (a, b), bench(a, Counts(), versions=versions) as one, bench(b) as other:
            await one.start("a")

            def take_over(tx: Tx) -> None:
                found = registry.find(tx.query, name)
                assert found is not None
                registry.put(tx.query, Entry(name, found.version + 1, found.position, generation=2))

            await other.submit(take_over)
            with pytest.raises(NewerRelease, match=f"{name}.*newer release of wfes.*restart this process"):
                await one.append("a", *step("s"))
            with pytest.raises(LogUnavailable):
                await one.append("a", *step("t"))
            assert a.max_notification_id() == 2

    run(main)


def test_an_idle_process_is_stopped_from_writing_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with two(tmp_path) as (a, b), bench(a, Counts()) as one, bench(b) as other:
            await one.start("a")
            await other.submit(lambda tx: registry.put(tx.query, Entry("wfes_counted", 2, 2)))
            await until(lambda: "this engine stops writing" in caplog.text)

    run(main)


# ------------------------------------------------------------------------------------------------------- G10


class _Whole:
    """What is around events, from the whole log."""

    def __init__(self, log: Log, events: Sequence[e.Recorded]) -> None:
        self._values = Values(log.get_blob)
        self._origins = {
            each.originator_id: (each.event.workflow, each.event.key)
            for each in events
            if isinstance(each.event, e.WorkflowStarted)
        }

    def data(self, event: e.Event) -> dict[str, Any]:
        return plain_data(event, self._values)

    def origin(self, instance: str) -> tuple[str | None, str | None]:
        return self._origins.get(instance, (None, None))


class _Nothing:
    def get(self, table: Any, key: Any) -> None:
        raise AssertionError("tables known to be empty are not read")

    def find(self, table: Any, equal: Any) -> list[Any]:
        raise AssertionError("tables known to be empty are not read")


def from_scratch(log: Log, projection: Projection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row that the handlers make of the whole log."""
    events = [decode(stored) for stored in log.select_notifications(1, 1_000_000)]
    around = _Whole(log, events)
    rows = Rows(projection.tables, _Nothing(), empty=True)
    for recorded in events:
        if projection.handles(recorded.event.topic):
            rows.begin()
            projection.handle(ProjectionEvent(recorded, around), rows)
    made: dict[str, list[tuple[Any, ...]]] = {row.table.name: [] for row in projection.tables}
    for table, _, new in rows.pending():
        made[table.name] = sorted(new, key=table.key_of)
    return made


def in_database(log: Log, projection: Projection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row as it stands."""
    return {
        row.table.name: sorted(log.read(row.table.select()), key=row.table.key_of)
        for row in projection.tables
    }


def kept() -> list[Projection]:
    return [projected.Steps(inline=True), projected.Lives(), Counts()]


class _Play:
    """Writes a random history through writers with and without the projections, and disturbs them."""

    def __init__(self, log: FaultyLog, chance: random.Random, history: Sequence[e.Recorded]) -> None:
        self.log = log
        self.chance = chance
        self.left = list(history)

    def take(self) -> list[e.Recorded]:
        count = self.chance.randint(1, 12)
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def member(self, events: Sequence[e.Recorded], *, fails: bool) -> Callable[[Tx], None]:
        looks = self.chance.random() < 0.3

        def run(tx: Tx) -> None:
            for recorded in events:
                tx.append(recorded.originator_id, [recorded.event])
                if looks:
                    tx.query("SELECT count(*) FROM kit_lives")
            if fails:
                raise WfesError("it thinks better of it")

        return run

    async def play(self) -> None:
        chance = self.chance
        while self.left:
            with_them = chance.random() < 0.7
            with bench(self.log, *(kept() if with_them else ()), cache_max=chance.choice([1, 3, 100])) as one:
                for _ in range(chance.randint(1, 8)):
                    if chance.random() < 0.2:
                        self.log.faults = FaultyLog(self.log, chance.choice(["fail:1", "lost:1"])).faults
                        self.log.commits = 0
                    futures: list[asyncio.Future[Any]] = []
                    for _ in range(chance.randint(1, 4)):
                        if self.left and chance.random() < 0.25:
                            futures.append(one.submit(self.member(self.left[:3], fails=True)))
                        futures.append(one.submit(self.member(self.take(), fails=False)))
                    for found in await asyncio.gather(*futures, return_exceptions=True):
                        assert found is None or "thinks better" in str(found), found
        with bench(self.log, *kept()) as one:
            await one.append("$last", e.ScheduleResumed(at=1))


@pytest.mark.parametrize("seed", range(40))
def test_inline_rows_equal_the_handlers_over_the_whole_log(seed: int) -> None:
    log = opened("sqlite://")
    create(log, *kept())
    history = random_log(seed)
    asyncio.run(_Play(log, random.Random(seed), history).play())
    assert log.max_notification_id() == len(history) + 1
    for projection in kept():
        entry = registry.find(log.read, projection.name)
        assert entry is not None
        assert entry.status == "live", entry.error
        assert in_database(log, projection) == from_scratch(log, projection)
    log.close()
