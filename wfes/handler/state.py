"""The handler's recorded state: an object of the user's model that notices who writes to it, and what changed."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from wfes import errors
from wfes.core.codec import ABSENT
from wfes.core.events import Json
from wfes.handler.scope import current

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wfes.handler.execution import Execution
    from wfes.runtime.values import Sealed


_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


def plain(value: object) -> object:
    """The value, as an object of the user's own model where it is a handler's state (or a copy of one)."""
    model = getattr(type(value), "__wfes_model__", None)
    if model is None:
        return value
    return model.model_construct(_fields_set=value.model_fields_set, **dict(value))  # type: ignore[attr-defined,call-overload]


@functools.cache
def _guarded(model: type[BaseModel]) -> type[BaseModel]:
    fields = frozenset(model.model_fields)

    def __setattr__(self: BaseModel, name: str, value: Any) -> None:
        scope = current()
        if scope is not None and not scope.in_handler:
            raise errors.StateReadOnly(name, scope.path)
        model.__setattr__(self, name, value)

    def __delattr__(self: BaseModel, name: str) -> None:
        scope = current()
        if scope is not None and not scope.in_handler:
            raise errors.StateReadOnly(name, scope.path)
        if name in fields:
            raise AttributeError(f"field {name!r} of the state cannot be deleted; assign its default instead")
        model.__delattr__(self, name)

    def __getattribute__(self: BaseModel, name: str) -> Any:
        value = model.__getattribute__(self, name)
        if name in fields and type(value) not in _IMMUTABLE:
            scope = current()
            if scope is not None and not scope.in_handler:
                return copy.deepcopy(value)  # a function may change what it reads, and no replay would
        return value

    namespace: dict[str, Any] = {
        "__setattr__": __setattr__,
        "__delattr__": __delattr__,
        "__getattribute__": __getattribute__,
        "__wfes_model__": model,
        "__module__": model.__module__,
        "__doc__": model.__doc__,
        "model_config": ConfigDict(validate_assignment=True),
    }
    metaclass: Any = type(model)
    guarded: type[BaseModel] = metaclass(model.__name__, (model,), namespace)
    guarded.__qualname__ = model.__qualname__
    return guarded


_UNKNOWN = object()


class RecordedState:
    """One instance's state object and what of it has been recorded."""

    def __init__(self, execution: Execution, model: type[BaseModel]) -> None:
        self._execution = execution
        self._model = model
        self.value = _guarded(model)()
        self._recorded: dict[str, Json] = {name: value.tree for name, value in self._sealed().items()}

    def changes(self) -> dict[str, Json]:
        """The fields that differ from what was recorded last, which they now are."""
        sealed = self._sealed()
        recorded = self._recorded
        changed = {name for name, value in sealed.items() if recorded.get(name, _UNKNOWN) != value.tree}
        if not changed:
            return {}
        self._recorded = {name: value.tree for name, value in sealed.items()}
        return {name: self._execution.keep(value) for name, value in sealed.items() if name in changed}

    def forget(self, names: Iterable[str]) -> None:
        """What was recorded of these fields is void: whatever they are now is recorded with the next event."""
        for name in names:
            self._recorded.pop(name, None)

    def adopt(self, changes: dict[str, Json]) -> None:
        """Takes over, on replay, what the history says was recorded."""
        self._recorded.update(changes)

    def _sealed(self) -> dict[str, Sealed]:
        values = self._execution.host.values
        found: dict[str, Sealed] = {}
        for name, field in self._model.model_fields.items():
            type_ = field.annotation if field.annotation is not None else ABSENT
            found[name] = values.seal(self.value.__dict__[name], f"state.{name}", type_)
        return found
