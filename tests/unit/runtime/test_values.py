"""Values on their way into the log and out of it."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from wfes.core import codec
from wfes.errors import PayloadTooLarge, UnstorableValue, WfesError
from wfes.runtime.values import INLINE_BYTES_MAX, Values


class Order(BaseModel):
    id: str
    items: list[str] = []


def stored(blobs: dict[str, bytes], max_payload: int = 64 * 1024 * 1024) -> Values:
    return Values(blobs.get, max_payload)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_what_is_sealed_opens_as_it_was(value: Any) -> None:
    values = stored({})
    sealed = values.seal(value, "a test's value")
    assert values.open(sealed.tree) == value
    assert sealed.blobs == ()


def test_a_model_comes_back_by_its_type_and_as_plain_data_without_it() -> None:
    values = stored({})
    tree = values.seal(Order(id="o", items=["tea"]), "input", Order).tree
    assert values.open(tree, Order) == Order(id="o", items=["tea"])
    assert values.open(tree) == {"id": "o", "items": ["tea"]}


def test_a_large_value_lies_beside_the_log_by_its_content() -> None:
    blobs: dict[str, bytes] = {}
    values = stored(blobs)
    value = ["x" * 1000] * 2000
    sealed = values.seal(value, "input")
    ((digest, content),) = sealed.blobs
    assert sealed.tree == codec.blob_ref(digest, len(content))
    assert digest == sha256(content).hexdigest()
    assert sealed.whole == value
    blobs[digest] = content
    first, second = values.open(sealed.tree), values.open(sealed.tree)
    assert first == second == value
    assert first is not second
    # Read once, then remembered.
    blobs.clear()
    assert values.open(sealed.tree) == value


def test_values_up_to_the_bound_stand_in_the_event() -> None:
    values = stored({})
    assert values.seal("x" * (INLINE_BYTES_MAX - 2), "input").blobs == ()
    assert values.seal("x" * (INLINE_BYTES_MAX - 1), "input").blobs != ()


def test_more_than_max_payload_is_refused() -> None:
    values = stored({}, 1000)
    assert values.seal("x" * 998, "input").tree == "x" * 998
    with pytest.raises(PayloadTooLarge, match="the input takes 1,001 bytes") as caught:
        values.seal("x" * 999, "the input")
    assert (caught.value.size, caught.value.limit) == (1001, 1000)


def test_a_missing_large_value_is_named() -> None:
    values = stored({})
    sealed = values.seal("x" * 2_000_000, "input")
    with pytest.raises(WfesError, match=sealed.blobs[0][0]):
        values.open(sealed.tree)


def test_the_cache_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfes.runtime.values.CACHE_BYTES_MAX", 5_000_000)
    blobs: dict[str, bytes] = {}
    values = stored(blobs)
    trees: list[Any] = []
    for letter in "abcd":
        sealed = values.seal(letter * 2_000_000, "input")
        blobs.update(sealed.blobs)
        trees.append(sealed.tree)
        values.open(sealed.tree)
    blobs.clear()
    assert values.open(trees[3]) == "d" * 2_000_000
    with pytest.raises(WfesError):
        values.open(trees[0])


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(UnstorableValue, match="payload of event 'paid'"):
        stored({}).seal(Order(id="o"), "payload of event 'paid'")


def test_not_a_number_comes_back() -> None:
    values = stored({})
    assert math.isnan(values.open(values.seal(math.nan, "input").tree))
