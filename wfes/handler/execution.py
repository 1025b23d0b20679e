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
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wfes import errors
from wfes.core import events as e
from wfes.core.codec import as_blob, decode
from wfes.core.types import ABSENT
from wfes.handler import commits, emissions, ending
from wfes.handler.alarms import Alarms, HandlerTimers
from wfes.handler.asks import Ask, CallAsk, FunctionFuture, HandlerFuture, ListenAsk, TimedAsk
from wfes.handler.attempts import StepAsk
from wfes.handler.changes import Changes
from wfes.handler.ends import Ends
from wfes.handler.forking import Pool
from wfes.handler.host import Host as Host
from wfes.handler.inbox import Inbox
from wfes.handler.line import Line
from wfes.handler.loop import Drained, PrivateLoop, PrivateTimer
from wfes.handler.main import make_main
from wfes.handler.nested import Nested, NestedPaths
from wfes.handler.outbox import Entry, SetAside
from wfes.handler.recall import recall
from wfes.handler.replay import Replay
from wfes.handler.rest import Rest
from wfes.handler.scope import Scope
from wfes.handler.state import RecordedState, plain

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.handler.difference import Difference
    from wfes.runtime.values import Sealed

_log = logging.getLogger("wfes")

REFUSALS_MAX = 1_000
"""How often a handler that is over is told so; a loop that swallows even that is then left waiting for ever."""

Json = Any


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
        self.changes = Changes(self)
        self.failures: dict[str, int] = {}
        """Paths whose failure the handler was given, to the order in which it was."""
        self.children: dict[str, str] = {}
        """In a retried instance: the children that paths have already, if they did not fail."""
        self.pool = Pool()
        # what came from outside
        self.inbox = Inbox()
        self.unread: list[e.Recorded] = []
        """What came during the replay."""
        self._listening: dict[Ask, None] = {}
        self.large: dict[str, Json] = {}
        """Large values recorded and not committed yet, by their digest."""
        self.paused = False
        # the line
        self.line = Line(self, host.clock)
        self._scheduled = False
        self.active: set[StepAsk] = set()
        """The steps of which an attempt is being made."""
        self.held: list[Ask] = []
        """What a pause or a stop keeps from beginning."""
        # the handler
        self.loop = PrivateLoop(host.loop, wake=self.schedule)
        self._epoch_at = started.at
        self.seen_at = started.at
        """The time of the last release, in microseconds; the loop counts seconds from the instance's start, since
        floats are too coarse for microseconds since 1970."""
        self._root: Scope | None = Scope(self, "")
        self.state: RecordedState | None = None
        self.main: asyncio.Task[Any] | None = None
        self.timers = HandlerTimers(self.loop, host.clock, started.at, self._timer_due)
        self.alarms = Alarms(host.clock)
        # its end, or its leaving
        self.ends = Ends(self, started.deadline)
        self.rest = Rest(self)
        self.is_gone = False
        self._refusals = 0
        self.replay: Replay | None = Replay(self, history)

    # ------------------------------------------------------------------------------------ what the host calls

    def start(self) -> None:
        """Runs the handler against its history, then goes on live. From a plain callback of the real loop."""
        assert self.replay is not None
        self.replay.prepare()
        try:
            self.main = make_main(self)
        except Exception as error:
            self.ends.say(ending.failure(self, error))
        self._turn()

    def outside(self, events: Sequence[e.Recorded]) -> None:
        """Takes in newly committed events of this instance that this execution did not write, in order."""
        if self.is_gone:
            return
        if self.replay is not None:
            self.unread.extend(events)
            self.schedule()
            return
        for recorded in events:
            if recorded.originator_version > self.inbox.seen:
                self.take_in(recorded.event, recorded.originator_version)
        self.schedule()

    def fence(self) -> None:
        """Somebody else owns the instance: drops everything at once and records nothing more."""
        self.leave()

    def stop(self) -> None:
        """Starts no new step; leaves when none is running."""
        self.rest.stopping = True
        self.schedule()

    def abandon(self) -> None:
        """Cuts off what is running, releases the instance and leaves."""
        if not self.is_leaving:
            self.rest.stopping = True
            self.rest.release(waiting=False)

    def evict(self) -> bool:
        """Leaves memory now if every branch only waits; whether it does."""
        if not self.rest.may_leave:
            return False
        self.rest.release(waiting=True)
        return True

    @property
    def root(self) -> Scope:
        """The handler's own scope; once it has left, one under which nothing is recorded."""
        return self._root or Scope(self, "")

    @property
    def known(self) -> int:
        """Version of the newest event from outside that it has been told of, taken in or not."""
        return self.unread[-1].originator_version if self.unread else self.inbox.seen

    @property
    def idle(self) -> bool:
        """Whether every branch of the handler only waits."""
        return self.rest.idle

    @property
    def is_stuck(self) -> bool:
        """Whether its handler waits for nothing that is known, and is about to be held for that."""
        return "deadlock" in self.alarms

    @property
    def is_leaving(self) -> bool:
        """Whether steps that end now have been cut off."""
        return self.is_gone or self.ends.is_over or self.rest.releasing

    @property
    def is_ending(self) -> bool:
        """Whether it is leaving, or the handler has called for the end."""
        return self.is_leaving or self.ends.said is not None

    # ------------------------------------------------------------------------------------- what user code does

    def open(self, scope: Scope, ask: Ask) -> asyncio.Future[Any]:
        """Registers an ask and returns the future that whoever asked awaits.

        Raises:
            Suspended: the handler is over or has left memory.
        """
        if self.is_leaving or self.ends.said is not None:
            return self._refuse(ask)
        future: HandlerFuture | FunctionFuture
        if ask.nested:
            future = FunctionFuture(loop=self.host.loop)
        else:
            future = HandlerFuture(loop=self.loop)
            future.number = next(self.loop._future_numbers)
        future.ask = ask
        ask.future = future
        if ask.nested and recall(self, ask):
            return future
        self.register(ask)
        self.fresh[ask] = False
        if ask.nested:
            self.schedule()
        return future

    def _refuse(self, ask: Ask) -> asyncio.Future[Any]:
        """Raises ``Suspended``; whoever goes on asking all the same is never answered."""
        self._refusals += 1
        if self._refusals <= REFUSALS_MAX:
            raise errors.Suspended
        return asyncio.Future(loop=self.host.loop) if ask.nested else self.loop.create_future()

    def register(self, ask: Ask) -> None:
        """Somebody awaits it."""
        self.asks[ask.path] = ask
        if ask.nested:
            self.nested.begin(ask)
            if ask.waits:
                self.come_to_rest(ask)
        if ask.kind == "listen":
            self._listening[ask] = None

    def unregister(self, ask: Ask) -> None:
        """Nobody awaits it any more."""
        if self.asks.get(ask.path) is ask:
            del self.asks[ask.path]
            if ask.nested:
                del self.nested.open[ask.path]
                self.stir(ask)
            self._listening.pop(ask, None)

    def withdraw(self, ask: Ask) -> None:
        """Whoever asked has cancelled it."""
        if ask.withdrawn or self.is_leaving:
            return
        ask.withdrawn = True
        ask.halt()
        if isinstance(ask, StepAsk):
            self.active.discard(ask)
            self.nested.close(ask.path)
        if ask.is_binding:
            """Whoever asks for its path again is given what that gave."""
        elif ask.recorded:
            self.fresh[ask] = True
        else:
            self.fresh.pop(ask, None)
            self.unregister(ask)
            if ask in self.held:
                self.held.remove(ask)
        self.schedule()

    async def call(self, scope: Scope, path: str, call: str, command: Any) -> Any:
        """Performs a recorded call (``Scope.call``)."""
        return await self.open(
            scope, CallAsk(self, path, nested=bool(scope.path), call=call, command=command)
        )

    def end(self, event: e.Event) -> None:
        """The instance is over at this call; the first one counts."""
        if not self.is_leaving:
            self.ends.say(event)
            self.host.loop.call_soon_threadsafe(self.schedule)  # a step's function may be in a thread

    def fail(self, reason: str) -> None:
        """Ends the instance as failed."""
        if not self.is_leaving:
            self.ends.fail(reason)
            self.host.loop.call_soon_threadsafe(self.schedule)  # as above

    def complete(self, output: object) -> None:
        """Ends the instance as completed with this output; raises ``Suspended``."""
        self.end(ending.completion(self, output))
        raise errors.Suspended

    def seal(self, value: object, where: str, type_: object = ABSENT) -> Json:
        """The value as a JSON tree; a large one's bytes go along with the next entries."""
        return self.keep(self.host.values.seal(plain(value), where, type_))

    def keep(self, sealed: Sealed) -> Json:
        """A sealed value's tree; a large one's bytes go along with the next entries, and stay here until then."""
        if sealed.blobs:
            self.line.take_along(sealed.blobs)
            for digest, _ in sealed.blobs:
                self.large[digest] = sealed.whole
        return sealed.tree

    def open_value(self, tree: Json, type_: object = ABSENT) -> Any:
        """The value of a tree that this execution recorded, committed or not."""
        if self.large and (ref := as_blob(tree)) is not None and ref[0] in self.large:
            return decode(self.large[ref[0]], type_)
        return self.host.values.open(tree, type_)

    # ------------------------------------------------------------------------------------- what asks do

    def stamp(self) -> int:
        """The moment of the next owner event, in microseconds."""
        return self.line.stamp()

    def settle(self, ask: Ask, cls: type[Any], fields: dict[str, Any], *, intent: bool = False) -> None:
        """Puts an ask's end into the line: as a fact, or as an intent that must be committed first."""
        if ask.settled or ask.withdrawn or self.is_leaving:
            return
        ask.settled = True
        if isinstance(ask, StepAsk):
            self.active.discard(ask)
            self.nested.close(ask.path)
        emit = emissions.time_out if intent else emissions.fact
        self.line.put(lambda: emit(self, ask, cls, fields))
        self.schedule()

    def record(self, event: e.Event) -> None:
        """Records a fact that releases nothing."""
        step = self.asks.get(getattr(event, "path", ""))
        if isinstance(step, StepAsk):
            self.active.discard(step)
        self.line.add(Entry(event))
        self.schedule()

    def begin_attempt(self, ask: StepAsk) -> None:
        """Records an attempt; the step's function is called when that is on disk."""
        if self.paused or self.rest.stopping:
            self.active.discard(ask)
            self.hold_back(ask)
            self.schedule()
            return
        self._open(ask)
        self.schedule()

    def forget_failures_under(self, path: str) -> None:
        """A new attempt of a step retries its failed inner steps, never completed ones."""
        self.nested.close(path)
        self.nested.forget_failures(path)

    def hold(self, kind: str, report: str | Difference) -> None:
        """Pauses the instance by the engine itself, with a reason somebody can act upon, and leaves memory."""
        if self.is_leaving:
            return
        if self.ends.is_interrupted:
            self.ends.finish_interrupted()
        else:
            self.rest.hold(kind, report)

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
                self.ends.request_cancel(event)
                self.paused = False
            case e.DeadlineChanged():
                self.ends.move_deadline(event.deadline)
            case e.WorkflowPaused():
                self.paused = True
            case e.WorkflowResumed():
                self.paused = False
                if self.replay is None:
                    self.open_held()
            case _:
                """Nothing the handler has to know."""

    def _look(self, ask: Ask | None) -> None:
        if isinstance(ask, TimedAsk) and ask.on_disk and not (ask.settled or self.is_leaving):
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
        try:
            self._take_turn()
        except Exception as error:
            self.broken(error)

    def _take_turn(self) -> None:
        if self.replay is not None:
            if not self.replay.advance():
                if not self.is_leaving:
                    self.rest.look_at_replay(self.replay)
                self.line.outbox.flush()  # also what a conflict brought back
                return
            self.replay = None
            self.alarms.cancel("replay")
            self._go_live()
        if self.loop.has_ready and not self.line.blocks and not self.is_leaving:
            self.move_to(self.stamp())
            self.drain()
        self._collect()
        while not self.ends.is_over and (release := self.line.next()) is not None:
            release()
        self.rest.look()
        self.line.outbox.flush()

    def drain(self) -> None:
        """Runs the private loop until the handler has settled, and collects what it asks for now."""
        began = time.monotonic()
        drained = self.loop.drain()
        if self.replay is None or self.replay.is_new_code:
            self.ends.took(time.monotonic() - began)
        if drained is Drained.EXHAUSTED:
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
        if self.is_leaving:
            return
        self.record_state()
        if self.ends.said is not None or (self.main is not None and self.main.done()):
            self.ends.finish()
            return
        if self.fresh:
            fresh, self.fresh = self.fresh, {}
            for ask, withdrawn in fresh.items():
                if withdrawn:
                    self.unregister(ask)
                    self.line.add(Entry(ask.withdrawal(self.stamp()), ask))
                elif ask.is_start and (self.paused or self.rest.stopping):
                    self.hold_back(ask)
                else:
                    self._open(ask)
        self.timers.arm()

    def record_state(self) -> None:
        """Records what the handler changed of its state; a value that cannot be recorded fails the instance."""
        if self.state is None:
            return
        try:
            changes = self.state.changes()
        except errors.WfesError as error:
            self.state = None
            self.ends.say(ending.failure(self, error))
            return
        if changes:
            self.line.add(Entry(e.StateChanged(at=self.stamp(), changes=changes)))

    def _open(self, ask: Ask) -> None:
        reusable = self.pool.pop(ask.path, None)
        if reusable is not None:
            self.settle(ask, e.ResultReused, {"version": reusable})
            return
        if ask.is_immediate:
            # A release, so it takes its place in the line: behind all that was asked for in the same drain.
            self.line.put(lambda: emissions.immediate(self, ask))
            return
        ask.recorded = True
        if isinstance(ask, StepAsk):
            ask.begun = False
            self.active.add(ask)
        effect = ask.effect
        event = ask.opening(self.stamp()) if effect is None else None
        self.line.add(Entry(event, ask, effect=effect, opens=True))
        if isinstance(ask, ListenAsk):
            ask.look()  # an event that is here already needs no commit in between

    def hold_back(self, ask: Ask) -> None:
        """A pause or a stop keeps it from beginning."""
        self.held.append(ask)
        self.come_to_rest(ask)

    def open_held(self) -> None:
        """Begins what a pause kept from beginning."""
        held, self.held = self.held, []
        for ask in held:
            if not ask.waits:
                self.stir(ask)
            if not ask.withdrawn:
                self._open(ask)

    # ------------------------------------------------------------------------------------- releases

    def release(self, ask: Ask, event: Any) -> None:
        """Gives whoever asked what this recorded end means, and runs the handler as far as that leads."""
        if ask.withdrawn:
            if ask.nested and (ask.is_immediate or ask.commits_first):
                self.unregister(ask)
                self.nested.record(ask.path, Nested(ask.kind, event))
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
                if not ask.nested:
                    self.inbox.forget(event)
            except Exception as error:
                self.failures.setdefault(ask.path, len(self.failures))
                future.set_exception(error)
            else:
                future.set_result(value)
        ask.forget()
        if ask.nested:
            self.nested.record(ask.path, Nested(ask.kind, event))
        else:
            self.move_to(at)
            self.drain()

    def committed(self, entries: list[Entry]) -> None:
        """These entries are in the log."""
        commits.committed(self, entries)

    def redecide(self, entries: list[Entry]) -> None:
        """These could not be committed, because of newer events."""
        commits.redecide(self, entries)

    def move_to(self, at: int) -> None:
        """Sets the handler's time, in microseconds; it never goes back."""
        if at > self.seen_at:
            self.seen_at = at
            self.loop.now = (at - self._epoch_at) / 1e6

    # ------------------------------------------------------------------------------------- timers

    def _timer_due(self, timer: PrivateTimer) -> None:
        if not self.is_leaving:
            self.line.put(lambda: self._emit_timer(timer))
            self.schedule()

    def _emit_timer(self, timer: PrivateTimer) -> None:
        self.timers.dues.pop((timer.delay, timer.number), None)
        if timer.cancelled():
            return
        at = self.stamp()
        self.line.add(Entry(e.TimerFired(at=at, delay=timer.delay, number=timer.number)))
        self.fire(timer.delay, timer.number, at)

    def fire(self, delay: int, number: int, at: int) -> None:
        """Fires one of the handler's own timers."""
        self.move_to(at)
        if self.loop.fire(delay, number):
            self.drain()

    # ------------------------------------------------------------------------------------- settling, leaving

    def _go_live(self) -> None:
        """The replay is over: begins what the history left open."""
        self.changes.go_live()
        self.timers.arm_recorded()
        for recorded in self.unread:
            if recorded.originator_version > self.inbox.seen:
                self.take_in(recorded.event, recorded.originator_version)
        self.unread.clear()
        now = self.host.clock.now()
        overdue: list[TimedAsk] = []
        for ask in list(self.asks.values()):
            if ask.recorded and not ask.withdrawn and not ask.settled and ask not in self.fresh:
                ask.on_disk = True
                if isinstance(ask, StepAsk):
                    if ask.retry_at is None:
                        self.active.add(ask)
                    ask.resume()
                elif isinstance(ask, TimedAsk) and ask.until is not None and ask.until <= now:
                    ask.look()
                    overdue.append(ask)
                else:
                    ask.begin()
        self.ends.watch()
        if self.ends.cancel is not None:
            request, self.ends.cancel = self.ends.cancel, None
            self.ends.request_cancel(request)
        # What was due before anybody could run it needs no timer: it is released in this very turn.
        scheduled, self._scheduled = self._scheduled, True
        for ask in overdue:
            ask.ring()
        self._scheduled = scheduled

    def come_to_rest(self, ask: Ask) -> None:
        """An inner ask waits: so do the steps around it, and the time it takes is none of theirs."""
        if ask.nested:
            for path in self.nested.rest(ask):
                step = self.asks.get(path)
                if isinstance(step, StepAsk):
                    step.stop_clock()

    def stir(self, ask: Ask) -> None:
        """An inner ask waits no more."""
        if ask.nested:
            for path in self.nested.stir(ask):
                step = self.asks.get(path)
                if isinstance(step, StepAsk):
                    step.run_clock()

    def waits_inside(self, step: StepAsk) -> bool:
        """Whether a step's function is at an inner wait."""
        return self.nested.waits_inside(step.path)

    def broken(self, error: BaseException) -> None:
        """It cannot go on, by a defect that is not the handler's: pauses the instance and leaves."""
        if self.is_gone:
            return
        name = self.workflow.name
        _log.error("instance %s of workflow %r stops here: %r", self.id, name, error, exc_info=error)
        report = f"this process cannot run it: {type(error).__name__}: {error}"
        self.leave()
        self.host.submit(SetAside(self.host.worker, self.id, self.epoch, report))

    def halt(self) -> None:
        """Stops everything that runs, and drops the handler."""
        self.alarms.clear()
        self.timers.clear()
        for ask in list(self.asks.values()):
            ask.halt()
            if ask.nested and ask.future is not None and not ask.future.done():
                ask.future.set_exception(errors.Suspended())
        self.loop.drop()

    def leave(self) -> None:
        """Leaves memory: nothing of the handler runs again."""
        if self.is_gone:
            return
        self.is_gone = True
        self.line.clear()
        self.line.outbox.clear()
        self.halt()
        self._let_go()
        self.host.left(self)

    def _let_go(self) -> None:
        """Opens every circle of references: it is freed at once, and leaves the garbage collector no work."""
        for ask in self.asks.values():
            if ask.waits:
                ask.forget()
        self.asks.clear()
        self.main = self.replay = self._root = None
        self.line.outbox.let_go()
        self.timers.let_go()
        self.ends.let_go()
        self.rest.let_go()
        self.changes.let_go()
