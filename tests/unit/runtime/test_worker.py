"""What a worker claims, to whom it gives what is committed, and how it lets go."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import CodeType
from typing import Any, cast

import pytest

from wfes import workflow
from wfes.core import decide
from wfes.core import events as e
from wfes.log.file_presence import FileHold
from wfes.log.open import open_log
from wfes.log.port import Tx
from wfes.log.writer import Batch, Writer
from wfes.runtime import leases
from wfes.runtime.claiming import ENOUGH
from wfes.runtime.claims import Claimed, ClaimRunnable
from wfes.runtime.clock import SystemClock
from wfes.runtime.commands import Ask, Claim, Start, Submission
from wfes.runtime.reactions import REACTIONS
from wfes.runtime.watch import Blockage, culprit
from wfes.runtime.worker import Worker
from wfes.subscription.rebuild import bring_up
from wfes.testing import VirtualClock
from wfes_projections import inline


@workflow
async def job() -> None:
    """Never run: executions are fakes here."""


@workflow
async def other() -> None:
    """Another one."""


class Fake:
    """An execution that does what the test says."""

    made: list[Fake]

    def __init__(self, host: Worker, workflow: Any, id: str, epoch: int, history: list[e.Recorded]) -> None:
        self.host = host
        self.id = id
        self.epoch = epoch
        self.history = history
        self.idle = False
        self.is_stuck = False
        self.calls: list[str] = []
        self.seen: list[e.Recorded] = []
        self.stays_on_stop = False
        self.made.append(self)

    def start(self) -> None:
        self.calls.append("start")

    def outside(self, events: Sequence[e.Recorded]) -> None:
        self.seen.extend(r for r in events if r.originator_version > self.history[-1].originator_version)

    def fence(self) -> None:
        self.calls.append("fence")
        self.host.left(self)

    def stop(self) -> None:
        self.calls.append("stop")
        if not self.stays_on_stop:
            self.release(waiting=False)

    def abandon(self) -> None:
        self.calls.append("abandon")
        self.release(waiting=False)

    def evict(self) -> bool:
        self.calls.append("evict")
        self.idle = False
        self.release(waiting=True)
        return True

    def broken(self, error: Exception) -> None:
        self.calls.append(f"broken: {error}")

    def release(self, *, waiting: bool) -> None:
        self.write(e.RunReleased(at=self.host.clock.now(), waiting=waiting))

    def complete(self) -> None:
        self.write(e.WorkflowCompleted(at=self.host.clock.now()))

    def write(self, event: e.Event) -> None:
        self.host.submit(_Write(self, event))


class _Write:
    def __init__(self, fake: Fake, event: e.Event) -> None:
        self.fake = fake
        self.event = event

    def run(self, tx: Tx) -> None:
        tx.append(self.fake.id, [self.event])

    def done(self, result: None) -> None:
        self.fake.host.left(self.fake)

    def failed(self, error: Exception) -> None:
        raise error


class Rig:
    """A worker of fakes on a real log and writer."""

    def __init__(self, url: str = "sqlite://", *, clock: Any = None, max_running: int = 1000) -> None:
        self.log = open_log(url)
        self.log.open(leases.CREATE)
        bring_up(self.log, inline())
        self.loop = asyncio.get_running_loop()
        self.clock = clock or SystemClock(self.loop)
        self.writer = Writer(
            self.log,
            projections=inline(),
            reactions=REACTIONS,
            clock=self.clock.now,
            deliver=self._deliver,
        )
        self.made: list[Fake] = []
        fake = type("Recording", (Fake,), {"made": self.made})
        self.worker = Worker(
            log=self.log,
            writer=self.writer,
            clock=self.clock,
            values=None,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            engine=None,
            workflows={"job": job},
            max_running=max_running,
            execution=cast(Any, fake),
        )
        self.writer.start(self.loop)

    def _deliver(self, batch: Batch) -> None:
        self.worker.deliver(batch)

    async def do(self, command: Any) -> Any:
        submission = Submission(command, self.loop.create_future())
        self.writer.submit(submission)
        return await submission.future

    async def start(self, id: str, **options: Any) -> None:
        await self.do(Start(id=id, workflow=options.pop("workflow", "job"), **options))

    def fake(self, id: str) -> Fake:
        return next(fake for fake in reversed(self.made) if fake.id == id)

    def owners(self) -> dict[str, str | None]:
        return {str(id): worker for id, worker in self.log.read("SELECT id, worker FROM wfes_work")}


@asynccontextmanager
async def rig(url: str = "sqlite://", *, starts: bool = True, **options: Any) -> AsyncGenerator[Rig]:
    made = Rig(url, **options)
    try:
        if starts:
            await made.worker.start()
        yield made
        await made.worker.stop(0.05)
    finally:
        made.writer.stop()
        made.log.close()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def ids(rig: Rig) -> list[str]:
    return [fake.id for fake in rig.made]


def test_claims_what_waits_at_start_up_and_what_comes() -> None:
    async def main() -> None:
        async with rig(starts=False) as r:
            await r.start("a")
            await r.start("b", workflow="other")
            await r.worker.start()
            await until(lambda: ids(r) == ["a"])
            await r.start("c")
            await until(lambda: ids(r) == ["a", "c"])
            assert r.made[0].calls == ["start"]
            assert [type(x.event) for x in r.made[0].history] == [e.WorkflowStarted, e.RunClaimed]
            assert r.made[0].epoch == 1
            assert r.owners() == {"a": r.worker.worker, "b": None, "c": r.worker.worker}
            claim = r.made[0].history[1].event
            assert isinstance(claim, e.RunClaimed)
            assert claim.code["digest"] == job.digest
            assert claim.code["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"

    run(main)


def test_a_start_here_is_claimed_with_its_own_commit() -> None:
    async def main() -> None:
        async with rig(max_running=1) as r:
            ticket = r.worker.claim_ticket("job")
            assert ticket is not None
            assert r.worker.claim_ticket("job") is None, "one place, and it is kept"
            r.worker.release_ticket()
            ticket = r.worker.claim_ticket("job")
            assert ticket is not None
            assert r.worker.claim_ticket("other") is None
            command = Start(id="a", workflow="job", claim=Claim(*ticket))
            await r.do(command)
            r.worker.begin("a", command.history)
            await until(lambda: ids(r) == ["a"])
            assert r.worker.running == 1
            assert r.made[0].history[-1].originator_version == 2

    run(main)


def test_one_that_has_enough_leaves_its_peers_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[tuple[int, bool]] = []
    claim = ClaimRunnable.run

    def counted(self: ClaimRunnable, tx: Tx) -> Claimed:
        claimed = claim(self, tx)
        took.append((len(claimed.histories), claimed.left))
        return claimed

    monkeypatch.setattr(ClaimRunnable, "run", counted)

    async def main() -> None:
        async with rig() as r:
            r.worker._claiming.peers = ["somebody"]
            tickets = [r.worker.claim_ticket("job") for _ in range(ENOUGH + 40)]
            assert tickets[:ENOUGH].count(None) == 0
            assert tickets[ENOUGH:] == [None] * 40, "the rest of the burst is for whoever comes"
            for _ in range(ENOUGH):
                r.worker.release_ticket()
            for n in range(ENOUGH):
                await r.start(f"first-{n}")
            await until(lambda: r.worker.running == ENOUGH and r.worker._claiming.quiet)
            assert [r.worker.claim_ticket("job") for _ in range(4)] == [None] * 4, "it is at work"
            took.clear()
            await asyncio.gather(*(r.start(f"i{n:02}") for n in range(40)))
            # The peer never comes: nothing stays behind.
            await until(lambda: r.worker.running == ENOUGH + 40)
            assert took == [(20, True), (10, True), (ENOUGH, True), (2, False)]
            r.worker._claiming.peers = []
            assert r.worker.claim_ticket("job") is not None
            r.worker.release_ticket()

    run(main)


def test_everything_committed_outside_reaches_the_execution_once_and_in_order() -> None:
    async def main() -> None:
        async with rig(starts=False) as r:
            await r.start("a")
            await r.worker.start()
            # The claim is in the queue or about to be: these land before, beside and after it.
            sends = [
                asyncio.ensure_future(r.do(Ask("a", decide.Send(event="e", payload=n)))) for n in range(200)
            ]
            for _ in range(50):
                await asyncio.sleep(0)
            sends += [
                asyncio.ensure_future(r.do(Ask("a", decide.Send(event="e", payload=n))))
                for n in range(200, 400)
            ]
            await asyncio.gather(*sends)
            fake = r.fake("a")
            await until(lambda: len(fake.history) + len(fake.seen) == 402)
            versions = [x.originator_version for x in [*fake.history, *fake.seen]]
            assert versions == list(range(1, 403))

    run(main)


def test_no_more_in_memory_than_there_is_room_for() -> None:
    async def main() -> None:
        async with rig(max_running=2) as r:
            for n in range(5):
                await r.start(f"i{n}")
            for done in range(5):
                await until(lambda done=done: len(r.made) == min(5, done + 2))  # type: ignore[misc]
                assert r.worker.running <= 2
                r.made[done].complete()
                await until(lambda done=done: r.made[done].id not in r.worker._executions.running)  # type: ignore[misc]
            assert sorted(ids(r)) == [f"i{n}" for n in range(5)]

    run(main)


def test_waiting_executions_give_way() -> None:
    async def main() -> None:
        async with rig(max_running=2) as r:
            await r.start("a")
            await r.start("b")
            await until(lambda: len(r.made) == 2)
            r.fake("a").idle = True
            await r.start("c")
            await until(lambda: "c" in ids(r))
            assert r.fake("a").calls == ["start", "evict"]
            assert r.fake("b").calls == ["start"]

    run(main)


def test_the_timer_wakes_for_the_next_due_instance() -> None:
    async def main() -> None:
        clock = VirtualClock()
        async with rig(clock=clock) as r:
            await r.start("later", delay=10_000_000)
            await r.start("sooner", delay=5_000_000)
            clock.join(lambda: r.worker.quiet and not r.writer.backlog)
            await clock.settle()
            assert not r.made
            clock._jump(clock.now() + 4_999_999)
            await until(lambda: r.worker._claiming.quiet)
            assert not r.made
            clock._jump(clock.now() + 1)
            await until(lambda: ids(r) == ["sooner"])
            clock._jump(clock.now() + 5_000_000)
            await until(lambda: ids(r) == ["sooner", "later"])

    run(main)


def test_another_owner_fences() -> None:
    async def main() -> None:
        async with rig() as r:
            await r.start("a")
            await until(lambda: ids(r) == ["a"])
            mine = r.worker.worker
            await r.do(Ask("a", decide.Claim(worker="somebody", code={}, dead=mine)))
            await until(lambda: r.worker.running == 0)
            assert r.made[0].calls == ["start", "fence"]
            await r.do(Ask("a", decide.Send(event="e")))
            assert r.owners() == {"a": "somebody"}
            await r.do(Ask("a", decide.Claim(worker=mine, code={}, dead="somebody")))

    run(main)


def test_owners_that_are_registered_nowhere_are_dead(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(f"sqlite:///{tmp_path / 'log.db'}", starts=False) as r:
            for n in range(120):
                await r.start(f"i{n:03}", claim=Claim("ghost", {}))
            await r.start("not ours", workflow="other", claim=Claim("ghost", {}))
            await r.worker.start()
            await until(lambda: len(r.made) == 120)
            assert {fake.epoch for fake in r.made} == {2}
            owners = r.owners()
            assert owners.pop("not ours") == "ghost"
            assert set(owners.values()) == {r.worker.worker}
            await until(lambda: r.worker._claiming.quiet)
            assert r.worker._claiming.left_to_others == {"ghost"}

    run(main)


def test_a_dead_workers_row_and_lock_are_removed_with_its_last_instance(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path / 'log.db'}"
        async with rig(url, starts=False) as r:
            directory = tmp_path / "log.db.workers"
            FileHold(directory, "gone").forget()
            machine = leases.Machine.here()
            row = ("gone", None, machine.host, machine.boot, 1, 0, 1, "{}", 1)
            transaction = r.log.begin()
            transaction.query(leases.INSERT, row)
            transaction.commit()
            await r.start("a", claim=Claim("gone", {}))
            await r.worker.start()
            await until(lambda: ids(r) == ["a"] and r.worker._claiming.quiet)
            await until(lambda: [x[0] for x in r.log.read(leases.SELECT)] == [r.worker.worker])
            assert [path.stem for path in directory.iterdir()] == [r.worker.worker]
        assert not directory.exists()

    run(main)


def test_a_clean_stop_releases_everything_and_signs_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path / 'log.db'}"
        async with rig(url) as r:
            for id in ("leaves", "finishes", "hangs"):
                await r.start(id)
            await until(lambda: len(r.made) == 3)
            r.fake("finishes").stays_on_stop = r.fake("hangs").stays_on_stop = True
            stopping = asyncio.ensure_future(r.worker.stop(0.2))
            await until(lambda: "stop" in r.fake("finishes").calls)
            assert r.worker.claim_ticket("job") is None
            r.fake("finishes").complete()
            await r.start("late")
            await stopping
            assert r.fake("leaves").calls == ["start", "stop"]
            assert r.fake("finishes").calls == ["start", "stop"]
            assert r.fake("hangs").calls == ["start", "stop", "abandon"]
            (told,) = caplog.messages
            assert told.startswith("1 instance had a step that took longer than the grace of 0.2 s")
            assert told.endswith(": hangs")
            assert r.owners() == {"leaves": None, "hangs": None, "late": None}
            assert r.log.read(leases.SELECT) == []

    run(main)


def test_an_execution_that_cannot_start_harms_no_other() -> None:
    async def main() -> None:
        async with rig() as r:

            def start(self: Fake) -> None:
                self.calls.append("start")
                if self.id == "bad":
                    raise RuntimeError("no way")

            maker = r.worker._execution
            maker.start = start  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
            await r.start("bad")
            await r.start("good")
            await until(lambda: len(r.made) == 2)
            await until(lambda: r.fake("bad").calls == ["start", "broken: no way"])
            assert r.worker.running == 1

    run(main)


def test_a_stop_does_not_wait_for_an_execution_that_cannot_be_made() -> None:
    async def main() -> None:
        async with rig(starts=False) as r:

            def make(*args: Any) -> Any:
                raise RuntimeError("no way")

            r.worker._execution = make
            await r.start("bad")
            begin = r.worker._executions._begin
            begun = asyncio.Event()

            def held(id: str, history: list[e.Recorded]) -> None:
                begun.set()
                r.loop.call_soon(begin, id, history)

            r.worker._executions._begin = held  # type: ignore[method-assign]
            await r.worker.start()
            await begun.wait()
            # It has a place still, and gives it back by failing.
            async with asyncio.timeout(5):
                await r.worker.stop(60)

    run(main)


def test_an_idle_worker_writes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(f"sqlite:///{tmp_path / 'log.db'}") as r:
            await until(lambda: r.worker.quiet)
            commits = r.writer.commits
            looks = r.worker._membership._watch
            assert looks is not None
            looks._tick()
            looks._tick()
            await asyncio.sleep(0)
            await until(lambda: r.worker.quiet)
            assert r.writer.commits == commits

    run(main)


def test_a_worker_whose_row_was_removed_registers_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(f"sqlite:///{tmp_path / 'log.db'}") as r:
            transaction = r.log.begin()
            transaction.query(leases.DELETE, (r.worker.worker,))
            transaction.commit()
            watch = r.worker._membership._watch
            assert watch is not None
            watch._tick()
            await until(lambda: [x[0] for x in r.log.read(leases.SELECT)] == [r.worker.worker])

    run(main)


# -- The event loop's own health -------------------------------------------------------------------------------------


def test_a_blocked_loop_is_noticed_once_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr("wfes.runtime.watch.time.monotonic", lambda: now[0])
    answers: list[Callable[[], None]] = []

    class Loop:
        def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
            answers.append(callback)

    handlers: dict[CodeType, str] = {sys._getframe().f_code: "report"}
    loop: Any = Loop()
    blockage = Blockage(loop, threading.get_ident(), handlers)
    with caplog.at_level(logging.WARNING, logger="wfes"):
        blockage.check()
        answers.pop()()
        now[0] += 1
        blockage.check()
        assert not caplog.records, "the loop answered"
        now[0] += 1
        blockage.check()
        now[0] += 1
        blockage.check()
    assert len(caplog.records) == 1
    assert "blocked for 1.0 s" in caplog.text
    assert "handler of workflow 'report'" in caplog.text
    assert Path(__file__).name in caplog.text
    caplog.clear()
    answers.pop()()
    blockage.check()
    now[0] += 60
    blockage.check()
    assert not caplog.records, "the whole process was stopped"


def test_the_culprit_is_the_innermost_code_of_the_users_own() -> None:
    def blocks() -> str:
        re.sub("x", inner, "x")
        return named[0]

    def inner(_: re.Match[str]) -> str:
        named.append(culprit(sys._getframe(), {}))
        return ""

    named: list[str] = []
    assert "inner" in blocks()
    assert culprit(None, {}) == "something unknown"


def test_max_running_is_checked() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="max_running is 0"):
            Rig(max_running=0)

    run(main)
