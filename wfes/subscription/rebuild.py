"""Making projections' tables, and making them anew.

A rebuild is the projection's own function over every fold of the log: what it gives equals the live rows, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from eventsourcing.persistence import Notification

from wfes.core import events as e
from wfes.core.events import CATALOGUE
from wfes.core.evolve import evolve
from wfes.core.state import InstanceState
from wfes.errors import UnknownEvent
from wfes.log.application import decode
from wfes.log.archived import whole_log
from wfes.log.port import Log
from wfes.log.rows import OWN, InlineRows, Target
from wfes.subscription import registry
from wfes.subscription.state import StateProjection


def bring_up(log: Log, projections: Sequence[StateProjection]) -> list[str]:
    """Creates the tables of inline projections in an open log, and makes stale ones anew.

    Stale is what another version of its projection made. One transaction: others see the old rows or the new ones.
    To be called after ``Log.open`` and before the writer starts.

    Returns:
        The names of what was made or made anew.

    Raises:
        UnknownEvent: the log holds an event that is not in the catalogue: a newer release wrote it. Nothing is done.
    """
    for topic in sorted(log.topics() - CATALOGUE.keys()):
        raise UnknownEvent(topic)
    target = log.begin()
    try:
        target.query(registry.CREATE)
        found = {entry.name: entry.version for entry in registry.entries(target.query)}
        stale = [given for given in projections if found.get(given.name) != given.version]
        for projection in stale:
            target.query(f'DROP TABLE IF EXISTS "{projection.name}"')
            for sql in projection.create:
                target.query(sql)
            registry.put(target.query, registry.Entry(projection.name, projection.version))
        if stale:
            # Nobody else can append while the write lock is held, so what readers see is everything.
            fill(target, stale, whole_log(log, lenient=True))
            target.commit()
    finally:
        target.rollback()
    return [projection.name for projection in stale]


def fill(
    target: Target,
    projections: Sequence[StateProjection],
    stored: Iterable[Notification],
    decoded: Callable[[Notification], e.Recorded] = decode,
) -> None:
    """Writes the rows of every instance of a log into empty tables."""
    inline = InlineRows(projections)
    states: dict[str, InstanceState] = {}
    for recorded in map(decoded, stored):
        stream = recorded.originator_id
        if not stream.startswith(OWN):
            state = states.get(stream)
            if state is None:
                state = states[stream] = InstanceState(stream)
            evolve(state, recorded.event, recorded.originator_version)
        elif isinstance(recorded.event, e.WorkflowDefined):
            inline.define(target, recorded.event)
    inline.write(target, ((inline.nothing, inline.rows(state)) for state in states.values()))
