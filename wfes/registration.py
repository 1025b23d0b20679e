"""Which projections an engine has: those it is given, checked, and those that come with it.

Invariants: names and tables are unique in an engine, and what begins with `wfes_` is the engine's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from wfes.errors import DuplicateProjection
from wfes.subscription.own_database import checked_url
from wfes.subscription.projection import Projection
from wfes.subscription.state import StateProjection
from wfes.subscription.table import ASKED, NEXT, OLD
from wfes.validation import shown

RESERVED = "wfes_"
"""What only the engine's own projections and tables are named by."""


def checked_projections(given: object) -> dict[str, Projection]:
    """Projections by name, given as classes or as made ones.

    Raises:
        TypeError: one is no projection.
        ValueError: a name is the engine's own.
        DuplicateProjection: two have the same name, or tables of the same name in one database.
    """
    if isinstance(given, (str, bytes, Projection)) or not isinstance(given, Iterable):
        raise TypeError(
            f"projections is {shown(given)}; it must be several projections, such as [OrdersByDay]"
        )
    found: dict[str, Projection] = {}
    tables: dict[tuple[str | None, str], Projection] = {}
    for each in cast("Iterable[object]", given):
        projection = _projection(each)
        check_name(projection)
        known = found.setdefault(projection.name, projection)
        if known is not projection:
            raise DuplicateProjection(projection.name, _place(known), _place(projection))
        for row in projection.tables:
            other = tables.setdefault((projection.url, row.table.name), projection)
            if other is not projection:
                raise DuplicateProjection(row.table.name, _place(other), _place(projection), what="table")
    return found


def _projection(given: object) -> Projection:
    if inspect.isclass(given) and issubclass(given, Projection):
        given = given()
    if not isinstance(given, Projection):
        raise TypeError(
            f"projections holds {shown(given)}, which is no projection; it must be a class such as "
            "`class OrdersByDay(Projection)`, or one made of it"
        )
    if given.url is not None:
        checked_url(given.url)
    return given


def check_name(projection: Projection) -> None:
    """Refuses names that are the engine's own.

    Raises:
        ValueError: its name or a table's is.
    """
    if type(projection).__module__.startswith("wfes_projections"):
        return
    names = [("", projection.name), *(("table ", row.table.name) for row in projection.tables)]
    for what, name in names:
        if name.startswith(RESERVED) or name.endswith((NEXT, OLD, ASKED)):
            raise ValueError(
                f"{what}{name!r} of projection {projection.name!r} is a name of the engine's own: names must not begin "
                f"with {RESERVED!r} nor end in {NEXT!r}, {OLD!r} or {ASKED!r}"
            )


def _place(projection: Projection) -> str:
    return f"{type(projection).__module__}.{type(projection).__qualname__}"


def state_projections() -> list[StateProjection]:
    """The engine's own that are functions of instances' states."""
    # Inside a function, as in the next ones: the projections import the packages below this one.
    from wfes_projections import inline

    return list(inline())


def own_inline() -> list[Projection]:
    """The engine's own by event type that the writer keeps."""
    import wfes_projections

    made: Callable[[], Iterable[Projection]] = getattr(wfes_projections, "inline_events", tuple)
    return list(made())


def bundled() -> Mapping[str, type[Projection]]:
    """Those that come with the engine and are followed once somebody asks them, by name."""
    import wfes_projections

    classes: Callable[[], Iterable[type[Projection]]] = getattr(wfes_projections, "following", tuple)
    return {projection.name: projection for projection in classes()}
