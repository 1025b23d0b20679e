"""Values against the schemas that pydantic makes."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from wfes.cli.schema import misfit


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid")
    street: str


class Order(BaseModel):
    id: Annotated[int, Field(ge=1)]
    colour: Colour = Colour.RED
    to: Address | None = None
    lines: Annotated[list[str], Field(min_length=1)] = ["a"]
    next: Order | None = None


@pytest.mark.parametrize(
    ("type_", "value", "said"),
    [
        (bool, True, None),
        (bool, "maybe", 'must be boolean, not "maybe"'),
        (bool, 1, "must be boolean, not 1"),
        (int, True, "must be integer, not true"),
        (int, 3.0, None),
        (float, 3, None),
        (int | None, None, None),
        (int | None, "x", 'must be integer, not "x" or must be null, not "x"'),
        (Literal["a", "b"], "c", 'must be one of "a", "b", not "c"'),
        (Any, {"anything": [1]}, None),
        (dict[str, int], {"a": "b"}, 'a: must be integer, not "b"'),
        (Order, {"id": 1, "to": {"street": "x"}, "next": {"id": 2}}, None),
        (Order, {"id": 0}, "id: must be at least 1, not 0"),
        (Order, {}, "the field 'id' is missing"),
        (Order, {"id": 1, "colour": "green"}, 'colour: must be one of "red", "blue", not "green"'),
        (Order, {"id": 1, "lines": []}, "lines: must have at least 1 items, not 0"),
        (Order, {"id": 1, "lines": [1]}, "lines[0]: must be string, not 1"),
        (Annotated[str, Field(max_length=2)], "abc", "must have at most 2 characters, not 3"),
        (Address, {"street": "x", "town": "y"}, "there is no field 'town'; the fields are 'street'"),
    ],
)
def test_what_fits_and_what_does_not(type_: Any, value: Any, said: str | None) -> None:
    assert misfit(TypeAdapter(type_).json_schema(), value) == said


def test_misfits_deep_inside_are_found() -> None:
    found = misfit(TypeAdapter(Order).json_schema(), {"id": 1, "next": {"id": "x"}})
    assert found is not None
    assert 'next.id: must be integer, not "x"' in found


def test_no_schema_lets_everything_pass() -> None:
    assert misfit(None, {"a": 1}) is None
    assert misfit({}, 7) is None


@given(
    st.builds(Order, id=st.integers(1), colour=st.sampled_from(Colour), lines=st.lists(st.text(), min_size=1))
)
def test_what_the_type_gives_as_json_fits_its_schema(order: Order) -> None:
    assert misfit(TypeAdapter(Order).json_schema(), order.model_dump(mode="json")) is None
