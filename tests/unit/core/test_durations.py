"""Durations: every way of writing one means the same, and what cannot be read is named."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.core.durations import DAY, DURATION_MAX, HOUR, MINUTE, SECOND, WEEK, micros, text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("90s", 90 * SECOND),
        ("250ms", 250_000),
        ("30m", 30 * MINUTE),
        ("1.5h", 90 * MINUTE),
        (".5h", 30 * MINUTE),
        ("1h30m", 90 * MINUTE),
        (" 1 h 30 m ", 90 * MINUTE),
        ("2d", 2 * DAY),
        ("2w", 2 * WEEK),
        ("7us", 7),
        ("1w2d3h4m5s6ms7us", WEEK + 2 * DAY + 3 * HOUR + 4 * MINUTE + 5 * SECOND + 6_007),
        ("0s", 0),
        (0, 0),
        (5, 5 * SECOND),
        (0.1, 100_000),
        (1e-9, 0),
        (timedelta(days=1, microseconds=1), DAY + 1),
        (timedelta(0), 0),
        ("365250d", DURATION_MAX),
    ],
)
def test_reading(value: Any, expected: int) -> None:
    assert micros(value) == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-1, "negative"),
        (-1e-9, "negative"),
        ("-5s", "negative"),
        (timedelta(seconds=-1), "negative"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (True, "a number of seconds"),
        (None, "a number of seconds"),
        ([], "a number of seconds"),
        ("", "cannot be read"),
        ("90", "cannot be read"),
        ("1h30", "cannot be read"),
        ("30m1h", "cannot be read"),
        ("1h1h", "cannot be read"),
        ("1e5s", "cannot be read"),
        ("\u0661s", "cannot be read"),
        ("soon", "cannot be read"),
        ("9" * 200 + "s", "cannot be read"),
        (10**30, "1,000 years"),
        (1e300, "1,000 years"),
        ("9999999w", "1,000 years"),
    ],
)
def test_refusing(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        micros(value, "timeout")
    assert str(caught.value).startswith("timeout is ")
    assert repr(value)[:50].strip("'") in str(caught.value)


@given(st.integers(0, DURATION_MAX))
def test_text_reads_back(value: int) -> None:
    assert micros(text(value)) == value
    assert micros(timedelta(microseconds=value)) == value


@given(st.floats(0, 1e9))
def test_seconds_are_rounded_to_the_nearest(value: float) -> None:
    assert abs(micros(value) - value * SECOND) <= 0.5 + value * 1e-9


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0s"),
        (90 * MINUTE, "1h30m"),
        (250_000, "250ms"),
        (14 * DAY, "14d"),
        (1, "1us"),
        (MINUTE + 1, "1m1us"),
    ],
)
def test_text(value: int, expected: str) -> None:
    assert text(value) == expected
