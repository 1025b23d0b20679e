"""`wfes projections`: what it lists, looks after and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wfes import Engine
from wfes.cli import main

MODULE = """
from wfes import Projection, Row, on, workflow

class Total(Row, table="totals", key="workflow"):
    workflow: str
    count: int = 0

class Totals(Projection):
    name = "totals"
    tables = (Total,)
    fails = False

    @on("WorkflowCompleted")
    def completed(self, event, rows):
        if self.fails:
            raise ValueError("not this one")
        row = rows.get(Total, event.workflow) or Total(event.workflow)
        row.count += 1
        rows.put(row)

class Apart(Totals):
    name = "apart"

apart = Apart(url="sqlite:///apart.db")

@workflow
async def hello() -> str:
    return "hello"
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with projections, and a log with three instances that both have counted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WFES_URL", raising=False)
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module = __import__(name)

    async def fill() -> None:
        async with Engine(workflows=[module.hello], projections=[module.Totals, module.apart]) as engine:
            for _ in range(3):
                await (await module.hello.start()).result()
            for status in await engine.projections():
                if status.name in ("totals", "apart"):
                    await engine.rebuild_projection(status.name)

    asyncio.run(fill())
    yield module
    sys.modules.pop(name)


def wfes(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def found(*words: str) -> Any:
    result = wfes(*words, "--json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_listing_changes_nothing(shop: Any) -> None:
    before = sqlite3.connect("wfes.db").execute("SELECT * FROM wfes_projections").fetchall()
    listed = {each["name"]: each for each in found("projections", "--module", shop.__name__)}
    assert (listed["totals"]["kind"], listed["totals"]["status"], listed["totals"]["lag"]) == (
        "following",
        "live",
        0,
    )
    assert listed["apart"]["url"] == "sqlite:///apart.db"
    assert listed["wfes_instances"]["kind"] == "state"
    assert {each["name"]: each["kind"] for each in found("projections")}["totals"] == "unknown"
    text = wfes("projections", "--module", shop.__name__).output
    assert "totals" in text
    assert "following" in text
    assert sqlite3.connect("wfes.db").execute("SELECT * FROM wfes_projections").fetchall() == before
    assert found("projections", "lag")["totals"]["events"] == 0
    assert found("projections", "show", "totals")["version"] == 1
    assert "version" in wfes("projections", "show", "totals").output


def test_check_and_rebuild(shop: Any) -> None:
    for name, file in (("totals", "wfes.db"), ("apart", "apart.db")):
        words = (name, "--module", shop.__name__)
        assert wfes("projections", "check", *words).exit_code == 0
        database = sqlite3.connect(file)
        database.execute("UPDATE totals SET count = 9")
        database.commit()
        database.close()
        result = wfes("projections", "check", *words)
        assert result.exit_code == 1
        assert "count is 9, not 3" in result.output
        assert wfes("projections", "check", "--all", "--module", shop.__name__).exit_code == 1
        (report,) = found("projections", "check", *words)
        assert (report["ok"], report["different"]) == (False, 1)
        assert found("projections", "rebuild", *words)["status"] == "live"
        assert "is built anew" in wfes("projections", "rebuild", *words).output
        assert wfes("projections", "check", *words).exit_code == 0
    assert wfes("projections", "check", "--all", "--module", shop.__name__).exit_code == 0
    result = wfes("projections", "check", "--all")
    assert result.exit_code == 1
    reports = json.loads(wfes("projections", "check", "--all", "--json").stdout)
    assert {report["name"]: report["ok"] for report in reports}["totals"] is None
    assert all(report["ok"] for report in reports if report["name"] != "totals")
    assert "totals: not checked" in result.output
    assert "wfes_instances" in result.output
    assert wfes("projections", "rebuild", "wfes_instances").exit_code == 0


def test_a_stopped_one_is_shown_and_tried_again(shop: Any) -> None:
    database = sqlite3.connect("wfes.db")
    database.execute(
        "UPDATE wfes_projections SET status = 'stopped', error = 'ValueError: no', error_position = 3 "
        "WHERE name = 'totals'"
    )
    database.commit()
    text = wfes("projections").output
    assert "stopped" in text
    assert "at 3: ValueError: no" in text
    assert found("projections", "retry", "totals") == {"name": "totals", "retried": True}
    assert database.execute(
        "SELECT status, error FROM wfes_projections WHERE name = 'totals'"
    ).fetchall() == [("live", None)]
    database.close()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["check"], 2, "the name of a projection, or --all"),
        (["check", "x", "--all"], 2, "the name of a projection, or --all"),
        (["check", "nothing"], 1, "no projection 'nothing'; it has 'wfes_activity', "),
        (["rebuild", "nothing"], 1, "'wfes_instances', "),
        (["rebuild", "totals"], 1, "no projection 'totals'"),
        (["retry", "nothing"], 1, "no projection 'nothing'"),
        (["show", "nothing"], 1, "no projection 'nothing'"),
        (["rebuild", "x", "--module", "no_such_module"], 2, "there is no module 'no_such_module'"),
        (["lag", "--module", "json"], 2, "the module 'json' has no projection"),
    ],
)
def test_wrong_usage(shop: Any, words: list[str], code: int, said: str) -> None:
    result = wfes("projections", *words)
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_one_projection_of_a_module(shop: Any) -> None:
    listed = {
        each["name"]: each["kind"] for each in found("projections", "--module", f"{shop.__name__}:Totals")
    }
    assert listed["totals"] == "following"
    assert "apart" not in listed


def test_drop_removes_what_nobody_follows(shop: Any) -> None:
    def ask(*words: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, ["projections", "drop", *words], input=input)

    def tables(file: str) -> set[str]:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            return {
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }

    for words, says in {
        ("nothing", "--yes"): "no projection 'nothing'",
        ("wfes_instances", "--yes"): "cannot be dropped: it comes with wfes",
        ("wfes_statistics", "--yes"): "cannot be dropped: it comes with wfes",
        ("apart", "--yes"): "no projection 'apart'",
    }.items():
        found = ask(*words)
        assert found.exit_code == 1, found.output
        assert says in found.stderr
    assert ask("totals", input="n\n").exit_code == 1
    assert ask("totals").exit_code == 1, "nobody answers"
    assert "totals" in tables("wfes.db")

    found = ask("totals", input="y\n")
    assert (found.exit_code, found.stdout) == (0, "totals is dropped\n"), found.output
    assert "totals" not in tables("wfes.db")
    assert ask("totals", "--yes").exit_code == 1, "it is gone"
    found = ask("apart", "--yes", "--json", "--module", shop.__name__)
    assert json.loads(found.stdout) == {"name": "apart", "dropped": True}
    assert "totals" not in tables("apart.db")
    listed = CliRunner().invoke(main, ["projections", "--json"])
    assert not {"totals", "apart"} & {row["name"] for row in json.loads(listed.stdout)}
