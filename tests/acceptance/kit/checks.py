"""What must be true of a log and of the notes beside it, whatever happened to the processes that wrote them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import projected
from driver import read_acks
from eventsourcing.persistence import Notification
from places import NoLog, rows, url_of

from wfes import Engine, WfesError
from wfes.core import chain
from wfes.core import events as e
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.log.application import decode
from wfes.subscription.rebuild import fill
from wfes_projections import inline

Histories = dict[str, list[e.Recorded]]


def stored_events(folder: Path, after: int = 0) -> list[Notification]:
    """Every stored event of a trial's log behind a position, in order, read without the engine.

    Raises:
        NoLog: there is none.
    """
    found = rows(
        folder,
        "SELECT originator_id, originator_version, topic, state, notification_id FROM wfes_events"
        f" WHERE notification_id > {after} ORDER BY notification_id",
    )
    return [Notification(*row) for row in found]


def histories_of(stored: Iterable[Notification]) -> Histories:
    """The events by stream."""
    found: Histories = {}
    for recorded in map(decode, stored):
        found.setdefault(recorded.originator_id, []).append(recorded)
    return found


def settled(folder: Path) -> set[tuple[str, str]]:
    """Steps whose result is recorded, each as (instance, path): they may not be called any more."""
    try:
        stored = stored_events(folder)
    except NoLog:
        return set()  # It was killed before the schema was there.
    return {
        (recorded.originator_id, recorded.event.path)
        for history in histories_of(stored).values()
        for recorded in history
        if isinstance(recorded.event, e.StepCompleted)
    }


def broken_chains(stored: Sequence[Notification]) -> list[str]:
    """Where the hash chain, recomputed over the stored bytes, does not hold; gaps in versions and positions."""
    problems: list[str] = []
    tails: dict[str, tuple[int, bytes]] = {}
    position = 0
    for event in stored:
        stream = str(event.originator_id)
        version, tail = tails.get(stream, (0, chain.GENESIS))
        if event.originator_version != version + 1:
            problems.append(f"{stream}: version {event.originator_version} after {version}")
        if event.state[: chain.SIZE] != tail:
            problems.append(f"{stream}: the chain breaks at version {event.originator_version}")
        if event.id <= position:
            problems.append(f"{stream}: position {event.id} after {position}")
        position = event.id
        digest = chain.digest(stream, event.originator_version, event.topic, event.state)
        tails[stream] = (event.originator_version, digest)
    return problems


def malformed(history: Sequence[e.Recorded]) -> list[str]:
    """What no instance's history may show: an event without an owner, a result without a start, time going back."""
    id = history[0].originator_id
    problems: list[str] = []
    epoch, owned, at, over = 0, False, 0, False
    started: set[str] = set()
    suspended: set[str] = set()
    completed: set[str] = set()
    for recorded in history:
        event, where = recorded.event, f"{id} version {recorded.originator_version}: {recorded.event.topic}"
        if (recorded.originator_version == 1) != isinstance(event, e.WorkflowStarted):
            problems.append(f"{where}: a history begins with WorkflowStarted, and nothing else does")
        if isinstance(event, e.RunClaimed):
            if event.epoch != epoch + 1:
                problems.append(f"{where}: epoch {event.epoch} after {epoch}")
            if over:
                problems.append(f"{where}: claimed after its end")
            epoch, owned = event.epoch, True
            # A step that was left while it waited inside goes on under the next owner without another start.
            started, suspended = suspended, set()
        elif event.owner:
            if not owned:
                problems.append(f"{where}: nobody owned it")
            if event.at < at:
                problems.append(f"{where}: at {event.at} after {at}")
            at = max(at, event.at)
        if isinstance(event, e.StepStarted):
            if event.path in completed:
                problems.append(f"{where}: {event.path} was completed")
            started.add(event.path)
        elif isinstance(event, (e.StepCompleted, e.StepAttemptFailed)) and event.path not in started:
            problems.append(f"{where}: {event.path} was not started by this owner")
        if isinstance(event, e.StepCompleted):
            if event.path in completed:
                problems.append(f"{where}: {event.path} was completed before")
            completed.add(event.path)
        if isinstance(event, e.WorkflowRetried):
            over = False
        elif over and not isinstance(event, (e.TargetEnded, e.RunReleased, e.HistoryForked)):
            problems.append(f"{where}: after its end")
        if isinstance(event, (e.RunReleased, e.HistoryForked)) or event.terminal:
            owned = False
        if isinstance(event, e.RunReleased):
            suspended = set(event.suspended)
        over = over or event.terminal
    return problems


def doubled(histories: Histories) -> list[str]:
    """Two instances of one key and generation, or two started by one published event (G6)."""
    keys: Counter[object] = Counter()
    for history in histories.values():
        event = history[0].event
        if isinstance(event, e.WorkflowStarted):
            if event.key is not None:
                keys["key", event.workflow, event.key, event.generation] += 1
            if event.trigger is not None:
                keys["trigger", event.workflow, str(event.trigger)] += 1
    return [f"{key}: {count} instances" for key, count in keys.items() if count > 1]


def lost(histories: Histories, acks: Sequence[tuple[str, str, str]]) -> list[str]:
    """What was acknowledged and is not in the log (G3)."""
    problems: list[str] = []
    for kind, id, about in acks:
        events = [recorded.event for recorded in histories.get(id, ())]
        match kind:
            case "start":
                found = bool(events)
            case "get_or_create":
                found = bool(events) and getattr(events[0], "key", None) == about
            case "send":
                found = any(isinstance(event, e.EventReceived) and event.id == about for event in events)
            case "provide":
                asked = {
                    event.path for event in events if isinstance(event, e.RequestIssued) and event.id == about
                }
                found = any(isinstance(event, e.DataProvided) and event.path in asked for event in events)
            case "publish":
                found = any(
                    isinstance(history[0].event, e.EventPublished) and history[0].event.id == about
                    for history in histories.values()
                ) and any(
                    isinstance(start := history[0].event, e.WorkflowStarted)
                    and start.trigger is not None
                    and start.trigger["id"] == about
                    for history in histories.values()
                )
            case _:
                found = any(isinstance(event, _RECORDED_AS[kind]) for event in events)
        if not found:
            problems.append(f"{kind} {about} of {id} was acknowledged and is not in the log")
    return problems


_RECORDED_AS: dict[str, tuple[type[e.Event], ...]] = {
    "cancel": (e.CancelRequested, e.WorkflowCancelled),
    "set_timeout": (e.DeadlineChanged,),
    "pause": (e.WorkflowPaused,),
    "resume": (e.WorkflowResumed,),
    "retry": (e.WorkflowRetried,),
}


def wrong_rows(folder: Path, stored: Sequence[Notification]) -> list[str]:
    """Where the live rows of state projections differ from a rebuild, found without an engine (G10)."""
    projections = inline()
    rebuilt = sqlite3.connect(":memory:")
    try:
        for projection in projections:
            for sql in projection.create:
                rebuilt.execute(sql)
        fill(_Target(rebuilt), projections, stored)
        problems: list[str] = []
        for projection in projections:
            query = f'SELECT * FROM "{projection.name}"'
            there, here = set(rows(folder, query)), set(rebuilt.execute(query))
            if there != here:
                problems.append(f"{projection.name}: too much {there - here}, missing {here - there}")
        return problems
    finally:
        rebuilt.close()


class _Target:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, params).fetchall()

    def executemany(self, sql: str, params: Any) -> None:
        self._connection.executemany(sql, params)


CATCH_UP_SECONDS_MAX = 20.0


async def unlike_rebuilt(engine: Engine) -> list[str]:
    """Where the rows of any projection differ from a rebuild, by the engine's own check, once all have caught up, and
    which are stopped or do not catch up (G10)."""
    problems: list[str] = []
    limit = time.monotonic() + CATCH_UP_SECONDS_MAX
    while behind := [
        each
        for each in await engine.projections()
        if each.status == "building" or (each.lag and not each.error)
    ]:
        if time.monotonic() > limit:
            problems += [f"{each.name} does not catch up: {each}" for each in behind]
            break
        await asyncio.sleep(0.005)
    for each in await engine.projections():
        if each.error is not None:
            problems.append(f"{each.name} is stopped: {each.error}")
            continue
        report = await engine.check_projection(each.name)
        if not report.ok:
            problems.append(str(report))
    return problems


async def _unlike_rebuilt(folder: Path) -> list[str]:
    try:
        async with Engine(url_of(folder), worker=False, projections=projected.ALL) as engine:
            return await unlike_rebuilt(engine)
    except WfesError as error:
        return [f"projections cannot be checked: {error}"]


def calls_in(path: Path, start: int = 0) -> list[tuple[str, str, int]]:
    """The calls noted in this file behind a byte: instance, path, attempt."""
    if not path.exists():
        return []
    found: list[tuple[str, str, int]] = []
    for line in path.read_bytes()[start:].decode().splitlines():
        id, step, attempt, _ = line.split(" ")
        found.append((id, step, int(attempt)))
    return found


def unannounced(histories: Histories, calls: Sequence[tuple[str, str, int]]) -> list[str]:
    """Step functions that were called more often than their starts are recorded (G2)."""
    starts: Counter[tuple[str, str, int]] = Counter()
    for id, history in histories.items():
        attempts: dict[str, int] = {}
        suspended: tuple[str, ...] = ()
        for event in (recorded.event for recorded in history):
            if isinstance(event, e.StepStarted):
                attempts[event.path] = event.attempt
                starts[id, event.path.replace(" ", "_"), event.attempt] += 1
            elif isinstance(event, e.RunReleased):
                suspended = event.suspended
            elif isinstance(event, e.RunClaimed):
                for path in suspended:
                    starts[id, path.replace(" ", "_"), attempts[path]] += 1
                suspended = ()
    return [
        f"{call} was called {count} times, {starts[call]} starts are recorded"
        for call, count in Counter(calls).items()
        if count > starts[call]
    ]


def problems_of(folder: Path) -> list[str]:
    """Everything that is wrong with a trial's log and notes."""
    stored = stored_events(folder)
    histories = histories_of(stored)
    problems = broken_chains(stored)
    for stream, history in histories.items():
        if not stream.startswith("$"):
            problems += malformed(history)
            state = InstanceState(stream)
            for recorded in history:
                evolve(state, recorded.event, recorded.originator_version)
    problems += doubled(histories)
    problems += lost(histories, read_acks(folder / "acks"))
    problems += wrong_rows(folder, stored)
    problems += unannounced(histories, calls_in(folder / "calls"))
    problems += asyncio.run(_unlike_rebuilt(folder))
    return problems
