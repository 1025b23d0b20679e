"""A development environment that looks: the debugger of VS Code or PyCharm, attached by debugpy.

A handler that waits is not on the interpreter's stack, so debugpy is given its frames as if an exception had just
passed them: the environment shows them with their variables, sets breakpoints and steps on in the handler's code.

Invariants: while somebody waits for an event, and while the handler is run again up to it, nothing is traced; frames of
this package count as a library's, which `justMyCode` passes over.
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from wfes.errors import WfesError
from wfes.timetravel.frames import LIBRARIES, View
from wfes.timetravel.moment import Goto, Kind, Moment, Move, Quit, Run, Running
from wfes.timetravel.prompt import passed_over

GOTO = "wfes_goto"
"""What the environment's console can call to go to another event; in effect at the next Continue."""


class Attached:
    """Serves one environment; waits for it when the first run begins.

    Args:
        host, port: where it listens.
        say: prints a line for people.
        heading: what is to be said of a moment.
        own: the file of the handler, which counts as the user's own wherever it lies.
    """

    def __init__(
        self,
        host: str,
        port: int,
        say: Callable[[str], None],
        heading: Callable[[Moment], Sequence[str]],
        own: str,
    ) -> None:
        self._host = host
        self._port = port
        self._say = say
        self._heading = heading
        self._own = own
        self._run: Running | None = None
        self._jump: Goto | None = None
        self._debugpy: Any = None

    def begin(self, run: Running) -> None:
        """A run begins; until somebody is to stop in it, nothing is traced.

        Raises:
            WfesError: debugpy is not installed, or it cannot listen there.
        """
        if self._debugpy is None:
            self._serve()
        self._run = run
        self._jump = None
        self.run_fast()

    def _serve(self) -> None:
        served = _debugpy(self._own)
        place = f"{self._host}:{self._port}"
        try:
            served.listen((self._host, self._port))
        except (RuntimeError, OSError) as error:
            raise WfesError(f"no debugger can be served on {place}: {error}") from error
        self._debugpy = served
        self._say(f"waiting for a debugger to attach to {place}; Ctrl-C ends it")
        served.wait_for_client()
        setattr(builtins, GOTO, self._goto)

    def look(self, moment: Moment) -> Move:
        """Shows the handler's frames until the environment says to go on."""
        for line in self._heading(moment):
            self._say(line)
        if moment.view is None or not self._debugpy.is_client_connected():
            return Quit()
        self._suspend(moment.view)
        if not self._debugpy.is_client_connected():
            return Quit()
        if self._jump is not None:
            return self._jump
        return Quit() if moment.kind in (Kind.END, Kind.DIFFERENCE) else Run()

    def run_on(self) -> None:
        """Breakpoints and steps stop in the handler's code from here on."""
        sys.breakpointhook = self._debugpy.breakpoint
        self._debugpy.trace_this_thread(True)

    def run_fast(self) -> None:
        """Nothing stops from here on, `breakpoint()` included."""
        sys.breakpointhook = passed_over
        if self._debugpy is not None:
            self._debugpy.trace_this_thread(False)

    def interrupt(self, frame: FrameType | None) -> bool:
        """Ctrl-C in the terminal ends it."""
        return False

    def _goto(self, event: int) -> str:
        """Goes to this event, forward or back, at the next Continue."""
        self._jump = Goto(int(event))
        if self._run is not None:
            self._run.goes_on(self._jump)
        return f"event {event}: press Continue"

    def _suspend(self, shown: View) -> None:
        """Has the environment stop at these frames, and waits until it goes on."""
        # Importable once debugpy is there, which brings it along; `debugpy.breakpoint` is made of the same parts, but
        # can only stop at the next line that is run.
        debugger: Any = import_module("pydevd").get_global_debugger()
        reason = import_module("_pydevd_bundle.pydevd_comm_constants").CMD_SET_BREAK
        thread = threading.current_thread()
        known = import_module("_pydevd_bundle.pydevd_additional_thread_info")
        info: Any = known.set_additional_thread_info(thread)
        # Not to stop in this very function. From 3.12 on only a thread that was traced before can be left out.
        self.run_on()
        self.run_fast()
        passed: TracebackType | None = None
        for frame, line in reversed(shown.places[: shown.index + 1]):
            passed = TracebackType(passed, frame, _instruction(frame, line), line)
        info.is_tracing += 1
        try:
            debugger.set_suspend(thread, reason)
            debugger.do_wait_suspend(thread, shown.frame, "exception", (None, None, passed))
        finally:
            info.is_tracing -= 1


def _instruction(frame: FrameType, line: int) -> int:
    """The offset of an instruction of this line whose columns are known, at best the one the frame is at; debugpy
    shows no frame at all where it is given one whose columns are not."""
    positions = list(frame.f_code.co_positions())
    current = max(frame.f_lasti, 0) // 2
    for index in (*range(current, -1, -1), *range(current + 1, len(positions))):
        if positions[index][0] == line and None not in positions[index]:
            return int(index) * 2
    return 0


def _debugpy(own: str) -> Any:
    """The library, told what is not the user's code before it is imported."""
    roots = (*LIBRARIES, f"{Path(__file__).parent.parent}{os.sep}")
    os.environ.setdefault("LIBRARY_ROOTS", os.pathsep.join(roots))
    if own.startswith(roots):
        os.environ.setdefault("IDE_PROJECT_ROOTS", str(Path(own).parent))
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        import debugpy
    except ImportError as error:
        raise WfesError(
            "debugging from an editor needs debugpy, which is not installed: pip install 'wfes[debug]'"
        ) from error
    return debugpy
