"""`wfes outbox`: what is refused is listed with its reason, and dropped."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wfes import Engine, Step, workflow
from wfes.cli import main


@workflow
async def plain(number: int, step: Step) -> int:
    return number


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log whose outbox holds a second start of one id."""
    url = f"sqlite:///{tmp_path}/log.db"

    async def make() -> None:
        async with Engine(url, workflows=[plain]) as engine:
            with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
                for number in (1, 2):
                    await plain.start(number, id="same", connection=connection)
                connection.commit()
            while not await engine.outbox(refused=True):
                await asyncio.sleep(0.005)

    asyncio.run(make())
    return url


def wfes(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["--url", url, *words])


def test_it_lists_and_drops(url: str) -> None:
    listed = wfes(url, "outbox")
    assert listed.exit_code == 0
    assert "same" in listed.output
    assert "refused: " in listed.output
    (item,) = json.loads(wfes(url, "outbox", "--refused", "--json").output)["items"]
    assert (item["kind"], item["id"]) == ("start", "same")
    assert "its input is another" in item["error"]["message"]
    dropped = wfes(url, "outbox", "--drop", str(item["number"]))
    assert dropped.output == "nothing in the outbox\n"
    again = wfes(url, "outbox", "--drop", str(item["number"]))
    assert again.exit_code == 1
    assert f"no refused command of number {item['number']}" in again.output
