"""Values as JSON texts, for people and for programs.

Whatever a log holds can be shown as JSON: values that JSON has no form for are given as text.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic_core import to_jsonable_python

from wfes.validation import is_a


def jsonable(value: Any) -> Any:
    """The value as plain JSON data; what JSON has no form for becomes text."""
    return _exact(to_jsonable_python(value, fallback=str, inf_nan_mode="strings", bytes_mode="base64"))


def _exact(value: Any) -> Any:
    # pydantic leaves floats as they are in its Python form, and JSON has no nan and no infinity.
    if is_a(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if is_a(value, dict):
        return {str(key): _exact(item) for key, item in value.items()}
    if is_a(value, list):
        return [_exact(item) for item in value]
    return value


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as a JSON text, in one line unless `indent` is given."""
    return json.dumps(jsonable(value), ensure_ascii=False, indent=indent)


def short(value: Any, chars_max: int = 60) -> str:
    """The value as JSON in one line of at most `chars_max` characters."""
    return clipped(json_text(value), chars_max)


def clipped(text: str, chars_max: int) -> str:
    """A text in one line of at most `chars_max` characters."""
    line = " ".join(text.split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"
