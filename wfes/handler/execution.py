"""One handler on one instance: what it asks for, what it is given, in which order.

The execution drives the handler's private loop and is the only writer of the instance's history while it owns it.

Invariants:

* *Releases form one line.* What the handler awaits is released one at a time, in the order in which it is (or will
  be) in the log, with a drain after each. While an intent (a time-out, a recorded call, an end) awaits its commit,
  nothing is released, and outside I/O does not run the private loop either.
* What has been released is a fact: it stays where it is whatever else arrives, and so do the requests it led to.
* Only owner events order what the handler sees. What comes from outside (``outside``) waits until an owner event
  that names it is released.
* A step's function is called when its ``StepStarted`` is on disk, and never while a replay is under way.
* Once ``is_gone``, nothing of the handler runs and nothing more is recorded.

Replaying is ``handler.replay``; both give results through the same ``release``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from wfes import errors
from wfes.core import durations
from wfes.core import events as e
from wfes.core.error_info import ErrorInfo
from wfes.core.types import ABSENT
from wfes.handler import ending
from wfes.handler.alarms import Alarms, HandlerTimers
from wfes.handler.asks import Ask, CallAsk, FunctionFuture, HandlerFuture, TimedAsk
from wfes.handler.attempts import StepAsk
from wfes.handler.loop import Drained, PrivateLoop, PrivateTimer
from wfes.handler.outbox import Entry, Outbox
from wfes.handler.inbox import Inbox
from wfes.handler.nested import Nested, NestedPaths
from wfes.handler.replay import Replay
from wfes.handler.scope import Scope, enter
from wfes.handler.state import RecordedState
from wfes.handler.step import Step

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.log.port import Member
    from wfes.runtime.clock import Clock
    from wfes.runtime.values import Values

_log = logging.getLogger("wfes")

CLEANUP_MICROS = 30 * durations.SECOND
"""How long a cancelled or timed-out handler may work on."""

DEADLOCK_MICROS = 10 * durations.SECOND
"""How long a handler may wait for nothing that is known before it is held: a thread of its own may yet wake it."""
_DEADLINE_PASSED = "its deadline passed"

Json = Any


class Host(Protocol):
    """What an execution needs of the worker that runs it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def worker(self) -> str: ...
    @property
    def values(self) -> Values: ...
    @property
    def engine(self) -> Any: ...
    @property
    def threads(self) -> Executor: ...
    @property
    def linger_micros(self) -> int: ...

    def submit(self, member: Member) -> None:
        """Puts a member into the writer's queue."""
        ...

    def left(self, execution: Execution) -> None:
        """The execution has left memory."""
        ...


class Execution:
    """One handler on one instance, from a claim to its end or release."""

    def __init__(
        self,
        host: Host,
        workflow: Workflow[Any, Any],
        id: str,
        epoch: int,
        history: list[e.Recorded],
    ) -> None:
        """Prepares it; ``start`` runs it.

        Args:
            host: the worker.
            workflow: whose handler to run.
            id: the instance.
            epoch: the claim under which events are written.
            history: its whole history, the claim included.
        """
        started = history[0].event
        assert isinstance(started, e.WorkflowStarted)
        self.host = host
        self.workflow = workflow
        self.id = id
        self.epoch = epoch
        self.started = started
        self.seed = started.seed
        self.retries = 0
        # what was asked for
        self.asks: dict[str, Ask] = {}
        self.fresh: dict[Ask, bool] = {}
        """Asked for (False) or withdrawn (True) since the last collecting, not recorded yet; in order."""
        self.nested = NestedPaths()
        self.failures: dict[str, int] = {}
        """Paths whose failure the handler was given, to the order in which it was."""
        self.pool: dict[str, int] = {}
        """Paths whose outcome stands in a void part of the history: to their versions."""
        # what came from outside
        self.inbox = Inbox()
        self._unread: list[e.Recorded] = []
        self._listening: dict[Ask, None] = {}
        self.cancel_pending: e.CancelRequested | None = None
        self.paused = False
        self.deadline = started.deadline
        # the line
        self._line: deque[Callable[[], None]] = deque()
        self._given: deque[Callable[[], None]] = deque()
        """Releases whose events are in the outbox or the log already: they come before the line."""
        self._blocked = 0
        self._scheduled = False
        self._outbox = Outbox(self)
        self._blobs: dict[str, bytes] = {}
        self._last_at = 0
        self._active: set[StepAsk] = set()
        self._held: list[Ask] = []
        # the handler
        self.loop = PrivateLoop(host.loop, wake=self.schedule)
        self._epoch_at = started.at
        self.seen_at = started.at
        """The time of the last release, in microseconds; the loop counts seconds from the instance's start, since
        floats are too coarse for microseconds since 1970."""
        self.root = Scope(self, "")
        self.state: RecordedState | None = None
        self.main: asyncio.Task[Any] | None = None
        self.timers = HandlerTimers(self.loop, host.clock, started.at, self._timer_due)
        self._end: e.Event | None = None
        self.interrupted: e.CancelDelivered | None = None
        self._alarms = Alarms(host.clock)
        # leaving
        self._is_over = False
        self._stopping = False
        self._releasing = False
        self._is_held = False
        self.is_gone = False
        self.replay: Replay | None = Replay(self, history)

    # ------------------------------------------------------------------------------------ what the host calls

    def start(self) -> None:
        """Runs the handler against its history, then goes on live. From a plain callback of the real loop."""
        assert self.replay is not None
        self.replay.prepare()
        try:
            self.main = self._make_main()
        except Exception as error:
            self._end = ending.failure(self, error)
        self._turn()

    def outside(self, events: Sequence[e.Recorded]) -> None:
        """Takes in newly committed events of this instance that this execution did not write, in order."""
        if self.is_gone:
            return
        if self.replay is not None:
            self._unread.extend(events)
            return
        for recorded in events:
            if recorded.originator_version > self.inbox.seen:
                self.take_in(recorded.event, recorded.originator_version)
        self.schedule()

    def fence(self) -> None:
        """Somebody else owns the instance: drops everything at once and records nothing more."""
        self._leave()

    def stop(self) -> None:
        """Starts no new step; leaves when none is running."""
        self._stopping = True
        self.schedule()

    def abandon(self) -> None:
        """Cuts off what is running, releases the instance and leaves."""
        if self.is_gone or self._is_over or self._releasing:
            return
        self._stopping = True
        self._release_instance(waiting=False)
        self._outbox.flush()

    def evict(self) -> bool:
        """Leaves memory now if every branch only waits; whether it does."""
        if not self.idle:
            return False
        self._release_instance(waiting=True)
        self._outbox.flush()
        return True

    @property
    def idle(self) -> bool:
        """Whether every branch of the handler only waits."""
        if self.replay is not None or self._is_over or self._releasing or self._blocked or self._line:
            return False
        if self.loop.outside_open or self.loop.has_ready or not self._outbox.is_empty or self._held:
            return False
        if not self.asks and not self.timers:
            return False
        return all(self.waits_inside(ask) for ask in self._active)

    @property
    def is_leaving(self) -> bool:
        """Whether steps that end now have been cut off."""
        return self.is_gone or self._is_over or self._releasing

    # ------------------------------------------------------------------------------------- what user code does

    def open(self, scope: Scope, ask: Ask) -> asyncio.Future[Any]:
        """Registers an ask and returns the future that whoever asked awaits.

        Raises:
            Suspended: the handler is over or has left memory.
        """
        if self.is_leaving or self._end is not None:
            raise errors.Suspended
        future: HandlerFuture | FunctionFuture
        if ask.nested:
            future = FunctionFuture(loop=self.host.loop)
        else:
            future = HandlerFuture(loop=self.loop)
            future.number = next(self.loop._future_numbers)
        future.ask = ask
        ask.future = future
        if ask.nested and self._recall(ask):
            return future
        self._register(ask)
        self.fresh[ask] = False
        if ask.nested:
            self.schedule()
        return future

    def _register(self, ask: Ask) -> None:
        self.asks[ask.path] = ask
        if ask.nested:
            self.nested.open[ask.path] = ask
        if ask.kind == "listen":
            self._listening[ask] = None

    def unregister(self, ask: Ask) -> None:
        """Nobody awaits it any more."""
        if self.asks.get(ask.path) is ask:
            del self.asks[ask.path]
            if ask.nested:
                del self.nested.open[ask.path]
            self._listening.pop(ask, None)

    def withdraw(self, ask: Ask) -> None:
        """Whoever asked has cancelled it."""
        if ask.withdrawn or self.is_leaving:
            return
        ask.withdrawn = True
        ask.halt()
        if isinstance(ask, StepAsk):
            self._active.discard(ask)
            self.nested.close(ask.path)
        if ask.recorded:
            self.fresh[ask] = True
        else:
            self.fresh.pop(ask, None)
            self.unregister(ask)
            if ask in self._held:
                self._held.remove(ask)
        self.schedule()

    async def call(self, scope: Scope, path: str, call: str, command: Any) -> Any:
        """Performs a recorded call (``Scope.call``)."""
        return await self.open(
            scope, CallAsk(self, path, nested=bool(scope.path), call=call, command=command)
        )

    def end(self, event: e.Event) -> None:
        """The instance is over at this call; the first one counts."""
        if self._end is None and not self.is_leaving:
            self._end = event
            self.schedule()

    def fail(self, reason: str) -> None:
        """Ends the instance as failed."""
        info = ErrorInfo(type="wfes.WorkflowFailed", message=reason)
        self.end(e.WorkflowFailed(at=self.stamp(), error=info.to_json()))

    def complete(self, output: object) -> None:
        """Ends the instance as completed with this output; raises ``Suspended``."""
        self.end(ending.completion(self, output))
        raise errors.Suspended

    def seal(self, value: object, where: str, type_: object = ABSENT) -> Json:
        """The value as a JSON tree; a large one's bytes go along with the next entries."""
        sealed = self.host.values.seal(value, where, type_)
        if sealed.blobs:
            self._blobs.update(sealed.blobs)
            self.host.values.keep(sealed)
        return sealed.tree

    # ------------------------------------------------------------------------------------- what asks do

    def stamp(self) -> int:
        """The moment of the next owner event: the clock, never before the last one."""
        now = self.host.clock.now()
        if now > self._last_at:
            self._last_at = now
        return self._last_at

    def not_before(self, at: int) -> None:
        """Makes every later stamp at least ``at``."""
        if at > self._last_at:
            self._last_at = at

    def settle(self, ask: Ask, cls: type[Any], fields: dict[str, Any], *, intent: bool = False) -> None:
        """Puts an ask's end into the line: as a fact, or as an intent that must be committed first."""
        if ask.settled or ask.withdrawn or self.is_leaving:
            return
        ask.settled = True
        if isinstance(ask, StepAsk):
            self._active.discard(ask)
            self.nested.close(ask.path)
        emit = self._emit_time_out if intent else self._emit_fact
        self._line.append(lambda: emit(ask, cls, fields))
        self.schedule()

    def record(self, event: e.Event) -> None:
        """Records a fact that releases nothing."""
        step = self.asks.get(getattr(event, "path", ""))
        if isinstance(step, StepAsk):
            self._active.discard(step)
        self._add(Entry(event))
        self.schedule()

    def begin_attempt(self, ask: StepAsk) -> None:
        """Records an attempt; the step's function is called when that is on disk."""
        if self.paused or self._stopping:
            ask.recorded = False
            self._held.append(ask)
            self.schedule()
            return
        self._open(ask)
        self.schedule()

    def forget_failures_under(self, path: str) -> None:
        """A new attempt of a step retries its failed inner steps, never completed ones."""
        self.nested.close(path)
        self.nested.forget_failures(path)

    def hold(self, kind: str, report: str) -> None:
        """Pauses the instance by the engine itself, with a reason somebody can act upon, and leaves memory."""
        if self._is_over or self.is_gone or self._releasing:
            return
        if self.interrupted is not None or self.cancel_pending is not None:
            self._finish_interrupted()
            return
        _log.warning("instance %s of workflow %r is paused: %s", self.id, self.workflow.name, report)
        self._is_held = True
        self._add(Entry(e.WorkflowPaused(at=self.stamp(), reason=report, held=kind)))
        self._release_instance(waiting=True)
        self._outbox.flush()

    # ------------------------------------------------------------------------------------- from outside

    def take_in(self, event: e.Event, version: int) -> None:
        """Notes an event from outside and what follows from it."""
        self.inbox.note(event, version)
        match event:
            case e.EventReceived():
                if self.replay is None:
                    for ask in list(self._listening):
                        self._look(ask)
            case e.DataProvided() | e.TargetEnded():
                if self.replay is None:
                    self._look(self.asks.get(event.path))
            case e.CancelRequested():
                if self.interrupted is None and self.cancel_pending is None:
                    self.cancel_pending = event
                    if self.replay is None:
                        self._line.append(self._emit_cancel)
                self.paused = False
            case e.DeadlineChanged():
                self.deadline = event.deadline
                if self.replay is None:
                    self._arm_deadline()
            case e.WorkflowPaused():
                self.paused = True
            case e.WorkflowResumed():
                self.paused = False
                if self.replay is None:
                    self._open_held()
            case _:
                """Nothing the handler has to know."""

    def _look(self, ask: Ask | None) -> None:
        if isinstance(ask, TimedAsk) and ask.on_disk and not ask.settled:
            ask.look()

    # ------------------------------------------------------------------------------------- turns

    def schedule(self) -> None:
        """Has a turn taken at the real loop's next round."""
        if not self._scheduled and not self.is_gone:
            self._scheduled = True
            self.host.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self.is_gone:
            return
        if self.replay is not None:
            if not self.replay.advance():
                return
            self.replay = None
            self._go_live()
        if self.loop.has_ready and not self._blocked and not self._is_over:
            self.move_to(self.stamp())
            self.drain()
        self._collect()
        while (self._given or self._line) and not self._blocked and not self._is_over:
            (self._given or self._line).popleft()()
        self._settled()
        self._outbox.flush()

    def drain(self) -> None:
        """Runs the private loop until the handler has settled, and collects what it asks for now."""
        if self.loop.drain() is Drained.EXHAUSTED:
            if self.loop.outside_open:
                self.schedule()
            else:
                self.hold(
                    "unsettled",
                    f"the handler of workflow {self.workflow.name!r} does not settle: it ran 200,000 callbacks "
                    "without coming to wait for anything; look for an endless loop without a step in it",
                )
                return
        if isinstance(self.loop.exit, KeyboardInterrupt):
            self.abandon()
            raise self.loop.exit
        if self.replay is None:
            self._collect()

    def _collect(self) -> None:
        """Records what the handler asked for in this drain, in the order in which it did."""
        if self._is_over or self._releasing:
            return
        if self._end is not None or (self.main is not None and self.main.done()):
            self._finish()
            return
        if self.state is not None:
            self._record_state()
        if self.fresh:
            fresh, self.fresh = self.fresh, {}
            for ask, withdrawn in fresh.items():
                if withdrawn:
                    self.unregister(ask)
                    self._add(Entry(ask.withdrawal(self.stamp()), ask))
                elif ask.is_start and (self.paused or self._stopping):
                    self._held.append(ask)
                else:
                    self._open(ask)
        self.timers.arm()

    def _record_state(self) -> None:
        assert self.state is not None
        try:
            changes = self.state.changes()
        except errors.WfesError as error:
            self._end = ending.failure(self, error)
            self._finish()
            return
        if changes:
            self._add(Entry(e.StateChanged(at=self.stamp(), changes=changes)))

    def _open(self, ask: Ask) -> None:
        reusable = self.pool.pop(ask.path, None)
        if reusable is not None:
            self.settle(ask, e.ResultReused, {"version": reusable})
            return
        if ask.is_immediate:
            # A release, so it takes its place in the line: behind all that was asked for in the same drain.
            self._line.append(lambda: self._emit_immediate(ask))
            return
        ask.recorded = True
        if isinstance(ask, StepAsk):
            self._active.add(ask)
        effect = ask.effect
        event = ask.opening(self.stamp()) if effect is None else None
        self._add(Entry(event, ask, effect=effect, opens=True))

    def _open_held(self) -> None:
        held, self._held = self._held, []
        for ask in held:
            if not ask.withdrawn:
                self._open(ask)

    def _add(self, entry: Entry) -> None:
        if entry.blocks:
            self._blocked += 1
        if self._blobs:
            entry.blobs = tuple(self._blobs.items())
            self._blobs = {}
        self._outbox.add(entry)

    # ------------------------------------------------------------------------------------- releases

    def _emit_fact(self, ask: Ask, cls: type[Any], fields: dict[str, Any]) -> None:
        if ask.withdrawn:
            return
        event = cls(at=self.stamp(), path=ask.path, **fields)
        self._add(Entry(event, ask))
        self.release(ask, event)

    def _emit_immediate(self, ask: Ask) -> None:
        if ask.withdrawn:
            return
        if ask.is_start and (self.paused or self._stopping):
            self._held.append(ask)
            return
        ask.recorded = ask.settled = True
        if ask.effect is not None:
            self._add(Entry(None, ask, effect=ask.effect, opens=True, blocks=True))
            return
        event = ask.opening(self.stamp())
        self._add(Entry(event, ask))
        self.release(ask, event)

    def _emit_time_out(self, ask: Ask, cls: type[Any], fields: dict[str, Any]) -> None:
        if ask.withdrawn:
            return
        ask.settled = False
        ask.look()  # type: ignore[attr-defined]
        if ask.settled:  # what it waited for came while the time-out stood in line
            return
        ask.settled = True
        self._add(Entry(cls(at=self.stamp(), path=ask.path, **fields), ask, blocks=True))

    def release(self, ask: Ask, event: Any) -> None:
        """Gives whoever asked what this recorded end means, and runs the handler as far as that leads."""
        if ask.withdrawn:
            return
        ask.settled = True
        at = event.at
        self.unregister(ask)
        ask.halt()
        if isinstance(ask, StepAsk):
            self.nested.drop(ask.path)
        future = ask.future
        if future is not None and not future.done():
            try:
                if isinstance(event, e.ResultReused):
                    event = self.inbox.at(event.version)
                value = ask.outcome(event)
            except Exception as error:
                self.failures.setdefault(ask.path, len(self.failures))
                future.set_exception(error)
            else:
                future.set_result(value)
        if ask.nested:
            self.nested.recorded[ask.path] = Nested(ask.kind, event)
        else:
            self.move_to(at)
            self.drain()

    def _recall(self, ask: Ask) -> bool:
        """Gives a function that is run again what its inner paths have recorded; whether that is all."""
        nested = self.nested.recorded.pop(ask.path, None)
        if nested is None:
            return False
        assert ask.future is not None
        if nested.end is not None:
            self.nested.recorded[ask.path] = nested
            try:
                ask.future.set_result(ask.outcome(nested.end))
            except Exception as error:
                ask.future.set_exception(error)
            ask.settled = True
            return True
        if nested.kind != ask.kind:
            self.hold(
                "difference",
                f"inside step {ask.path.rpartition('/')[0]!r} the history has a {nested.kind} at {ask.path!r}, "
                f"and the code now asks for a {ask.kind} there",
            )
            raise errors.Suspended
        nested.apply(ask)
        self._register(ask)
        ask.recorded = ask.on_disk = True
        if isinstance(ask, StepAsk):
            self._active.add(ask)
            ask.resume()
        else:
            ask.begin()
        return True

    # ------------------------------------------------------------------------------------- after a commit

    def committed(self, entries: list[Entry]) -> None:
        """These entries are in the log: begins what they opened, releases what waited for that."""
        for entry in entries:
            if entry.blocks:
                self._blocked -= 1
            event, ask = entry.event, entry.ask
            if ask is None:
                if entry.blocks:
                    self._intent_committed(event)
                    if self.is_gone:
                        return
            elif entry.refusal is not None:
                self.settle(ask, e.CallRecorded, {"call": ask.kind, "error": entry.refusal})
            elif entry.opens and not entry.blocks:
                ask.on_disk = True
                if not ask.withdrawn and not ask.settled and not self.is_leaving:
                    ask.begin()
            elif entry.blocks:
                ask.settled = True
                self._given.append(self._releaser(ask, event))
        self.schedule()

    def _releaser(self, ask: Ask, event: Any) -> Callable[[], None]:
        return lambda: self.release(ask, event)

    def _intent_committed(self, event: e.Event | None) -> None:
        if isinstance(event, e.CancelDelivered):
            self._given.append(lambda: self._interrupt(event))
        elif isinstance(event, e.RunReleased) or (event is not None and event.terminal):
            self._leave()

    def redecide(self, entries: list[Entry]) -> None:
        """Decides again what could not be committed because of newer events, which are known by now."""
        for entry in entries:
            if not self._is_dropped(entry):
                self._outbox.add(entry)
        self.schedule()

    def _is_dropped(self, entry: Entry) -> bool:
        """Whether an entry goes another way now, and that way is taken."""
        ask = entry.ask
        if entry.opens and ask is not None and ask.is_start and (self.paused or self._stopping):
            if entry.blocks:
                self._blocked -= 1
            ask.recorded = ask.settled = False
            if isinstance(ask, StepAsk):
                self._active.discard(ask)
            self._held.append(ask)
            return True
        match entry.event:
            case e.WaitTimedOut():
                assert ask is not None
                ask.settled = False
                ask.look()  # type: ignore[attr-defined]
                if not ask.settled:
                    ask.settled = True
                    return False
                self._blocked -= 1
                self._line.rotate(1)  # its answer comes first
                return True
            case e.CancelDelivered(kind="timeout"):
                passed = self.deadline is not None and self.deadline <= self.host.clock.now()
                if passed or entry.event.reason != _DEADLINE_PASSED:
                    return False
                self._blocked -= 1
                self._arm_deadline()
                return True
            case e.WorkflowCompleted() | e.WorkflowFailed() | e.WorkflowAborted():
                if self.cancel_pending is None:
                    return False
                self._blocked -= 1
                self._is_over = False
                self._finish_interrupted()
                return True
            case e.RunReleased() | e.TimerScheduled():
                if self._stopping or self._is_held:
                    return False
                if entry.blocks:
                    self._blocked -= 1
                    self._stay()
                return True
            case _:
                return False

    def move_to(self, at: int) -> None:
        """Sets the handler's time, in microseconds; it never goes back."""
        if at > self.seen_at:
            self.seen_at = at
            self.loop.now = (at - self._epoch_at) / 1e6

    def _stay(self) -> None:
        """Does not leave memory after all; functions that were told so already run again."""
        self._releasing = False
        for step in list(self._active):
            if not step.is_running and step.on_disk:
                step.begin()

    # ------------------------------------------------------------------------------------- timers

    def _timer_due(self, timer: PrivateTimer) -> None:
        if not self.is_leaving:
            self._line.append(lambda: self._emit_timer(timer))
            self.schedule()

    def _emit_timer(self, timer: PrivateTimer) -> None:
        self.timers.dues.pop((timer.delay, timer.number), None)
        if timer.cancelled():
            return
        at = self.stamp()
        self._add(Entry(e.TimerFired(at=at, delay=timer.delay, number=timer.number)))
        self.fire(timer.delay, timer.number, at)

    def fire(self, delay: int, number: int, at: int) -> None:
        """Fires one of the handler's own timers."""
        self.move_to(at)
        if self.loop.fire(delay, number):
            self.drain()

    def _arm_deadline(self) -> None:
        if self.deadline is None or self.interrupted is not None:
            self._alarms.cancel("deadline")
        else:
            self._alarms.set("deadline", self.deadline, lambda: self._time_is_over(_DEADLINE_PASSED))

    def _time_is_over(self, reason: str) -> None:
        def emit() -> None:
            if self.interrupted is None and not self.is_leaving:
                self._add(
                    Entry(e.CancelDelivered(at=self.stamp(), kind="timeout", reason=reason), blocks=True)
                )

        self._line.append(emit)
        self.schedule()

    # ------------------------------------------------------------------------------------- ends

    def _make_main(self) -> asyncio.Task[Any]:
        workflow = self.workflow
        tree = self.started.input
        value = self.host.values.open(tree, workflow.input_type) if workflow.has_input else None
        if workflow.has_input:
            value = workflow.validate_input(value)
        if workflow.state_type is not None:
            self.state = RecordedState(self, workflow.state_type)
        context = Context()
        context.run(enter, self.root)
        context.run(self.host.engine.enter_context)
        coro = workflow.bind(
            value,
            step=Step(self),
            state=None if self.state is None else self.state.value,
            workflow=self.host.engine.running_instance(self) if workflow.wants("workflow") else None,
        )
        return self.loop.create_task(coro, name=self.id, context=context)

    def _emit_cancel(self) -> None:
        request = self.cancel_pending
        if request is None or self.interrupted is not None:
            return
        event = e.CancelDelivered(at=self.stamp(), kind="cancel", reason=request.reason)
        self._add(Entry(event))
        self._interrupt(event)

    def _interrupt(self, event: e.CancelDelivered) -> None:
        self.interrupt(event)
        if not self._is_over:
            self._alarms.set("cleanup", event.at + CLEANUP_MICROS, self._cleanup_over)

    def interrupt(self, event: e.CancelDelivered) -> None:
        """Delivers a cancellation or time-out to the handler."""
        self.interrupted = event
        self.cancel_pending = None
        self._alarms.cancel("deadline")
        self.move_to(event.at)
        if self.main is not None and not self.main.done():
            self.main.cancel()
            self.drain()

    def _cleanup_over(self) -> None:
        if not self.is_leaving:
            self._finish_interrupted()
            self._outbox.flush()

    def _finish(self) -> None:
        """The handler has ended: records how, unless a cancellation got there first."""
        if self.interrupted is not None or self.cancel_pending is not None:
            self._finish_interrupted()
            return
        end = self._end
        if end is None:
            assert self.main is not None
            end = ending.result_of(self, self.main)
        if self.state is not None and self._end is None:
            changes = self.state.changes()
            if changes:
                self._add(Entry(e.StateChanged(at=self.stamp(), changes=changes)))
        self._over(end)

    def _finish_interrupted(self) -> None:
        if self.interrupted is None:
            assert self.cancel_pending is not None
            self.interrupted = e.CancelDelivered(
                at=self.stamp(), kind="cancel", reason=self.cancel_pending.reason
            )
            self.cancel_pending = None
            self._add(Entry(self.interrupted))
        at, reason = self.stamp(), self.interrupted.reason
        if self.interrupted.kind == "timeout":
            self._over(e.WorkflowTimedOut(at=at, reason=reason))
        else:
            self._over(e.WorkflowCancelled(at=at, reason=reason))

    def _over(self, end: e.Event) -> None:
        self._is_over = True
        self._line.clear()
        self.fresh.clear()
        self._add(Entry(end, blocks=True))
        self._halt()
        self._outbox.flush()

    # ------------------------------------------------------------------------------------- settling, leaving

    def _go_live(self) -> None:
        """The replay is over: begins what the history left open."""
        self.timers.arm_recorded()
        for recorded in self._unread:
            if recorded.originator_version > self.inbox.seen:
                self.take_in(recorded.event, recorded.originator_version)
        self._unread.clear()
        for ask in list(self.asks.values()):
            if ask.recorded and not ask.withdrawn and not ask.settled and ask not in self.fresh:
                ask.on_disk = True
                if isinstance(ask, StepAsk):
                    if ask.retry_at is None:
                        self._active.add(ask)
                    ask.resume()
                else:
                    ask.begin()
        if self.interrupted is not None:
            self._alarms.set("cleanup", self.interrupted.at + CLEANUP_MICROS, self._cleanup_over)
        else:
            self._arm_deadline()
            if self.cancel_pending is not None:
                self._line.append(self._emit_cancel)

    def _settled(self) -> None:
        """Looks at what the handler waits for, now that it has settled."""
        if self._is_over or self._releasing or self.is_gone or self._blocked or self._line:
            return
        if self.loop.outside_open and self.interrupted is None:
            self._watch_handler_code()
        elif "handler" in self._alarms:
            self._alarms.cancel("handler")
        if (self._stopping or self.paused) and all(self.waits_inside(ask) for ask in self._active):
            self._release_instance(waiting=self.paused or not self._held)
        elif not self.asks and not self.timers and not self.fresh and not self.loop.outside_open:
            if self.loop.has_ready or not self._outbox.is_empty or "deadlock" in self._alarms:
                return
            self._alarms.set("deadlock", self.host.clock.now() + DEADLOCK_MICROS, self._deadlocked)
        elif "linger" not in self._alarms and self.idle:
            self._linger()

    def _deadlocked(self) -> None:
        if self.is_leaving or self.asks or self.timers or self.fresh or self._line or self._given:
            return
        if not (self.loop.outside_open or self.loop.has_ready) and self._outbox.is_empty:
            self.hold(
                "deadlock",
                f"the handler of workflow {self.workflow.name!r} waits for nothing but itself: no step, wait or "
                "timer is open that could make it go on" + self.whereabouts(),
            )

    def _watch_handler_code(self) -> None:
        limit = self.workflow.timeout_micros
        if limit is None or "handler" in self._alarms:
            return
        reason = f"handler code ran for longer than its timeout of {durations.text(limit)} between two events"
        self._alarms.set("handler", self.stamp() + limit, lambda: self._time_is_over(reason))

    def _linger(self) -> None:
        linger = self.host.linger_micros
        if self._active:
            linger *= 10
        self._alarms.set("linger", self.host.clock.now() + linger, self._lingered)

    def _lingered(self) -> None:
        if not self.idle or self.is_gone:
            return
        dues = [due for ask in self.asks.values() if (due := ask.due()) is not None]
        dues.extend(self.timers.dues.values())
        if dues and min(dues) <= self.host.clock.now() + self.host.linger_micros:
            self._linger()
            return
        self.evict()

    def waits_inside(self, step: StepAsk) -> bool:
        """Whether a step's function is at an inner wait."""
        return self.nested.waits_inside(step.path)

    def _release_instance(self, *, waiting: bool) -> None:
        self._releasing = True
        at = self.stamp()
        for timer, due in self.timers.pending():
            self._add(Entry(e.TimerScheduled(at=at, delay=timer.delay, number=timer.number, due=due)))
        suspended = tuple(ask.path for ask in self._active if self.waits_inside(ask))
        self._add(Entry(e.RunReleased(at=at, waiting=waiting, suspended=suspended), blocks=True))

    def broken(self, error: Exception) -> None:
        """The writer could not even try: a defect, or a log that is gone for good."""
        _log.error(
            "instance %s of workflow %r stops here: %s", self.id, self.workflow.name, error, exc_info=error
        )
        self._leave()

    def _halt(self) -> None:
        self._alarms.clear()
        self.timers.clear()
        for ask in list(self.asks.values()):
            ask.halt()
            if ask.nested and ask.future is not None and not ask.future.done():
                ask.future.set_exception(errors.Suspended())
        self.loop.drop()

    def _leave(self) -> None:
        if self.is_gone:
            return
        self.is_gone = True
        self._outbox.clear()
        self._halt()
        self.asks.clear()
        self.host.left(self)

    def whereabouts(self) -> str:
        """Where in the user's source the handler stands, for reports."""
        return ending.whereabouts(self)
