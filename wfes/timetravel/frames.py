"""Where in the user's code a handler stands: the frames that a debugger shows.

A handler that waits is not on the interpreter's stack: its frames hang together by what each coroutine awaits, task by
task. Here they are put in the order of a call stack, with the frames of this package and of asyncio left out.

Invariant: looking changes nothing; no frame is kept longer than its caller keeps it.
"""

from __future__ import annotations

import asyncio
import gc
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from wfes.handler.tasks import Trampoline

if TYPE_CHECKING:
    from wfes.handler.execution import Execution

_ENTRIES = frozenset((Trampoline.send.__code__, Trampoline.throw.__code__))
"""The code by which a handler's coroutines are entered: above it on the stack is the user's."""
_ENGINE = ("wfes", "asyncio", "concurrent")
_DEMO = "wfes.demo"
_DEPTH_MAX = 200
_WRAPPERS = frozenset(
    ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable")
)
"""Types of what is awaited in place of a coroutine or an async generator."""

Place = tuple[FrameType, int]
"""A frame and the line it is at."""


def _folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    named = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib") if name in paths}
    named.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    return tuple(str(Path(folder)) + "/" for folder in named)


LIBRARIES = _folders()


def is_engine(frame: FrameType) -> bool:
    """Whether this frame is this package's, or asyncio's: never shown."""
    name = str(frame.f_globals.get("__name__") or "")
    if name == _DEMO or name.startswith(f"{_DEMO}."):
        return False
    return name.partition(".")[0] in _ENGINE


def is_library(frame: FrameType, package: str) -> bool:
    """Whether this frame is an installed library's, and not of the handler's own top-level package."""
    if str(frame.f_globals.get("__name__") or "").partition(".")[0] == package:
        return False
    name = frame.f_code.co_filename
    return name.startswith(("<frozen", *LIBRARIES))


def runs_handler(frame: FrameType | None) -> bool:
    """Whether this frame runs for handler code: its own, or what that called."""
    while frame is not None and not is_engine(frame):
        frame = frame.f_back
    return frame is not None and frame.f_code in _ENTRIES


@dataclass(frozen=True, slots=True)
class View:
    """What a debugger shows of a moment.

    Attributes:
        places: the frames, the outermost first, with the lines they are at.
        index: which of them is looked at first: the innermost one of the user's own.
    """

    places: tuple[Place, ...]
    index: int

    @property
    def frame(self) -> FrameType:
        """The frame looked at first."""
        return self.places[self.index][0]


def view(places: Iterable[Place], package: str) -> View | None:
    """A view of these places, without the engine's; None where nothing is left."""
    shown = tuple(place for place in places if not is_engine(place[0]))
    if not shown:
        return None
    own = [number for number, (frame, _) in enumerate(shown) if not is_library(frame, package)]
    return View(shown, own[-1] if own else len(shown) - 1)


def live(frame: FrameType) -> list[Place]:
    """The places on the interpreter's stack from where the handler's coroutine was entered, to this frame."""
    places: list[Place] = []
    current: FrameType | None = frame
    while current is not None and current.f_code not in _ENTRIES:
        places.append((current, current.f_lineno))
        current = current.f_back
    return places[::-1]


def raised(traceback: TracebackType | None) -> list[Place]:
    """The places that an exception passed."""
    places: list[Place] = []
    while traceback is not None:
        places.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return places


def waiting(execution: Execution, path: str | None) -> list[Place]:
    """The places of the code that awaits what was asked for at this path; else those of the handler's own task."""
    main: Any = execution.main
    if main is None:
        return []
    task = None if path is None else _asker(execution, path)
    if task is not None:
        places = _with_awaiters(execution, task)
        if any(not is_engine(frame) for frame, _ in places):
            return places
    return _places_of(main)


def _asker(execution: Execution, path: str) -> asyncio.Task[Any] | None:
    """The task that awaits the outcome at this path."""
    ask = execution.asks.get(path)
    future = None if ask is None else ask.future
    if future is None:
        return None
    tasks = execution.loop.pending_tasks
    for task in tasks:
        if _waits_for(task) is future:
            return task
    # Behind `map`, `shield` and the like: what is called back when it is done leads to who awaits that.
    for behind in _told(future):
        for task in tasks:
            if _waits_for(task) is behind:
                return task
    return None


def _with_awaiters(execution: Execution, task: asyncio.Task[Any]) -> list[Place]:
    """A task's places, behind those of the task that awaits it, and so on."""
    tasks = execution.loop.pending_tasks
    places: list[Place] = []
    seen: set[int] = set()
    current: asyncio.Task[Any] | None = task
    while current is not None and current.number not in seen:  # type: ignore[attr-defined]
        seen.add(current.number)  # type: ignore[attr-defined]
        places = _places_of(current) + places
        current = _awaiter(tasks, current)
    return places


def _awaiter(tasks: Iterable[asyncio.Task[Any]], task: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    tasks = list(tasks)
    behind = [task, *_told(task)]
    for other in tasks:
        waiter = _waits_for(other)
        if waiter is not None and any(waiter is each for each in behind):
            return other
        if any(each is task for each in getattr(waiter, "_children", ())):
            return other
    return next((each for each in behind[1:] if isinstance(each, asyncio.Task) and not each.done()), None)


def _waits_for(task: asyncio.Task[Any]) -> Any:
    return getattr(task, "_fut_waiter", None)


def _told(future: asyncio.Future[Any]) -> Iterator[asyncio.Future[Any]]:
    """The futures and tasks that the callbacks of a future lead to: a fan-out's, a task group's parent, a waiter's."""
    for entry in getattr(future, "_callbacks", None) or ():
        callback: Any = entry[0]
        held: list[Any] = []
        while isinstance(callback, partial):
            held.extend(callback.args)
            callback = callback.func
        owner: Any = getattr(callback, "__self__", None)
        held.extend(getattr(owner, name, None) for name in ("_over", "_parent_task", "_done"))
        for cell in getattr(callback, "__closure__", None) or ():
            with suppress(ValueError):  # nothing in it yet
                held.append(cell.cell_contents)
        for each in held:
            if isinstance(each, asyncio.Future):
                yield each
            else:  # the queue of `as_completed`
                yield from getattr(each, "_getters", ())


def _places_of(task: asyncio.Task[Any]) -> list[Place]:
    """The places of a task's coroutines, the outermost first."""
    places: list[Place] = []
    awaited: Any = task.get_coro()
    for _ in range(_DEPTH_MAX):
        if awaited is None:
            break
        frame = _frame_of(awaited)
        if frame is not None:
            places.append((frame, frame.f_lineno))
        awaited = _awaited_by(awaited)
    return places


def _frame_of(awaited: Any) -> FrameType | None:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(awaited, name, None)
        if frame is not None:
            return frame if isinstance(frame, FrameType) else None
    return None


def _awaited_by(awaited: Any) -> Any:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        found = getattr(awaited, name, None)
        if found is not None:
            return found
    if type(awaited).__name__ not in _WRAPPERS:
        return None
    # Python shows nothing of what these carry on, but to the garbage collector.
    return next((inner for inner in gc.get_referents(awaited) if _goes_on(inner)), None)


def _goes_on(inner: object) -> bool:
    return isinstance(inner, (CoroutineType, AsyncGeneratorType)) or type(inner).__name__ in _WRAPPERS


def main_frame(execution: Execution) -> FrameType | None:
    """The handler's own frame, while it has one."""
    main: Any = execution.main
    return None if main is None else _frame_of(main.get_coro())


def set_locals(frame: FrameType) -> None:
    """Writes what a prompt assigned to a waiting frame's variables back to it, where Python does not do so itself."""
    if sys.version_info >= (3, 13):
        return
    import ctypes

    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
