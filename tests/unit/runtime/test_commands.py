"""Commands, run by the real writer on a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wfes import Engine
from wfes.core import decide
from wfes.core import events as e
from wfes.core.state import ACTIVE, Status
from wfes.errors import (
    InstanceEnded,
    InstanceExists,
    InstanceNotFound,
    KeyInUse,
    RequestNotPending,
    UnknownWorkflow,
)
from wfes.log.port import Tx
from wfes.runtime.commands import (
    Answer,
    Ask,
    Claim,
    Define,
    GetOrCreate,
    Publish,
    RetryInstance,
    Start,
)
from wfes.runtime.descriptions import described, description, same_tree
from wfes.runtime.streams import event_stream, key_stream


class Append:
    """Appends events as they are: what an owner would have written."""

    def __init__(self, stream: str, *events: e.Event) -> None:
        self.stream = stream
        self.events = events

    def run(self, tx: Tx) -> Any:
        return tx.append(self.stream, self.events)


class Look:
    """Reads inside a transaction."""

    def __init__(self, look: Callable[[Tx], Any]) -> None:
        self.look = look

    def run(self, tx: Tx) -> Any:
        return self.look(tx)


Perform = Callable[[Any], Coroutine[Any, Any, Any]]


def on_a_log(test: Callable[[Perform], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with Engine("sqlite://", worker=False) as engine:

            async def perform(command: Any) -> Any:
                return await engine.perform("test", command)

            await test(perform)

    asyncio.run(main())


def failed(at: int = 9) -> list[e.Event]:
    return [e.RunClaimed(at=at, worker="w", epoch=1), e.WorkflowFailed(at=at, error={"t": "E", "m": "x"})]


def test_start_makes_an_instance_once() -> None:
    async def test(perform: Perform) -> None:
        start = Start(id="a", workflow="w", input={"x": 1}, deadline=1_000, delay=500, tags=("t",))
        first = await perform(start)
        state = start.state
        assert state is not None
        assert (first["id"], first["new"], first["version"]) == ("a", True, 1)
        assert state.deadline == state.created_at + 1_000
        assert state.not_before == state.created_at + 500
        again = await perform(Start(id="a", workflow="w", input={"x": 1}))
        assert (again["id"], again["new"]) == ("a", False)
        assert await perform(Look(lambda tx: tx.version("a"))) == 1

    on_a_log(test)


@pytest.mark.parametrize(("workflow", "input"), [("other", {"x": 1}), ("w", {"x": 2}), ("w", {"x": True})])
def test_an_id_is_never_used_again(workflow: str, input: Any) -> None:
    async def test(perform: Perform) -> None:
        await perform(Start(id="a", workflow="w", input={"x": 1}))
        with pytest.raises(InstanceExists, match="'a' is taken"):
            await perform(Start(id="a", workflow=workflow, input=input))

    on_a_log(test)


def test_a_derived_id_finds_its_own_instance_whatever_the_input() -> None:
    async def test(perform: Perform) -> None:
        await perform(Start(id="a", workflow="w", input=1, derived=True))
        assert not (await perform(Start(id="a", workflow="w", input=2, derived=True)))["new"]

    on_a_log(test)


def test_a_claim_is_part_of_the_start_unless_it_is_delayed() -> None:
    async def test(perform: Perform) -> None:
        start = Start(id="a", workflow="w", claim=Claim("me", {"digest": "d"}))
        await perform(start)
        assert [r.event.topic for r in start.history] == ["WorkflowStarted", "RunClaimed"]
        assert start.state is not None
        assert start.state.worker == "me"
        late = Start(id="b", workflow="w", delay=1, claim=Claim("me", None))
        await perform(late)
        assert late.history == []

    on_a_log(test)


def test_a_workflow_this_engine_does_not_know_must_stand_in_the_log() -> None:
    async def test(perform: Perform) -> None:
        with pytest.raises(UnknownWorkflow, match="'w'"):
            await perform(Start(id="a", workflow="w", known=False))
        await perform(Define([e.WorkflowDefined(at=1, workflow="w", deadline=77)]))
        start = Start(id="a", workflow="w", known=False)
        await perform(start)
        assert start.state is not None
        assert start.state.deadline == start.state.created_at + 77

    on_a_log(test)


def test_define_records_what_changed() -> None:
    async def test(perform: Perform) -> None:
        first = e.WorkflowDefined(at=1, workflow="w", on=("x",), digest="1")
        assert await perform(Define([first])) == ["w"]
        assert await perform(Define([e.WorkflowDefined(at=2, workflow="w", on=("x",), digest="1")])) == []
        assert await perform(Define([e.WorkflowDefined(at=3, workflow="w", on=("x",), digest="2")])) == ["w"]

    on_a_log(test)


def test_get_or_create_finds_the_newest_of_the_wanted_statuses() -> None:
    async def test(perform: Perform) -> None:
        def wanted(id: str, statuses: frozenset[Status] = ACTIVE) -> GetOrCreate:
            return GetOrCreate(Start(id=id, workflow="w", key="k"), statuses)

        assert (await perform(wanted("a")))["id"] == "a"
        assert (await perform(wanted("b")))["id"] == "a"
        await perform(Append("a", *failed()))
        assert (await perform(wanted("b", frozenset({Status.FAILED}))))["id"] == "a"
        created = await perform(wanted("b"))
        assert (created["id"], created["new"], created["generation"]) == ("b", True, 2)
        assert (await perform(wanted("c", frozenset(Status))))["id"] == "b"
        await perform(Append("b", *failed()))
        assert (await perform(wanted("c", frozenset({Status.FAILED}))))["id"] == "b"
        # A retried instance is the newest again.
        await perform(RetryInstance("a"))
        assert (await perform(wanted("c")))["id"] == "a"
        other = GetOrCreate(Start(id="o", workflow="v", key="k"), ACTIVE)
        assert (await perform(other))["id"] == "o"

    on_a_log(test)


def test_get_or_create_finds_what_lies_far_back() -> None:
    async def test(perform: Perform) -> None:
        for number in range(30):
            await perform(Start(id=f"a{number}", workflow="w", key="k"))
            if number != 3:
                await perform(Append(f"a{number}", *failed()))
        found = await perform(GetOrCreate(Start(id="b", workflow="w", key="k"), ACTIVE))
        assert (found["id"], found["new"]) == ("a3", False)
        await perform(Append("a3", *failed()))
        found = await perform(GetOrCreate(Start(id="b", workflow="w", key="k"), ACTIVE))
        assert (found["id"], found["generation"]) == ("b", 31)

    on_a_log(test)


class Reads:
    """A transaction that counts the events it is asked to read."""

    def __init__(self, command: Any) -> None:
        self.command = command
        self.events = 0
        self.states: list[str] = []

    def run(self, tx: Tx) -> Any:
        self.tx = tx
        return self.command.run(self)

    def history(self, stream: str, after: int = 0) -> list[e.Recorded]:
        found = self.tx.history(stream, after)
        self.events += len(found)
        return found

    def state(self, stream: str) -> Any:
        self.states.append(stream)
        return self.tx.state(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tx, name)


def test_a_key_used_often_is_read_from_its_end() -> None:
    def wanted(*statuses: Status) -> Reads:
        return Reads(GetOrCreate(Start(id="b", workflow="w", key="k"), frozenset(statuses)))

    async def test(perform: Perform) -> None:
        for number in range(150):
            await perform(Start(id=f"a{number}", workflow="w", key="k"))
            ends = failed() if number else [e.WorkflowCancelled(at=1)]
            await perform(Append(f"a{number}", *ends))
        newest = wanted(Status.FAILED)
        assert (await perform(newest))["id"] == "a149"
        assert newest.events == 20
        oldest = wanted(Status.CANCELLED)
        assert (await perform(oldest))["id"] == "a0"
        assert oldest.events == 20 + 80 + 150
        retry = Reads(RetryInstance("a5"))
        assert (await perform(retry))["new"]
        # Rows say that no newer one is worth a look.
        assert len(retry.states) < 15
        assert (await perform(wanted(*ACTIVE)))["id"] == "a5"
        await perform(Append("a5", *failed()))
        nothing = wanted(*ACTIVE)
        assert (await perform(nothing))["new"]
        assert nothing.events == 20
        for refused in ("a148", "a149"):
            with pytest.raises(KeyInUse, match="instance 'b'"):
                await perform(RetryInstance(refused))

    on_a_log(test)


def test_retry_leaves_the_key_to_a_newer_active_instance() -> None:
    async def test(perform: Perform) -> None:
        await perform(Start(id="a", workflow="w", key="k"))
        await perform(Append("a", *failed()))
        await perform(Start(id="b", workflow="w", key="k"))
        with pytest.raises(KeyInUse, match="instance 'b'"):
            await perform(RetryInstance("a"))
        assert await perform(Look(lambda tx: tx.version("a"))) == 3
        await perform(Append("b", *failed()))
        assert (await perform(RetryInstance("a", lifetime=10)))["new"]
        assert await perform(Look(lambda tx: tx.version(key_stream("w", "k")))) == 3
        assert not (await perform(RetryInstance("a")))["new"]

    on_a_log(test)


def test_ask_decides_on_the_state_in_the_transaction() -> None:
    async def test(perform: Perform) -> None:
        with pytest.raises(InstanceNotFound, match="'a'"):
            await perform(Ask("a", decide.Cancel()))
        await perform(Start(id="a", workflow="w"))
        assert (await perform(Ask("a", decide.Send(event="x", id="1"))))["new"]
        assert not (await perform(Ask("a", decide.Send(event="x", id="1"))))["new"]
        assert (await perform(Ask("a", decide.Cancel())))["new"]
        assert not (await perform(Ask("a", decide.Cancel())))["new"]
        with pytest.raises(InstanceEnded):
            await perform(Ask("a", decide.Send(event="x")))

    on_a_log(test)


def test_publish_reaches_listeners_and_subscribers_once() -> None:
    async def test(perform: Perform) -> None:
        await perform(Define([e.WorkflowDefined(at=1, workflow="mail", on=("paid",), deadline=5)]))
        for id, key in (("a", "k"), ("b", "other"), ("c", "k")):
            await perform(Start(id=id, workflow="w", key=key))
        for id, event in (("a", "paid"), ("b", "paid"), ("c", "lost")):
            await perform(
                Append(
                    id,
                    e.RunClaimed(at=2, worker="w", epoch=1),
                    e.ListenStarted(at=2, path="one", event=event),
                    e.ListenStarted(at=2, path="two", event=event),
                )
            )
        assert (await perform(Publish(event="paid", id="e1", payload=3)))["new"]
        assert not (await perform(Publish(event="paid", id="e1", payload=3)))["new"]
        versions = await perform(Look(lambda tx: [tx.version(id) for id in "abc"]))
        assert versions == [5, 5, 4]
        await perform(Publish(event="paid", id="e2", key="k"))
        versions = await perform(Look(lambda tx: [tx.version(id) for id in "abc"]))
        assert versions == [6, 5, 4]

        def started(tx: Tx) -> list[tuple[Any, ...]]:
            rows = tx.query("SELECT id FROM wfes_instances WHERE workflow = 'mail' ORDER BY created_at")
            found = [tx.state(row[0]) for row in rows]
            return [(s.input, s.key, s.trigger, s.deadline is not None) for s in found if s is not None]

        assert await perform(Look(started)) == [
            (3, None, {"event": "paid", "id": "e1"}, True),
            (None, "k", {"event": "paid", "id": "e2"}, True),
        ]
        assert await perform(Look(lambda tx: tx.version(event_stream("paid", "e1")))) == 1

    on_a_log(test)


def test_an_answer_by_id_finds_its_open_request() -> None:
    async def test(perform: Perform) -> None:
        await perform(Start(id="a", workflow="w"))
        await perform(
            Append(
                "a",
                e.RunClaimed(at=2, worker="w", epoch=1),
                e.RequestIssued(at=2, path="approval", id="r1", name="approval"),
            )
        )

        def answer(row: Any) -> Ask:
            assert tuple(row) == ("r1", "a", "w", "approval")
            return Ask(row[1], decide.Provide(id=row[0], data=True))

        assert (await perform(Answer("r1", answer)))["id"] == "a"
        with pytest.raises(RequestNotPending, match="'r1'"):
            await perform(Answer("r1", answer))

    on_a_log(test)


def test_a_description_tells_the_snapshot() -> None:
    start = Start(id="a", workflow="w", input=[1], key="k", tags=("x", "y"), conversation="c", parent="p")

    async def test(perform: Perform) -> None:
        tree = await perform(start)
        assert start.state is not None
        again = described(tree, [1])
        for name in (
            "id",
            "workflow",
            "input",
            "key",
            "tags",
            "conversation",
            "parent",
            "status",
            "created_at",
        ):
            assert getattr(again, name) == getattr(start.state, name)
        assert described(description(start.state, new=False)).input == [1]

    on_a_log(test)


def test_streams_of_different_names_never_meet() -> None:
    assert key_stream("a/b", "c") != key_stream("a", "b/c")
    assert event_stream("a%2Fb", "c") != event_stream("a/b", "c")


def test_trees_are_compared_as_values() -> None:
    assert same_tree({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same_tree(1, True)
    assert not same_tree(1, 1.0)
