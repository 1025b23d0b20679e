"""Whether a value fits a JSON Schema: for answers to requests whose declared type this process does not have.

Checks what pydantic's schemas say of kinds, fields, choices and bounds. What it does not know (formats, patterns) it
lets pass: the workflow's own type has the last word. So it never refuses what that type would have been given as JSON,
but for text that stands for a number or a truth value, which is a slip more often than not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wfes.cli.values import short
from wfes.validation import is_a

DEPTH_MAX = 40
Schema = Mapping[str, Any]

_KINDS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, bound: value >= bound, "at least"),
    "maximum": (lambda value, bound: value <= bound, "at most"),
    "exclusiveMinimum": (lambda value, bound: value > bound, "more than"),
    "exclusiveMaximum": (lambda value, bound: value < bound, "less than"),
}
_LENGTHS: dict[str, tuple[Callable[[int, int], bool], str]] = {
    "minLength": (lambda length, bound: length >= bound, "at least"),
    "maxLength": (lambda length, bound: length <= bound, "at most"),
    "minItems": (lambda length, bound: length >= bound, "at least"),
    "maxItems": (lambda length, bound: length <= bound, "at most"),
}


def misfit(schema: Any, value: Any) -> str | None:
    """What is wrong with the value by the schema, with its place; None if nothing is.

    >>> misfit({"type": "boolean"}, "maybe")
    'must be boolean, not "maybe"'
    """
    return _misfit(schema, value, schema, "", 0)


def _misfit(schema: Any, value: Any, root: Any, place: str, depth: int) -> str | None:
    if not is_a(schema, dict) or depth > DEPTH_MAX:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _misfit(_referred(root, reference), value, root, place, depth + 1)
    for branch in schema.get("allOf", ()):
        found = _misfit(branch, value, root, place, depth + 1)
        if found is not None:
            return found
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        problems = [_misfit(choice, value, root, place, depth + 1) for choice in choices]
        return None if None in problems else " or ".join(dict.fromkeys(filter(None, problems)))
    return (
        _wrong_kind(schema, value, place)
        or _wrong_choice(schema, value, place)
        or _out_of_bounds(schema, value, place)
        or _wrong_inside(schema, value, root, place, depth)
    )


def _referred(root: Any, reference: str) -> Any:
    found = root
    for part in reference.removeprefix("#/").split("/"):
        if not is_a(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def _says(place: str, what: str) -> str:
    return f"{place}: {what}" if place else what


def _wrong_kind(schema: Schema, value: Any, place: str) -> str | None:
    kinds = schema.get("type")
    names: list[Any] = kinds or [] if is_a(kinds, list) else [kinds]
    checks = [_KINDS[name] for name in names if name in _KINDS]
    if not checks or any(check(value) for check in checks):
        return None
    return _says(place, f"must be {' or '.join(map(str, names))}, not {short(value, 40)}")


def _wrong_choice(schema: Schema, value: Any, place: str) -> str | None:
    allowed: list[Any] = [schema["const"]] if "const" in schema else schema.get("enum") or []
    if not allowed or value in allowed:
        return None
    return _says(
        place, f"must be one of {', '.join(short(choice, 40) for choice in allowed)}, not {short(value, 40)}"
    )


def _out_of_bounds(schema: Schema, value: Any, place: str) -> str | None:
    if _KINDS["number"](value):
        for name, (holds, words) in _BOUNDS.items():
            if name in schema and not holds(value, schema[name]):
                return _says(place, f"must be {words} {schema[name]}, not {value}")
    if is_a(value, str) or is_a(value, list):
        unit, ending = ("characters", "Length") if is_a(value, str) else ("items", "Items")
        for name, (fits, words) in _LENGTHS.items():
            if name.endswith(ending) and name in schema and not fits(len(value), schema[name]):
                return _says(place, f"must have {words} {schema[name]} {unit}, not {len(value)}")
    return None


def _wrong_inside(schema: Schema, value: Any, root: Any, place: str, depth: int) -> str | None:
    if is_a(value, list):
        for number, item in enumerate(value):
            found = _misfit(schema.get("items"), item, root, f"{place}[{number}]", depth + 1)
            if found is not None:
                return found
    if not is_a(value, dict):
        return None
    fields = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return _says(place, f"the field {name!r} is missing")
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        inside = f"{place}.{name}" if place else str(name)
        if name not in fields and others is False:
            return _says(
                place, f"there is no field {name!r}; the fields are {', '.join(map(repr, fields)) or 'none'}"
            )
        found = _misfit(fields.get(name, others), item, root, inside, depth + 1)
        if found is not None:
            return found
    return None
