"""What is typed on a command line, as values: JSON, durations, moments. And values, errors and times for people.

Invariants: what cannot be read is wrong usage (exit code 2) and the message says where it is wrong. How values look as
JSON is `wfes.texts`'s business.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from wfes.core import durations
from wfes.texts import clipped as clipped
from wfes.texts import json_text as json_text
from wfes.texts import jsonable as jsonable
from wfes.texts import short as short
from wfes.validation import is_a

CONTEXT_CHARS = 12

if TYPE_CHECKING:
    _JsonType = click.ParamType[Any]
    _DurationType = click.ParamType[int]
    _MomentType = click.ParamType[datetime]
    _PointType = click.ParamType[int | datetime]
else:  # generic in newer releases of click only
    _JsonType = _DurationType = _MomentType = _PointType = click.ParamType


class JsonValue(_JsonType):
    """A JSON text; `@FILE` reads it from a file, `-` from standard input."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        text, source = self._source(value, param, ctx)
        try:
            return json.loads(text, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            self.fail(f"{source} is no JSON: {_explained(error)}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"{source} is no JSON: {error}", param, ctx)

    def _source(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if value == "-":
            return sys.stdin.read(), "standard input"
        if not value.startswith("@"):
            return value, f"{value[:60]!r}" if len(value) <= 60 else f"{value[:60]!r}…"
        path = Path(value[1:])
        try:
            return path.read_text(encoding="utf-8"), f"the file {path}"
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"the file {path} cannot be read: {error}", param, ctx)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not part of JSON")


def _explained(error: json.JSONDecodeError) -> str:
    text, at = error.doc, error.pos
    line = f"line {error.lineno}, " if "\n" in text.strip() else ""
    here = text[max(0, at - CONTEXT_CHARS) : at] + "⟨here⟩" + text[at : at + CONTEXT_CHARS]
    hint = ""
    if not text.strip():
        hint = "; the text is empty"
    elif at == 0 and text[:1].isalpha():
        hint = f"; a text needs its quotes, such as '{json.dumps(text.strip())}'"
    elif "'" in text[max(0, at - 1) : at + 1]:
        hint = "; JSON has double quotes only"
    return f"{error.msg} at {line}column {error.colno}: {here}{hint}"


class DurationValue(_DurationType):
    """A duration such as `90s`, `30m`, `1h30m`, or a number of seconds; as microseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not isinstance(value, str):
            return cast(int, value)
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        try:
            return durations.micros(value if math.isnan(seconds) else seconds)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class MomentValue(_MomentType):
    """An ISO 8601 date and time with its zone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no ISO 8601 moment, such as 2030-01-31T18:00:00+01:00", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} names no zone: add Z for UTC, or an offset such as +01:00", param, ctx)
        return moment


class PointValue(_PointType):
    """A point of an instance's history: a version, or an ISO 8601 date and time with its zone."""

    name = "point"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | datetime:
        if isinstance(value, int | datetime):
            return value
        try:
            return int(value)
        except ValueError:
            pass
        if not any(character in value for character in "-:T"):
            self.fail(
                f"{value!r} is neither a version, such as 7, nor a moment, such as 2030-01-31T18:00:00Z",
                param,
                ctx,
            )
        return MOMENT.convert(value, param, ctx)


JSON = JsonValue()
DURATION = DurationValue()
MOMENT = MomentValue()
POINT = PointValue()


def gist(value: Any, chars_max: int = 60) -> str:
    """The value as JSON where that is short; of a long list, how many items it has."""
    if is_a(value, list) and len(json_text(value)) > chars_max:
        return counted(len(value), "item")
    return short(value, chars_max)


def counted(number: int, what: str) -> str:
    """`1 step`, `2,000 steps`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def moment_of(value: Any) -> datetime | None:
    """A moment of an event's data, which may be a `datetime` or microseconds since the Unix epoch."""
    if value is None or isinstance(value, datetime):
        return value
    if isinstance(value, int):
        return datetime.fromtimestamp(value / 1_000_000, UTC)
    return datetime.fromisoformat(str(value))


def error_text(error: Any) -> str:
    """A recorded error in one line: `ValueError: no such card`."""
    if error is None:
        return ""
    if isinstance(error, Mapping):
        fields = cast("Mapping[str, Any]", error)
        kind = fields.get("type", fields.get("t"))
        message = fields.get("message", fields.get("m", ""))
        return f"{kind}: {message}" if kind and message else str(kind or message or dict(fields))
    return str(error)


def clock(moment: datetime | None, *, date: bool = True) -> str:
    """A moment for people, in the local zone: `2030-01-31 18:00:00`."""
    if moment is None:
        return ""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S.%f")[
        : None if date else -3
    ]


def span(seconds: float) -> str:
    """A time span for people: `12 ms`, `1.25 s`, `2m 05s`, `3h 02m`, `4d 03h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 48 else f"{hours // 24}d {hours % 24:02d}h"
