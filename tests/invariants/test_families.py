"""Random families of instances: parents, children and messages between them, disturbed and cut off at any commit.

Laws, for every family and every cut: all instances end; every child is started once; every message arrives exactly
once and in order; no recorded step runs again; nothing is ever held. And laws of the fold over every history so made:
the status moves along ``TRANSITIONS`` only; an end is left by a retry alone; the state at a version does not depend
on what comes after; a slim and a detailed fold agree; a history that is folded twice gives equal states.
"""

# Histories and what workflows return are of any type here.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import os
from collections import Counter
from random import Random
from typing import Any

import pytest

from wfes import ChildWorkflowError, InstanceEnded, Retry, Step, StepError, WaitTimeout, workflow
from wfes.core import decide as d
from wfes.core import events as e
from wfes.core.evolve import evolve, fold
from wfes.core.state import TERMINAL, TRANSITIONS, InstanceState, Status
from wfes.simulation import SimulatedHost, SimulatedLog

SCALE = int(os.environ.get("WFES_TEST_SCALE", "1"))
SECOND = 1_000_000


class Family(SimulatedHost):
    """A host that remembers after how many events each transaction ended, and counts what steps ran."""

    def __init__(self, plan: Random, **options: Any) -> None:
        self.ran: Counter[str] = Counter()
        super().__init__([make_member(self)], **options)
        self.boundaries: set[int] = set()
        self.plan = plan

    def _pump(self) -> None:
        self.boundaries.add(len(self.log.committed))
        super()._pump()
        self.boundaries.add(len(self.log.committed))


def make_member(family: Family) -> Any:
    @workflow(name="member", retry=Retry(max_attempts=2, initial="1s", jitter=False), timeout=None)
    async def member(plan: list[Any], step: Step, workflow: Any) -> list[Any]:
        """Does what its plan says: each part is a kind, a number and a delay."""

        async def work(name: str, fails: bool) -> str:
            family.ran[f"{workflow.id}/{name}"] += 1
            if fails:
                raise ValueError(name)
            return name

        async def do(part: list[Any]) -> Any:
            kind, number, delay, rest = part
            await asyncio.sleep(delay)
            match kind:
                case "step":
                    return await step(f"s{number}", work, f"s{number}", False)
                case "fails":
                    try:
                        return await step(f"f{number}", work, f"f{number}", True)
                    except StepError:
                        return "failed"
                case "child":
                    try:
                        limit = 2 if number % 3 == 0 else None
                        return await step.execute_workflow(
                            f"c{number}", member_, [workflow.id, *rest], timeout=limit
                        )
                    except (ChildWorkflowError, WaitTimeout) as error:
                        return type(error).__name__
                case "tell":
                    if plan[0] is None:
                        return "orphan"
                    try:
                        return await step.send(f"t{number}", plan[0], "news", number)
                    except InstanceEnded:
                        return "ended"
                case "outer":

                    async def outer() -> Any:
                        await step("in", work, f"o{number}/in", False)
                        if plan[0] is not None and number % 2:
                            try:
                                await step.send("tell", plan[0], "news", number)
                            except InstanceEnded:
                                return "ended"
                        await step.sleep("z", delay)
                        return number

                    return await step(f"o{number}", outer)
                case "dies":
                    if number % 5 == 0:
                        step.fail("as planned")
                    return "lives"
                case _:
                    try:
                        return await step.listen(f"l{number}", event="news", timeout=delay + 1)
                    except WaitTimeout:
                        return "silence"

        return list(await asyncio.gather(*(do(part) for part in plan[1:])))

    member_: Any = member
    return member


def make_plan(draw: Random, depth: int, numbers: list[int]) -> list[Any]:
    parts: list[Any] = []
    for _ in range(draw.randrange(1, 5)):
        numbers[0] += 1
        kinds = ["step", "step", "fails", "tell", "tell", "outer", "listen", "listen", "dies"]
        kind = draw.choice(kinds + (["child"] * 4 if depth else []))
        rest = make_plan(draw, depth - 1, numbers) if kind == "child" else []
        parts.append([kind, numbers[0], draw.choice([0, 0, 0.001, 0.3, 2, 50]), rest])
    return parts


def disturb(family: Family, seed: int) -> None:
    draw = Random(seed)

    def perform(id: str, command: Any) -> None:
        state = family.log.state(id)
        assert state is not None
        decision = d.decide(state, command, family.clock.now())
        if isinstance(decision, list) and decision:
            family.log.append(id, decision)
            family.tell()

    def interfere(_: int) -> None:
        if draw.random() > 0.15:
            return
        id = draw.choice([s for s in family.log.streams if not s.startswith("$")])
        state = family.log.state(id)
        assert state is not None
        command = draw.choice(
            [d.Pause(), d.Pause(), d.Cancel(), d.Retry(), d.Retry(), d.Send(event="news", payload=0)]
        )
        perform(id, command)
        if isinstance(command, d.Pause):
            family.clock.call_at(
                family.clock.now() + draw.randrange(3 * SECOND), lambda: perform(id, d.Resume())
            )

    family.interfere = interfere


async def play(seed: int, committed: list[e.Recorded] | None, *, disturbed: bool = False) -> Family:
    draw = Random(seed)
    plan = make_plan(draw, 3, [0])
    if committed is None:
        family = Family(draw, seed=seed)
        family.engine.calls.start("member", [None, *plan]).run(family.log)
    else:
        family = Family(draw, seed=seed)
        log: SimulatedLog = family.log
        for recorded in committed:
            family.clock._now = max(family.clock._now, getattr(recorded.event, "at", 0))
            log.streams.setdefault(recorded.originator_id, []).append(recorded)
            log.committed.append(recorded)
        log._position = family._told = len(log.committed)
        for stream, history in log.streams.items():
            if not stream.startswith("$"):
                log._states[stream] = fold(stream, history)
        for id, state in list(log._states.items()):
            if state.paused:
                log.append(id, [e.WorkflowResumed(at=family.clock.now())])
            if state.worker is not None:
                family.begin(id)
    if disturbed:
        disturb(family, seed)
    await family.run(turns_max=400_000)
    return family


# ------------------------------------------------------------------------------------------------ laws


def check_family(family: Family, what: object) -> None:
    streams = {s: h for s, h in family.log.streams.items() if not s.startswith("$")}
    parents = Counter((h[0].event.parent, h[0].event.parent_path) for h in streams.values())  # type: ignore[attr-defined]
    retried = any(isinstance(r.event, e.WorkflowRetried) for h in streams.values() for r in h)
    assert retried or max(parents.values()) == 1, (what, parents)
    for id, history in streams.items():
        assert history[-1].event.terminal or any(r.event.terminal for r in history), (what, id, history[-1])
        held = [r.event.reason for r in history if isinstance(r.event, e.WorkflowPaused) and r.event.held]
        assert not held, (what, id, held)
        done = Counter(r.event.path for r in history if isinstance(r.event, e.StepCompleted))
        assert all(count == 1 for count in done.values()), (what, id, done)
        payloads = [
            r.event.payload for r in history if isinstance(r.event, e.EventReceived) and r.event.payload
        ]
        assert retried or len(payloads) == len(set(payloads)), (what, id, payloads)
        check_fold(id, history, what)


def check_fold(id: str, history: list[e.Recorded], what: object) -> None:
    state, detailed = InstanceState(id), InstanceState(id, done={})
    status = Status.PENDING
    for number, recorded in enumerate(history, 1):
        assert recorded.originator_version == number, (what, id)
        before = status
        state = evolve(state, recorded.event, number)
        detailed = evolve(detailed, recorded.event, number)
        status = state.status
        assert status is before or status in TRANSITIONS[before], (what, id, number, before, status)
        if before in TERMINAL and status is not before:
            assert isinstance(recorded.event, e.WorkflowRetried), (what, id, number)
        assert (status in TERMINAL) == (state.ended is not None)
        assert status is detailed.status
        assert state.waits == detailed.waits
        assert state.steps == detailed.steps
        if state.ended is not None:
            assert state.runnable_at() is None
            assert not state.waits
            assert not state.steps
            assert state.worker is None
    for number in Random(len(history)).sample(range(1, len(history) + 1), min(6, len(history))):
        prefix = fold(id, history[:number])
        again = fold(id, history[:number])
        assert prefix == again
        assert prefix.version == number
        for recorded in history[number:]:
            prefix = evolve(prefix, recorded.event, recorded.originator_version)
        assert prefix == state, (what, id, number)


def repeated(family: Family, committed: list[e.Recorded]) -> set[str]:
    """The steps that were recorded before a crash and ran again after it."""
    done = {f"{r.originator_id}/{r.event.path}" for r in committed if isinstance(r.event, e.StepCompleted)}
    return set(family.ran) & done


@pytest.mark.parametrize("disturbed", [False, True], ids=["undisturbed", "disturbed"])
@pytest.mark.parametrize("block", range(4))
def test_families_live_through_every_cut(block: int, disturbed: bool) -> None:
    for seed in range(block * 1_000, block * 1_000 + 12 * SCALE):
        family = asyncio.run(play(seed, None, disturbed=disturbed))
        check_family(family, seed)
        cuts = sorted(n for n in family.boundaries if n)
        for cut in Random(seed).sample(cuts, min(5, len(cuts))):
            committed = family.log.committed[:cut]
            resumed = asyncio.run(play(seed, committed))
            check_family(resumed, (seed, cut))
            assert not repeated(resumed, committed), (seed, cut)
