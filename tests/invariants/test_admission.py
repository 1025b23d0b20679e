"""Random lives under a limit that changes: starts, ends, crashes, retries, pauses, cancellations.

Several workers are played by the members they would submit, each with a memory of its own, on one log; any transaction
may be undone. A model that reads nothing but the events, and knows each instance's key from its input, holds against:

* never more than the limit in force hold a slot for one value of the key when somebody gets one;
* nobody gets a slot while somebody else of the same value stands before it;
* whenever the workers have nothing left to do, there is no room where somebody waits (nothing starves);
* in the end everything ends, and no row is left;
* the rows are what the log makes of them (G10).
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from wfes import Concurrency, Step, workflow
from wfes.core import decide
from wfes.core import events as e
from wfes.core.codec import Json
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.errors import WfesError
from wfes.log.application import decode
from wfes.log.cache import Cache
from wfes.log.open import open_log
from wfes.log.port import Log, Tx
from wfes.log.rows import InlineRows
from wfes.log.transaction import Transaction
from wfes.registration import state_projections
from wfes.runtime import leases
from wfes.runtime.admission import Admission
from wfes.runtime.claims import Claimed, ClaimRunnable, Share, Work
from wfes.runtime.commands import Ask, Claim, Define, RetryInstance, Start
from wfes.runtime.reactions import REACTIONS
from wfes.runtime.values import Values
from wfes.subscription.rebuild import bring_up

START = 1_800_000_000_000_000
SECOND = 1_000_000
NAME = "job"
SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))
TABLES = ("wfes_slots", "wfes_slot_counts", "wfes_slot_totals")
Regime = tuple[int, str] | None


@workflow(name=NAME, concurrency=Concurrency(1, key="a"))
async def job(input: dict[str, int], step: Step) -> None:
    """Never run here."""


class Model:
    """What the events say, read independently: who holds, who waits, under which limit."""

    def __init__(self) -> None:
        self.regime: Regime = None
        self.input: dict[str, Json] = {}
        self.since: dict[str, int] = {}
        self.queue: set[str] = set()
        self.holders: set[str] = set()
        self.aside: set[str] = set()
        """Paused, or to be cancelled: they are passed over."""

    def value(self, id: str) -> Any:
        assert self.regime is not None
        return self.input[id].get(self.regime[1]) if self.regime[1] else None

    def holding(self, value: Any) -> int:
        return sum(self.value(id) == value for id in self.holders)

    def take(self, id: str, event: e.Event) -> None:
        match event:
            case e.WorkflowDefined():
                limit = event.concurrency
                self.regime = None if limit is None else (limit, event.concurrency_key or "")
            case e.WorkflowStarted():
                self.input[id] = event.input
                self.since[id] = max(event.at, event.not_before)
                self.queue.add(id)
            case e.SlotGranted() | e.RunClaimed() if id in self.queue:
                self.admitted(id, event.at)
                self.queue.discard(id)
                self.holders.add(id)
            case e.WorkflowRetried():
                self.since[id] = event.at
                self.queue.add(id)
            case e.WorkflowPaused():
                self.aside.add(id)
            case e.CancelRequested():
                self.aside.add(id)
            case e.WorkflowResumed():
                self.aside.discard(id)
            case _ if event.terminal:
                self.queue.discard(id)
                self.holders.discard(id)
                self.aside.discard(id)
            case _:
                """Says nothing of slots."""

    def admitted(self, id: str, at: int) -> None:
        """Somebody gets a slot."""
        assert self.since[id] <= at, f"{id} was admitted before its time"
        if self.regime is None:
            return
        value = self.value(id)
        assert self.holding(value) < self.regime[0], f"{id} is one too many of {value} under {self.regime}"
        before = [
            other
            for other in self.queue - self.aside
            if self.value(other) == value and self.since[other] < self.since[id]
        ]
        assert not before, f"{before} stood before {id}"

    def room(self, now: int) -> list[str]:
        """Who waits although there is room."""
        waiting = [id for id in self.queue - self.aside if self.since[id] <= now]
        if self.regime is None:
            return waiting
        return [id for id in waiting if self.holding(self.value(id)) < self.regime[0]]


class World:
    """A log, some workers, and what they do."""

    def __init__(self) -> None:
        self.now = START
        self.log: Log = open_log("sqlite://")
        self.log.open(leases.CREATE)
        bring_up(self.log, state_projections(), lambda: self.now)
        self.inline = InlineRows(state_projections())
        self.model = Model()
        self.seen = 0
        self.ids = itertools.count()
        self.codes: dict[str, Json] = {NAME: {}}
        self.workers: dict[str, tuple[Cache, Work]] = {}
        self.dead: list[str] = []
        for name in ("w1", "w2"):
            self.hire(name)

    def hire(self, name: str) -> None:
        admission = Admission({NAME: job}, Values(lambda _: None))
        self.workers[name] = Cache(1000, 1 << 20, ()), Work([NAME], admission)

    def close(self) -> None:
        self.log.close()

    # -- Transactions ------------------------------------------------------------------------------------------------

    def commit(self, name: str, member: Any, undone: bool = False) -> Any:
        """Runs a member in a transaction of a worker's process."""
        write = self.log.begin()
        # What others wrote makes this process's memory stale: it is read anew.
        cache = self.workers[name][0]
        cache.clear()
        tx = Transaction(write, cache, self.inline, REACTIONS, self.now)
        try:
            found = member.run(tx)
            tx.finish()
        except WfesError:
            write.rollback()
            tx.undone()
            return None
        if undone:
            write.rollback()
            tx.undone()
            return None
        write.commit()
        tx.committed()
        for stored in self.log.select_notifications(self.seen + 1, 100_000):
            self.seen = stored.id
            self.model.take(str(stored.originator_id), decode(stored).event)
        return found

    def states(self) -> dict[str, InstanceState]:
        found: dict[str, InstanceState] = {}
        for stored in self.log.select_notifications(1, 100_000):
            id = str(stored.originator_id)
            if not id.startswith("$"):
                state = found.setdefault(id, InstanceState(id))
                evolve(state, decode(stored).event, stored.originator_version)
        return found

    # -- What happens ------------------------------------------------------------------------------------------------

    def define(self, limit: int, key: str) -> None:
        self.commit(
            next(iter(self.workers)),
            Define(
                [
                    e.WorkflowDefined(
                        at=self.now, workflow=NAME, concurrency=limit or None, concurrency_key=key or None
                    )
                ]
            ),
        )

    def start(self, worker: str, number: int, delay: int, how: int) -> None:
        input = {"a": number % 2, "b": number % 3}
        known = ("a", str(input["a"])), ("b", str(input["b"])), None
        self.commit(
            worker,
            Start(
                id=f"i{next(self.ids)}",
                workflow=NAME,
                input=input,
                delay=delay * SECOND,
                counts_as=known[how % 3],
                claim=Claim(worker, {}) if how % 2 else None,
            ),
        )

    def claim(self, worker: str, places: int, undone: bool = False) -> Claimed | None:
        def ignore(_: object) -> None:
            pass

        work = self.workers[worker][1]
        member = ClaimRunnable(
            worker, self.codes, work, places, dict.fromkeys(self.dead, Share()), ignore, ignore
        )
        found: Claimed | None = self.commit(worker, member, undone)
        if found is not None:
            self.dead = [dead for dead in self.dead if dead not in found.cleared]
        return found

    def act(self, number: int, what: int) -> None:
        """The owner of some instance records something, perhaps its end."""
        running = sorted(id for id, state in self.states().items() if state.worker in self.workers)
        if not running:
            return
        id = running[number % len(running)]
        events: list[e.Event] = [
            [e.WorkflowCompleted(at=self.now)],
            [e.WorkflowFailed(at=self.now)],
            [e.RunReleased(at=self.now, waiting=False)],
            [
                e.ListenStarted(at=self.now, path="l", event="x", until=self.now + SECOND),
                e.RunReleased(at=self.now),
            ],
        ][what % 4]  # type: ignore[assignment]
        self.commit(next(iter(self.workers)), _Append(id, events))

    def ask(self, number: int, what: int) -> None:
        """Somebody asks something of some instance."""
        ids = sorted(self.states())
        if not ids:
            return
        id = ids[number % len(ids)]
        commands: list[Any] = [
            Ask(id, decide.Cancel()),
            Ask(id, decide.Pause()),
            Ask(id, decide.Resume()),
            Ask(id, decide.SetDeadline(deadline=self.now + SECOND)),
            RetryInstance(id),
            RetryInstance(id),
        ]
        self.commit(next(iter(self.workers)), commands[what % len(commands)])

    def crash(self, worker: str) -> None:
        """A worker dies; the next process has another name."""
        del self.workers[worker]
        self.dead.append(worker)
        self.hire(f"{worker}'")

    # -- Laws --------------------------------------------------------------------------------------------------------

    def settle(self, places: int = 1000) -> None:
        """Workers claim until there is nothing left to claim."""
        for worker in sorted(self.workers):
            for _ in range(100):
                found = self.claim(worker, places)
                assert found is not None
                if not (found.more and found.progressed):
                    break
            else:
                raise AssertionError("claiming goes on for ever")
        assert not self.model.room(self.now)

    def finish(self) -> None:
        """Everything is resumed, and ends."""
        for id, state in self.states().items():
            if state.paused:
                self.commit(next(iter(self.workers)), Ask(id, decide.Resume()))
        for _ in range(200):
            self.now += 10 * SECOND
            self.settle()
            owned = [id for id, state in self.states().items() if state.worker is not None]
            if not owned:
                break
            for id in owned:
                name = next(iter(self.workers))
                self.commit(name, _Append(id, [e.WorkflowCompleted(at=self.now)]))
        assert all(state.ended is not None for state in self.states().values())

    def check_rows(self) -> None:
        """The rows are what the log makes of them."""
        for projection in state_projections():
            if projection.name not in TABLES:
                continue
            expected: dict[Any, list[Any]] = {}
            for state in self.states().values():
                for key, row in projection.rows(state).items():
                    known = expected.get(key)
                    if known is None:
                        expected[key] = list(row)
                    else:
                        size = len(key)
                        known[size:] = [a + b for a, b in zip(known[size:], row[size:], strict=True)]
            live = {tuple(row) for row in self.log.read(f"SELECT * FROM {projection.name}")}
            assert live == {tuple(row) for row in expected.values()}, projection.name


class _Append:
    def __init__(self, id: str, events: list[e.Event]) -> None:
        self.id = id
        self.events = events

    def run(self, tx: Tx) -> None:
        tx.append(self.id, self.events)


OPS = st.tuples(
    st.sampled_from(
        ["start", "start", "start", "claim", "claim", "act", "act", "ask", "crash", "wait", "define"]
    ),
    st.integers(0, 11),
    st.integers(0, 11),
)


def play(world: World, ops: list[tuple[str, int, int]]) -> None:
    for kind, one, two in ops:
        names = sorted(world.workers)
        worker = names[two % len(names)]
        match kind:
            case "start":
                world.start(worker, one, two % 3 if two > 8 else 0, two)
            case "claim":
                world.claim(worker, 1 + one % 3, undone=two == 11)
            case "act":
                world.act(one, two)
            case "ask":
                world.ask(one, two)
            case "crash":
                world.crash(worker)
            case "define":
                world.define(one % 4, ("", "a", "b")[two % 3])
            case _:
                world.now += one * SECOND // 4
        if one == 0:
            world.settle()


@settings(max_examples=150 * SCALE, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["", "a", "b"]), st.lists(OPS, max_size=60))
def test_never_too_many_in_order_and_nobody_starves(
    limit: int, key: str, ops: list[tuple[str, int, int]]
) -> None:
    world = World()
    try:
        world.define(limit, key)
        play(world, ops)
        world.settle()
        world.check_rows()
        world.finish()
        world.check_rows()
        assert not any(world.log.read(f"SELECT * FROM {table}") for table in TABLES)
    finally:
        world.close()
