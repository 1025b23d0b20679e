"""The connection breaks after COMMIT was sent and before the answer came: the writer finds out what happened.

Each trial cuts one commit, in a way of which the truth is known: the server never heard of it, or it happened. In the
end each command was acknowledged once, its event is in the log once, and it ran again only where it had not happened.

Then the same with everything that an engine commits: rows beside events, rows alone (pages of projections that follow,
what is made up for, tables that are swapped), also where the server crashes before the writer can ask it.

``WFES_COMMITS=1000`` is how many trials there are; by default 100, and an eighth of that of an engine.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from checks import broken_chains, histories_of, problems_of, stored_events, unlike_rebuilt
from pg_server import Server
from places import placed, put, url_of
from projected import ALL
from proxy import Cut, Proxy

from wfes import Engine, LogUnavailable
from wfes.core import events as e
from wfes.log.open import open_log
from wfes.log.port import Tx
from wfes.log.writer import Writer

TRIALS = int(os.environ.get("WFES_COMMITS", "100"))
SECONDS_EACH = 0.6
CRASHES = 3
REBUILT = ("kit-lives", "kit-steps", "wfes_work")


@pytest.fixture
def there(tmp_path: Path) -> Generator[Path]:
    with placed(tmp_path, "postgresql"):
        yield tmp_path


class Append:
    """A member that appends events, one if nothing else is said, counts its runs and tells its end."""

    def __init__(self, id: str, events: Sequence[e.Event] = ()) -> None:
        self.id = id
        self.events = events
        self.runs = 0
        self.told: list[object] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def run(self, tx: Tx) -> str:
        self.runs += 1
        own = e.EventPublished(at=1, event="n", id=self.id, payload=self.runs)
        tx.append(self.id, self.events or [own])
        return self.id

    def done(self, result: str) -> None:
        self.told.append(result)
        self.over.set_result(None)

    def failed(self, error: Exception) -> None:
        self.told.append(error)
        self.over.set_result(None)


@pytest.mark.timeout(60 + TRIALS * SECONDS_EACH)
def test_a_commit_whose_answer_never_came_is_resolved_to_the_truth(there: Path) -> None:
    """In 100 % of the trials, with one member in the commit or several."""
    chance = random.Random(7)
    members: list[tuple[Cut, Append]] = []

    async def main(proxy: Proxy) -> None:
        log = open_log(proxy.url(url_of(there)))
        log.open([])
        writer = Writer(log, clock=lambda: 1, deliver=lambda batch: None)
        writer.start(asyncio.get_running_loop())
        try:
            for trial in range(TRIALS):
                cut = chance.choice(list(Cut))
                batch = [Append(f"$event/{trial}/{number}") for number in range(chance.choice([1, 1, 3]))]
                proxy.arm(cut)
                for member in batch:
                    writer.submit(member)
                async with asyncio.timeout(20):
                    await asyncio.gather(*(member.over for member in batch))
                assert not proxy.armed
                members.extend((cut, member) for member in batch)
                # The others may have come a moment too late for the commit that was cut.
                assert batch[0].runs > 1 or cut.commits, "the cut commit happened"
        finally:
            writer.stop()
            log.close()

    with Proxy(url_of(there)) as proxy:
        asyncio.run(main(proxy))
        assert sum(proxy.cuts.values()) == TRIALS
    stored = stored_events(there)
    assert broken_chains(stored) == []
    histories = histories_of(stored)
    assert len(histories) == len(members) == len(stored)
    for cut, member in members:
        assert member.told == [member.id], f"{cut}: {member.told}"
        (recorded,) = histories[member.id]
        assert isinstance(recorded.event, e.EventPublished)
        # What is in the log is what its last run wrote: what had happened did not run again.
        assert recorded.event.payload == member.runs, f"{cut}: {member.id} ran {member.runs} times"
        if cut.commits:
            assert member.runs == 1, f"{cut}: {member.id} was committed, and ran again"


def _life(id: str) -> tuple[list[e.Event], list[e.Event]]:
    """An instance's history, of which projections of every kind make rows, in two parts."""
    began: list[e.Event] = [
        e.WorkflowStarted(at=1, workflow="any", input=None),
        e.RunClaimed(at=1, worker="nobody", epoch=1),
        e.StepStarted(at=1, path="a", attempt=1),
    ]
    rest: list[e.Event] = [
        e.StepCompleted(at=2, path="a", result=id),
        e.WorkflowCompleted(at=3, output=None),
    ]
    return began, rest


async def _submitted(engine: Engine, *members: Append) -> None:
    writer = engine._parts._writer
    assert writer is not None
    for member in members:
        writer.submit(member)
    async with asyncio.timeout(30):
        await asyncio.gather(*(member.over for member in members))
    assert [member.told for member in members] == [[member.id] for member in members]


async def _wrong(engine: Engine) -> list[str]:
    """What is wrong with its projections. Whoever only reads is told that he was cut off, and asks again."""
    for _ in range(50):
        try:
            return await unlike_rebuilt(engine)
        except LogUnavailable:
            await asyncio.sleep(0.02)
    raise AssertionError("the log is not there any more")


async def _crash(server: Server, proxy: Proxy) -> None:
    """The server crashes right after the commit was cut, before anybody has asked what became of it."""
    limit = time.monotonic() + 10
    while not proxy.refusing:
        assert time.monotonic() < limit, "no commit was cut"
        await asyncio.sleep(0.002)
    # Not in a thread: the server ends with the one that started it.
    server.stop(immediate=True)
    server.start()
    proxy.refusing = False


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.timeout(60 + TRIALS * SECONDS_EACH)
def test_rows_are_exact_whatever_became_of_a_commit(server: Server, tmp_path: Path) -> None:
    """Two engines work on one log, each of whose commits may be the one that is cut; everything is recorded once, and
    all projections go on and equal their rebuild."""
    put(tmp_path, server.url)
    chance = random.Random(3)
    trials = TRIALS // 8

    async def main(proxy: Proxy) -> None:
        engine = Engine(proxy.url(url_of(tmp_path)), worker=False, projections=ALL)
        other = Engine(url_of(tmp_path), worker=False)
        async with other, engine:
            for trial in range(trials):
                crashing = trial % max(1, trials // CRASHES) == 1
                proxy.refusing_after_cut = crashing
                proxy.arm(chance.choice(list(Cut)), after=0 if crashing else chance.choice([0, 0, 1, 2]))
                if trial % 3:
                    # Rows alone: what another engine appended is made up for.
                    await _submitted(
                        other, Append(f"o-{trial}", [event for part in _life("") for event in part])
                    )
                begun, rest = _life(f"i-{trial}")
                lives = [Append(f"i-{trial}", begun), Append(f"i-{trial}", rest)]
                submitting = asyncio.ensure_future(_submitted(engine, *lives))
                if crashing:
                    await _crash(server, proxy)
                await submitting
                if trial % 5 == 4:
                    assert await _wrong(engine) == []
            proxy.arm(None)
            assert await _wrong(engine) == []

    with Proxy(url_of(tmp_path), 3) as proxy:
        asyncio.run(main(proxy))
        assert sum(proxy.cuts.values()) > trials / 2
    assert problems_of(tmp_path) == []


@pytest.mark.timeout(60 + TRIALS * SECONDS_EACH)
@pytest.mark.parametrize("name", REBUILT)
def test_a_rebuild_gets_through_whichever_of_its_commits_is_cut(there: Path, name: str) -> None:
    """The old rows serve or the new ones do, and whoever keeps them goes on."""
    whole = TRIALS >= 1_000
    cuts = list(Cut) if whole else [Cut.BEFORE if name == "kit-steps" else Cut.ANSWERED]

    async def main(proxy: Proxy) -> None:
        engine = Engine(proxy.url(url_of(there)), worker=False, projections=ALL)
        async with engine:
            for cut in cuts:
                for after in range(100):
                    id = f"{cut}-{after}"
                    begun, rest = _life(id)
                    await _submitted(engine, Append(id, begun))
                    proxy.arm(cut, after)
                    building = asyncio.ensure_future(engine.rebuild_projection(name))
                    await _submitted(engine, Append(id, rest))
                    await building
                    through = proxy.armed
                    proxy.arm(None)
                    if whole or through:
                        assert await _wrong(engine) == []
                    if through:
                        break
                else:
                    raise AssertionError("the last commit of a rebuild was not found")

    with Proxy(url_of(there)) as proxy:
        asyncio.run(main(proxy))
    assert problems_of(there) == []
