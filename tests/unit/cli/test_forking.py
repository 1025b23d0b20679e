"""`wfes fork`: what it says, what it makes, what it refuses."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wfes import Engine
from wfes.cli import main

SHOP = """
from wfes import Step, workflow

def look_up(item: str) -> int:
    return 10

@workflow
async def shop(item: str, step: Step) -> int:
    price = await step("price", look_up, item)
    await step.sleep("rest", 0)
    return price + await step("tax", abs, -1)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder with a module and a log in which the instance `i-1` has ended."""
    (tmp_path / "forked_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("WFES_URL", f"sqlite:///{tmp_path}/log.db")
    importlib.invalidate_caches()
    asyncio.run(_run(_shop()))
    yield tmp_path
    sys.modules.pop("forked_shop", None)


def _shop() -> Any:
    return importlib.import_module("forked_shop").shop


async def _run(shop: Any) -> None:
    async with Engine(workflows=[shop]) as engine:
        await (await engine.start(shop, "tea", id="i-1")).result()


async def _result(shop: Any, id: str) -> Any:
    async with Engine(workflows=[shop]) as engine:
        return await (await engine.get(id)).result(timeout=10)


def fork(*words: str) -> Result:
    return CliRunner().invoke(main, ["fork", "i-1", *words])


def history() -> list[Any]:
    async def read() -> list[Any]:
        async with Engine(worker=False) as engine:
            return list((await engine.instances()).items)

    return asyncio.run(read())


def test_a_dry_run_records_nothing(place: Path) -> None:
    done = fork("--at", "5", "--set", "price=4", "--dry-run")
    assert done.exit_code == 0
    assert "would fork shop i-1 at 5; nothing is recorded" in done.output
    assert "version 5 is void" in done.output
    lines = {line[:14].strip(): line[14:].partition(",")[0] for line in done.output.splitlines()}
    assert (lines["changed"], lines["runs again"]) == ("step price", "step tax")
    data = json.loads(fork("--at", "5", "--dry-run", "--json").output)
    assert (data["dry_run"], data["id"], data["plan"]["at"]) == (True, None, 5)
    assert {part["path"]: part["what"] for part in data["plan"]["parts"]} == {
        "price": "kept",
        "rest": "open",
        "tax": "again",
    }
    assert len(history()) == 1


def test_values_that_cannot_be_checked_are_told(place: Path) -> None:
    def wrong() -> Result:
        return fork("--at", "5", "--set", 'price="cheap"', "--dry-run")

    assert "does not fit the type" in wrong().output
    sys.modules.pop("forked_shop", None)
    (place / "forked_shop.py").unlink()
    done = wrong()
    assert done.exit_code == 0
    assert "types of new values are not checked: the handler of workflow 'shop'" in done.stderr


def test_a_fork(place: Path) -> None:
    done = fork("--at", "5", "--set", "price=4", "--id", "f-1")
    assert done.exit_code == 0, done.output
    assert "forked shop i-1 at 5: f-1" in done.output
    assert asyncio.run(_result(_shop(), "f-1")) == 5
    shown = CliRunner().invoke(main, ["show", "f-1"]).output
    assert "fork of   i-1 at 5" in shown
    assert "forked    at 5 as f-1" in CliRunner().invoke(main, ["show", "i-1"]).output
    assert json.loads(CliRunner().invoke(main, ["show", "i-1", "--json"]).output)["forks"][0]["id"] == "f-1"
    told = CliRunner().invoke(main, ["history", "f-1"]).output
    assert "price → 4  (changed)" in told
    assert "HistoryForked" in told
    assert fork("--at", "5", "--input", '"cup"', "--id", "f-2").exit_code == 0
    assert asyncio.run(_result(_shop(), "f-2")) == 11
    assert fork("--at", "9", "--drop", "8", "--by-path", "--id", "f-3").exit_code == 0
    assert asyncio.run(_result(_shop(), "f-3")) == 11


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--at", "99"], 1, "cannot be forked at 99: its history has the versions 1 to"),
        (["--at", "2000-01-01T00:00:00Z"], 1, "it was started later"),
        (
            ["--at", "5", "--set", "prize=4"],
            1,
            "there is no step or wait 'prize' in its history; there is 'price'",
        ),
        (
            ["--at", "5", "--set", 'price="much"'],
            1,
            "the result of 'price' does not fit the type declared there",
        ),
        (["--at", "5", "--input", "[]"], 1, "input does not fit"),
        (["--at", "5", "--drop", "2"], 1, "version 2 is RunClaimed, which cannot be dropped"),
        (["--at", "5", "--set", "price"], 2, "is not PATH=JSON"),
        (["--at", "5", "--set", "price=x"], 2, "is no JSON"),
        (["--at", "5", "--set", "price=4", "--module", "nowhere"], 2, "nowhere"),
        (["--at", "x"], 2, "neither a version"),
        ([], 2, "--at"),
    ],
)
def test_refused(place: Path, words: list[str], code: int, said: str) -> None:
    done = fork(*words)
    assert done.exit_code == code, done.output
    assert said in done.output
    assert len(history()) == 1
