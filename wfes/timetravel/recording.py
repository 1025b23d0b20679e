"""One instance as it is recorded, held in memory: all that looking at its past needs.

Owns the stored bytes of a history and of the large values it refers to, so that whoever looks needs no database while
they look, and a bundle (`wfes.timetravel.bundle`) can hold the same on another machine.

Invariant: nothing here changes after it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import orjson

from wfes.core import chain, codec
from wfes.core import events as e
from wfes.errors import InstanceNotFound
from wfes.history import Viewer
from wfes.log.application import decode_row
from wfes.log.archived import stored_history
from wfes.runtime.streams import is_instance
from wfes.runtime.values import Values
from wfes.views import RecordedEvent

if TYPE_CHECKING:
    from wfes.log.port import Log, StoredRow

_BLOB_MARK = f'"{codec.BLOB}"'.encode()


class Recording:
    """An instance's history.

    Attributes:
        id: the instance.
        rows: its events as they are stored, from version 1 on.
        blobs: the large values that they refer to, by the SHA-256 of their content in hex.
        url: of the log it was read from; None: a bundle.
        history: its events.
        values: opens what they hold.
        started: its first event.
    """

    def __init__(
        self, id: str, rows: Sequence[StoredRow], blobs: Mapping[str, bytes], url: str | None = None
    ) -> None:
        self.id = id
        self.rows = rows
        self.blobs = blobs
        self.url = url
        self.history: list[e.Recorded] = [decode_row(row) for row in rows]
        self.values = Values(blobs.get)
        started = self.history[0].event
        assert isinstance(started, e.WorkflowStarted)
        self.started = started

    @cached_property
    def events(self) -> list[RecordedEvent]:
        """The events as people see them; event N is the one at index N - 1."""
        return Viewer(cast(Any, _NoRunBefore()), self.values).view(self.history)

    @property
    def codes(self) -> list[dict[str, Any]]:
        """What ran it, as its claims say: the oldest first, each once."""
        found: list[dict[str, Any]] = []
        for recorded in self.history:
            code: Any = recorded.event.code if isinstance(recorded.event, e.RunClaimed) else None
            if code and code not in found:
                found.append(code)
        return found


class _NoRunBefore:
    """A history that is there from its first event on has no run before it."""

    def run_before(self, stream: str, version: int) -> tuple[None, None]:
        return None, None


def read_recording(log: Log, id: str, url: str | None = None) -> Recording:
    """Reads an instance from an open log, its large values included; an archived one from its archive.

    Raises:
        InstanceNotFound: there is none.
        ArchiveUnavailable: it is archived, and the archive cannot be read.
    """
    stored = stored_history(log, id) if is_instance(id) else ()
    if not stored:
        raise InstanceNotFound(id)
    rows = [(each.id, id, each.originator_version, each.topic, each.state) for each in stored]
    return Recording(id, rows, referred(rows, log.get_blob), url)


def referred(rows: Sequence[StoredRow], get_blob: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """The large values that these events refer to; what is missing is left out, and missed by who opens it."""
    blobs: dict[str, bytes] = {}
    for *_, state in rows:
        if _BLOB_MARK not in state:
            continue
        for digest in _references(orjson.loads(state[chain.SIZE :])):
            content = None if digest in blobs else get_blob(digest)
            if content is not None:
                blobs[digest] = content
    return blobs


def _references(tree: Any) -> Iterator[str]:
    reference = codec.as_blob(tree)
    if reference is not None:
        yield reference[0]
    elif isinstance(tree, dict):
        for part in cast("dict[str, Any]", tree).values():
            yield from _references(part)
    elif isinstance(tree, list):
        for part in cast("list[Any]", tree):
            yield from _references(part)
