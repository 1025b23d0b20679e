"""The prompt of the time-travel debugger: pdb, with commands that move along the recorded history.

pdb's own commands work on the handler's frames, whether it waits (then its frames hang together by what they await) or
is being run. `next`, `step`, `until`, `return` and breakpoints go on in the handler's code, which the replay goes on
giving recorded outcomes; frames of this package and of asyncio are passed over.

Invariants: while nothing is to stop in the handler's code, no trace function is set, so that running again from the
beginning takes no longer than a replay does; when the prompt is left the handler's code runs no further than asked.
"""

from __future__ import annotations

import dis
import inspect
import pdb
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from wfes.errors import Suspended
from wfes.timetravel.frames import View, is_engine, is_library, live, raised, runs_handler, set_locals, view
from wfes.timetravel.moment import Goto, Kind, Moment, Move, Quit, Run, Running

if TYPE_CHECKING:
    from wfes.timetravel.pages import Pages

PROMPT = "(wfes) "
EVENTS_AROUND = 8
"""How many events before and behind the one at hand `events` lists."""

_RETURNS = frozenset(
    number
    for name, number in dis.opmap.items()
    if name in ("RETURN_VALUE", "RETURN_CONST", "RETURN_GENERATOR")
)
_CO_RESUMED = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Prompt(pdb.Pdb):
    """A pdb whose stops are moments of a history.

    Args:
        pages: what its own commands show.
        package: the top-level package of the handler's module.
        stdin, stdout: where it reads and writes, where that is not the terminal.
    """

    def __init__(self, pages: Pages, package: str, stdin: Any = None, stdout: Any = None) -> None:
        super().__init__(stdin=stdin, stdout=stdout, nosigint=True)
        self.prompt = PROMPT
        self._pages = pages
        self._package = package
        self._moment: Moment | None = None
        self._before: int | None = None
        """Where the stop before this one was."""
        self._move: Move = Run()
        self._shown: View | None = None
        self._passed: set[CodeType] = set()
        """Code that is not the handler's, so that its calls cost little while tracing."""
        self._run: Running | None = None
        self._is_interrupted = False

    # -- what the debugger calls -------------------------------------------------------------------------------------

    def begin(self, run: Running) -> None:
        """A run begins: what stopped the one before is forgotten, its breakpoints are kept."""
        self._run = run
        self.reset()
        self.botframe = sys._getframe()
        self.run_fast()

    def look(self, moment: Moment) -> Move:
        """Shows a waiting handler and takes commands."""
        sys.settrace(None)
        if moment.view is None:
            for line in self._pages.heading(moment):
                self.message(line)
            return Quit()
        self._shown = moment.view
        self._ask(moment, moment.view.frame)
        return self._move

    def run_on(self) -> None:
        """Traces the handler's code, if anything may stop in it."""
        stops = self.stopframe is not self.botframe or self.stoplineno != -1 or self.breaks
        sys.breakpointhook = self._breakpoint
        sys.settrace(self.trace_dispatch if stops else None)

    def run_fast(self) -> None:
        """Traces nothing, and passes over `breakpoint()`."""
        self.set_continue()
        sys.breakpointhook = passed_over
        sys.settrace(None)

    def _breakpoint(self, *args: object, **kwargs: object) -> None:
        """Handler code has called `breakpoint()`: stops at its next line."""
        frame = sys._getframe(1)
        frame.f_trace = self.trace_dispatch
        self.set_next(frame)
        sys.settrace(self.trace_dispatch)

    def interrupt(self, frame: FrameType | None) -> bool:
        """Somebody pressed Ctrl-C while a run is under way: stops at the next line of the handler's code.

        Returns:
            False at the second time without a stop in between: nothing of the handler runs, or it does not come on.
        """
        if self._is_interrupted:
            return False
        self._is_interrupted = True
        self.message("\ninterrupted; Ctrl-C again leaves")
        while frame is not None and not (runs_handler(frame) and not is_library(frame, self._package)):
            frame = frame.f_back
        if frame is None:
            self.set_step()
        else:
            frame.f_trace = self.trace_dispatch
            self.set_next(frame)
        sys.settrace(self.trace_dispatch)
        return True

    def _ask(self, moment: Moment, frame: FrameType, traceback: TracebackType | None = None) -> None:
        self._moment = moment
        self._is_interrupted = False
        self._move = Run()
        for line in self._pages.heading(moment):
            self.message(line)
        try:
            self.interaction(frame, traceback)
        except KeyboardInterrupt:
            self.message("")
            self._move = Quit()
        self._before = max(1, min(moment.position, moment.events))
        self._shown = None

    def _cmdloop(self) -> None:
        # pdb's own takes Ctrl-C as a wish for a new prompt; here it leaves, as everywhere on the command line.
        previous = signal.getsignal(signal.SIGINT)
        self.allow_kbdint = True
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.cmdloop()
        finally:
            self.allow_kbdint = False
            with suppress(ValueError):
                signal.signal(signal.SIGINT, previous)

    # -- stops in the handler's code ---------------------------------------------------------------------------------

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[Any], int]:
        """The handler's frames instead of the interpreter's."""
        if self._shown is None:
            places = live(f) if f is not None else []
            shown = view(
                [*places, *raised(t.tb_next if t is not None and t.tb_frame is f else t)], self._package
            )
            if shown is None:
                return super().get_stack(f, t)
            return list(shown.places), max(len(places) - 1, 0) if t is None else shown.index
        return list(self._shown.places), self._shown.index

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        """As bdb's, but for code that is not the handler's."""
        code = frame.f_code
        if code in self._passed:
            return None
        if is_engine(frame):
            self._passed.add(code)
            return None
        if event == "call" and not runs_handler(frame):
            return None
        return super().trace_dispatch(frame, event, arg)

    def user_call(self, frame: FrameType, argument_list: Any) -> None:
        """A function begins; a coroutine that only goes on is no call."""
        if frame.f_code.co_flags & _CO_RESUMED and frame.f_lineno != frame.f_code.co_firstlineno:
            return
        if self.stop_here(frame):
            self.message("--Call--")
            self._stopped(frame)

    def user_line(self, frame: FrameType) -> None:
        """A line is about to be run: a breakpoint's, or the next one."""
        self._stopped(frame)

    def user_return(self, frame: FrameType, return_value: Any) -> None:
        """A function returns; a coroutine that comes to wait does not."""
        if not _is_over(frame):
            return
        frame.f_locals["__return__"] = return_value
        self.message("--Return--")
        self._stopped(frame)

    def user_exception(self, frame: FrameType, exc_info: Any) -> None:
        """An exception passes."""
        kind, error, traceback = exc_info
        if kind is StopIteration and traceback is None:
            return
        if issubclass(kind, (Suspended, GeneratorExit)):
            return
        frame.f_locals["__exception__"] = kind, error
        self.message(f"{kind.__name__}: {error}")
        self._stopped(frame, traceback)

    def dispatch_return(self, frame: FrameType, arg: Any) -> Any:
        """As bdb's; and `next` at a coroutine's end goes on in the one that awaits it."""
        if self.stopframe is frame and self.stoplineno != -1 and _is_over(frame):
            caller = frame.f_back
            if caller is not None and not is_engine(caller):
                caller.f_trace = self.trace_dispatch
                self.set_next(caller)
                return self.trace_dispatch
        return super().dispatch_return(frame, arg)

    def _stopped(self, frame: FrameType, traceback: TracebackType | None = None) -> None:
        assert self._run is not None
        self._ask(self._run.at_line(), frame, traceback)
        if isinstance(self._move, Run):
            self.run_on()
            return
        self.run_fast()
        if not self._run.goes_on(self._move):
            raise Suspended  # whatever the handler was at: it is dropped here

    # -- commands ----------------------------------------------------------------------------------------------------

    def default(self, line: str) -> Any:
        """Runs Python in the frame looked at."""
        result = super().default(line)
        if self.curframe is not None:
            set_locals(self.curframe)
        return result

    def _go(self, move: Move) -> bool:
        self._move = move
        return True

    @property
    def _here(self) -> Moment:
        assert self._moment is not None
        return self._moment

    def _number(self, arg: str, default: int | None, what: str) -> int | None:
        text = arg.strip()
        if not text and default is not None:
            return default
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            self.error(f"{text!r} is no {what}: give a whole number from 1 on")
            return None
        return number

    def do_forward(self, arg: str) -> bool | None:
        """forward [N]
        Go on to the next event, or N events on. Breakpoints do not stop that; `continue` is stopped by them.
        """
        number = self._number(arg, 1, "number of events")
        if number is None:
            return None
        here = self._here
        if here.kind is Kind.DIFFERENCE:
            self.error("the code differs from the history here: it cannot go on; `back` and `goto N` go back")
            return None
        if here.kind is Kind.END:
            self.error(f"the history ends here, with event {here.events}; `back` and `goto N` go back")
            return None
        return self._go(Goto(min(here.position + number, here.last)))

    def do_back(self, arg: str) -> bool | None:
        """back [N]
        Go back to the event before, or N events back: the handler is run again up to there.
        """
        number = self._number(arg, 1, "number of events")
        if number is None:
            return None
        here = self._here
        # At a line the handler has been given that event: to go back by one is to stand before it again.
        target = here.position - number + (1 if here.kind is Kind.LINE else 0)
        if here.position <= 1 and here.kind is not Kind.LINE:
            self.error("the history begins here, with event 1")
            return None
        return self._go(Goto(max(target, 1)))

    def do_goto(self, arg: str) -> bool | None:
        """goto N
        Go to event N, forward or back; `goto end` goes behind the last one.
        """
        if arg.strip() == "end":
            return self._go(Goto(self._here.last))
        number = self._version(arg)
        return None if number is None else self._go(Goto(number))

    def do_restart(self, arg: str) -> bool | None:
        """restart
        Go back to the first event: the same as `goto 1`.
        """
        return self._go(Goto(1))

    do_run = do_restart

    def do_events(self, arg: str) -> None:
        """events [FIRST [LAST]]
        List the events around this one, or those from FIRST to LAST; `events all` lists every one.
        """
        position, last = self._here.position, self._here.events
        words = arg.split()
        if words == ["all"]:
            words = ["1", str(last)]
        if not words:
            self._print(
                self._pages.events(
                    max(1, position - EVENTS_AROUND), min(last, position + EVENTS_AROUND), position
                )
            )
            return
        first, upto = self._version(words[0]), self._version(words[-1])
        if first is not None and upto is not None:
            self._print(self._pages.events(first, upto, position))

    def do_state(self, arg: str) -> None:
        """state [N]
        Show the instance as it was after this event, or after event N.
        """
        version = self._version(arg)
        if version is not None:
            self._print(self._pages.state(version))

    def do_steps(self, arg: str) -> None:
        """steps [N]
        List the steps as they were after this event, or after event N.
        """
        version = self._version(arg)
        if version is not None:
            self._print(self._pages.steps(version))

    def do_diff(self, arg: str) -> None:
        """diff [A [B]]
        Show what changed from the stop before to here, from event A to here, or from event A to event B.
        """
        words = arg.split()
        if not words and self._before is None:
            self.error("this is the first stop: name an event to compare with, `diff A`")
            return
        a = self._before if not words else self._version(words[0])
        b = self._version(words[1] if len(words) > 1 else "")
        if a is not None and b is not None:
            self._print(self._pages.diff(a, b))

    def _version(self, arg: str) -> int | None:
        """The version that somebody typed; nothing typed: this one. None, with a message, where there is none such."""
        last = self._here.events
        number = self._number(arg, max(1, min(self._here.position, last)), "event")
        if number is not None and number > last:
            self.error(f"there is no event {number}: the history ends with event {last}")
            return None
        return number

    def _print(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.message(line)

    def do_continue(self, arg: str) -> bool | None:
        """c(ont(inue))
        Go on to the next breakpoint, or to the end of the history.
        """
        self.set_continue()
        return True

    def do_quit(self, arg: str) -> bool | None:
        """q(uit)
        Leave the debugger. Nothing has been changed.
        """
        return self._go(Quit())

    def do_EOF(self, arg: str) -> bool | None:
        """EOF
        Leave the debugger, as `quit`.
        """
        self.message("")
        return self._go(Quit())

    do_c = do_cont = do_continue
    do_q = do_exit = do_quit


def passed_over(*args: object, **kwargs: object) -> None:
    """What `breakpoint()` does while nobody is to stop."""


def _is_over(frame: FrameType) -> bool:
    """Whether the code of this frame is about to be left for good, by a return."""
    if not frame.f_code.co_flags & _CO_RESUMED:
        return True
    return frame.f_code.co_code[frame.f_lasti] in _RETURNS
