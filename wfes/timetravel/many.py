"""Replays of many histories at once, in processes of their own.

Whoever has a log reads the histories and hands them over as they are stored; the processes have no database, import
today's code by the names of its modules, and give reports back. Handler code that ends its process, as a replay should
never do, costs the reports of what was handed over with it, and is said so.

Invariants: a bounded number of histories is under way; every history gets one answer, in the order of asking; handler
code that never comes to await anything is cut off.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from wfes.timetravel.recording import Recording
from wfes.timetravel.replay import ReplayReport, replay

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.log.port import StoredRow

TOGETHER = 8
"""How many histories are handed over at once."""
AHEAD = 3
"""How many times that are under way for each process."""
ALONE_MAX = 2 * TOGETHER
"""So few histories are replayed in this process: another takes longer to begin."""
SECONDS_MAX = 60.0
"""How long one replay may take; that of 100,000 events takes a few seconds."""


@dataclass(frozen=True, slots=True)
class Unreplayed:
    """A history that could not be replayed at all, and why.

    Attributes:
        instance: the instance's id.
        workflow: its workflow's name.
        reason: why not.
    """

    instance: str
    workflow: str
    reason: str

    def __str__(self) -> str:
        return f"instance {self.instance} of {self.workflow}: not replayed: {self.reason}"


Answer = ReplayReport | Unreplayed
Known = Mapping[str, "Workflow[Any, Any]"]


def replay_one(recording: Recording, known: Known) -> Answer:
    """Replays what was read with one of these workflows."""
    name = recording.started.workflow
    workflow = known.get(name)
    if workflow is None:
        names = ", ".join(sorted(known)) or "none"
        return Unreplayed(recording.id, name, f"no workflow {name!r} in today's code; it has: {names}")
    try:
        with _limited(SECONDS_MAX):
            return replay(workflow, recording.history, recording.values, workflows=known, url=recording.url)
    except _TooLong:
        reason = f"it takes more than {SECONDS_MAX:g} s: look for an endless loop in the handler"
        return Unreplayed(recording.id, name, reason)
    except Exception as error:  # a defect, or a log that cannot be read: the others are replayed all the same
        return Unreplayed(recording.id, name, f"{type(error).__name__}: {error}")


def replay_many(
    recordings: Iterable[Recording],
    modules: Sequence[str],
    load: Callable[[Sequence[str]], Known],
    processes: int | None = None,
) -> Iterator[Answer]:
    """Replays histories, in processes of their own where they are many.

    Args:
        recordings: the histories; read as they are needed.
        modules: where today's code is; modules may name one workflow, as ``module:workflow``.
        load: gives the workflows of such modules by name; a function at the top of a module.
        processes: how many at most; default: as many as there are processors.
    """
    waiting = iter(recordings)
    first = [recording for _, recording in zip(range(ALONE_MAX), waiting, strict=False)]
    count = processes or _processors()
    if len(first) < ALONE_MAX or count == 1:
        known = load(modules)
        for recording in first:
            yield replay_one(recording, known)
        for recording in waiting:
            yield replay_one(recording, known)
        return
    yield from _spread(first, waiting, modules, load, count)


def _spread(
    first: list[Recording],
    waiting: Iterator[Recording],
    modules: Sequence[str],
    load: Callable[[Sequence[str]], Known],
    count: int,
) -> Iterator[Answer]:
    def begun() -> ProcessPoolExecutor:
        # A process that is forked would share threads and connections with this one.
        context, path = get_context("spawn"), list(sys.path)
        return ProcessPoolExecutor(
            count, mp_context=context, initializer=_begin, initargs=(path, modules, load)
        )

    pool = begun()
    under_way: deque[tuple[list[Recording], Future[list[Answer]]]] = deque()
    try:
        while True:
            while len(under_way) < AHEAD * count:
                part = [first.pop(0) for _ in range(min(TOGETHER, len(first)))]
                part += [
                    recording for _, recording in zip(range(TOGETHER - len(part)), waiting, strict=False)
                ]
                if not part:
                    break
                packed = [(each.id, list(each.rows), dict(each.blobs), each.url) for each in part]
                under_way.append((part, pool.submit(_replay_part, packed)))
            if not under_way:
                return
            part, future = under_way.popleft()
            try:
                answers = future.result()
            except BrokenProcessPool:
                yield from _lost([part, *(part for part, _ in under_way)])
                under_way.clear()
                pool.shutdown(wait=False, cancel_futures=True)
                pool = begun()
            else:
                yield from answers
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _TooLong(KeyboardInterrupt):
    """Leaves handler code as Ctrl-C would: no `except Exception` of it, and no task, keeps that."""


@contextmanager
def _limited(seconds: float) -> Generator[None]:
    """Raises `_TooLong` in what runs longer; where there are no signals (other threads, other systems) nothing does."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: object) -> None:
        raise _TooLong

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, over)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's, who waits on
            rest = left - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 0.001), interval)


def _lost(parts: list[list[Recording]]) -> Iterator[Unreplayed]:
    for part in parts:
        for recording in part:
            reason = "a process that replayed it, or others beside it, ended: handler code ends its process"
            yield Unreplayed(recording.id, recording.started.workflow, reason)


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_known: Known = {}


def _begin(path: list[str], modules: Sequence[str], load: Callable[[Sequence[str]], Known]) -> None:
    global _known
    sys.path[:] = path
    importlib.invalidate_caches()
    _known = load(modules)


def _replay_part(
    packed: list[tuple[str, list[StoredRow], dict[str, bytes], str | None]],
) -> list[Answer]:
    return [replay_one(Recording(*each), _known) for each in packed]
