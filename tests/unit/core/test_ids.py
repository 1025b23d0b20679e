"""Ids sort by time; ids and names that cannot be used are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.core.ids import check_id, check_name, flaw, flawless, new_id

millis = st.integers(0, 2**48 - 1)
randoms = st.binary(min_size=10, max_size=10)


@given(millis, randoms, millis, randoms)
def test_ids_sort_by_time_then_chance(m1: int, r1: bytes, m2: int, r2: bytes) -> None:
    one, two = new_id(m1, r1), new_id(m2, r2)
    assert len(one) == 26
    assert set(one) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    assert (one < two) == ((m1, r1) < (m2, r2))
    assert check_id(one) == one


def test_new_id_refuses_what_does_not_fit() -> None:
    assert new_id(0, bytes(10)) == "0" * 26
    for at, random80 in ((-1, bytes(10)), (2**48, bytes(10)), (0, bytes(9))):
        with pytest.raises(ValueError):
            new_id(at, random80)


@pytest.mark.parametrize("text", ["o-1", "a/b#c", "é ü", "x" * 200, "a$"])
def test_good_ids(text: str) -> None:
    assert check_id(text) == text


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", ValueError, "is empty"),
        ("x" * 201, ValueError, "201 characters"),
        ("$key", ValueError, "must not start with '$'"),
        ("a\nb", ValueError, "control"),
        ("a\x00", ValueError, "null"),
        ("a\x85", ValueError, "control"),
        ("\ud800", ValueError, "surrogates"),
        (7, TypeError, "must be a str"),
    ],
)
def test_bad_ids(text: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        check_id(text, "id=")
    assert words in str(caught.value)
    assert str(caught.value).startswith("id= ")


@pytest.mark.parametrize("text", ["charge", "cool-off", "a b", "$x", "é"])
def test_good_names(text: str) -> None:
    assert check_name(text) == text


@pytest.mark.parametrize("text", ["", "a/b", "a#2", "x" * 201, "\udfff", "a\0b"])
def test_bad_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"^step name "):
        check_name(text, "step name")


@given(st.text(st.characters(), max_size=20))
def test_a_flawless_text_has_no_flaw_and_one_without_stays(text: str) -> None:
    assert flaw(flawless(text)) is None
    assert flaw(text) is not None or flawless(text) == text


def test_flaws_are_written_out() -> None:
    assert flawless("a\0b\ud800é") == "a\\x00b\\ud800é"
