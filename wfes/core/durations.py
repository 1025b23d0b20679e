"""Durations: what users write, as the whole microseconds the engine counts in.

Invariants: a duration is never negative and at most 1,000 years, so that a moment plus a duration always fits
the database's 64-bit integers and Python's `datetime`; `micros(text(n)) == n` for every such number.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction

Duration = timedelta | float | int | str

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
DURATION_MAX = 365_250 * DAY

_UNITS = {"w": WEEK, "d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": 1_000, "us": 1}
_PART = r"\s*(?P<{0}>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*{0}"
_TEXT = re.compile("".join(f"(?:{_PART.format(unit)})?" for unit in _UNITS) + r"\s*", re.ASCII)
_TEXT_CHARS_MAX = 100
_ACCEPTED = 'a timedelta, a number of seconds, or text such as "250ms", "90s", "1.5h", "1h30m", "2d", "2w"'


def micros(value: Duration, what: str = "duration") -> int:
    """The duration as whole microseconds, rounded to the nearest.

    Args:
        value: A `timedelta`, a number of seconds, or text: numbers with the units
            `w d h m s ms us`, larger units first.
        what: The option's name, for the error.

    Raises:
        ValueError: It is negative, not finite, longer than 1,000 years, or not a duration at all.

    >>> micros("1h30m"), micros(0.25), micros(timedelta(days=1))
    (5400000000, 250000, 86400000000)
    """
    if isinstance(value, timedelta):
        result = (value.days * 86_400 + value.seconds) * SECOND + value.microseconds
    elif isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be {_ACCEPTED}")
    elif isinstance(value, int):
        result = int(value) * SECOND
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{what} is {value!r}; it must be finite")
        result = round(Fraction(value) * SECOND)
        if value < 0:
            result = min(result, -1)
    else:
        result = _read(value, what)
    if result < 0:
        raise ValueError(f"{what} is {value!r}; it must not be negative")
    if result > DURATION_MAX:
        raise ValueError(f"{what} is {value!r}; it must be at most 1,000 years ({DURATION_MAX // DAY}d)")
    return result


def _read(written: object, what: str) -> int:
    if not isinstance(written, str):
        raise ValueError(f"{what} is {written!r}; it must be {_ACCEPTED}")
    if written.lstrip().startswith("-") and _TEXT.fullmatch(written.lstrip()[1:]) and len(written) > 1:
        raise ValueError(f"{what} is {written!r}; it must not be negative")
    match = _TEXT.fullmatch(written) if len(written) <= _TEXT_CHARS_MAX else None
    parts = {} if match is None else {unit: n for unit, n in match.groupdict().items() if n is not None}
    if not parts:
        raise ValueError(
            f"{what} is {written[:_TEXT_CHARS_MAX]!r}, which cannot be read; it must be {_ACCEPTED}"
        )
    return round(sum(Fraction(number) * _UNITS[unit] for unit, number in parts.items()))


def text(micros: int) -> str:
    """A duration in its shortest exact form for people, such as `1h30m`, `250ms` or `0s`.

    Args:
        micros: Microseconds, zero or more.

    >>> text(5_400_000_000), text(1_500_000), text(0)
    ('1h30m', '1s500ms', '0s')
    """
    parts: list[str] = []
    rest = micros
    for unit, size in _UNITS.items():
        if unit == "w":
            continue
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
