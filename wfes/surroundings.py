"""What projections see around an event: its values opened, and whose it is.

Owns looking up the instances of a page's events, all at once and only when a handler asks for the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from wfes.core.events import Event, Recorded, WorkflowStarted
from wfes.history import plain_data
from wfes.log.application import decode
from wfes.log.port import Log
from wfes.runtime.streams import is_instance
from wfes.runtime.values import Values

Origin = tuple[str | None, str | None]

KNOWN_MAX = 20_000
"""Instances whose workflow and key are remembered."""
_AT_ONCE = 500
_NOTHING: Origin = (None, None)


class EventSurroundings:
    """Shows events of one log. Used by one thread.

    Args:
        log: the open log.
        values: where user values are opened.
    """

    def __init__(self, log: Log, values: Values) -> None:
        self._log = log
        self._values = values
        self._known: OrderedDict[str, Origin] = OrderedDict()
        self._page: Iterable[Recorded] = ()

    def data(self, event: Event) -> dict[str, Any]:
        """The event's own fields by name, as `inst.history()` shows them."""
        return plain_data(event, self._values)

    def expect(self, events: Iterable[Recorded]) -> None:
        """These events are shown next."""
        self._page = events
        for recorded in events:
            if type(recorded.event) is WorkflowStarted:
                self._remember(recorded.originator_id, recorded.event.workflow, recorded.event.key)

    def origin(self, instance: str) -> Origin:
        """Workflow and key of an instance."""
        found = self._known.get(instance)
        if found is not None:
            return found
        if not is_instance(instance):
            return _NOTHING
        wanted = {recorded.originator_id for recorded in self._page} - self._known.keys()
        wanted.add(instance)
        self._look_up([each for each in wanted if is_instance(each)])
        return self._known.get(instance, _NOTHING)

    def _look_up(self, instances: list[str]) -> None:
        for start in range(0, len(instances), _AT_ONCE):
            some = instances[start : start + _AT_ONCE]
            found = self._log.read(
                f"SELECT id, workflow, key FROM wfes_instances WHERE id IN ({', '.join('?' * len(some))})",
                some,
            )
            for id, workflow, key in found:
                self._remember(id, workflow, key)
            for id in {*some} - {row[0] for row in found}:
                # Without a row of its own an instance is still known by how its history begins.
                first = self._log.select_events(id, limit=1)
                event: Any = decode(first[0]).event if first else None
                self._remember(id, getattr(event, "workflow", None), getattr(event, "key", None))

    def _remember(self, instance: str, workflow: str | None, key: str | None) -> None:
        self._known[instance] = (workflow, key)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
