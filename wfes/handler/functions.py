"""What wfes must know of a function that a step runs: how to call it, and what type its result is declared as.

Answers are cached by code object, not by function, since handlers make new lambdas and closures all the time.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from wfes.core.types import ABSENT

_FILLED = ("attempt", "i")
_returns: dict[CodeType, object] = {}
_CACHE_MAX = 10_000


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: an ``async def``, or an object whose ``__call__`` is one."""
    if type(fn) is FunctionType:
        return bool(fn.__code__.co_flags & inspect.CO_COROUTINE)
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def filled(fn: Callable[..., Any], given: int, values: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments for required, unbound parameters named ``attempt`` or ``i``.

    Args:
        fn: the step's function.
        given: how many positional arguments it is called with.
        values: what each of these names would be filled with.
    """
    if type(fn) is FunctionType:
        code = fn.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if "attempt" not in names and "i" not in names:
            return {}
    try:
        signature = inspect.signature(fn)
        bound = signature.bind_partial(*([None] * given)).arguments
    except (TypeError, ValueError):
        return {}
    found: dict[str, Any] = {}
    for name, value in values.items():
        parameter = signature.parameters.get(name)
        if parameter is None or name in bound or parameter.default is not parameter.empty:
            continue
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found[name] = value
    return found


def takes(fn: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether the function can be called with these arguments, ``attempt`` and ``i`` filled in."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return True
    extra = filled(fn, len(args), {"attempt": 1, "i": 0})
    try:
        signature.bind(*args, **extra)
    except TypeError:
        return False
    return True


def return_type(fn: Callable[..., Any]) -> object:
    """The function's declared result type, or ``ABSENT``; annotations that cannot be resolved count as absent."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    target: Any = fn if inspect.isroutine(fn) else type(fn).__call__
    target = inspect.unwrap(getattr(target, "__func__", target))
    annotations: dict[str, Any] = getattr(target, "__annotations__", None) or {}
    if "return" not in annotations:
        return ABSENT
    code = getattr(target, "__code__", None)
    if code is None:
        return _resolved(target)
    known = _returns.get(code)
    if known is None:
        known = _resolved(target)
        if len(_returns) < _CACHE_MAX:
            _returns[code] = known
    return known


def _resolved(target: Any) -> object:
    declared = target.__annotations__["return"]
    if not isinstance(declared, str):
        return declared
    local: dict[str, Any] = {}
    if inspect.isfunction(target):
        local.update(inspect.getclosurevars(target).nonlocals)
    try:
        return typing.get_type_hints(target, localns=local, include_extras=True).get("return", ABSENT)
    except Exception:
        return ABSENT
