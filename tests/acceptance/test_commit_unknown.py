"""The connection breaks after COMMIT was sent and before the answer came: the writer finds out what happened.

Each trial cuts one commit, in a way of which the truth is known: the server never heard of it, or it happened. In the
end each command was acknowledged once, its event is in the log once, and it ran again only where it had not happened.

``WFES_COMMITS=1000`` is how many trials there are; by default 100.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Generator
from pathlib import Path

import pytest
from checks import broken_chains, histories_of, stored_events
from places import placed, url_of
from proxy import Cut, Proxy

from wfes.core import events as e
from wfes.log.open import open_log
from wfes.log.port import Tx
from wfes.log.writer import Writer

TRIALS = int(os.environ.get("WFES_COMMITS", "100"))
SECONDS_EACH = 0.6


@pytest.fixture
def there(tmp_path: Path) -> Generator[Path]:
    with placed(tmp_path, "postgresql"):
        yield tmp_path


class Append:
    """A member that appends one event, counts its runs and tells its end."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.runs = 0
        self.told: list[object] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def run(self, tx: Tx) -> str:
        self.runs += 1
        tx.append(self.id, [e.EventPublished(at=1, event="n", id=self.id, payload=self.runs)])
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
