"""The engine's calls, without a worker: what is recorded, what is refused, what handles show."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import (
    Engine,
    Event,
    Status,
    Step,
    Workflow,
    acting_as,
    workflow,
)
from wfes.core import events as e
from wfes.core.ids import derived_id
from wfes.errors import (
    DuplicateWorkflow,
    EngineNotOpen,
    InstanceEnded,
    InstanceExists,
    InstanceNotFound,
    InvalidData,
    InvalidInput,
    LogUnavailable,
    NotSupported,
    OutsideHandler,
    RequestNotPending,
    UnknownWorkflow,
    UnstorableValue,
    WfesError,
    WorkflowCancelled,
    WrongWorkflow,
)
from wfes.log.port import Tx
from wfes.views import DataRequest


class Order(BaseModel):
    id: str
    items: list[str] = []


class Progress(BaseModel):
    priced: int = 0


@workflow(requests={"approval": bool}, deadline="1h", state=Progress, on="order.placed")
async def checkout(order: Order, step: Step) -> str:
    """Sells."""
    return order.id


@workflow
async def other(step: Step) -> None: ...


class Append:
    def __init__(self, stream: str, *events: e.Event) -> None:
        self.stream = stream
        self.events = events

    def run(self, tx: Tx) -> Any:
        return tx.append(self.stream, self.events)


CLAIM = e.RunClaimed(at=1, worker="w-1", epoch=1, code={"digest": "d"})


def opened(
    test: Callable[[Engine], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Runs a test in an open engine without a worker."""

    @functools.wraps(test)
    def run() -> None:
        async def main() -> None:
            async with Engine("sqlite://", workflows=[checkout, other], worker=False) as engine:
                await test(engine)

        asyncio.run(main())

    # pytest would look at its parameters.
    vars(run).pop("__wrapped__")
    return run


async def head(engine: Engine) -> int:
    return (await engine.instances(limit=1)).position


# -- Making and opening ----------------------------------------------------------------------------------------------


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="sqlite:///"):
        Engine("mysql://x")
    with pytest.raises(TypeError, match=r"is no workflow; decorate it with @workflow"):
        Engine("sqlite://", workflows=[lambda: None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="several workflows"):
        Engine("sqlite://", workflows=checkout)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_running is 0"):
        Engine("sqlite://", max_running=0)
    for option in ("keys", "conversations"):
        made: Any = {option: ["x"]}
        with pytest.raises(NotSupported, match=f"{option}= is not supported"):
            Engine("sqlite://", **made)


def test_two_workflows_of_one_name_are_refused() -> None:
    @workflow(name="checkout")
    async def second() -> None: ...

    with pytest.raises(DuplicateWorkflow, match=r"'checkout'.*second"):
        Engine("sqlite://", workflows=[checkout, second])
    Engine("sqlite://", workflows=[checkout, checkout])


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WFES_URL", "sqlite:///there.db")
    assert Engine().url == "sqlite:///there.db"
    monkeypatch.delenv("WFES_URL")
    assert Engine().url == "sqlite:///wfes.db"


def test_an_engine_is_opened_once() -> None:
    async def main() -> None:
        engine = Engine("sqlite://", worker=False)
        with pytest.raises(EngineNotOpen, match="not open"):
            await engine.start("x")
        async with engine:
            with pytest.raises(EngineNotOpen, match="opened before"):
                async with engine:
                    pass
            await engine.instances()
        with pytest.raises(EngineNotOpen, match="closed"):
            await engine.instances()
        with pytest.raises(EngineNotOpen, match="opened before"):
            await engine.open()
        await engine.close()
        with pytest.raises(EngineNotOpen, match="no engine is open"):
            await other.start()

    asyncio.run(main())


def test_a_failed_opening_leaves_nothing_running(tmp_path: Path) -> None:
    file = tmp_path / "no.db"
    file.write_text("this is no database, but long enough to be looked at" * 20)

    async def main() -> None:
        engine = Engine(f"sqlite:///{file}", workflows=[checkout])
        with pytest.raises(LogUnavailable):
            async with engine:
                pass
        with pytest.raises(EngineNotOpen):
            await engine.instances()

    asyncio.run(main())


def test_a_definition_is_recorded_when_it_changes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def definitions(*workflows: Workflow[Any, Any]) -> int:
        async with Engine(url, workflows=workflows, worker=False) as engine:
            return await head(engine)

    @workflow(name="other", version="2")
    async def changed() -> None: ...

    assert asyncio.run(definitions(checkout, other)) == 2
    assert asyncio.run(definitions(checkout, other)) == 2
    assert asyncio.run(definitions(checkout, changed)) == 3


# -- Starting --------------------------------------------------------------------------------------------------------


@opened
async def test_a_start_is_a_handle_with_a_snapshot(engine: Engine) -> None:
    with acting_as("alice"):
        run = await checkout.start(
            Order(id="o-1"), key="k", tags=["a", "b", "a"], conversation="c-1", delay="10m"
        )
    assert run.workflow == "checkout"
    assert run.input == Order(id="o-1")
    assert run.status is Status.PENDING
    assert (run.key, run.tags, run.conversation, run.version) == ("k", ("a", "b"), "c-1", 1)
    assert [run.output, run.error, run.progress, run.parent] == [None] * 4
    assert run.waiting_for == []
    assert run.state == Progress()
    assert run.created_at.tzinfo is UTC
    assert run.deadline == run.created_at + timedelta(hours=1)
    (event,) = await run.history()
    assert (event.type, event.version, event.actor, event.instance) == ("WorkflowStarted", 1, "alice", run.id)
    assert event.data["input"] == {"id": "o-1", "items": []}
    assert event.data["not_before"] == run.created_at + timedelta(minutes=10)


@opened
async def test_a_dict_is_fitted_to_the_input_type(engine: Engine) -> None:
    run = await engine.start("checkout", {"id": "o-1"})
    assert run.input == Order(id="o-1")


@opened
async def test_bad_starts_record_nothing(engine: Engine) -> None:
    before = await head(engine)
    wrong: Any = lambda: None  # noqa: E731
    with pytest.raises(InvalidInput, match="id: Field required"):
        await engine.start("checkout", {"items": []})
    with pytest.raises(InvalidInput, match="takes no input"):
        await engine.start("other", 3)
    with pytest.raises(UnknownWorkflow, match="'nothing'"):
        await engine.start("nothing", 3)
    with pytest.raises(TypeError, match="is no workflow"):
        await engine.start(wrong)
    with pytest.raises(ValueError, match=r"\$"):
        await other.start(id="$key/x")
    with pytest.raises(ValueError, match="negative"):
        await other.start(delay=-1)
    with pytest.raises(TypeError, match="tags is the text"):
        await other.start(tags="urgent")
    with pytest.raises(ValueError, match="key"):
        await other.start(key="")
    with pytest.raises(NotSupported, match="connection="):
        await other.start(connection=object())
    with pytest.raises(UnstorableValue, match="input of workflow 'nothing'"):
        await engine.start("nothing", object())
    assert await head(engine) == before


@opened
async def test_an_id_is_one_instance_for_ever(engine: Engine) -> None:
    run = await checkout.start(Order(id="o-1"), id="mine")
    again = await checkout.start(Order(id="o-1"), id="mine")
    assert run == again
    assert hash(run) == hash(again)
    with pytest.raises(InstanceExists):
        await checkout.start(Order(id="o-2"), id="mine")


@opened
async def test_get_or_create_is_exact_under_concurrency(engine: Engine) -> None:
    runs = await asyncio.gather(*(other.get_or_create(key="k") for _ in range(50)))
    assert len({run.id for run in runs}) == 1
    await runs[0].cancel()
    assert (await other.get_or_create(key="k", statuses=[Status.CANCELLED])).id == runs[0].id
    assert (await other.get_or_create(key="k")).id != runs[0].id
    with pytest.raises(ValueError, match="there is no status 'done'"):
        await engine.get_or_create(other, key="k", statuses=["done"])


@opened
async def test_get_finds_any_instance_or_one_of_a_workflow(engine: Engine) -> None:
    run = await other.start()
    assert await Workflow.get(run.id) == await other.get(run.id) == await engine.get(run.id) == run
    assert await engine.get("other", run.id) == run
    with pytest.raises(WrongWorkflow, match="'checkout'"):
        await checkout.get(run.id)
    for id in ("no-such", "$workflow/other"):
        with pytest.raises(InstanceNotFound):
            await Workflow.get(id)


# -- Asking ----------------------------------------------------------------------------------------------------------


@opened
async def test_cancelling_what_never_ran_ends_it(engine: Engine) -> None:
    run = await other.start()
    await run.cancel("no need", actor="bob")
    await run.cancel()
    with pytest.raises(WorkflowCancelled, match="no need"):
        await run.result()
    await run.refresh()
    assert (run.status, run.reason, run.version) == (Status.CANCELLED, "no need", 2)
    assert (await run.history(after=1))[0].actor == "bob"
    for refused in (run.send("x"), run.pause(), run.resume(), run.set_timeout("1s"), run.retry()):
        with pytest.raises(InstanceEnded):
            await refused


@opened
async def test_set_timeout_takes_exactly_one_moment_to_come(engine: Engine) -> None:
    run = await other.start()
    moment = datetime.now(UTC) + timedelta(hours=1)
    wrong: list[dict[str, Any]] = [{}, {"in_": "1s", "at": moment}]
    for arguments in wrong:
        with pytest.raises(TypeError, match="exactly one"):
            await run.set_timeout(**arguments)
    with pytest.raises(ValueError, match="naive"):
        await run.set_timeout(at=moment.replace(tzinfo=None))
    with pytest.raises(ValueError, match="has passed"):
        await run.set_timeout(at=moment - timedelta(hours=2))
    with pytest.raises(ValueError, match="negative"):
        await run.set_timeout(-1)
    await run.set_timeout(at=moment)
    assert (await run.refresh()).deadline == moment
    assert run.version == 2


@opened
async def test_send_counts_an_id_once_and_fits_the_payload(engine: Engine) -> None:
    run = await other.start()
    paid = Event("paid", int)
    await run.send(paid, "3", id="e-1")
    await run.send("paid", 4, id="e-1")
    with pytest.raises(InvalidData, match="event 'paid'"):
        await run.send(paid, "three")
    (event,) = await run.history(after=1)
    assert event.data == {"event": "paid", "payload": 3, "id": "e-1"}


@opened
async def test_pause_and_resume(engine: Engine) -> None:
    run = await other.start()
    await run.pause("lunch")
    assert (await run.refresh()).status is Status.PAUSED
    assert run.reason == "lunch"
    await run.pause()
    await run.resume()
    await run.resume()
    assert (await run.refresh()).status is Status.PENDING
    assert run.version == 3


@opened
async def test_complete_is_for_the_handler_alone(engine: Engine) -> None:
    run = await other.start()
    with pytest.raises(OutsideHandler, match=r"complete\(\)"):
        run.complete()


async def ask(engine: Engine, *, at: int = 2, name: str = "approval", type: str = "checkout") -> str:
    """An instance with an open request, as its owner would have recorded it; the request's id."""
    run = await engine.start(type, Order(id="o") if type == "checkout" else None)
    id = derived_id(run.id, name)
    asked = e.RequestIssued(at=at, path=name, id=id, name=name, message="may I?", schema={"type": "boolean"})
    await engine.perform("test", Append(run.id, CLAIM, asked))
    return id


@opened
async def test_the_first_answer_wins(engine: Engine) -> None:
    await ask(engine)
    (request,) = await engine.requests()
    assert (request.workflow, request.name, request.message) == ("checkout", "approval", "may I?")
    assert (request.schema, request.step, request.deadline) == ({"type": "boolean"}, "approval", None)
    with pytest.raises(InvalidData, match="request 'approval'"):
        await checkout.provide(request, "perhaps")
    with pytest.raises(WrongWorkflow):
        await other.provide(request, True)
    answers = await asyncio.gather(
        *(checkout.provide(request, True, actor=f"a-{n}") for n in range(50)), return_exceptions=True
    )
    assert answers.count(None) == 1
    assert sum(isinstance(answer, RequestNotPending) for answer in answers) == 49
    assert list(await engine.requests()) == []
    event = (await engine.history(request.instance))[-1]
    assert event.data == {"path": "approval", "data": True}
    assert event.actor == "a-0"


@opened
async def test_a_request_is_answered_by_its_id(engine: Engine) -> None:
    id = await ask(engine)
    with pytest.raises(InvalidData):
        await engine.provide(None, id, "perhaps")
    await engine.provide("checkout", id, "yes")
    with pytest.raises(RequestNotPending, match=id):
        await engine.provide(None, id, True)
    with pytest.raises(RequestNotPending):
        await checkout.provide(
            DataRequest(
                id=id, instance=(await engine.instances())[0].id, workflow="checkout", name="approval"
            ),
            True,
        )


@opened
async def test_requests_are_listed_by_what_they_belong_to(engine: Engine) -> None:
    ids = [await ask(engine), await ask(engine, at=3, name="colour", type="other")]
    assert [request.id for request in await engine.requests()] == ids
    assert [request.id for request in await engine.requests(other)] == ids[1:]
    assert [request.id for request in await engine.requests(name="approval")] == ids[:1]
    page = await engine.requests(limit=1)
    assert [request.id for request in await engine.requests(cursor=page.cursor, limit=1)] == ids[1:]


# -- Publishing, reading ---------------------------------------------------------------------------------------------


@opened
async def test_publishing_starts_what_is_subscribed_once(engine: Engine) -> None:
    placed = Event("order.placed", Order)
    for _ in range(2):
        await engine.publish(placed, Order(id="o-9"), id="e-1", actor="shop")
    (row,) = await engine.instances("checkout")
    run = await checkout.get(row.id)
    assert run.input == Order(id="o-9")
    assert run.deadline == run.created_at + timedelta(hours=1)
    assert (await run.history())[0].data["trigger"] == {"event": "order.placed", "id": "e-1"}
    with pytest.raises(InvalidData, match=r"order\.placed"):
        await engine.publish(placed, {"no": "id"})


@opened
async def test_a_handle_decodes_with_the_workflows_types(engine: Engine) -> None:
    run = await checkout.start(Order(id="o-1"))
    fails: dict[str, Any] = {"t": "ValueError", "m": "no"}
    await engine.perform(
        "test",
        Append(
            run.id,
            CLAIM,
            e.StateChanged(at=2, changes={"priced": 3}),
            e.ProgressRecorded(at=3, path="progress", message="half", percent=50.0, data={"n": 1}),
            e.SleepScheduled(at=4, path="nap", until=9_000_000),
            e.StepStarted(at=5, path="one"),
            e.StepFailed(at=5, path="one", error=fails),
            e.RunReleased(at=6),
        ),
    )
    await run.refresh()
    assert run.state == Progress(priced=3)
    assert run.progress is not None
    assert (run.progress.message, run.progress.percent, run.progress.data) == ("half", 50.0, {"n": 1})
    (wait,) = run.waiting_for
    assert (wait.kind, wait.name, wait.until) == ("sleep", "nap", datetime(1970, 1, 1, 0, 0, 9, tzinfo=UTC))
    events = await run.history(after=1)
    assert [event.version for event in events] == [2, 3, 4, 5, 6, 7, 8]
    assert {event.worker for event in events} == {"w-1"}
    assert {event.code["digest"] for event in events} == {"d"}
    assert events[-2].data["error"].message == "no"
    await run.cancel()
    assert (await run.history(after=8))[0].worker is None
    assert [event.version for event in await run.history(after=2, upto=4)] == [3, 4]
    assert await run.history(after=100) == []


@opened
async def test_waiting_for_a_result_that_comes_later(engine: Engine) -> None:
    run = await checkout.start(Order(id="o-1"))
    with pytest.raises(TimeoutError, match="was not over within 10ms"):
        await run.result(0.01)
    waiting = [asyncio.create_task(run.result()) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.perform("test", Append(run.id, CLAIM, e.WorkflowCompleted(at=9, output="sold")))
    assert await asyncio.gather(*waiting) == ["sold"] * 3
    assert await run.result() == await (await checkout.get(run.id)).result(0) == "sold"
    assert (await run.refresh()).output == "sold"


def test_a_forgotten_end_is_read_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfes.waiting.ENDS_MAX", 2)

    async def main() -> None:
        async with Engine("sqlite://", workflows=[other], worker=False):
            runs = [await other.start() for _ in range(6)]
            for run in runs:
                await run.cancel(run.id)
            for run in runs:
                with pytest.raises(WorkflowCancelled, match=run.id):
                    await run.result(1)

    asyncio.run(main())


def test_closing_leaves_nobody_waiting() -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[other], worker=False) as engine:
            run = await other.start()
            waiting = asyncio.create_task(run.result())
            seen: list[str] = []
            tasks: list[asyncio.Task[None]] = []
            async for event in engine.events():
                seen.append(event.type)
                if event.type == "WorkflowStarted":
                    # Not awaited here: it waits for nobody, and this loop ends by it.
                    tasks.append(asyncio.create_task(engine.close()))
            await asyncio.gather(*tasks)
        assert seen == ["WorkflowDefined", "WorkflowStarted"]
        with pytest.raises(EngineNotOpen, match="closed while"):
            await waiting

    asyncio.run(main())


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_busy_reader_of_events_ends_when_the_engine_closes(tmp_path: Path, in_memory: bool) -> None:
    async def main() -> None:
        url = "sqlite://" if in_memory else f"sqlite:///{tmp_path / 'log.db'}"
        engine = Engine(url, workflows=[other], worker=False)
        await engine.open()
        await other.start()
        ahead, behind = engine.events(), engine.events(after=1)
        assert (await anext(ahead)).position == 1
        assert (await anext(behind)).position == 2
        untouched = engine.events()
        await engine.close()
        for events in (ahead, behind, untouched):
            async with asyncio.timeout(10):
                assert [event async for event in events] == []

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_page_of_events_read_while_the_engine_closes_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def main() -> None:
        engine = Engine(f"sqlite:///{tmp_path / 'log.db'}", workflows=[other], worker=False)
        await engine.open()
        log = engine._log
        select, reading, go_on = log.select_notifications, threading.Event(), threading.Event()

        def slow(*args: Any, **options: Any) -> Any:
            found: Any = None if fails else select(*args, **options)
            reading.set()
            assert go_on.wait(10)
            return select(*args, **options) if fails else found

        monkeypatch.setattr(log, "select_notifications", slow)
        following = asyncio.ensure_future(anext(engine.events(after=100), None))
        assert await asyncio.to_thread(reading.wait, 10)
        await engine.close()
        go_on.set()
        assert await asyncio.wait_for(following, 10) is None

    asyncio.run(main())


def test_a_failing_read_of_events_is_told_while_the_engine_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Engine("sqlite://", workflows=[other], worker=False) as engine:

            def broken(*args: Any, **options: Any) -> Any:
                raise LogUnavailable("sqlite://", "no luck")

            monkeypatch.setattr(engine._log, "select_notifications", broken)
            with pytest.raises(LogUnavailable, match="no luck"):
                await anext(engine.events())

    asyncio.run(main())


@opened
async def test_events_go_over_the_whole_log_and_on(engine: Engine) -> None:
    first = await other.start()
    events = engine.events()
    seen = [await anext(events) for _ in range(3)]
    assert [event.type for event in seen] == ["WorkflowDefined", "WorkflowDefined", "WorkflowStarted"]
    assert [event.position for event in seen] == [1, 2, 3]
    assert seen[-1].instance == first.id
    following = asyncio.ensure_future(anext(events))
    only = engine.events(after=2, topics=["EventReceived"])
    received = asyncio.ensure_future(anext(only))
    second = await other.start()
    assert (await following).instance == second.id
    await second.send("x")
    assert (await received).position == 5
    await events.aclose()
    await only.aclose()
    with pytest.raises(ValueError, match="there is no event 'Nothing'"):
        engine.events(topics=["Nothing"])
    with pytest.raises(ValueError, match="negative"):
        engine.events(after=-1)


@opened
async def test_events_of_a_run_name_its_worker_wherever_reading_begins(engine: Engine) -> None:
    run = await other.start()
    await engine.perform("test", Append(run.id, CLAIM, e.StepStarted(at=2, path="a")))
    events = engine.events(after=4)
    assert (await anext(events)).worker == "w-1"
    await events.aclose()


# -- Lists -----------------------------------------------------------------------------------------------------------


@opened
async def test_instances_are_found_by_what_they_have(engine: Engine) -> None:
    before = datetime.now(UTC)
    a = await checkout.start(Order(id="a"), key="k", tags=["red", "big"], conversation="c")
    b = await other.start(tags=["red"])
    await b.cancel()

    async def ids(**filters: Any) -> list[str]:
        return [row.id for row in await engine.instances(**filters)]

    assert await ids() == [b.id, a.id]
    assert await ids(order="oldest") == [a.id, b.id]
    assert await ids(workflow=checkout) == await ids(workflow="checkout") == [a.id]
    assert await ids(status=Status.CANCELLED) == await ids(status="cancelled") == [b.id]
    assert await ids(status=[Status.CANCELLED, "pending"]) == [b.id, a.id]
    assert await ids(status=[]) == []
    assert await ids(tags=["red"]) == [b.id, a.id]
    assert await ids(tags=["red", "big"]) == await ids(key="k") == await ids(conversation="c") == [a.id]
    assert await ids(parent=a) == []
    assert await ids(created_after=before) == [b.id, a.id]
    assert await ids(created_before=before) == []
    row = (await engine.instances(key="k"))[0]
    assert (row.status, row.tags, row.created_at) == (Status.PENDING, ("red", "big"), a.created_at)


@opened
async def test_pages_follow_each_other(engine: Engine) -> None:
    runs = [await other.start() for _ in range(7)]
    found: list[str] = []
    cursor = None
    while True:
        page = await engine.instances(limit=3, cursor=cursor, order="oldest")
        found.extend(row.id for row in page)
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(found) == sorted(run.id for run in runs)
    first = await engine.instances(limit=3)
    others: list[dict[str, Any]] = [{"order": "oldest"}, {"workflow": "checkout"}]
    for filters in others:
        with pytest.raises(ValueError, match="other filters"):
            await engine.instances(cursor=first.cursor, **filters)
    wrong: list[Any] = ["nonsense", "bm9uc2Vuc2U", 3]
    for given in wrong:
        with pytest.raises(ValueError, match="which no page gave"):
            await engine.instances(cursor=given)
    for limit in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            await engine.instances(limit=limit)
    with pytest.raises(ValueError, match="order is 'random'"):
        await engine.instances(order="random")
    with pytest.raises(ValueError, match="naive"):
        await engine.instances(created_after=datetime(2026, 1, 1))


@opened
async def test_a_list_can_wait_for_a_position(engine: Engine) -> None:
    now = await head(engine)
    waiting = asyncio.ensure_future(engine.instances(at_least=now + 1))
    await asyncio.sleep(0)
    run = await other.start()
    page = await waiting
    assert page.position >= now + 1
    assert page[0].id == run.id


def test_a_list_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfes.parts.AT_LEAST_SECONDS", 0.01)

    async def main() -> None:
        async with Engine("sqlite://", worker=False) as engine:
            with pytest.raises(TimeoutError, match="did not reach position 99"):
                await engine.instances(at_least=99)

    asyncio.run(main())


# -- Threads ---------------------------------------------------------------------------------------------------------


def test_an_engine_serves_code_that_is_not_async() -> None:
    with Engine("sqlite://", workflows=[other], worker=False, name="shop") as engine:
        run = engine.call(other.start())
        assert engine.call(engine.get(run.id)) == run
        with pytest.raises(TimeoutError, match="not done within 10ms"):
            engine.call(run.result(), timeout=0.01)
        with pytest.raises(TimeoutError, match="was not over"):
            engine.call(run.result(0.01))
        with pytest.raises(TypeError, match="call takes a coroutine"):
            engine.call(other)  # type: ignore[arg-type]

        async def inside() -> None:
            engine.call(other.start())

        with pytest.raises(WfesError, match="for other threads"):
            engine.call(inside())
    with pytest.raises(EngineNotOpen):
        engine.call(run.result())
    with pytest.raises(EngineNotOpen, match="opened before"), engine:
        pass


def test_opening_in_a_thread_raises_what_opening_raised(tmp_path: Path) -> None:
    file = tmp_path / "no.db"
    file.write_text("this is no database, but long enough to be looked at" * 20)
    with pytest.raises(LogUnavailable), Engine(f"sqlite:///{file}"):
        pass


def test_two_engines_in_two_threads_share_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with (
        Engine(url, workflows=[other], worker=False) as one,
        Engine(url, workflows=[other], worker=False) as two,
    ):
        run = one.call(one.start(other))
        seen = two.call(two.get(run.id))

        async def wait() -> None:
            waiting = asyncio.ensure_future(seen.result())
            await asyncio.to_thread(lambda: one.call(run.cancel("enough")))
            with pytest.raises(WorkflowCancelled, match="enough"):
                await waiting

        two.call(wait(), timeout=10)


def test_an_engine_is_used_from_another_loop() -> None:
    async def elsewhere() -> str:
        run = await other.start()
        await run.cancel()
        with pytest.raises(WorkflowCancelled):
            await run.result()
        return run.id

    with Engine("sqlite://", workflows=[other], worker=False) as engine:
        id = asyncio.run(elsewhere())
        assert engine.call(engine.get(id)).status is Status.CANCELLED
