"""The stored form: what each event's bytes are, and that they come back."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import orjson
import pytest
from eventsourcing.persistence import Notification, StoredEvent
from hypothesis import given
from hypothesis import strategies as st

from wfes.core import chain
from wfes.core import events as e
from wfes.core.events import CATALOGUE, Copied, Event, Recorded
from wfes.core.voiding import meant, void
from wfes.errors import UnknownEvent
from wfes.log.application import EventMapper, body_bytes, copy_bytes, decode, digest, encode

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(0, 2**53),
    "str": st.text(max_size=8),
    "bool": st.booleans(),
    "float": st.floats(0, 100),
    "Json": JSON,
    "tuple[int, ...]": st.lists(st.integers(1, 2**31), max_size=3).map(tuple),
    "dict[str, int]": st.dictionaries(st.text(max_size=4), st.integers(0, 2**53), max_size=3),
    "tuple[str, ...]": st.lists(st.text(max_size=4), max_size=3).map(tuple),
}


def events() -> st.SearchStrategy[Event]:
    """Every event of the catalogue with any fields."""

    def of(cls: type[Event]) -> st.SearchStrategy[Event]:
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = str(field.type)
            strategy = BY_TYPE[text.removesuffix(" | None")]
            if text.endswith(" | None"):
                strategy = st.none() | strategy
            if field.default is not MISSING:
                strategy = st.just(field.default) | strategy
            values[field.name] = strategy
        return st.builds(cls, **values)

    return st.sampled_from(list(CATALOGUE.values())).flatmap(of)


def stored(event: Event, state: bytes | None = None, topic: str | None = None) -> Notification:
    state = chain.GENESIS + body_bytes(event) if state is None else state
    return Notification("i", 7, topic or event.topic, state, 42)


@given(events())
def test_every_event_comes_back(event: Event) -> None:
    assert decode(stored(event)) == Recorded("i", 7, event, 42)


@given(events(), st.builds(Copied, st.booleans(), st.none() | st.text(max_size=4)))
def test_a_copy_is_marked(event: Event, mark: Copied) -> None:
    """What a fork's history begins with."""
    found = decode(stored(event, chain.GENESIS + copy_bytes(event, mark)))
    assert found == Recorded("i", 7, event, 42, mark if mark.changed else Copied())


@given(events())
def test_void_events_are_what_they_were(event: Event) -> None:
    if not isinstance(event, e.EventVoided):
        found = decode(stored(void(event, dropped=True))).event
        assert isinstance(found, e.EventVoided)
        assert found.dropped
        assert meant(found) == event


@given(events())
def test_bytes_are_the_body_of_the_core(event: Event) -> None:
    assert body_bytes(event) == orjson.dumps(e.body(event))
    assert orjson.loads(body_bytes(event)) == orjson.loads(orjson.dumps(e.body(event)))


def test_stored_form_is_frozen() -> None:
    """These very bytes are what every later release must read."""
    event = e.StepCompleted(at=1_700_000_000_000_000, path="charge", result={"ok": True})
    found = encode(event, "i", 3, b"\x01" * 32)
    body = b'{"at":1700000000000000,"path":"charge","result":{"ok":true}}'
    assert found == StoredEvent("i", 3, "StepCompleted", b"\x01" * 32 + body)
    assert digest(found).hex() == "590614c887a91390995bce2b72a6fedf84cf90011c761a647ff5c709d5ae46f3"


def test_chain_covers_place_and_content() -> None:
    first = encode(e.StepStarted(at=1, path="a"), "i", 1, chain.GENESIS)
    others = [
        encode(e.StepStarted(at=2, path="a"), "i", 1, chain.GENESIS),
        encode(e.StepStarted(at=1, path="a"), "j", 1, chain.GENESIS),
        encode(e.StepStarted(at=1, path="a"), "i", 2, chain.GENESIS),
        encode(e.StepCancelled(at=1, path="a"), "i", 1, chain.GENESIS),
        encode(e.StepStarted(at=1, path="a"), "i", 1, b"\x01" * 32),
    ]
    assert len({digest(found) for found in [first, *others]}) == 6


def test_unknown_topic_and_field_are_named() -> None:
    event = e.SleepEnded(at=1, path="s")
    with pytest.raises(UnknownEvent, match=r"'SleepEnded\.2'.* of instance 'i' at position 42"):
        decode(stored(event, topic="SleepEnded.2"))
    with pytest.raises(UnknownEvent, match="mood"):
        decode(stored(event, chain.GENESIS + b'{"at":1,"path":"s","mood":"good"}'))


def test_mapper_takes_recorded_events_only() -> None:
    mapper = EventMapper(None)  # type: ignore[arg-type]
    event = e.SleepEnded(at=1, path="s")
    body = mapper.to_stored_event(Recorded("i", 2, event))
    assert body == StoredEvent("i", 2, "SleepEnded", b'{"at":1,"path":"s"}')
    chained = StoredEvent("i", 2, "SleepEnded", chain.GENESIS + body.state)
    assert mapper.to_domain_event(chained) == Recorded("i", 2, event)
    with pytest.raises(TypeError, match="str"):
        mapper.to_stored_event("event")  # type: ignore[arg-type]
