"""Instances and requests named on a command line: a whole id, or enough of its start or end.

Ids made by the engine begin with the time, so that those of one day look alike; their last characters tell them apart
sooner, and are accepted as well as the first.
"""

from __future__ import annotations

from typing import Any

from wfes.cli.app import Failure
from wfes.engine import Engine
from wfes.errors import InstanceNotFound
from wfes.instance import Instance
from wfes.views import DataRequest
from wfes.workflow import Workflow

PART_CHARS_MIN = 6
SEARCHED_MAX = 20_000
PAGE = 1_000
LISTED_MAX = 8


async def find_instance(engine: Engine, text: str) -> Instance[Any]:
    """The instance with this id, or the only one whose id begins or ends like this (6 characters or more).

    Raises:
        InstanceNotFound: There is none.
        Failure: There are several.
    """
    try:
        return await Workflow.get(text)
    except InstanceNotFound:
        if len(text) < PART_CHARS_MIN:
            raise
    found = await _ids_like(engine, text)
    if not found:
        raise InstanceNotFound(text)
    if len(found) > 1:
        listed = ", ".join(found[:LISTED_MAX]) + (", …" if len(found) > LISTED_MAX else "")
        raise Failure(f"{text!r} fits {len(found)} instances, give more of the id: {listed}")
    return await Workflow.get(found[0])


async def _ids_like(engine: Engine, text: str) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    for _ in range(SEARCHED_MAX // PAGE):
        page = await engine.instances(limit=PAGE, cursor=cursor)
        found.extend(row.id for row in page.items if row.id.startswith(text) or row.id.endswith(text))
        cursor = page.cursor
        if cursor is None:
            break
    return found


async def all_requests(engine: Engine, workflow: str | None = None) -> list[DataRequest]:
    """Every open request."""
    found: list[DataRequest] = []
    cursor: str | None = None
    while True:
        page = await engine.requests(workflow=workflow, limit=PAGE, cursor=cursor)
        found.extend(page.items)
        cursor = page.cursor
        if cursor is None:
            return found


async def find_request(engine: Engine, text: str, name: str | None) -> DataRequest:
    """The open request named by its own id, or by its instance's id and its name.

    Args:
        engine: An open engine.
        text: The request's id, or its instance's (or a part of that).
        name: The request's name; None where `text` is the request's own id.

    Raises:
        InstanceNotFound: There is no such instance.
        Failure: No such request is open, or several of this name are.
    """
    open_requests = await all_requests(engine)
    for request in open_requests:
        if request.id == text and name in (None, request.name):
            return request
    if name is None:
        raise Failure(f"no open request has the id {text!r}; `wfes requests` lists the open ones")
    instance = await find_instance(engine, text)
    its = [request for request in open_requests if request.instance == instance.id]
    fitting = [request for request in its if request.name == name or request.id == name]
    if not fitting:
        others = ", ".join(sorted({request.name for request in its})) or "none"
        raise Failure(
            f"instance {instance.id} has no open request {name!r}; open there: {others}; it is {instance.status}"
        )
    if len(fitting) > 1:
        ids = ", ".join(request.id for request in fitting)
        raise Failure(
            f"instance {instance.id} has {len(fitting)} open requests named {name!r}; give one's own id: {ids}"
        )
    return fitting[0]
