"""Fitting values to declared types with pydantic, and saying in one line what does not fit.

Invariants: a type is checked where it is declared (`checked_type`), so that what is accepted there can later be used
for values without surprises; a value is fitted in pydantic's Python mode, not strict, so that a model's field may be
given as a dict and a number as its text; nothing here keeps state, pydantic's adapters are cached by `core.types`.
"""

from __future__ import annotations

from typing import Any

from pydantic import (
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from wfes.core.ids import flaw
from wfes.core.types import adapter

NAME_CHARS_MAX = 200
PROBLEMS_MAX = 5
VALUE_CHARS_MAX = 80


def checked_name(name: object, what: str, *, forbidden: str = "") -> str:
    """`name` if it can be the name of `what`.

    Args:
        name: What the user gave.
        what: What it is the name of, for the error: "workflow", "request", "event".
        forbidden: Characters it must not contain.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, longer than 200 characters, no text that every database stores, or contains a forbidden
            character.
    """
    article = "an" if what[0] in "aeiou" else "a"
    if not isinstance(name, str):
        raise TypeError(f"{article} {what}'s name is a str, not {shown(name)}")
    if not name or name.isspace():
        raise ValueError(f"{article} {what}'s name must not be empty, and {name!r} is")
    if len(name) > NAME_CHARS_MAX:
        raise ValueError(
            f"{article} {what}'s name has at most {NAME_CHARS_MAX} characters, and {shown(name)} has {len(name)}"
        )
    if (flawed := flaw(name)) is not None:
        raise ValueError(f"{article} {what}'s name must not hold {flawed}: {name!r}")
    found = [character for character in forbidden if character in name]
    if found:
        raise ValueError(
            f"{article} {what}'s name must not contain {' or '.join(map(repr, found))}: {name!r}"
        )
    return name


def checked_type(declared: Any, what: str) -> Any:
    """`declared` if pydantic can validate it.

    Args:
        declared: A type or anything else pydantic accepts as an annotation.
        what: What it was declared for, for the error: "request 'approval' of workflow 'checkout'".

    Raises:
        TypeError: Pydantic cannot validate it.
    """
    try:
        adapter(declared)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(
            f"the type of {what} is {declared!r}, which pydantic cannot validate ({reason}); "
            "use a model, a dataclass or a standard type"
        ) from error
    return declared


def is_complete(declared: Any) -> bool:
    """Whether every class that a type's fields name is defined by now."""
    found = adapter(declared)
    if not found.pydantic_complete:
        found.rebuild(raise_errors=False)
    return found.pydantic_complete


def complete_adapter(declared: Any) -> TypeAdapter[Any]:
    """The pydantic adapter of a type whose fields' classes are all defined.

    Raises:
        TypeError: One is not; the message names it.
    """
    found = adapter(declared)
    if not found.pydantic_complete:
        try:
            found.rebuild(raise_errors=True)
        except PydanticUndefinedAnnotation as error:
            raise TypeError(f"a field's type in {declared!r} cannot be resolved: {error.message}") from error
    return found


def fitted(declared: Any, value: Any) -> Any:
    """The value as one of the declared type.

    Raises:
        pydantic.ValidationError: It does not fit; `explained` makes its text.
        TypeError: A class that the type's fields name is not defined.
    """
    return complete_adapter(declared).validate_python(value)


def explained(error: ValidationError) -> str:
    """What does not fit and what would, place by place, in one line."""
    problems = error.errors(include_url=False, include_context=False)
    parts: list[str] = []
    for problem in problems[:PROBLEMS_MAX]:
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"]
        if problem["type"] != "missing":
            message = f"{message}, not {shown(problem['input'])}"
        parts.append(f"{place}: {message}" if place else message)
    if len(problems) > PROBLEMS_MAX:
        parts.append(f"and {len(problems) - PROBLEMS_MAX} more")
    return "; ".join(parts)


def is_a(value: Any, kind: type) -> bool:
    """`isinstance`, for a value that is to stay `Any`: narrowing it would make its type arguments unknown."""
    return isinstance(value, kind)


def shown(value: object) -> str:
    """A value for an error message: its `repr`, shortened."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__qualname__}"
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[: VALUE_CHARS_MAX - 1]}…"
