"""How events are stored, and the eventsourcing library's application over a log.

Owns the stored form of an event, frozen since the first release: its topic is the class name, its state is the 32 raw
bytes of its predecessor's digest followed by its fields as JSON, without those at their default. ``core.chain`` says
what the digest covers. Behind the fields of a copy that a fork's history begins with stands `COPIED`.

The writer and the readers use ``body_bytes`` and ``decode`` directly: one dict, one call of orjson, no topic
resolution. ``EventMapper`` and ``LogApplication`` are the same two functions in the library's shape, for code that is
written against it (notification logs, event stores, followers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson
from eventsourcing.application import Application
from eventsourcing.persistence import ApplicationRecorder, Mapper, Notification, StoredEvent

from wfes.core import chain
from wfes.core.events import CATALOGUE, Copied, Event, Recorded
from wfes.errors import UnknownEvent

if TYPE_CHECKING:
    from eventsourcing.domain import DomainEventProtocol
    from eventsourcing.utils import Environment, EnvType

    from wfes.log.port import StoredRow, WriteTransaction

_Form = tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]], tuple[Any, ...]]


def _form(cls: type[Event]) -> _Form:
    names = tuple(field.name for field in fields(cls))
    if len(names) == 1:
        (name,) = names
        return names, lambda event: (getattr(event, name),), (MISSING,)
    return names, attrgetter(*names), tuple(field.default for field in fields(cls))


_FORMS = {cls: _form(cls) for cls in CATALOGUE.values()}
_TUPLES = {
    topic: names
    for topic, cls in CATALOGUE.items()
    if (names := tuple(field.name for field in fields(cls) if str(field.type).startswith("tuple")))
}
COPIED = "~copied"
"""No event has a field of this name. Its value: ``[]``, or ``[actor]`` where the copy is a changed one."""
_dumps = orjson.dumps
_loads = orjson.loads


def body_bytes(event: Event) -> bytes:
    """The event's fields as they are stored, behind the predecessor's digest."""
    names, values, defaults = _FORMS[type(event)]
    return _dumps(
        {
            name: value
            for name, value, default in zip(names, values(event), defaults, strict=True)
            if value is not default and value != default
        }
    )


def copy_bytes(event: Event, copied: Copied) -> bytes:
    """As ``body_bytes``, of a copy that a fork's history begins with."""
    mark = _dumps({COPIED: [copied.actor] if copied.changed else []})
    return body_bytes(event)[:-1] + b"," + mark[1:]  # no body is empty: every event has its time


def encode(event: Event, stream: str, version: int, prev: bytes) -> StoredEvent:
    """The event as it is stored at this place, behind a predecessor with the digest ``prev``."""
    return StoredEvent(stream, version, event.topic, prev + body_bytes(event))


def decode(stored: Notification) -> Recorded:
    """The event of a stored one, with its place.

    Raises:
        UnknownEvent: its topic or one of its fields is not in the catalogue: a newer version of wfes wrote it.
    """
    place = stored.id, str(stored.originator_id), stored.originator_version
    return decode_row((*place, stored.topic, stored.state))


def decode_row(row: StoredRow) -> Recorded:
    """The event of a row of the log, with its place.

    Raises:
        UnknownEvent: as `decode`.
    """
    position, stream, version, topic, state = row
    cls = CATALOGUE.get(topic)
    if cls is None:
        raise UnknownEvent(topic, instance=stream, position=position)
    tree = _loads(state[chain.SIZE :])
    mark = tree.pop(COPIED, None)
    if topic in _TUPLES:
        for name in _TUPLES[topic]:
            if name in tree:
                tree[name] = tuple(tree[name])
    try:
        event = cls(**tree)
    except TypeError as error:
        raise UnknownEvent(topic, str(error), instance=stream, position=position) from None
    if mark is None:
        return Recorded(stream, version, event, position)
    return Recorded(stream, version, event, position, Copied(True, mark[0]) if mark else Copied())


def digest(stored: StoredEvent) -> bytes:
    """What the next event of the stream carries."""
    return chain.digest(str(stored.originator_id), stored.originator_version, stored.topic, stored.state)


def chained(transaction: WriteTransaction, bodies: Sequence[StoredEvent]) -> list[StoredRow]:
    """Rows for stored events whose states are bodies still without the predecessor's digest.

    The digest is known only inside the transaction; this is how an append through the library gets it.
    """
    tails: dict[str, bytes] = {}
    rows: list[StoredRow] = []
    for position, body in enumerate(bodies, transaction.head + 1):
        stream, version, topic = str(body.originator_id), body.originator_version, body.topic
        prev = tails.get(stream)
        if prev is None:
            last = transaction.last(stream)
            prev = chain.GENESIS if last is None else digest(last)
        state = prev + body.state
        rows.append((position, stream, version, topic, state))
        tails[stream] = chain.digest(stream, version, topic, state)
    return rows


class EventMapper(Mapper[str]):
    """The library's mapper on orjson: ``Recorded`` to a stored event's body, and back."""

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """The stored event without its predecessor's digest, which the recorder puts before it."""
        if not isinstance(domain_event, Recorded):
            raise TypeError(f"a log stores Recorded events, not {type(domain_event).__qualname__}")
        event, copied = domain_event.event, domain_event.copied
        body = body_bytes(event) if copied is None else copy_bytes(event, copied)
        return StoredEvent(domain_event.originator_id, domain_event.originator_version, event.topic, body)

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        """The ``Recorded`` of a stored event, with its position where that is known."""
        if not isinstance(stored_event, Notification):
            stored_event = Notification(
                stored_event.originator_id,
                stored_event.originator_version,
                stored_event.topic,
                stored_event.state,
                0,
            )
        return decode(stored_event)


class LogApplication(Application[str]):
    """The eventsourcing library's application over an open log's recorder.

    It takes nothing from the process's environment variables: the log's URL alone says where the events are.
    """

    name = "wfes"

    def __init__(self, recorder: ApplicationRecorder) -> None:
        self._given = recorder
        super().__init__()

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        from eventsourcing.utils import Environment

        return Environment(name, {"PERSISTENCE_MODULE": "eventsourcing.popo", **(env or {})})

    def construct_mapper(self) -> Mapper[str]:
        return EventMapper(self.construct_transcoder())

    def construct_recorder(self) -> ApplicationRecorder:
        return self._given
