"""Who asks, and what led to it: what every command records of its caller.

Owns the current actor of a context. A command's own `actor=` goes before it. The trace is taken from OpenTelemetry
where the program has set that up; wfes itself never imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from wfes.core.ids import flaw

ACTOR_CHARS_MAX = 200

_actor: ContextVar[str | None] = ContextVar("wfes_actor", default=None)


@contextmanager
def acting_as(actor: str) -> Generator[None]:
    """Records `actor` as the one who asks, for every command of this block that names none itself.

    Args:
        actor: A name or id of a person or system, 1 to 200 characters.

    Raises:
        TypeError: It is not a str.
        ValueError: It is empty or too long.

    >>> with acting_as("alice"):
    ...     current_actor()
    'alice'
    """
    token = _actor.set(checked_actor(actor))
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> str | None:
    """The actor of this context, or None."""
    return _actor.get()


def checked_actor(actor: object) -> str:
    """`actor`, if it can be one.

    Raises:
        TypeError: It is not a str.
        ValueError: It is empty or longer than 200 characters.
    """
    if not isinstance(actor, str):
        raise TypeError(f"actor is {actor!r}; it must be a str")
    if not actor or len(actor) > ACTOR_CHARS_MAX:
        raise ValueError(f"actor is {actor[:40]!r}; it must have 1 to {ACTOR_CHARS_MAX} characters")
    if (found := flaw(actor)) is not None:
        raise ValueError(f"actor is {actor!r}; it must not hold {found}")
    return actor


def asked_by(actor: str | None) -> str | None:
    """The actor of a command: the one it names, else the context's."""
    return _actor.get() if actor is None else checked_actor(actor)


def current_cause() -> dict[str, str] | None:
    """The trace this context belongs to, where OpenTelemetry is loaded and a span is open."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return {"trace": format(context.trace_id, "032x"), "span": format(context.span_id, "016x")}
