"""A ``WfesError`` as a JSON tree and back, so that a recorded call refuses alike live and on every replay.

Only the class's name and plain fields are kept; the class is looked up in ``wfes.errors``, nowhere else.
"""

from __future__ import annotations

from typing import Any, cast

from wfes import errors
from wfes.core.error_info import ErrorInfo

_PLAIN = (str, int, float, bool, type(None))


def to_tree(error: Exception) -> dict[str, Any]:
    """The error as a JSON tree."""
    fields: dict[str, Any] = {}
    for name, value in vars(error).items():
        if isinstance(value, _PLAIN):
            fields[name] = value
        elif (strings := _strings(value)) is not None:
            fields[name] = {"strings": strings}
    return {"class": type(error).__name__, "fields": fields, "info": ErrorInfo.of(error).to_json()}


def from_tree(tree: dict[str, Any]) -> Exception:
    """The error that ``to_tree`` described."""
    cls = getattr(errors, tree["class"], None)
    if not (isinstance(cls, type) and issubclass(cls, errors.WfesError)):
        return errors.RecordedError(ErrorInfo.from_json(tree["info"]))
    error = cls.__new__(cls)
    for name, value in tree["fields"].items():
        strings = None if isinstance(value, _PLAIN) else tuple(value["strings"])
        setattr(error, name, value if strings is None else strings)
    return error


def _strings(value: Any) -> list[str] | None:
    """The value as a list where it is a tuple of strings."""
    if not isinstance(value, tuple):
        return None
    items = cast("tuple[object, ...]", value)
    found = [item for item in items if isinstance(item, str)]
    return found if len(found) == len(items) else None
