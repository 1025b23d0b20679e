"""Names of the engine's own streams, which begin with ``$`` so that no instance's id can reach them.

Each rests a uniqueness on the log: generations of a key, one publishing per event id, definitions of a workflow,
ticks of a schedule.
"""

from __future__ import annotations

from wfes.core.ids import flaw

PREFIX = "$"
SCHEDULE_PREFIX = "$schedule/"


def key_stream(workflow: str, key: str) -> str:
    """Where a workflow's instances of one key are counted: the version of a ``KeyAssigned`` is its generation."""
    return f"$key/{_escaped(workflow)}/{key}"


def event_stream(event: str, id: str) -> str:
    """Where an event published with this id stands, as version 1 and only once."""
    return f"$event/{_escaped(event)}/{id}"


def workflow_stream(workflow: str) -> str:
    """Where the definitions of a workflow stand, the newest last."""
    return f"$workflow/{workflow}"


def schedule_stream(schedule: str) -> str:
    """Where a schedule stands: its definitions, its ticks and what became of them, its pauses."""
    return f"{SCHEDULE_PREFIX}{schedule}"


def is_instance(stream: str) -> bool:
    """Whether a stream may be an instance's history: it is none of the engine's own, and a text that is stored."""
    return not stream.startswith(PREFIX) and flaw(stream) is None


def _escaped(name: str) -> str:
    """The name without slashes, so that no two pairs of names share a stream."""
    return name.replace("%", "%25").replace("/", "%2F") if "/" in name or "%" in name else name
