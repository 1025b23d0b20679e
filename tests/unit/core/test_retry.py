"""`Retry`: the delays' bounds, giving up by name, and refusing what cannot be meant."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.core.retry import Retry
from wfes.errors import ErrorInfo

units = st.floats(0, 1, exclude_max=True)


def test_defaults_grow_up_to_the_cap() -> None:
    retry = Retry(jitter=False)
    assert [retry.delay_micros(attempt, 0.9) for attempt in (1, 2, 3, 7, 8, 10_000)] == [
        250_000,
        500_000,
        1_000_000,
        16_000_000,
        30_000_000,
        30_000_000,
    ]


@given(st.integers(1, 10**9), units, st.floats(1, 1e6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_delay_lies_between_zero_and_the_cap(
    attempt: int, random: float, factor: float, initial: int, cap: int
) -> None:
    retry = Retry(initial=initial, factor=factor, max=cap)
    full = Retry(initial=initial, factor=factor, max=cap, jitter=False)
    assert 0 <= retry.delay_micros(attempt, random) <= full.delay_micros(attempt, random) <= cap * 1_000_000
    assert full.delay_micros(attempt, random) <= full.delay_micros(attempt + 1, random)


def test_jitter_is_full() -> None:
    retry = Retry(initial=10)
    assert retry.delay_micros(1, 0.0) == 0
    assert retry.delay_micros(1, 0.5) == 5_000_000


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_attempts": 0}, ValueError, "max_attempts is 0"),
        ({"max_attempts": -1}, ValueError, "max_attempts is -1"),
        ({"max_attempts": True}, TypeError, "max_attempts is True"),
        ({"max_attempts": 2.0}, TypeError, "max_attempts is 2.0"),
        ({"initial": "soon"}, ValueError, "initial is 'soon'"),
        ({"initial": -1}, ValueError, "initial is -1"),
        ({"max": float("inf")}, ValueError, "max is inf"),
        ({"factor": 0.5}, ValueError, "factor is 0.5"),
        ({"factor": float("nan")}, ValueError, "factor is nan"),
        ({"factor": "2"}, TypeError, "factor is '2'"),
        ({"jitter": 1}, TypeError, "jitter is 1"),
        ({"give_up_on": "ValueError"}, TypeError, "give_up_on holds 'V'"),
        ({"give_up_on": (int,)}, TypeError, "give_up_on holds <class 'int'>"),
        ({"give_up_on": 3}, TypeError, "give_up_on"),
    ],
)
def test_misuse_is_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        Retry(**options)
    assert words in str(caught.value)


def test_giving_up_goes_by_class_and_bases() -> None:
    retry = Retry(give_up_on=(LookupError,))
    assert retry.gives_up(KeyError("x"))
    assert retry.gives_up(ErrorInfo.of(KeyError("x")))
    assert not retry.gives_up(ValueError("x"))
    assert not Retry().gives_up(ValueError("x"))


def test_one_class_or_a_list_is_a_tuple_too() -> None:
    assert Retry(give_up_on=KeyError).give_up_on == (KeyError,)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert Retry(give_up_on=[KeyError]).give_up_on == (KeyError,)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_with_max_attempts() -> None:
    retry = Retry(initial=timedelta(seconds=1), jitter=False, give_up_on=(KeyError,))
    changed = retry.with_max_attempts(1)
    assert (changed.max_attempts, changed.initial, changed.give_up_on) == (1, retry.initial, (KeyError,))
    assert changed.delay_micros(1, 0.0) == 1_000_000
    assert retry.with_max_attempts(None) is retry
    with pytest.raises(ValueError, match="max_attempts is 0"):
        retry.with_max_attempts(0)
    assert retry == Retry(initial=timedelta(seconds=1), jitter=False, give_up_on=(KeyError,))
