"""Which engine a call means that names none, such as `checkout.start(order)`.

Owns the process's set of open engines and the current engine of a context. The rule is that of a person reading
the code: the engine of the surrounding `with` or of the running handler, else the only one open in this process.
Where that leaves a choice, nothing is guessed: `EngineNotOpen` says what is open and how to name one.

An engine leaves the set when it begins to close, and its own contexts reach it until it has: a handler that is let
finish may still ask for it, but one copied earlier (a task that outlived its `async with`) never reaches a closed log.
While a module is imported for its workflows, no engine opens: a program whose last line runs it would start to work
because somebody wanted to look at its past.
Safe to use from any thread.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from wfes.errors import EngineNotOpen

if TYPE_CHECKING:
    from collections.abc import Generator

    from wfes.engine import Engine

_current: ContextVar[Engine | None] = ContextVar("wfes_current_engine", default=None)
_importing: ContextVar[str | None] = ContextVar("wfes_importing", default=None)
_open: list[Engine] = []
_lock = threading.Lock()


def current_engine() -> Engine:
    """The engine meant here: the context's own, else the only one open in this process.

    Raises:
        EngineNotOpen: no engine is open, or several are and the context belongs to none of them.
    """
    with _lock:
        # An engine whose loop was closed under it is not open, whatever it could not say any more.
        engines = tuple(engine for engine in _open if getattr(engine, "is_open", True))
    mine = _current.get()
    # Handlers run from before an engine is noted as open, and on while it closes: it is theirs as long as it works.
    if mine is not None and (any(engine is mine for engine in engines) or getattr(mine, "is_open", False)):
        return mine
    if len(engines) == 1:
        return engines[0]
    if not engines:
        raise EngineNotOpen(
            "no engine is open here: open one with `async with Engine(...):` (or `with Engine(...):` in code "
            "that is not async)"
        )
    names = ", ".join(_label(engine) for engine in engines)
    raise EngineNotOpen(
        f"{len(engines)} engines are open and this code runs inside none of them: {names}; "
        "say which one is meant, for example `engine.start(workflow, ...)`"
    )


def entered(engine: Engine) -> Token[Engine | None]:
    """Notes that `engine` is open and makes it the current one of this context.

    Returns:
        What `left` needs to give the context its former engine back.
    """
    with _lock:
        _open.append(engine)
    return _current.set(engine)


def left(engine: Engine, token: Token[Engine | None]) -> None:
    """Notes that `engine` is closed; does nothing if it is noted already.

    May be called from another context or thread than `entered` was.
    """
    with _lock:
        if not any(other is engine for other in _open):
            return
        _open[:] = [other for other in _open if other is not engine]
    # In another context it stays set; `current_engine` passes over a closed engine.
    with suppress(ValueError):
        _current.reset(token)


@contextmanager
def using(engine: Engine) -> Generator[None]:
    """Makes an open engine the current one for a block, as for a handler it runs in a fresh context."""
    token = _current.set(engine)
    try:
        yield
    finally:
        _current.reset(token)


def enter(engine: Engine) -> None:
    """Makes an open engine the current one of this context for good, such as a handler's own fresh context."""
    _current.set(engine)


@contextmanager
def importing(module: str) -> Generator[None]:
    """For a block that imports a module for the workflows in it: no engine opens in there."""
    token = _importing.set(module)
    try:
        yield
    finally:
        _importing.reset(token)


def check_not_importing() -> None:
    """Refuses to open an engine while a module is imported for its workflows.

    Raises:
        EngineNotOpen: one is being imported here.
    """
    module = _importing.get()
    if module is not None:
        raise EngineNotOpen(
            f"{module!r} opens an engine while it is imported: what runs the program belongs under "
            '`if __name__ == "__main__":`'
        )


def _label(engine: Engine) -> str:
    name: object = getattr(engine, "name", None)
    url: object = getattr(engine, "url", None)
    return " ".join(str(part) for part in (name, url) if part) or type(engine).__name__
