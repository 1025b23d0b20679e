"""The executions of a worker: what is in memory, what is on its way there, and what each of them is given.

Invariants:

* At most ``max_running`` executions are in memory, those about to arrive counted. An execution that only waits gives
  way to one that has something to do.
* An event from outside reaches the execution of its instance exactly once and in order: what is committed between a
  claim and the moment its execution starts is kept for it.
* Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from wfes.core import events as e

_log = logging.getLogger("wfes")

SLICE_SECONDS = 0.002
"""How long executions are begun at a stretch."""
EVICTIONS_MAX = 32
"""How many waiting executions are asked to leave at a time when there is no room."""
SCAN_SECONDS = 0.1
"""How often waiting executions are looked for when there is no room."""

_WAKING: tuple[type[e.Event], ...] = (
    e.WorkflowStarted,
    e.CancelRequested,
    e.DeadlineChanged,
    e.WorkflowResumed,
    e.WorkflowRetried,
    e.HistoryForked,
    e.EventReceived,
    e.DataProvided,
    e.TargetEnded,
    e.SlotSought,
    e.SlotGranted,
    e.WorkflowDefined,
)
"""Events that can make an instance runnable that nobody has in memory."""


class Running(Protocol):
    """What a worker needs of an execution; `wfes.handler.execution.Execution` has it."""

    id: str
    epoch: int

    @property
    def idle(self) -> bool: ...
    @property
    def is_stuck(self) -> bool: ...
    def start(self) -> None: ...
    def outside(self, events: Sequence[e.Recorded]) -> None: ...
    def fence(self) -> None: ...
    def stop(self) -> None: ...
    def abandon(self) -> None: ...
    def evict(self) -> bool: ...
    def broken(self, error: Exception) -> None: ...


class Executions:
    """What is in memory. Whoever takes a place with `reserve` gives it back, or lets an instance begin there.

    Attributes:
        running: by instance.
        stopping: whatever still begins is to stop at once.
    """

    def __init__(
        self,
        max_running: int,
        make: Callable[[str, list[e.Recorded]], Running | None],
        freed: Callable[[bool], object],
    ) -> None:
        """Makes it; nothing runs yet.

        Args:
            max_running: how many executions may be in memory.
            make: an instance's execution from its history; None: it is not to run here.
            freed: called when there is room for another one; with whether the one that left may be due again.

        Raises:
            ValueError: there is room for none.
        """
        if max_running < 1:
            raise ValueError(f"max_running is {max_running!r}; it must be at least 1")
        self.running: dict[str, Running] = {}
        self.stopping = False
        self._max_running = max_running
        self._make = make
        self._freed = freed
        self._loop = asyncio.get_running_loop()
        self._arriving: dict[str, list[e.Recorded]] = {}
        self._beginning: deque[tuple[str, list[e.Recorded]]] = deque()
        self._over: set[str] = set()
        self._reserved = 0
        self._scan_at = 0.0
        self._left = asyncio.Event()

    # ---------------------------------------------------------------------------------------------- places

    @property
    def free(self) -> int:
        """How many more may come."""
        return self._max_running - len(self.running) - self._reserved

    @property
    def present(self) -> int:
        """How many are in memory, or claimed and about to begin."""
        return len(self.running) + len(self._beginning)

    @property
    def quiet(self) -> bool:
        """Whether everything in memory only waits and nothing is about to arrive."""
        if self._reserved or self._arriving:
            return False
        return all(execution.idle or execution.is_stuck for execution in self.running.values())

    def reserve(self, places: int) -> None:
        """Keeps places for executions that may come."""
        self._reserved += places

    def give_back(self, places: int) -> None:
        """Some of the places that were kept are not needed."""
        self._reserved -= places
        self._left.set()

    def make_room(self) -> bool:
        """Asks executions that only wait to leave, oldest first; they give their places back when that is written.

        Returns:
            Whether to ask again in a while, for fewer of them were found than may be asked at a time.
        """
        now = self._loop.time()
        if now < self._scan_at:
            return False
        # Looking at all of them takes a while; what is busy now is probably busy for a moment more.
        self._scan_at = now + SCAN_SECONDS
        evicted = 0
        for execution in list(self.running.values()):
            if execution.idle and execution.evict():
                evicted += 1
                if evicted == EVICTIONS_MAX:
                    return False
        return True

    # ------------------------------------------------------------------------------------- coming and going

    def begin(self, id: str, history: list[e.Recorded]) -> None:
        """Runs an instance whose claim is committed; uses up a place that was kept.

        Args:
            id: the instance.
            history: its whole history, the claim included.
        """
        self._arriving.setdefault(id, [])
        self._beginning.append((id, history))
        if len(self._beginning) == 1:
            # From a plain callback of the loop: a handler's private loop must not be driven inside a task.
            self._loop.call_soon(self._begin_some)

    def _begin_some(self) -> None:
        """Begins those who wait for it, for a moment at a time: the loop has other work."""
        until = self._loop.time() + SLICE_SECONDS
        while self._beginning:
            self._begin(*self._beginning[0])
            self._beginning.popleft()
            if self._loop.time() > until:
                break
        if self._beginning:
            self._loop.call_soon(self._begin_some)

    def _begin(self, id: str, history: list[e.Recorded]) -> None:
        self._reserved -= 1
        arrived = self._arriving.pop(id, [])
        execution = self._make(id, history)
        if execution is None:
            self._gone(due=False)
            return
        self.running[id] = execution
        self._over.discard(id)
        try:
            execution.start()
            if arrived:
                self._give(execution, arrived)
            if self.stopping and self.running.get(id) is execution:
                execution.stop()
        except Exception as error:
            self._broken(execution, error)

    def left(self, execution: Running) -> None:
        """The execution has left memory: ended, released, fenced or held."""
        id = execution.id
        if self.running.get(id) is not execution:
            return
        del self.running[id]
        # What it waits for may be due before the moment the worker waits for.
        due = id not in self._over
        self._over.discard(id)
        self._gone(due=due)

    def _gone(self, *, due: bool) -> None:
        self._left.set()
        self._freed(due)

    def _broken(self, execution: Running, error: Exception) -> None:
        execution.broken(error)
        self.left(execution)

    # ------------------------------------------------------------------------------------ what is committed

    def deliver(self, events: Sequence[e.Recorded], worker: str, *, ends_wake: bool) -> bool:
        """Passes on what was committed, by whomever.

        Args:
            events: in log order.
            worker: who claims for these executions.
            ends_wake: somebody may wait for the slot of whoever ends.

        Returns:
            Whether something that nobody has in memory may have become runnable.
        """
        waking: set[str] = set()
        given: dict[str, list[e.Recorded]] = {}
        for recorded in events:
            id = recorded.originator_id
            event = recorded.event
            if ends_wake and event.terminal:
                waking.add(id)
            if isinstance(event, e.RunClaimed):
                waking.discard(id)
                execution = self.running.get(id)
                if event.worker == worker:
                    if execution is None or event.epoch > execution.epoch:
                        self._arriving.setdefault(id, [])
                    continue
            if id in self._arriving:
                self._arriving[id].append(recorded)
            elif id in self.running:
                if event.terminal:
                    self._over.add(id)
                if not event.owner or isinstance(event, e.RunClaimed):  # what it wrote itself it knows
                    given.setdefault(id, []).append(recorded)
            elif isinstance(event, _WAKING):
                waking.add(id)
        for id, theirs in given.items():
            execution = self.running.get(id)
            if execution is not None:
                try:
                    self._give(execution, theirs)
                except Exception as error:
                    self._broken(execution, error)
        return bool(waking)

    def _give(self, execution: Running, events: Sequence[e.Recorded]) -> None:
        for recorded in events:
            event = recorded.event
            if isinstance(event, e.RunClaimed) and event.epoch > execution.epoch:
                execution.fence()
                return
        execution.outside(events)

    # ---------------------------------------------------------------------------------------------- the end

    def fence(self) -> None:
        """Ends all at once: they are somebody else's now."""
        for execution in list(self.running.values()):
            execution.fence()

    def stop(self) -> None:
        """Asks all to leave as soon as what they are at is done, and whatever is still to come."""
        self.stopping = True
        for execution in list(self.running.values()):
            execution.stop()

    def abandon(self) -> None:
        """Cuts off what still runs."""
        for execution in list(self.running.values()):
            execution.abandon()

    @property
    def remaining(self) -> int:
        """How many are in memory, or may come."""
        return len(self.running) + self._reserved

    async def all_left(self, seconds: float) -> bool:
        """Waits until nothing is in memory and nothing may come; False if that took too long."""
        try:
            async with asyncio.timeout(seconds):
                while self.remaining:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return not self.remaining
        return True
