"""What stands in the history of a fork in place of an event that says nothing there, and that event again."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from wfes.core import events as e
from wfes.errors import UnknownEvent


def void(event: e.Event, *, dropped: bool = False) -> e.EventVoided:
    """What stands in its place. What stands in another's place already stays what it is."""
    if isinstance(event, e.EventVoided):
        return event
    return e.EventVoided(at=event.at, event=event.topic, body=e.body(event), dropped=dropped)


def meant(event: e.Event) -> e.Event:
    """The event itself, or the one in whose place it stands.

    Raises:
        UnknownEvent: that is of no kind known here.
    """
    if not isinstance(event, e.EventVoided):
        return event
    cls = e.CATALOGUE.get(event.event)
    if cls is None:
        raise UnknownEvent(event.event)
    body: dict[str, Any] = event.body
    tuples = {each.name for each in fields(cls) if str(each.type).startswith("tuple")}
    values: dict[str, Any] = {name: tuple(value) if name in tuples else value for name, value in body.items()}
    return cls(**values)
