"""Moments: aware datetimes as the whole microseconds since the Unix epoch that the engine counts in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT_MAX = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
"""The last moment accepted: from then on `datetime` cannot show it in every time zone."""


def micros_of(value: object, what: str) -> int:
    """An aware `datetime` as microseconds since the Unix epoch, exactly.

    Args:
        value: The moment.
        what: The option's name, for the error.

    Raises:
        TypeError: It is no `datetime`.
        ValueError: It is naive, or after the year 9998.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{what} is {value!r}; it must be an aware datetime")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"{what} is {value!r}, which is naive; it must be aware: give it a time zone, such as "
            "datetime(..., tzinfo=timezone.utc)"
        )
    micros = (value - _EPOCH) // timedelta(microseconds=1)
    if micros > MOMENT_MAX:
        raise ValueError(f"{what} is {value!r}; it must be before the year 9999")
    return micros
