"""`wfes ls` and `wfes show` say why an instance is held."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner

from wfes import Concurrency, Step, testing, workflow
from wfes.cli import main
from wfes.cli.workers import NO_WORKER

WHY = 'waits for a free slot: concurrency is limited for each number, here "7"'


@workflow(concurrency=Concurrency(1, key="number"))
async def one_each(given: dict[str, str], step: Step) -> None:
    await step.listen("go")


def test_who_is_held_says_why(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"

    def wfes(*words: str) -> str:
        found = CliRunner().invoke(main, ["--url", url, *words])
        assert found.exit_code == 0, found.output
        return found.output

    async def run() -> None:
        async with testing.engine([one_each], url=url) as env:
            for number in (1, 2):
                await one_each.start({"number": "7"}, id=f"i{number}")
            await env.settle()
            lines = await asyncio.to_thread(wfes, "ls")
            assert [WHY in line for line in lines.splitlines() if "one-each" in line] == [True, False]
            assert WHY in await asyncio.to_thread(wfes, "show", "i2")
            listed = json.loads(await asyncio.to_thread(wfes, "ls", "--json"))
            assert [row["reason"] for row in listed["items"]] == [WHY, None]
            shown = json.loads(await asyncio.to_thread(wfes, "show", "i2", "--json"))
            assert shown["reason"] == WHY
            assert NO_WORKER not in lines
            assert "SlotGranted" not in await asyncio.to_thread(wfes, "history", "i2")

    asyncio.run(run())
    # Nobody is there to take it, whatever else it waits for.
    lines = wfes("ls").splitlines()
    assert [NO_WORKER in line for line in lines if "one-each" in line] == [True, True]
    assert WHY not in wfes("ls")
    assert WHY in wfes("show", "i2")
