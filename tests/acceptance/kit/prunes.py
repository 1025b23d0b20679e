"""What child processes of the retention tests do: ``python prunes.py FOLDER`` archives everything that has ended.

``WFES_FAULT`` says at which commit it is killed; ``WFES_TORN=N`` kills it after N bytes of what it writes to a file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from places import url_of

from wfes import Engine
from wfes.log import archive, faults
from wfes.runtime import pruning


def tear(after: int) -> None:
    """Lets the process die in the middle of writing to the archive."""
    real = archive._write
    left = [after]

    def write(fd: int, content: bytes, at: int) -> None:
        part = content[: left[0]]
        left[0] -= len(part)
        real(fd, part, at)
        if len(part) < len(content):
            os.kill(os.getpid(), signal.SIGKILL)

    archive._write = write


async def main(folder: Path) -> None:
    with faults.installed():
        engine = Engine(url_of(folder), worker=False)
    async with engine:
        pruned = await engine.prune(older_than=0)
    print(pruned.instances)


if __name__ == "__main__":
    pruning.INSTANCES_MAX = 4
    pruning.BLOCK_BYTES = 1_500
    if "WFES_TORN" in os.environ:
        tear(int(os.environ["WFES_TORN"]))
    asyncio.run(main(Path(sys.argv[1])))
