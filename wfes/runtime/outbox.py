"""Commands on their way through the outbox: as rows that callers commit with their own, and as commands again.

Owns which commands can be handed over, and their JSON. A row that was inserted by this release must be readable by
any later one until it is gone: a field is never renamed, and a new one has a default.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

from wfes.core import decide
from wfes.errors import NotSupported
from wfes.log.port import Handed
from wfes.runtime.commands import Ask, Command, Publish, Start
from wfes.runtime.values import Blobs

_START = [
    *("id", "workflow", "input", "key", "delay", "deadline", "tags", "conversation", "parent", "parent_path"),
    *("trigger", "seed", "actor", "cause", "known", "derived", "counts_as"),
]
_PUBLISH = ["event", "id", "payload", "key", "actor", "cause"]
_TO_ONE: dict[str, type[Any]] = {"send": decide.Send, "provide": decide.Provide}


def handed(command: Command, at: int) -> Handed:
    """The row of a command.

    Args:
        command: a start, a published event, or what one instance is sent or provided with.
        at: the moment, in microseconds.

    Raises:
        NotSupported: it is another command.
    """
    match command:
        case Start():
            return _row("start", command.id, at, _fields(command, _START), command.blobs)
        case Publish():
            return _row("publish", command.id, at, _fields(command, _PUBLISH), command.blobs)
        case Ask(command=decide.Send() | decide.Provide() as asked):
            kind = "send" if isinstance(asked, decide.Send) else "provide"
            fields = {"instance": command.instance, **dataclasses.asdict(asked)}
            return _row(kind, command.instance, at, fields, command.blobs)
        case _:
            raise NotSupported(f"a command {type(command).__name__} cannot be part of a caller's transaction")


def _fields(command: Any, names: list[str]) -> dict[str, Any]:
    return {name: getattr(command, name) for name in names}


def _row(kind: str, id: str, at: int, fields: dict[str, Any], blobs: Blobs) -> Handed:
    content = None
    if blobs:
        ((fields["sha256"], content),) = blobs
    return Handed(kind, id, at, orjson.dumps(fields).decode(), content)


def command_of(row: Handed, now: int) -> Command:
    """The command of a row.

    Args:
        row: what a caller committed.
        now: the moment at which it is run, in microseconds: a start's delay counts from when it was handed over.

    Raises:
        ValueError: this release does not know it.
    """
    fields: dict[str, Any] = orjson.loads(row.command)
    digest = fields.pop("sha256", None)
    blobs: Blobs = () if digest is None or row.content is None else ((digest, row.content),)
    if row.kind == "start":
        fields["tags"] = tuple(fields["tags"])
        counts_as = fields.get("counts_as")
        fields["counts_as"] = None if counts_as is None else tuple(counts_as)
        if fields["delay"]:
            fields["delay"] = max(0, row.at + fields["delay"] - now)
        return Start(**fields, blobs=blobs)
    if row.kind == "publish":
        return Publish(**fields, blobs=blobs)
    if (kind := _TO_ONE.get(row.kind)) is not None:
        return Ask(fields.pop("instance"), kind(**fields), blobs)
    raise ValueError(f"a command of kind {row.kind!r} is in the outbox; a newer release of wfes put it there")
