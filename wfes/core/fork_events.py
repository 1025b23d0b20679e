"""The events of a fork: an instance whose history begins with another's.

A fork's history is, in this order:

1. Copies of the origin's events 1 to N, at their own versions, so that whatever names a version still does. A copy is
   the event itself, marked as one (`Copied`) where it is stored: it happened to the origin, and whoever counts what
   happens leaves it out. Changed copies (another result, another input) say so and by whom.
2. Where something was changed, an origin's event that the change makes void stands as `EventVoided`: whatever follows
   from the first changed outcome, and what was dropped. It says nothing about the fork's state.
3. One `HistoryForked`. From there on the history is the fork's own.

So the state of a fork is the fold of its own events as ever, and nothing of it depends on the origin's being there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from wfes.core.event import Command, Event, Json


class Copied(NamedTuple):
    """How an event is marked that the history of a fork begins with.

    Attributes:
        changed: it is not as it was in the origin.
        actor: who changed it.
    """

    changed: bool = False
    actor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventVoided(Event):
    """In a fork: at this version the origin has an event that says nothing here. ``event`` is its topic, ``body`` its
    fields as they are stored.

    What it recorded may be given to whoever asks for its path (`HistoryForked.results`). ``dropped``: it was left out
    on purpose.
    """

    event: str
    body: Json
    dropped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryForked(Command):
    """What stands before this is from the history of ``origin`` up to its event ``forked_at``; what follows is the
    fork's own.

    Nobody owns it from here on, and what was under way runs again. ``results``: paths whose outcome stands at a version
    of this history and is given to whoever asks for them. ``dues``: when the sleeps end that are open in the origin and
    void here, by path. ``taken``: versions of received events that were consumed for one of the ``results``.

    ``changed``: it does not stand where the origin stood, so it runs at once. ``over``: the history so far has an end.
    ``slot_by``, ``slot_value`` and ``slot_place`` are as in `WorkflowStarted`: a fork counts as a new instance.
    """

    origin: str
    forked_at: int
    results: dict[str, int] = field(default_factory=dict[str, int])
    dues: dict[str, int] = field(default_factory=dict[str, int])
    taken: tuple[int, ...] = ()
    changed: bool = False
    over: bool = False
    slot_by: str | None = None
    slot_value: str | None = None
    slot_place: int = 0
