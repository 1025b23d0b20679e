"""An instance as a JSON tree: what a command that found or made one gives, and what a replay reads from the log.

Enough for a handle's snapshot, not the whole state; plain fields by their names in `InstanceState`.
"""

from __future__ import annotations

from typing import Any

import orjson

from wfes.core.codec import Json
from wfes.core.state import ACTIVE, InstanceState, Status

_DESCRIBED = (
    "workflow",
    "version",
    "at",
    "key",
    "generation",
    "parent",
    "parent_path",
    "conversation",
    "created_at",
    "not_before",
    "deadline",
    "status_since",
    "output",
    "error",
    "reason",
    "end_version",
)


def description(state: InstanceState, *, new: bool) -> Json:
    """An instance as a JSON tree, enough for a handle's snapshot (`described`); without a new one's input, which
    its starter has."""
    tree: dict[str, Any] = {"id": state.id, "status": str(state.status), "new": new}
    for name in _DESCRIBED:
        value = getattr(state, name)
        if value is not None and value != 0:
            tree[name] = value
    if state.tags:
        tree["tags"] = list(state.tags)
    if not new:
        tree["input"] = state.input
    return tree


def described(tree: Json, input: Json = None) -> InstanceState:
    """The state that `description` described, as far as it did.

    Args:
        tree: what `description` gave.
        input: the input's tree, where the instance was a new one.
    """
    state = InstanceState(tree["id"])
    for name in _DESCRIBED:
        if name in tree:
            setattr(state, name, tree[name])
    state.tags = tuple(tree.get("tags", ()))
    state.input = input if tree["new"] else tree["input"]
    state.status = Status(tree["status"])
    state.ended = None if state.status in ACTIVE else state.status
    return state


def same_tree(a: Json, b: Json) -> bool:
    """Whether two trees are the same value: ``1``, ``1.0`` and ``True`` are three; the order of keys is nothing."""
    return orjson.dumps(a, option=orjson.OPT_SORT_KEYS) == orjson.dumps(b, option=orjson.OPT_SORT_KEYS)
