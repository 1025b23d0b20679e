"""How the projections of a log are: what their rows are of, and how far behind the log that is.

Invariants: reading it changes nothing, and its cost is bounded however far behind a projection is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wfes.errors import LogUnavailable
from wfes.errors.storage import without_password
from wfes.log.application import decode
from wfes.log.port import Log
from wfes.registration import bundled, own_inline, state_projections
from wfes.subscription import registry
from wfes.subscription.projection import Projection
from wfes.subscription.registry import BUILDING, STOPPED, Entry
from wfes.subscription.stores import Store
from wfes.subscription.table import ASKED, NEXT
from wfes.views import ProjectionStatus, moment

COUNTED_MAX = 10_000
"""Events behind that are counted; beyond it every event of the log counts."""
_STATE = "state"
_INLINE = "inline"
_FOLLOWING = "following"
_UNKNOWN = "unknown"
_UNAVAILABLE = "unavailable"
_ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Known:
    """A projection that an engine knows, and where its rows are.

    Attributes:
        projection: the projection.
        store: its database.
        apart: that is not the log's own.
        followed: by this engine, which then makes its rows; else looking must not even make the database.
    """

    projection: Projection
    store: Store
    apart: bool
    followed: bool = True


def statuses(log: Log, known: Iterable[Known], own: Store, now: int) -> list[ProjectionStatus]:
    """How all projections are that have rows in the log's database, or that the engine knows, by name.

    Args:
        log: the open log.
        known: those that the engine knows.
        own: the log's own database.
        now: microseconds since the Unix epoch.
    """
    head = log.max_notification_id()
    with own.snapshot() as view:
        entries = {entry.name: entry for entry in registry.entries(view.query)}
    found: list[ProjectionStatus] = []
    listed: set[str] = set()
    for each in known:
        there = entries
        url = without_password(each.store.url) if each.apart else None
        if each.apart:
            try:
                if not each.followed and not each.store.exists():
                    found.append(_without_rows(each.projection, _ABSENT, head, url))
                    continue
                with each.store.snapshot() as view:
                    there = {entry.name: entry for entry in registry.entries(view.query)}
            except LogUnavailable as error:
                # It says so itself; the others are none the worse for it.
                found.append(_without_rows(each.projection, _UNAVAILABLE, head, url, str(error)))
                continue
        else:
            listed.add(each.projection.name)
        status = BUILDING if each.followed else _ABSENT
        entry = there.get(each.projection.name) or Entry(each.projection.name, 0, 0, status)
        found.append(_event_status(log, each.projection, entry, there, head, now, url))
    ours = {projection.name: projection for projection in own_inline()}
    ours.update({name: made() for name, made in bundled().items()})
    states = {projection.name for projection in state_projections()}
    for name, entry in entries.items():
        if name in listed or name.endswith((NEXT, ASKED)):
            continue
        if name in states or entry.position is None:
            found.append(_state_status(entry, entries, head))
        else:
            found.append(_event_status(log, ours.get(name), entry, entries, head, now, None))
    return sorted(found, key=lambda status: status.name)


def _state_status(entry: Entry, entries: Mapping[str, Entry], head: int) -> ProjectionStatus:
    return ProjectionStatus(
        name=entry.name,
        version=entry.version,
        kind=_STATE,
        status=entry.status,
        position=head,
        head=head,
        lag=0,
        lag_seconds=0.0,
        building=_part(entries.get(entry.name + NEXT), head),
    )


def _event_status(
    log: Log,
    projection: Projection | None,
    entry: Entry,
    entries: Mapping[str, Entry],
    head: int,
    now: int,
    url: str | None,
) -> ProjectionStatus:
    topics: Sequence[str] = () if projection is None else projection.topics
    position = entry.position or 0
    build = entries.get(entry.name + NEXT)
    # Where the rows of a new version cannot be made, nobody keeps the old ones up to date either.
    halted = build if build is not None and build.status == STOPPED else entry
    lag, seconds = _lag(log, topics, position, head, now)
    kind = _UNKNOWN if projection is None else _INLINE if projection.inline else _FOLLOWING
    return ProjectionStatus(
        name=entry.name,
        version=entry.version,
        kind=kind,
        status=halted.status,
        position=head if lag == 0 and kind == _INLINE else position,
        head=head,
        lag=lag,
        lag_seconds=seconds,
        building=_part(build, head),
        error=halted.error,
        error_position=halted.error_position,
        error_at=moment(halted.updated_at) if halted.status == STOPPED else None,
        url=url,
    )


def _without_rows(
    projection: Projection, status: str, head: int, url: str | None, error: str | None = None
) -> ProjectionStatus:
    return ProjectionStatus(
        name=projection.name,
        version=projection.version,
        kind=_FOLLOWING,
        status=status,
        position=0,
        head=head,
        lag=head,
        lag_seconds=0.0,
        error=error,
        url=url,
    )


def _part(building: Entry | None, head: int) -> float | None:
    """How much of a build is done."""
    if building is None:
        return None
    return min(1.0, (building.position or 0) / head) if head else 1.0


def _lag(log: Log, topics: Sequence[str], position: int, head: int, now: int) -> tuple[int, float]:
    """How many events are missing, and for how many seconds the first of them has been there."""
    if position >= head:
        return 0, 0.0
    upto = min(head, position + COUNTED_MAX)
    missing = log.select_notifications(position, COUNTED_MAX, upto, topics, inclusive_of_start=False)
    rest = head - upto
    first = missing or log.select_notifications(upto, 1, head, inclusive_of_start=False)
    if not first:
        return 0, 0.0
    return len(missing) + rest, max(0.0, (now - decode(first[0]).event.at) / 1_000_000)
