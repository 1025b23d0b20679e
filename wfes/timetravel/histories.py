"""Histories to replay: from a log, from a file, or as lists of events.

A *history file* holds any number of instances with everything that was recorded of them, to be replayed in tests and on
machines without the database: gzip of JSON lines, a head and then one instance a line. It holds values in clear.

Invariants: what is written and read again replays alike; the same histories make the same bytes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfes.core import chain, codec, durations
from wfes.core import events as e
from wfes.core.error_info import ErrorInfo
from wfes.errors import UnknownEvent, WfesError
from wfes.runtime.values import Values
from wfes.timetravel.bundle import read_bundle
from wfes.timetravel.recording import Recording
from wfes.validation import is_a, shown
from wfes.views import RecordedEvent, micros_of

if TYPE_CHECKING:
    from wfes.log.port import StoredRow

FORMAT = "wfes-histories"
VERSION = 1
_GZIP = b"\x1f\x8b"
_ZIP = b"PK"


@dataclass(frozen=True, slots=True)
class History:
    """An instance's whole history, ready to be replayed.

    Attributes:
        events: from version 1 on.
        values: opens what they hold.
        url: of the log it was read from, or None.
    """

    events: Sequence[e.Recorded]
    values: Values
    url: str | None = None

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.events[0].originator_id

    @property
    def workflow(self) -> str:
        """Its workflow's name."""
        started = self.events[0].event
        assert isinstance(started, e.WorkflowStarted)
        return started.workflow


def history_of(recording: Recording) -> History:
    """The history of what was read from a log or a file."""
    return History(recording.history, recording.values, recording.url)


# -- files ------------------------------------------------------------------------------------------------------------


def write_histories(path: Path, recordings: Iterable[Recording]) -> int:
    """Writes a history file; returns how many instances it holds."""
    lines = [json.dumps({"format": FORMAT, "version": VERSION})]
    for recording in recordings:
        events = [
            [position, version, topic, state[chain.SIZE :].decode()]
            for position, _, version, topic, state in recording.rows
        ]
        blobs = {digest: b64encode(content).decode() for digest, content in recording.blobs.items()}
        lines.append(json.dumps({"id": recording.id, "events": events, "blobs": blobs}, ensure_ascii=False))
    # No time of writing in it: the same histories are the same file.
    content = gzip.compress("\n".join([*lines, ""]).encode(), mtime=0)
    path.write_bytes(content)
    return len(lines) - 1


def read_histories(path: Path) -> list[Recording]:
    """Reads a history file, or a bundle, which holds one.

    Raises:
        WfesError: it is neither, or of a newer release, or cut off.
        OSError: it cannot be read.
        UnknownEvent: a newer release recorded it.
    """
    content = path.read_bytes()
    if content.startswith(_ZIP):
        return [read_bundle(path).recording]
    if not content.startswith(_GZIP):
        raise WfesError(f"{path} is neither a history file nor a bundle")
    try:
        head, *lines = gzip.decompress(content).decode().splitlines()
        about: Any = json.loads(head)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise WfesError(f"{path} cannot be read as a history file: {error}") from error
    if not is_a(about, dict) or about.get("format") != FORMAT:
        raise WfesError(f"{path} is neither a history file nor a bundle")
    if about.get("version") != VERSION:
        raise WfesError(
            f"{path} is a history file of version {about.get('version')}; this release reads {VERSION}"
        )
    return [_recording(path, json.loads(line)) for line in lines]


def _recording(path: Path, tree: Any) -> Recording:
    try:
        id, digest = str(tree["id"]), chain.GENESIS
        rows: list[StoredRow] = []
        for position, version, topic, body in tree["events"]:
            state = digest + body.encode()
            rows.append((position, id, version, topic, state))
            digest = chain.digest(id, version, topic, state)
        blobs = {name: b64decode(content) for name, content in tree["blobs"].items()}
        return Recording(id, rows, blobs)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise WfesError(f"{path} cannot be read as a history file: {error!r}") from error


# -- events as people see them ----------------------------------------------------------------------------------------


def history_of_events(shown_events: Sequence[RecordedEvent | e.Recorded]) -> History:
    """The history of an instance's events, as `Instance.history` gives them.

    Raises:
        ValueError: they do not begin with an instance's first event, or leave some out.
        UnknownEvent: a newer release recorded them.
    """
    events = [each if isinstance(each, e.Recorded) else _event_of(each) for each in shown_events]
    versions = [each.originator_version for each in events]
    if (
        not events
        or not isinstance(events[0].event, e.WorkflowStarted)
        or versions != [*range(1, len(events) + 1)]
    ):
        raise ValueError(
            f"a history to replay is all of an instance's events from version 1 on, not versions {shown(versions)}"
        )
    return History(events, Values(lambda _: None))


def _event_of(given: RecordedEvent) -> e.Recorded:
    cls = e.CATALOGUE.get(given.type)
    if cls is None:
        raise UnknownEvent(given.type, instance=given.instance, position=given.position)
    data = _fields(cls, given.data, given.at)
    apart = {"actor": given.actor, "cause": given.cause}
    data.update({name: value for name, value in apart.items() if name in _names(cls)})
    event = cls(at=micros_of(given.at, "at"), **data)
    return e.Recorded(given.instance, given.version, event, given.position)


def _names(cls: type[e.Event]) -> set[str]:
    return {field.name for field in fields(cls)}


def _fields(cls: type[e.Event], data: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """An event's own fields as they are recorded, of those that people see."""
    names = _names(cls)
    return {name: _tree(cls, name, value, data, at) for name, value in data.items() if name in names}


def _tree(cls: type[e.Event], name: str, value: Any, data: Mapping[str, Any], at: datetime) -> Any:
    if value is None:
        return 0 if name == "not_before" else None
    if isinstance(value, ErrorInfo):
        return value.to_json()
    if cls is e.CallRecorded:
        return value
    if name in _VALUES:
        return codec.encode(value, where=f"{name} of {cls.topic}")
    if name == "changes":
        return {field: codec.encode(each, where=f"state.{field}") for field, each in value.items()}
    if name == "dues":
        return {path: micros_of(due, path) for path, due in value.items()}
    if cls is e.EventVoided and name == "body":
        voided = e.CATALOGUE[data["event"]]
        return e.body(voided(at=micros_of(at, "at"), **_fields(voided, value, at)))
    if isinstance(value, datetime):
        return micros_of(value, name)
    if isinstance(value, timedelta):
        return durations.micros(value, name)
    return value


_VALUES = frozenset({"input", "output", "result", "data", "payload"})
