"""Reading what is typed, and printing what a log holds."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.cli import values
from wfes.errors import ErrorInfo

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_json_comes_back_as_it_was_printed(value: object) -> None:
    text = values.json_text(value)
    if not text.startswith(("@", "-")):
        assert values.JSON.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,}', "column 9"),
        ("", "the text is empty"),
        ("tea", """a text needs its quotes, such as '"tea"'"""),
        ("{'a': 1}", "JSON has double quotes only"),
        ("NaN", "NaN is not part of JSON"),
        ('{"a":\n 1 2}', "line 2, column 4"),
    ],
)
def test_bad_json_says_where(text: str, said: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        values.JSON.convert(text, None, None)
    assert said in refused.value.message


def test_json_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text('{"items": ["tea"]}')
    assert values.JSON.convert(f"@{path}", None, None) == {"items": ["tea"]}
    with pytest.raises(click.BadParameter, match="cannot be read"):
        values.JSON.convert(f"@{tmp_path / 'none.json'}", None, None)


def test_durations_and_moments() -> None:
    assert values.DURATION.convert("90s", None, None) == 90_000_000
    assert values.DURATION.convert("1.5", None, None) == 1_500_000
    with pytest.raises(click.BadParameter, match="must not be negative"):
        values.DURATION.convert("-3s", None, None)
    assert values.MOMENT.convert("2030-01-31T18:00:00Z", None, None) == datetime(2030, 1, 31, 18, tzinfo=UTC)
    with pytest.raises(click.BadParameter, match="names no zone"):
        values.MOMENT.convert("2030-01-31T18:00:00", None, None)
    with pytest.raises(click.BadParameter, match="no ISO 8601 moment"):
        values.MOMENT.convert("tomorrow", None, None)


def test_what_json_has_no_form_for_is_printed_as_text() -> None:
    value = {
        "decimal": Decimal("1.10"),
        "set": {1},
        "bytes": b"\xff\x00",
        "moment": datetime(2030, 1, 1, tzinfo=UTC),
        "day": date(2030, 1, 1),
        "id": UUID(int=1),
        "nan": float("nan"),
        "minus": float("-inf"),
        (1, 2): "tuple key",
        "error": ErrorInfo(type="ValueError", message="no"),
        "odd": object,
    }
    back = json.loads(values.json_text(value))
    assert back["decimal"] == "1.10"
    assert back["set"] == [1]
    assert back["nan"] == "NaN"
    assert back["minus"] == "-Infinity"
    assert back["error"]["type"] == "ValueError"


def test_short_forms() -> None:
    assert values.short({"a": "b" * 100}, 20) == '{"a": "bbbbbbbbbbbb…'
    assert values.clipped("two\nlines", 20) == "two lines"
    assert values.error_text({"type": "ValueError", "message": "no"}) == "ValueError: no"
    assert values.error_text(ErrorInfo(type="ValueError", message="no")) == "ValueError: no"
    assert values.error_text(None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9999, "1.00 s"),
        (1.254, "1.25 s"),
        (59.999, "1m 00s"),
        (125, "2m 05s"),
        (3 * 3600 + 120, "3h 02m"),
        (timedelta(days=4, hours=3).total_seconds(), "4d 03h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert values.span(seconds) == text


def test_moments_of_events() -> None:
    moment = datetime(2030, 1, 31, 12, 0, 0, 500, tzinfo=UTC)
    assert values.moment_of(moment) is moment
    assert values.moment_of(None) is None
    assert values.moment_of(1_500_000) == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
