"""Workflows by name, and what is said of names that are none."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

from wfes import Engine
from wfes.cli.loading import load_workflow, load_workflows

SHOP = """
from wfes import workflow

@workflow
async def check_out(order: int) -> int:
    return order

@workflow(name="other-name")
async def second() -> None:
    pass

again = second
number = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_by_attribute_and_by_own_name(folder: Path) -> None:
    (folder / "cli_shop_a.py").write_text(SHOP)
    wanted, known = load_workflow("cli_shop_a:check_out")
    assert wanted.name == "check-out"
    assert [workflow.name for workflow in known] == ["check-out", "other-name"]
    assert load_workflow("cli_shop_a:check-out")[0] is wanted
    assert load_workflow("cli_shop_a:other-name")[0].name == "other-name"


def test_several_modules_each_workflow_once(folder: Path) -> None:
    (folder / "cli_shop_b.py").write_text(SHOP)
    (folder / "cli_more.py").write_text("from cli_shop_b import check_out")
    found = load_workflows(["cli_shop_b", "cli_more"])
    assert [workflow.name for workflow in found] == ["check-out", "other-name"]
    assert [workflow.name for workflow in load_workflows(["cli_shop_b:second"])] == ["other-name"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cli_shop_c", "write MODULE:WORKFLOW"),
        ("cli_shop_c:nothing", "has no workflow 'nothing'; it has: check-out, other-name"),
        ("cli_shop_c:number", "is a int, not a workflow"),
        ("cli_nowhere:x", "there is no module 'cli_nowhere'"),
        ("cli_shop_c.py:x", "is a file's name; the module's is wanted: cli_shop_c"),
        (
            "cli_bad_import:x",
            "'cli_bad_import' cannot be imported: ModuleNotFoundError: No module named 'not_there'",
        ),
        ("cli_bad_code:x", "ZeroDivisionError: division by zero"),
        ("cli_bad_syntax:x", "SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_named(folder: Path, name: str, said: str) -> None:
    (folder / "cli_shop_c.py").write_text(SHOP)
    (folder / "cli_bad_import.py").write_text("import not_there")
    (folder / "cli_bad_code.py").write_text("x = 1\ny = x / 0")
    (folder / "cli_bad_syntax.py").write_text("def x(:")
    with pytest.raises(click.UsageError) as refused:
        load_workflow(name)
    assert said in refused.value.message
    if name == "cli_bad_code:x":
        assert "cli_bad_code.py, line 2" in refused.value.message


def test_a_module_without_workflows(folder: Path) -> None:
    (folder / "cli_empty.py").write_text("")
    with pytest.raises(click.UsageError, match="has no workflow"):
        load_workflows(["cli_empty"])


@pytest.mark.parametrize(
    "opened",
    [
        "async def main():\n    async with Engine('sqlite://'):\n        ran.append(1)\nasyncio.run(main())\n",
        "with Engine('sqlite://'):\n    ran.append(1)\n",
    ],
)
def test_a_program_that_runs_when_it_is_imported_is_refused_before_it_does(folder: Path, opened: str) -> None:
    head = "import asyncio\nfrom wfes import Engine\nran = []\n"
    (folder / "cli_program.py").write_text(SHOP + head + opened)
    with pytest.raises(
        click.UsageError, match="'cli_program' opens an engine while it is imported"
    ) as refused:
        load_workflow("cli_program:check_out")
    line = (SHOP + head + opened).split("\n").index(next(t for t in opened.split("\n") if "with" in t)) + 1
    assert 'if __name__ == "__main__":' in refused.value.message
    assert f"cli_program.py, line {line})" in refused.value.message
    (folder / "cli_program.py").unlink()
    with Engine("sqlite://", worker=False):  # and only then
        pass
