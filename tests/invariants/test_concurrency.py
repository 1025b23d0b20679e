"""Many callers and several processes at once: exactly one wins, and everybody is told the truth."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import corpus
import pytest
import scenarios
from checks import broken_chains, calls_in, doubled, histories_of, malformed, stored_events, wrong_rows
from places import url_of
from scenarios import finished, spawn

from wfes import (
    Engine,
    InstanceEnded,
    RequestNotPending,
    Status,
    Step,
    WaitTimeout,
    WorkflowCancelled,
    workflow,
)
from wfes.core import events as e
from wfes.core.state import ACTIVE


@pytest.fixture(autouse=True)
def noted(tmp_path: Path) -> None:
    corpus.use(tmp_path / "calls")


def check(folder: Path) -> dict[str, list[e.Recorded]]:
    """The instances' histories, once they are known to be whole."""
    stored = stored_events(folder)
    histories = histories_of(stored)
    instances = {stream: history for stream, history in histories.items() if not stream.startswith("$")}
    problems = broken_chains(stored) + doubled(histories) + wrong_rows(folder, stored)
    for history in instances.values():
        problems += malformed(history)
    assert problems == []
    return instances


def together(folder: Path, name: str, *words: str) -> list[str]:
    """Runs a scenario in two processes that begin at the same moment; what they printed."""
    children = {role: spawn(name, folder, role, *words) for role in ("a", "b")}
    return _finish_together(folder, children)


def _finish_together(folder: Path, children: dict[str, Any]) -> list[str]:
    try:
        for role in children:
            scenarios.until(folder / f"ready-{role}")
        (folder / "go").touch()
        return [finished(child) for child in children.values()]
    finally:
        for child in children.values():
            if child.poll() is None:
                child.kill()


# ----------------------------------------------------------------------------------------- one instance


def test_fifty_callers_in_two_processes_get_one_instance(folder: Path) -> None:
    """get_or_create under 50 concurrent callers in two processes gives one instance."""
    told = [out.split() for out in together(folder, "get_or_create_all", "25")]
    assert told[0] == told[1]
    assert len(told[0]) == 1
    assert len(check(folder)) == 1


def test_callers_racing_the_end_get_an_active_instance_or_a_new_one(folder: Path) -> None:
    """get_or_create while the instance ends: each generation is started once, and each caller gets one of them."""

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[scenarios.small]) as engine:
            ids: set[str] = set()
            for number in range(150):
                run = await scenarios.small.get_or_create(key="k", input=number)
                ids.add(run.id)
                if number % 7 == 0:
                    await asyncio.sleep(random.Random(number).uniform(0, 0.03))
            for id in ids:
                await (await engine.get(id)).result(timeout=20)
            rows = (await engine.instances(key="k", limit=1000)).items
            assert {row.id for row in rows} == ids

    asyncio.run(main())
    generations = [h[0].event for h in check(folder).values()]
    numbers = sorted(event.generation for event in generations if isinstance(event, e.WorkflowStarted))
    assert numbers == list(range(1, len(generations) + 1))


# -------------------------------------------------------------------------------------------- one answer


def test_first_of_fifty_answers_wins(folder: Path) -> None:
    """First answer wins under 50 concurrent provide; the other 49 are told that theirs did not count."""

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[scenarios.question]) as engine:
            for number in range(5):
                run = await scenarios.question.start(number)
                request = await corpus.first_request(engine, run.id, "answer")
                won: list[int] = []

                async def answer(data: int, request: str = request, won: list[int] = won) -> None:
                    try:
                        await engine.provide(scenarios.question, request, data)
                    except RequestNotPending:
                        return
                    won.append(data)

                await asyncio.gather(*(answer(data) for data in range(50)))
                assert len(won) == 1
                assert await run.result(timeout=20) == won[0]

    asyncio.run(main())
    for history in check(folder).values():
        assert Counter(recorded.event.topic for recorded in history)["DataProvided"] == 1


def test_first_of_fifty_answers_from_two_processes_wins(folder: Path) -> None:
    """The same from two processes, with a third that runs the workflow."""

    async def main() -> None:
        async with Engine(url_of(folder), workflows=[scenarios.question]) as engine:
            run = await scenarios.question.start(1)
            request = await corpus.first_request(engine, run.id, "answer")
            children = {role: spawn("provide_all", folder, role, request, "25") for role in ("1", "2")}
            told = await asyncio.to_thread(_finish_together, folder, children)
            (won,) = [int(number) for out in told for number in out.split()]
            assert await run.result(timeout=20) == won

    asyncio.run(main())
    check(folder)


# ------------------------------------------------------------------------------------------------- races


ROUNDS_MAX = 40
"""Races go on, with their moments moved to where both sides win, until both have won."""


@workflow(requests={"answer": int})
async def hasty(number: int, step: Step) -> int | None:
    """Waits a quarter of a second for an answer."""
    try:
        answer: int = await step.request("answer", timeout="250ms")
    except WaitTimeout:
        return None
    return answer


def test_a_time_out_racing_an_answer(folder: Path) -> None:
    """Exactly one of them wins, and whoever answered is told which."""

    async def race(engine: Engine, number: int, chance: random.Random) -> bool | None:
        run = await hasty.start(number)
        while not (requests := (await engine.requests(instance=run.id)).items):
            if (await run.refresh()).status not in ACTIVE:
                assert await run.result() is None
                return None  # this machine is so busy that it timed out before anybody looked
        deadline = requests[0].deadline
        assert deadline is not None
        await asyncio.sleep((deadline - datetime.now(UTC)).total_seconds() + chance.uniform(-0.02, 0.01))
        try:
            await hasty.provide(requests[0], number)
            accepted = True
        except RequestNotPending:
            accepted = False
        assert await run.result(timeout=20) == (number if accepted else None)
        return accepted

    async def main() -> None:
        chance = random.Random(1)
        async with Engine(url_of(folder), workflows=[hasty]) as engine:
            for _ in range(6):
                found = await asyncio.gather(*(race(engine, n, chance) for n in range(40)))
                wins.update(found)

    wins: Counter[bool | None] = Counter()
    asyncio.run(main())
    assert wins[True] > 10, wins
    assert wins[False] > 10, wins
    check(folder)


@workflow
async def brief(number: int, step: Step) -> int:
    """Is over soon."""
    await step.sleep("nap", number / 1000)
    return await step("work", returning, number)


def returning(number: int) -> int:
    corpus.called()
    return number


def test_an_end_racing_a_cancel(folder: Path) -> None:
    """Either it completed or it was cancelled; nobody is told anything else, and its history says the same."""

    async def race(number: int, chance: random.Random, spread: float) -> Status:
        run = await brief.start(number)
        await asyncio.sleep(chance.uniform(0.0, spread))
        await run.cancel("a race")
        try:
            output = await run.result(timeout=20)
            assert output == number
            told = Status.COMPLETED
        except WorkflowCancelled:
            told = Status.CANCELLED
        assert (await run.refresh()).status == told
        history = [event.type for event in await run.history()]
        assert history.count("WorkflowCompleted") == (told == Status.COMPLETED)
        assert history.count("WorkflowCancelled") == (told == Status.CANCELLED)
        return told

    async def main() -> None:
        chance = random.Random(2)
        spread = 0.04
        async with Engine(url_of(folder), workflows=[brief]):
            for _ in range(ROUNDS_MAX):
                found = Counter(await asyncio.gather(*(race(n, chance, spread) for n in range(40))))
                ends.update(found)
                spread *= 1.5 if found[Status.COMPLETED] < found[Status.CANCELLED] else 0.7
                if len(ends) == 2 and min(ends.values()) > 10 and ends.total() >= 240:
                    break

    ends: Counter[Status] = Counter()
    asyncio.run(main())
    assert ends[Status.COMPLETED] > 10, ends
    assert ends[Status.CANCELLED] > 10, ends
    check(folder)


def test_a_send_racing_the_end_is_consumed_or_refused_or_kept(folder: Path) -> None:
    """A send that returned stands in the history before the end; one that was refused does not stand there."""

    async def race(number: int, chance: random.Random, spread: float) -> bool:
        run = await brief.start(number)
        await asyncio.sleep(chance.uniform(0.0, spread))
        try:
            await run.send("late", number)
            accepted = True
        except InstanceEnded:
            accepted = False
        await run.result(timeout=20)
        kinds = [event.type for event in await run.history()]
        assert ("EventReceived" in kinds) == accepted
        assert kinds[-1] == "WorkflowCompleted"
        return accepted

    async def main() -> None:
        chance = random.Random(3)
        spread = 0.04
        async with Engine(url_of(folder), workflows=[brief]):
            for _ in range(ROUNDS_MAX):
                got = Counter(await asyncio.gather(*(race(n, chance, spread) for n in range(30))))
                found.update(got)
                spread *= 1.5 if got[False] < got[True] else 0.7
                if len(found) == 2 and min(found.values()) > 10 and found.total() >= 120:
                    break

    found: Counter[bool] = Counter()
    asyncio.run(main())
    assert found[True] > 10, found
    assert found[False] > 10, found
    check(folder)


# ---------------------------------------------------------------------------------------- two processes


@pytest.mark.timeout(120)
def test_two_processes_with_workers_share_two_hundred_instances(folder: Path) -> None:
    """Two processes on one SQLite file, both with workers: 200 instances, each finished once."""
    together(folder, "work_off", "100")
    instances = check(folder)
    assert len(instances) == 200
    for history in instances.values():
        topics = Counter(recorded.event.topic for recorded in history)
        assert topics["WorkflowCompleted"] == 1
        assert topics["StepCompleted"] == 2
    assert Counter(calls_in(folder / "calls")).most_common(1)[0][1] == 1, "a step ran twice"


def test_a_dead_process_s_instances_are_taken_over_at_once(folder: Path) -> None:
    """On the same host a killed process's instances go on in another one at once, without a lease to wait for."""
    child = spawn("hang", folder)

    async def main() -> float:
        async with Engine(url_of(folder), workflows=[scenarios.owned]) as engine:
            (folder / "go-").touch()
            run = await engine.get(scenarios.owned, "run")
            # The other is alive: nothing is taken from it.
            await asyncio.sleep(0.3)
            assert (await run.refresh()).status == Status.IN_PROGRESS
            assert not (folder / "working-").exists()
            os.kill(child.pid, signal.SIGKILL)
            began = time.monotonic()
            child.communicate()
            assert await run.result(timeout=20) == ", after"
            return time.monotonic() - began

    try:
        scenarios.until(folder / "working-a")
        assert asyncio.run(main()) < 3
    finally:
        child.kill()
        child.communicate()
    history = check(folder)["run"]
    assert [r.event.epoch for r in history if isinstance(r.event, e.RunClaimed)] == [1, 2]


def test_a_dead_process_s_instances_are_taken_over_by_one_of_many(folder: Path) -> None:
    """Several workers that see the same dead one: each instance is claimed by one of them."""
    child = spawn("hang", folder)

    async def main() -> None:
        await scenarios.file(folder / "working-a")
        engines = [Engine(url_of(folder), workflows=[scenarios.owned], name=f"e{n}") for n in range(4)]
        for engine in engines:
            await engine.open()
        try:
            (folder / "go-").touch()
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            run = await engines[0].get(scenarios.owned, "run")
            assert await run.result(timeout=20) == ", after"
        finally:
            for engine in engines:
                await engine.close()

    try:
        asyncio.run(main())
    finally:
        child.kill()
        child.communicate()
    history = check(folder)["run"]
    assert [r.event.epoch for r in history if isinstance(r.event, e.RunClaimed)] == [1, 2]
