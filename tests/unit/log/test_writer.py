"""The writer: group commit, isolation of members, news, reactions, its cache."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest

from wfes.core import chain
from wfes.core import events as e
from wfes.core.evolve import fold
from wfes.core.state import InstanceState
from wfes.errors import InstanceNotFound, UnknownEvent
from wfes.log import cache
from wfes.log.application import decode, digest
from wfes.log.open import open_log
from wfes.log.port import Log, Tx
from wfes.log.writer import Batch, Writer


class Bench(Protocol):
    """What ``conftest`` makes."""

    log: Log
    told: list[object]
    writer: Writer

    def submit(self, function: Callable[[Tx], Any], *, withdrawable: bool = False) -> asyncio.Future[Any]: ...
    def append(self, stream: str, *events: e.Event) -> asyncio.Future[Any]: ...
    async def start(self, id: str, worker: str | None = "w") -> None: ...
    @property
    def batches(self) -> list[Batch]: ...
    @property
    def positions(self) -> list[int]: ...
    def stop(self) -> None: ...


Run = Callable[..., None]


def progress(message: str = "m") -> e.ProgressRecorded:
    return e.ProgressRecorded(at=2, path="p", message=message)


def sent(name: str = "n") -> e.EventReceived:
    return e.EventReceived(at=2, event=name)


async def hold(bench: Bench) -> threading.Event:
    """Keeps the writer busy until the event is set, so that what is queued meanwhile makes one batch."""
    entered, go = threading.Event(), threading.Event()

    def wait(tx: Tx) -> None:
        entered.set()
        assert go.wait(10)

    bench.submit(wait)
    while not entered.is_set():
        await asyncio.sleep(0.001)
    return go


def test_what_is_queued_is_one_commit(run: Run) -> None:
    async def test(bench: Bench) -> None:
        await asyncio.gather(*[bench.start(f"i{n}") for n in range(20)])
        go = await hold(bench)
        before = bench.writer.commits
        futures = [bench.append(f"i{n}", progress()) for n in range(20)]
        go.set()
        assert await asyncio.gather(*futures) == [3] * 20
        assert bench.writer.commits == before + 1

    run(test)


def test_a_batch_has_a_bound(run: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.start("i")
        go = await hold(bench)
        futures = [bench.append("i", progress()) for _ in range(20)]
        go.set()
        assert await asyncio.gather(*futures) == list(range(3, 23))
        assert bench.writer.commits == 1 + 4

    run(test, batch_max=5)


def test_stored_chain_and_positions(run: Run, log: Log) -> None:
    async def test(bench: Bench) -> None:
        await asyncio.gather(bench.start("a"), bench.start("b"))
        for n in range(5):
            await asyncio.gather(bench.append("a", progress(str(n)), sent()), bench.append("b", progress()))
        await bench.submit(lambda tx: tx.append("$key/wf/k", [e.KeyAssigned(at=1, instance="a")]))
        await bench.submit(lambda tx: tx.append("$key/wf/k", [e.KeyAssigned(at=2, instance="b")]))

    run(test)
    stored = log.select_notifications(None, 1000)
    assert [found.id for found in stored] == list(range(1, 22))
    for stream, length in (("a", 12), ("b", 7), ("$key/wf/k", 2)):
        expected = chain.GENESIS
        history = log.select_events(stream)
        assert [found.originator_version for found in history] == list(range(1, length + 1))
        for found in history:
            assert found.state[: chain.SIZE] == expected
            expected = digest(found)


def test_a_refusal_harms_nobody_else(run: Run) -> None:
    def refuse(tx: Tx) -> None:
        assert tx.state("unknown") is None
        raise InstanceNotFound("unknown")

    async def test(bench: Bench) -> None:
        await bench.start("i")
        go = await hold(bench)
        futures = [bench.append("i", progress()), bench.submit(refuse), bench.append("i", progress())]
        go.set()
        first, refused, last = await asyncio.gather(*futures, return_exceptions=True)
        assert (first, last) == (3, 4)
        assert isinstance(refused, InstanceNotFound)
        assert bench.writer.commits == 2

    run(test)


def test_a_member_that_raises_after_an_append_is_undone_alone(run: Run, log: Log) -> None:
    def broken(tx: Tx) -> None:
        tx.append("i", [progress("never")])
        tx.append("j", [e.WorkflowStarted(at=1, workflow="wf")])
        raise RuntimeError("a bug")

    async def test(bench: Bench) -> None:
        await bench.start("i")
        go = await hold(bench)
        futures = [bench.append("i", progress("1")), bench.submit(broken), bench.append("i", progress("2"))]
        go.set()
        first, failed, last = await asyncio.gather(*futures, return_exceptions=True)
        assert (first, last) == (3, 4)
        assert isinstance(failed, RuntimeError)
        assert await bench.submit(lambda tx: tx.version("j")) == 0

    run(test)
    messages = [getattr(decode(found).event, "message", "") for found in log.select_events("i")]
    assert messages == ["", "", "1", "2"]
    assert log.select_events("j") == []
    assert [row[0] for row in log.read("SELECT id FROM wfes_instances")] == ["i"]


def test_a_member_whose_query_is_wrong_fails_alone(run: Run) -> None:
    """It has changed nothing; and yet some databases then do nothing more in that transaction."""

    async def test(bench: Bench) -> None:
        await bench.start("i")
        go = await hold(bench)
        futures = [
            bench.submit(lambda tx: tx.query("SELECT * FROM nowhere")),
            bench.submit(lambda tx: tx.query("SELECT count(*) FROM wfes_work")),
        ]
        go.set()
        failed, found = await asyncio.gather(*futures, return_exceptions=True)
        assert found == [(1,)]
        assert "nowhere" in str(failed)

    run(test)


def test_a_member_whose_rows_the_database_refuses_fails_alone(run: Run) -> None:
    def broken(tx: Tx) -> None:
        tx.append("i", [progress("never")])
        tx.query("INSERT INTO wfes_work (id, workflow) VALUES ('i', NULL)")

    async def test(bench: Bench) -> None:
        await bench.start("i")
        go = await hold(bench)
        futures = [bench.append("i", progress()), bench.submit(broken), bench.append("i", progress())]
        go.set()
        first, failed, last = await asyncio.gather(*futures, return_exceptions=True)
        assert (first, last) == (3, 4)
        assert isinstance(failed, Exception)

    run(test)


def test_an_event_that_cannot_stand_there_is_refused(run: Run) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(ValueError, match="version 1 of instance 'nobody'"):
            await bench.append("nobody", progress())
        await bench.start("i")
        with pytest.raises(ValueError, match="version 3"):
            await bench.append("i", e.WorkflowStarted(at=1, workflow="wf"))
        assert await bench.append("i", progress()) == 3

    run(test)


def test_notable_events_are_delivered_before_outcomes(run: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.start("i")
        await bench.append("i", progress())
        await bench.append("i", sent(), progress(), e.WorkflowCompleted(at=3, output=1))
        told = [told.head if isinstance(told, Batch) else told for told in bench.told]
        assert told == [2, 2, 3, 3, 6, 6]
        assert bench.positions == [1, 2, 4, 6]

    run(test)


def test_transaction_shows_its_own_appends(run: Run) -> None:
    def look(tx: Tx) -> None:
        state = tx.state("i")
        assert state is not None
        assert state.version == 2
        assert tx.append("i", [e.ListenStarted(at=tx.now, path="l", event="go")]) == 3
        assert tx.version("i") == 3
        assert state.version == 3
        assert tx.query("SELECT path FROM wfes_listeners WHERE instance = ?", ("i",)) == [("l",)]
        assert tx.query("SELECT status FROM wfes_instances") == [("listening",)]
        assert [(r.position, r.originator_version) for r in tx.history("i", 1)] == [(2, 2), (3, 3)]
        assert tx.append("i", [e.WaitCancelled(at=tx.now, path="l")]) == 4
        assert tx.query("SELECT path FROM wfes_listeners") == []

    async def test(bench: Bench) -> None:
        await bench.start("i")
        await bench.submit(look)

    run(test)


def test_a_query_brings_up_the_rows_it_is_to_show_and_no_others(run: Run) -> None:
    waiting = "SELECT path FROM wfes_waiters WHERE waiter = 'i'"
    listening = "SELECT path FROM wfes_listeners WHERE instance = 'i'"

    def look(tx: Tx) -> None:
        tx.append("i", [e.ListenStarted(at=tx.now, path="l", event="go")])
        assert tx.query(listening, shows=[e.WaitStarted]) == []
        tx.append("i", [e.WaitStarted(at=tx.now, path="w", instance="other")])
        assert tx.query(waiting, shows=[e.WaitStarted]) == [("w",)]
        assert tx.query(listening, shows=[e.WaitStarted]) == [("l",)]
        tx.append("i", [e.WaitCancelled(at=tx.now, path="w")])
        assert tx.query(waiting, shows=[e.WaitStarted]) == [("w",)]
        assert tx.query(waiting) == []

    async def test(bench: Bench) -> None:
        await bench.start("i")
        await bench.submit(look)

    run(test)


def test_histories_read_together_leave_their_states_at_hand(run: Run) -> None:
    def look(tx: Tx) -> None:
        tx.append("b", [progress("new")])
        assert tx.position == 5
        found = tx.histories(["b", "a", "nobody"], 100)
        assert {id: [r.position for r in history] for id, history in found.items()} == {
            "a": [1, 2],
            "b": [3, 4, 5],
        }
        for id, history in found.items():
            assert tx.state(id) == fold(id, history)
            tx.append(id, [progress("newer")])
        assert tx.position == 7
        assert [r.originator_version for r in tx.history("a")] == [1, 2, 3]

    async def test(bench: Bench) -> None:
        await bench.start("a")
        await bench.start("b")
        bench.writer._cache.clear()
        await bench.submit(look)
        for id in "ab":
            stored = bench.log.select_events(id)
            digests = [chain.GENESIS, *map(digest, stored)]
            assert [one.state[: chain.SIZE] for one in stored] == digests[:-1]

    run(test)


def test_reactions_append_in_the_same_transaction(run: Run, log: Log) -> None:
    def wake(tx: Tx, stream: str, event: e.Event, state: InstanceState) -> None:
        assert state.is_over
        for waiter, path in tx.query("SELECT waiter, path FROM wfes_waiters WHERE target = ?", (stream,)):
            ended = e.TargetEnded(at=tx.now, path=path, instance=stream, status=state.status.value)
            tx.append(waiter, [ended])

    async def test(bench: Bench) -> None:
        await bench.start("target")
        await bench.start("waiter")
        await bench.append("waiter", e.WaitStarted(at=2, path="w", instance="target"))
        before = bench.writer.commits
        await bench.append("target", progress(), e.WorkflowCompleted(at=3))
        assert bench.writer.commits == before + 1
        assert bench.positions[-2:] == [7, 8]

    run(test, reactions={e.WorkflowCompleted: wake})
    assert log.select_events("waiter", desc=True, limit=1)[0].topic == "TargetEnded"
    assert log.read("SELECT * FROM wfes_waiters") == []


def test_blobs_travel_with_the_commit(run: Run, log: Log) -> None:
    async def test(bench: Bench) -> None:
        await bench.start("i")

        def put(tx: Tx) -> None:
            tx.put_blob("ab", b"large")
            tx.append("i", [progress()])

        await bench.submit(put)

    run(test)
    assert log.get_blob("ab") == b"large"


def test_cache_that_forgets_equals_one_that_does_not(run: Run) -> None:
    async def test(bench: Bench) -> None:
        ids = [f"i{n}" for n in range(9)]
        await asyncio.gather(*[bench.start(id) for id in ids])
        bench.writer.workers.add("mine")
        await bench.start("kept", "mine")
        for n in range(3):
            for id in ids:
                assert await bench.append(id, sent(str(n)), progress(str(n))) == 4 + 2 * n

        def states(tx: Tx) -> list[InstanceState | None]:
            return [tx.state(id) for id in ids]

        found = await bench.submit(states)
        for id, state in zip(ids, found, strict=True):
            assert state == fold(id, [decode(stored) for stored in bench.log.select_events(id)])

    run(test, cache_max=2)


def test_large_values_are_forgotten_first_of_all(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for n in range(5):
            large = e.WorkflowStarted(at=1, workflow="wf", input="x" * 50_000)
            await bench.append(f"i{n}", large)
        cache = bench.writer._cache  # pyright: ignore[reportPrivateUsage]
        # The outcome may be told a moment before the writer's thread forgets.
        assert len(cache) <= 3
        assert cache.weight <= 150_000

    run(test, cache_bytes_max=100_000)


def test_queue_has_a_bound(run: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.start("i")
        go = await hold(bench)
        futures = [bench.append("i", progress()) for _ in range(5)]
        assert bench.writer.backlog >= 5
        room = asyncio.ensure_future(bench.writer.room())
        await asyncio.sleep(0)
        assert not room.done()
        go.set()
        await asyncio.wait_for(room, 10)
        await asyncio.gather(*futures)
        await bench.writer.room()

    run(test, queue_max=5)


def test_an_outcome_that_raises_stops_nothing(run: Run) -> None:
    async def test(bench: Bench) -> None:
        reported: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
        twice = bench.append("$x", e.KeyAssigned(at=1, instance="a"))
        twice.set_result(None)
        assert await bench.append("$x", e.KeyAssigned(at=1, instance="a")) == 2
        assert reported == ["invalid state"]

    run(test)


def test_stop_writes_what_is_queued(run: Run, log: Log) -> None:
    async def test(bench: Bench) -> None:
        await bench.start("i")
        futures = [bench.append("i", progress()) for _ in range(50)]
        bench.stop()
        assert [future.result() for future in futures] == list(range(3, 53))
        bench.stop()

    run(test)
    assert log.max_notification_id() == 52


def test_a_writer_starts_once(run: Run) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(RuntimeError, match="before"):
            bench.writer.start(asyncio.get_running_loop())

    run(test)


def test_large_batches_are_told_in_slices(run: Run) -> None:
    async def test(bench: Bench) -> None:
        turns = 0
        over = False

        async def tick() -> None:
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0)

        await bench.start("i")
        go = await hold(bench)
        futures = [bench.append("i", progress()) for _ in range(1500)]
        for future in futures:
            future.add_done_callback(lambda _: sum(range(1000)))
        go.set()
        ticking = asyncio.ensure_future(tick())
        assert await asyncio.gather(*futures) == list(range(3, 1503))
        over = True
        await ticking

    run(test)


# ------------------------------------------------------------------------------- several on one file


Pair = Callable[[Callable[[Any, Any], Awaitable[None]]], None]


@pytest.fixture
def pair(shared_url: str, make_bench: Callable[[Log], Any]) -> Pair:
    def pair(test: Callable[[Any, Any], Awaitable[None]]) -> None:
        async def main() -> None:
            logs = [open_log(shared_url) for _ in range(2)]
            benches = [make_bench(log) for log in logs]
            try:
                await test(*benches)
            finally:
                for bench in benches:
                    bench.stop()
                for log in logs:
                    log.close()

        asyncio.run(main())

    return pair


def test_news_of_others_once_and_in_order(
    pair: Pair, until: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    async def test(one: Bench, two: Bench) -> None:
        await one.start("a")
        await two.start("b")
        for n in range(30):
            writing = [one.append("a", sent(f"a{n}"), progress()), two.append("b", progress(), sent(f"b{n}"))]
            if n % 3 == 0:
                writing.append(one.append("b", sent(f"c{n}")))
            await asyncio.gather(*writing)
        head = one.log.max_notification_id()
        await until(lambda: one.batches[-1].head == two.batches[-1].head == head)
        expected = [
            found.id
            for found in one.log.select_notifications(None, 1000)
            if found.topic != "ProgressRecorded"
        ]
        assert one.positions == expected
        assert two.positions == expected
        for bench in (one, two):
            heads = [batch.head for batch in bench.batches]
            assert heads == sorted(heads)

    pair(test)


def test_idle_writer_sees_others(
    pair: Pair, until: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    async def test(one: Bench, two: Bench) -> None:
        await one.start("a")
        await until(lambda: two.positions == [1, 2])
        await one.append("a", progress())
        await until(lambda: two.batches[-1].head == 3)
        assert two.positions == [1, 2]

    pair(test)


def test_states_follow_others(pair: Pair) -> None:
    async def test(one: Bench, two: Bench) -> None:
        await one.start("a", worker="one")
        version = 2
        for n in range(10):
            writer, reader = (one, two) if n % 2 else (two, one)
            version += 1
            assert await writer.append("a", sent(str(n))) == version
            state = await reader.submit(lambda tx: tx.state("a"))
            assert state is not None
            assert list(state.inbox.values()) == [str(m) for m in range(n + 1)]

    pair(test)


def test_a_zombie_is_fenced(pair: Pair) -> None:
    """Both write for the same instance; who saw the other's claim in its transaction can refuse itself."""

    def as_owner(worker: str) -> Callable[[Tx], int | str]:
        def write(tx: Tx) -> int | str:
            state = tx.state("a")
            assert state is not None
            if state.worker != worker:
                return f"fenced by {state.worker}"
            return tx.append("a", [progress(worker)])

        return write

    async def test(one: Bench, two: Bench) -> None:
        await one.start("a", worker="one")
        assert await one.submit(as_owner("one")) == 3
        await two.append("a", e.RunClaimed(at=5, worker="two", epoch=2))
        results = await asyncio.gather(one.submit(as_owner("one")), two.submit(as_owner("two")))
        assert list(results) == ["fenced by two", 5]

    pair(test)


def test_an_unknown_event_stops_the_writer(
    pair: Pair, until: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    async def test(one: Bench, two: Bench) -> None:
        await one.start("a")
        other = open_log(two.log.url)
        other.open([])
        transaction = other.begin()
        transaction.insert([(3, "a", 3, "FromTheFuture", bytes(32) + b"{}")])
        transaction.commit()
        other.close()
        with pytest.raises(UnknownEvent, match=r"FromTheFuture.* at position 3"):
            await one.append("a", progress())
        with pytest.raises(UnknownEvent):
            await one.append("b", progress())
        assert one.log.max_notification_id() == 3

    pair(test)


def test_every_hint_is_served_wherever_it_meets_a_member(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint that comes while the writer is at work is as good as one that finds it idle; so is the next one."""
    monkeypatch.setattr("wfes.log.writer.IDLE_MIN_SECONDS", 60.0)

    async def test(bench: Bench) -> None:
        writer, looks = bench.writer, 0
        look = writer._look_around

        def counted() -> bool:
            nonlocal looks
            looks += 1
            return look()

        async def looked(before: int) -> None:
            limit = time.monotonic() + 10
            while looks == before:
                assert time.monotonic() < limit, "nobody looked"
                await asyncio.sleep(0.001)

        monkeypatch.setattr(writer, "_look_around", counted)
        await bench.start("i")
        for queued in (0, 2):
            go = await hold(bench)
            # Among members it is served by their transaction, behind the last one by a look.
            futures = [bench.append("i", progress()) for _ in range(queued)]
            writer._hint()
            before = looks
            go.set()
            await asyncio.gather(*futures)
            if not queued:
                await looked(before)
        before = looks
        writer._hint()
        await looked(before)

    run(test)


def test_instances_that_a_batch_names_are_looked_for_together(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that do not exist are known afterwards; the others are read as ever."""
    loaded: list[str] = []
    load = cache.load

    def noted(stream: str, *args: Any) -> cache.Entry:
        loaded.append(stream)
        return load(stream, *args)

    monkeypatch.setattr(cache, "load", noted)

    async def test(bench: Bench) -> None:
        await bench.start("there")
        bench.writer._cache.clear()
        loaded.clear()
        names = ["new-1", "new-2", "there", "new-3"]
        calls = [_Naming(bench, name) for name in names]
        go = await hold(bench)
        for call in calls:
            bench.writer.submit(call)
        go.set()
        assert await asyncio.gather(*[call.future for call in calls]) == [True, True, False, True]
        assert loaded == ["there"]
        again = _Naming(bench, "new-2")
        bench.writer.submit(again)
        assert not await again.future

    run(test)


class _Naming:
    """Starts an instance unless it is there, and names it beforehand."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.streams = (name,)
        self._now = bench.writer._clock()

    def run(self, tx: Tx) -> bool:
        (name,) = self.streams
        if tx.state(name) is not None:
            return False
        tx.append(name, [e.WorkflowStarted(at=self._now, workflow="wf")])
        return True

    def done(self, result: object) -> None:
        self.future.set_result(result)

    def failed(self, error: Exception) -> None:
        self.future.set_exception(error)
