"""Makes ``corpus.gz``: histories of every workflow of the corpus, which today's code must reproduce for ever.

Run as a script, it runs the corpus to its ends and writes the file beside it. What is there stays: histories are added
when the corpus gets a workflow, and the file is never made anew, or it would say nothing about older releases.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "acceptance" / "kit"))

import corpus
import driver
from places import url_of

from wfes import Engine
from wfes.timetravel.histories import read_histories, write_histories
from wfes.timetravel.recording import Recording, read_recording

FILE = Path(__file__).with_name("corpus.gz")


async def made(folder: Path) -> list[Recording]:
    """The corpus, run to its ends in a folder."""
    wrong = await driver.drive(folder, list(driver.CASES))
    assert not wrong, wrong
    async with Engine(url_of(folder), worker=False) as engine:
        rows = (await engine.instances(limit=1000, order="oldest")).items
        return [read_recording(engine._log, row.id) for row in rows]


def main() -> None:
    """Adds histories of the workflows that the file has none of."""
    kept = read_histories(FILE) if FILE.exists() else []
    known = {recording.started.workflow for recording in kept}
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(made(Path(folder)))
    new = [recording for recording in found if recording.started.workflow not in known]
    write_histories(FILE, [*kept, *new])
    names = {recording.started.workflow for recording in [*kept, *new]}
    missing = {workflow.name for workflow in corpus.WORKFLOWS} - names
    print(
        f"{len(kept)} kept, {len(new)} added, {FILE.stat().st_size:,} bytes; without a history: {missing or 'none'}"
    )


if __name__ == "__main__":
    main()
