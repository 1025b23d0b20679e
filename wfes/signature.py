"""What a handler's `def` says: its parameters, its input and output type, its source.

Invariants:
- A handler is an `async def` function. Its first parameter is the input unless it has a reserved name; the reserved
  ones are filled in by name; there is no other parameter. Everything else is refused where it is written.
- Annotations are resolved when the handler is defined, against its module, its closure and the scope it is defined
  in; a name that does not exist yet (a class further down the file) is looked up again when the type is first
  needed. Annotations of reserved parameters are never resolved: they may be imported for type checkers only.
- The digest depends on the handler's source alone, so that every process running the same file records the same.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from wfes.validation import checked_type, is_a, is_complete, shown

RESERVED = ("step", "state", "workflow", "execute")

Handler = Callable[..., Coroutine[Any, Any, Any]]

_EMPTY = inspect.Parameter.empty


class Signature:
    """A handler's signature, checked.

    Attributes:
        handler: The function.
        input_name: Its input parameter, or None where it takes no input.
        positional: The names of its parameters in order, without the keyword-only ones.
        keywords: The names of its keyword-only parameters.
    """

    def __init__(self, handler: object, scope: Mapping[str, Any] | None = None) -> None:
        """Reads and checks a handler.

        Args:
            handler: What was decorated.
            scope: The local names of the place where it was, if that is not a module's top level.

        Raises:
            TypeError: It is no handler; the message says what would be right.
        """
        self.handler: Handler = _checked_handler(handler)
        parameters = list(inspect.signature(self.handler).parameters.values())
        self.input_name = _input_name(self.handler, parameters)
        self.positional = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.keywords = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self._input_annotation: Any = next(
            (p.annotation for p in parameters if p.name == self.input_name), None
        )
        self._output_annotation: Any = inspect.signature(self.handler).return_annotation
        self._scope = None if scope is None else dict(scope)
        self._resolve_now()

    @functools.cached_property
    def input_type(self) -> Any:
        """The input's type: `Any` without an annotation, `NoneType` where the handler takes no input.

        Raises:
            TypeError: A name in the annotation is not defined, or pydantic cannot validate the type.
        """
        return self._resolved(self._input_annotation, f"parameter {self.input_name!r}")

    @functools.cached_property
    def output_type(self) -> Any:
        """The type of what the handler returns: `Any` without an annotation.

        Raises:
            TypeError: A name in the annotation is not defined, or pydantic cannot validate the type.
        """
        return self._resolved(self._output_annotation, "its return value")

    @property
    def resolved(self) -> bool:
        """Whether both types are known already, with the classes of their fields."""
        known = self.__dict__
        return all(name in known and is_complete(known[name]) for name in ("input_type", "output_type"))

    def wants(self, name: str) -> bool:
        """Whether the handler has this reserved parameter."""
        return name != self.input_name and (name in self.positional or name in self.keywords)

    def call(self, input: Any, available: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Calls the handler with what it wants out of the input and the reserved names' values."""
        taken = self.input_name
        arguments = [input if name == taken else available[name] for name in self.positional]
        return self.handler(*arguments, **{name: available[name] for name in self.keywords})

    def _resolve_now(self) -> None:
        """Resolves what can be resolved already; keeps the scope only while something is left."""
        for attribute in ("input_type", "output_type"):
            try:
                getattr(self, attribute)
            except TypeError as error:
                if not isinstance(error.__cause__, NameError):
                    raise
        if self.resolved:
            self._scope = None

    def _resolved(self, annotation: Any, what: str) -> Any:
        if annotation is _EMPTY:
            return Any
        if annotation is None:
            return types.NoneType
        function = inspect.unwrap(self.handler)
        of = f"{what} of handler {place(function)}"
        names = {**(self._scope or {}), **_closure(function)}
        try:
            holder = types.SimpleNamespace(__annotations__={"type": annotation})
            hints = typing.get_type_hints(
                holder, globalns=getattr(function, "__globals__", {}), localns=names, include_extras=True
            )
        except NameError as error:
            raise TypeError(
                f"the annotation {annotation!r} of {of} cannot be resolved: {error}; define or import the name "
                "where the handler's module is run, not for type checkers only"
            ) from error
        except Exception as error:
            raise TypeError(f"the annotation {annotation!r} of {of} cannot be read: {error}") from error
        return checked_type(hints["type"], of)


def place(function: object) -> str:
    """Where a function is defined, for messages: `shop.checkout`."""
    name = getattr(function, "__qualname__", None) or repr(function)
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else str(name)


def digest(handler: Handler) -> str:
    """The SHA-256 of a handler's source in hex; of its bytecode and constants where there is no source."""
    try:
        text = textwrap.dedent(inspect.getsource(handler))
    except (OSError, TypeError):
        code = getattr(inspect.unwrap(handler), "__code__", None)
        text = _code_text(code) if isinstance(code, types.CodeType) else place(handler)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _code_text(code: types.CodeType) -> str:
    """Bytecode, names and constants as text without addresses, nested functions included."""
    constants = [
        _code_text(constant) if isinstance(constant, types.CodeType) else _constant_text(constant)
        for constant in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _constant_text(constant: Any) -> str:
    if is_a(constant, frozenset):
        return f"frozenset({sorted(map(repr, constant))})"
    return repr(constant)


def _checked_handler(handler: Any) -> Handler:
    right = "a workflow is a function: `async def name(input, step): ...`"
    if is_a(handler, functools.partial):
        raise TypeError(f"{shown(handler)} is a partial; {right}, which gets such values by its input")
    if inspect.ismethod(handler):
        raise TypeError(f"{place(handler)} is a bound method; {right} at module level")
    if isinstance(handler, type):
        raise TypeError(f"{place(handler)} is a class; {right}")
    if isinstance(handler, (staticmethod, classmethod)):
        raise TypeError(f"{place(typing.cast(Any, handler))} belongs to a class; {right} at module level")
    if inspect.isasyncgenfunction(handler):
        raise TypeError(
            f"{place(handler)} is an async generator; a handler returns its result and reports on the way "
            "with `step.progress(...)`"
        )
    if not callable(handler):
        raise TypeError(f"{shown(handler)} is not a function; {right}")
    if not inspect.iscoroutinefunction(handler):
        if inspect.isfunction(handler):
            raise TypeError(f"{place(handler)} is not async; write `async def {handler.__name__}(...)`")
        raise TypeError(f"{shown(handler)} is not an async function; {right}")
    if not inspect.isfunction(handler):
        raise TypeError(f"{shown(handler)} is not a plain function; {right}")
    return handler


def _input_name(handler: Handler, parameters: list[inspect.Parameter]) -> str | None:
    """The name of the input parameter; refuses every parameter that nothing could fill."""
    name = place(handler)
    input_name: str | None = None
    for index, parameter in enumerate(parameters):
        written = str(parameter.replace(annotation=_EMPTY, default=_EMPTY))
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name} has the parameter {written!r}, and nothing would fill it; {_accepted()}")
        if parameter.name in RESERVED:
            continue
        if parameter.name in ("self", "cls") and index == 0:
            raise TypeError(f"{name} is a method; a workflow is a function at module level")
        if index > 0:
            raise TypeError(
                f"{name} has the parameter {written!r}, and nothing would fill it; {_accepted()}; "
                "several values go into one input, such as a model"
            )
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise TypeError(f"{name} has a keyword-only input {written!r}; write it before the `*`")
        if parameter.default is not _EMPTY:
            raise TypeError(
                f"{name} gives its input {written!r} a default; the input is always passed, so give the "
                "default to a field of its type or to the caller"
            )
        input_name = parameter.name
    return input_name


def _accepted() -> str:
    return "a handler takes its input first and by name " + ", ".join(f"`{name}`" for name in RESERVED)


def _closure(function: Any) -> dict[str, Any]:
    """The names a function sees of the functions around it, as far as they are bound."""
    code = getattr(function, "__code__", None)
    names: dict[str, Any] = {}
    for name, cell in zip(
        getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False
    ):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue
    return names
