"""A worker for the demo in a process of its own: `python -m wfes.demo.worker URL [--die]`.

With `--die` it sends itself SIGKILL, which nothing can catch or clean up after, as soon as half of the inventory's
modules are recorded. Without, it works until it is told to stop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from wfes import Engine
from wfes.demo.inventory import WORKFLOWS

GROUP = "modules/"
DIE = "--die"


async def work(url: str, *, die: bool) -> None:
    """Runs the demo's workflows until SIGTERM, or until the moment to die."""
    async with Engine(url, workflows=list(WORKFLOWS)) as engine:
        watching = asyncio.create_task(_die_halfway(engine)) if die else None
        try:
            await engine.run_forever()
        finally:
            if watching is not None:
                watching.cancel()


async def _die_halfway(engine: Engine) -> None:
    """Dies once half of what `find modules` found of the newest inventory is done."""
    halves: dict[str, int] = {}
    done: dict[str, int] = {}
    position = (await engine.instances(limit=1)).position
    active = await engine.instances(workflow="stdlib-inventory", limit=1)
    first = [(await (await engine.get(None, row.id)).history(0, 1))[0].position - 1 for row in active.items]
    async for event in engine.events(after=min([position, *first])):
        if event.type != "StepCompleted":
            continue
        path = str(event.data["path"])
        if path == "find modules":
            halves[event.instance] = len(event.data["result"]) // 2
        elif path.startswith(GROUP) and path.count("/") == 1:
            done[event.instance] = done.get(event.instance, 0) + 1
            if done[event.instance] >= halves.get(event.instance, sys.maxsize):
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """The process."""
    asyncio.run(work(sys.argv[1], die=DIE in sys.argv[2:]))


if __name__ == "__main__":
    main()
