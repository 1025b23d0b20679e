"""Bad input: each has its own error, which says what was wrong and what would be right, and records nothing."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import corpus
import pytest
from checks import histories_of, stored_events
from places import tamper, url_of
from pydantic import BaseModel

import wfes
from wfes import Engine, Instance, Request, Step, workflow
from wfes.core import events as e

NOBODY = 65534


class Order(BaseModel):
    name: str
    count: int = 1


class Counting(BaseModel):
    count: int = 0


@workflow
async def order(order: Order, step: Step) -> str:
    """Takes an order."""
    return order.name


@workflow(requests={"approval": bool})
async def asking(input: None, step: Step) -> bool:
    """Asks for approval."""
    approved: bool = await step.request("approval")
    return approved


@workflow
async def waiting(input: None, step: Step) -> int:
    """Waits for a number."""
    return await step.listen("number", returns=int)


@workflow
async def broken(input: None, step: Step) -> None:
    """Fails."""
    step.fail("broken")


@pytest.fixture(autouse=True)
def noted(tmp_path: Path) -> None:
    corpus.use(tmp_path / "calls")


def refused(
    folder: Path, prepare: Callable[[Engine], Awaitable[Any]], call: Callable[[Engine, Any], Awaitable[Any]]
) -> Callable[..., str]:
    """Makes the call after the preparation, without a worker; says how it was refused, if nothing was recorded."""

    def expect(error: type[Exception], *words: str) -> str:
        async def main() -> str:
            async with Engine(url_of(folder), workflows=[order, asking, waiting, broken]) as engine:
                prepared = await prepare(engine)
                before = stored_events(folder)
                with pytest.raises(error) as caught:
                    await call(engine, prepared)
                assert stored_events(folder) == before
                return str(caught.value)

        text = asyncio.run(main())
        for word in words:
            assert word in text, text
        return text

    return expect


async def nothing(engine: Engine) -> None:
    pass


async def started_later(engine: Engine) -> Instance[str]:
    return await order.start(Order(name="x"), id="one", delay="1h")


async def asked(engine: Engine) -> str:
    run = await asking.start(id="run")
    return await corpus.first_request(engine, run.id, "approval")


async def answered(engine: Engine) -> str:
    request = await asked(engine)
    await engine.provide(asking, request, False)
    assert await (await engine.get("run")).result(timeout=20) is False
    return request


async def listening(engine: Engine) -> Instance[int]:
    run = await waiting.start(id="run", key="k")
    while (await run.refresh()).status != "listening":
        await asyncio.sleep(0.002)
    return run


async def over(engine: Engine) -> Instance[int]:
    run = await listening(engine)
    await run.send("number", 7)
    assert await run.result(timeout=20) == 7
    return run


ANY: Any = order
"""The workflow as somebody passes it who has no type checker."""

CALLS: dict[str, tuple[Any, Callable[[Engine, Any], Awaitable[Any]], type[Exception], tuple[str, ...]]] = {
    "input of the wrong type": (nothing, lambda g, _: g.start(ANY, {"count": "x"}), wfes.InvalidInput,
                                ("'order'", "name", "count")),
    "an unknown workflow": (nothing, lambda g, _: g.start("nobody", 1), wfes.UnknownWorkflow,
                            ("'nobody'", "'order'")),
    "an id that is taken": (listening, lambda g, _: g.start(ANY, {"name": "x"}, id="run"),
                            wfes.InstanceExists, ("'run'", "'waiting'")),
    "an id that is taken, with another input": (
        started_later, lambda g, _: order.start(Order(name="y"), id="one"),
        wfes.InstanceExists, ("'one'",)),
    "an unknown id": (nothing, lambda g, _: g.get("nobody"), wfes.InstanceNotFound, ("'nobody'",)),
    "an id of another workflow": (listening, lambda g, _: order.get("run"), wfes.WrongWorkflow,
                                  ("'run'", "'waiting'", "'order'")),
    "an unknown request": (nothing, lambda g, _: g.provide(asking, "nothing", True), wfes.RequestNotPending,
                           ("'nothing'",)),
    "answering with the wrong type": (asked, lambda g, request: g.provide(asking, request, "perhaps"),
                                      wfes.InvalidData, ("'approval'", "bool")),
    "answering twice": (answered, lambda g, request: g.provide(asking, request, True), wfes.RequestNotPending, ()),
    "answering as another workflow": (asked, lambda g, request: g.provide(order, request, True),
                                      wfes.WrongWorkflow, ()),
    "sending to one that is over": (over, lambda g, run: run.send("number", 1), wfes.InstanceEnded,
                                    ("'run'", "completed", "send")),
    "pausing one that is over": (over, lambda g, run: run.pause(), wfes.InstanceEnded, ("pause",)),
    "resuming one that is over": (over, lambda g, run: run.resume(), wfes.InstanceEnded, ("resume",)),
    "a time-out for one that is over": (over, lambda g, run: run.set_timeout("1s"), wfes.InstanceEnded, ()),
    "retrying one that completed": (over, lambda g, run: run.retry(), wfes.InstanceEnded, ("retry",)),
    "a time-out in the past": (listening, lambda g, run: run.set_timeout(at=datetime(2000, 1, 1, tzinfo=UTC)),
                               ValueError, ("future",)),
    "a naive time-out": (listening, lambda g, run: run.set_timeout(at=datetime(2100, 1, 1)),
                         ValueError, ("naive",)),
    "two time-outs": (listening, lambda g, run: run.set_timeout("1s", at=datetime.now(UTC)), TypeError, ("one",)),
    "no time-out": (listening, lambda g, run: run.set_timeout(), TypeError, ("one",)),
    "a negative time-out": (listening, lambda g, run: run.set_timeout(-1), ValueError, ("-1",)),
    "a negative delay": (nothing, lambda g, _: order.start(Order(name="x"), delay="-5s"), ValueError, ("-5s",)),
    "an unreadable delay": (nothing, lambda g, _: order.start(Order(name="x"), delay="soon"), ValueError,
                            ("soon",)),
    "an unstorable payload": (listening, lambda g, run: run.send("number", object()), wfes.UnstorableValue,
                              ("'number'", "object")),
    "a payload that is too large": (listening, lambda g, run: run.send("number", "x" * (65 << 20)),
                                    wfes.PayloadTooLarge, ("number",)),
    "an event without a name": (nothing, lambda g, _: g.publish("", 1), ValueError, ("event",)),
    "completing from outside": (listening, lambda g, run: _complete(run), wfes.OutsideHandler, ("complete",)),
    "connection=": (nothing, lambda g, _: order.start(Order(name="x"), connection=object()), TypeError,
                    ("connection",)),
    "a cursor that no page gave": (nothing, lambda g, _: g.instances(cursor="x"), ValueError, ("cursor",)),
    "a status that does not exist": (nothing, lambda g, _: g.instances(status="done"), ValueError,
                                     ("'done'", "completed")),
}  # fmt: skip


async def _complete(run: Instance[Any]) -> None:
    run.complete(1)


@pytest.mark.parametrize("what", CALLS)
def test_a_call_is_refused_and_nothing_is_recorded(folder: Path, what: str) -> None:
    prepare, call, error, words = CALLS[what]
    refused(folder, prepare, call)(error, *words)


def test_a_key_in_use_refuses_the_retry_of_an_older_instance(folder: Path) -> None:
    async def prepare(engine: Engine) -> Instance[Any]:
        failed = await broken.start(key="k")
        with pytest.raises(wfes.WorkflowFailed):
            await failed.result(timeout=20)
        newer = await broken.start(key="k", delay="1h")
        assert newer.id != failed.id
        return failed

    refused(folder, prepare, lambda engine, run: run.retry())(wfes.KeyInUse, "'k'")


def test_without_an_engine() -> None:
    with pytest.raises(wfes.EngineNotOpen, match="async with Engine"):
        asyncio.run(_start_order())


async def _start_order() -> None:
    await order.start(Order(name="x"))


# ------------------------------------------------------------------------------------------ in a handler


def told_in_handler(folder: Path, body: Callable[[Step], Coroutine[Any, Any, Any]], **options: Any) -> str:
    """What a handler with this body is told, as ``Type: message``; what it asked for may not be recorded."""

    @workflow(**options)
    async def trying(input: None, step: Step) -> str:
        try:
            await body(step)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "nothing was wrong"

    async def main() -> str:
        async with Engine(url_of(folder), workflows=[trying]):
            return await (await trying.start(id="run")).result(timeout=20)

    return asyncio.run(main())


IN_HANDLER: dict[str, tuple[Callable[[Step], Coroutine[Any, Any, Any]], tuple[str, ...]]] = {}


def in_handler(*words: str) -> Callable[[Callable[[Step], Coroutine[Any, Any, Any]]], Any]:
    def note(body: Callable[[Step], Coroutine[Any, Any, Any]]) -> Any:
        IN_HANDLER[body.__name__.replace("_", " ")] = (body, words)
        return body

    return note


@in_handler("UnknownRequest", "'approval'", "requests=")
async def an_undeclared_request(step: Step) -> None:
    await step.request("approval")


@in_handler("ValueError", "aware", "tzinfo")
async def a_naive_datetime(step: Step) -> None:
    await step.sleep_until("when", datetime(2100, 1, 1))


@in_handler("ValueError", "-1")
async def a_negative_duration(step: Step) -> None:
    await step.sleep("back", -1)


@in_handler("ValueError", "soon")
async def an_unreadable_duration(step: Step) -> None:
    await step.sleep("when", "soon")


@in_handler("ValueError", "'a/b'", "/")
async def a_name_with_a_slash(step: Step) -> None:
    await step("a/b", corpus.same, 1)


@in_handler("ValueError", "#")
async def a_name_with_a_number_sign(step: Step) -> None:
    await step.listen("a#2")


@in_handler("ValueError")
async def an_empty_name(step: Step) -> None:
    await step.sleep("", 0)


@in_handler("ValueError", "200")
async def a_name_that_is_too_long(step: Step) -> None:
    await step.sleep("x" * 201, 0)


@in_handler("ValueError", "'same'")
async def two_items_of_one_id(step: Step) -> None:
    await step.map("item", [1, 2], corpus.same, key=lambda _: "same")


@in_handler("ValueError", "itself")
async def waiting_for_itself(step: Step) -> None:
    await step.wait_for_workflow("myself", "run")


@in_handler("InstanceNotFound", "'nobody'")
async def waiting_for_nobody(step: Step) -> None:
    await step.wait_for_workflow("nobody", "nobody")


@in_handler("InstanceNotFound", "'nobody'")
async def sending_to_nobody(step: Step) -> None:
    await step.send("send", "nobody", "event")


@in_handler("UnstorableValue", "object")
async def sending_what_cannot_be_stored(step: Step) -> None:
    await step.send("send", "run", "event", object())


@in_handler("InvalidInput", "'order'")
async def a_child_s_wrong_input(step: Step) -> None:
    wrong: Any = {"count": "x"}
    await step.execute_workflow("child", order, wrong)


@pytest.mark.parametrize("what", IN_HANDLER)
def test_a_handler_is_told_and_nothing_is_recorded(folder: Path, what: str) -> None:
    body, words = IN_HANDLER[what]
    told = told_in_handler(folder, body)
    for word in words:
        assert word in told, told
    events = [recorded.event for recorded in histories_of(stored_events(folder))["run"]]
    paths = [
        event.path for event in events if isinstance(event, e.At) and not isinstance(event, e.CallRecorded)
    ]
    assert paths == [] or what == "two items of one id"
    assert isinstance(events[-1], e.WorkflowCompleted)


def test_an_undeclared_typed_request_is_declared_by_its_type(folder: Path) -> None:
    """A Request("approval", bool) needs no declaration."""

    @workflow
    async def typed(input: None, step: Step) -> bool:
        return await step.request(Request("approval", bool))

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[typed]) as engine:
            run = await typed.start()
            request = await corpus.first_request(engine, run.id, "approval")
            with pytest.raises(wfes.InvalidData):
                await engine.provide(typed, request, "perhaps")
            await engine.provide(typed, request, True)
            assert await run.result(timeout=20) is True

    asyncio.run(main())


def test_an_unstorable_result(folder: Path) -> None:
    """It names the step and the type and says what would work; no result is recorded."""

    async def body(step: Step) -> None:
        await step("thing", object)

    told = told_in_handler(folder, body)
    for word in ("UnstorableValue", "'thing'", "object"):
        assert word in told, told
    events = [recorded.event for recorded in histories_of(stored_events(folder))["run"]]
    assert not any(isinstance(event, e.StepCompleted) for event in events)
    assert sum(isinstance(event, e.StepStarted) for event in events) == 1, "trying again would not help"


def test_a_bad_output_fails_the_instance(folder: Path) -> None:
    @workflow
    async def wrong(input: None, step: Step) -> int:
        output: Any = "seven"
        return output  # type: ignore[no-any-return]

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[wrong]):
            with pytest.raises(wfes.WorkflowFailed, match="wrong"):
                await (await wrong.start()).result(timeout=20)

    asyncio.run(main())


def test_state_is_read_only_in_a_step(folder: Path) -> None:
    @workflow(state=Counting)
    async def counting(input: None, step: Step, state: Counting) -> str:
        def count() -> None:
            state.count += 1

        try:
            await step("count", count, max_attempts=1)
        except wfes.StepError as error:
            return f"{error.error.type} {error.error.message}"
        return ""

    async def main() -> str:
        async with Engine(url_of(folder), workflows=[counting]):
            return await (await counting.start()).result(timeout=20)

    told = asyncio.run(main())
    assert "StateReadOnly" in told
    assert "state.count" in told
    assert "'count'" in told


# -------------------------------------------------------------------------------------------- definitions


def test_a_handler_parameter_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="stepp"):

        @workflow
        async def misspelt(input: int, stepp: Step) -> None: ...


def test_what_is_no_handler() -> None:
    def sync(input: int, step: Step) -> None: ...

    handler: Any = sync
    with pytest.raises(TypeError, match="async def"):
        workflow(handler)


def test_two_workflows_of_one_name(tmp_path: Path) -> None:
    @workflow(name="order")
    async def another(input: int) -> None: ...

    with pytest.raises(wfes.DuplicateWorkflow, match="'order'"):
        Engine(url_of(tmp_path), workflows=[order, another])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"timeout": -1}, {"deadline": "soon"}, {"name": ""}, {"name": "x" * 201}])
def test_options_that_cannot_be_meant(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        workflow(**option)(_a_handler)


async def _a_handler(input: int) -> None: ...


# ------------------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize("url", ["shop.db", "mysql://host/db", "sqlite:", "sqlite://host/file.db", "", "://"])
def test_a_url_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WFES_URL", raising=False)
    with pytest.raises(ValueError, match="sqlite:///") if url else _anything():
        Engine(url)


def _anything() -> Any:
    return pytest.raises(ValueError)


def test_an_unknown_option_of_a_url_does_not_show_its_password() -> None:
    with pytest.raises(ValueError, match="colour") as caught:
        Engine("postgresql://me:secret@host/db?colour=red")
    assert "secret" not in str(caught.value)


def opened(folder: Path) -> None:
    async def main() -> None:
        async with Engine(url_of(folder), workflows=[order]) as engine:
            await (await engine.start(order, Order(name="x"), id="run")).result(timeout=20)

    asyncio.run(main())


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "log.db"
    file.write_text("My diary. Keep out. " * 1_000)
    content = file.read_bytes()
    with pytest.raises(wfes.LogUnavailable, match="not an SQLite database"):
        opened(tmp_path)
    assert file.read_bytes() == content


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(wfes.LogUnavailable, match="create it"):
        opened(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_database_of_a_newer_version(folder: Path) -> None:
    opened(folder)
    tamper(folder, "UPDATE wfes_meta SET value = '99' WHERE name = 'schema'")
    before = stored_events(folder)
    with pytest.raises(wfes.LogUnavailable, match="newer"):
        opened(folder)
    assert stored_events(folder) == before


def test_an_event_of_a_newer_version(folder: Path) -> None:
    """A log with an event that this release does not know is not opened for work, and nothing is skipped."""
    opened(folder)
    tamper(
        folder,
        "UPDATE wfes_events SET topic = 'WorkflowDreamed' WHERE originator_id = 'run' AND originator_version = 3",
    )
    tamper(folder, "INSERT INTO wfes_topics VALUES ('WorkflowDreamed')")

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[order]) as engine:
            await (await engine.get("run")).history()

    with pytest.raises(wfes.UnknownEvent, match="WorkflowDreamed"):
        asyncio.run(main())


@pytest.fixture
def unprivileged() -> Generator[Path]:
    """A folder of a user who may not write to what is read-only; as root, somebody else's for the time being."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened(folder)  # everything is imported while the interpreter's own files can be read
        if os.geteuid() != 0:
            yield folder
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
            os.setegid(0)


def test_a_read_only_file(unprivileged: Path) -> None:
    (unprivileged / "log.db").chmod(0o444)
    with pytest.raises(wfes.LogUnavailable, match="read-only"):
        opened(unprivileged)


def test_a_read_only_folder(unprivileged: Path) -> None:
    unprivileged.chmod(0o555)
    try:
        with pytest.raises(wfes.LogUnavailable, match="read-only"):
            opened(unprivileged)
    finally:
        unprivileged.chmod(0o755)


def test_aware_moments_in_other_zones_are_the_same_moments(folder: Path) -> None:
    """The good twin of the naive datetime."""

    @workflow
    async def sleeping(input: None, step: Step) -> bool:
        await step.sleep_until("when", step.now().astimezone() + timedelta(milliseconds=20))
        return True

    async def main() -> bool:
        async with Engine(url_of(folder), workflows=[sleeping]):
            return await (await sleeping.start()).result(timeout=20)

    assert asyncio.run(main())
