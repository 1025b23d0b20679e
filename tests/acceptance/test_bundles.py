"""Bundles, single steps and wrong usage of the debugger, in real processes."""

from __future__ import annotations

import json
import py_compile
import re
import shutil
import sys
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from debugged import SHOP, Shop, Terminal

from wfes.cli import main


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("shop"))
    made.fill()
    return made


@pytest.fixture(scope="module")
def bundle(shop: Shop) -> Path:
    text = shop.wfes("export", "checkout", "--bundle", "one.wfes")
    assert "23 events, 0 large values, 1 source file," in text
    return shop.folder / "one.wfes"


@contextmanager
def at_terminal(
    shop: Shop, *words: str, folder: Path | None = None, steps: bool = False
) -> Generator[Terminal]:
    terminal = Terminal(shop, *words, folder=folder, steps=steps)
    try:
        yield terminal
    finally:
        terminal.child.close(force=True)


# -- bundles ---------------------------------------------------------------------------------------------------------


def test_a_bundle_works_where_there_is_neither_log_nor_code_after_asking(
    shop: Shop, bundle: Path, tmp_path: Path
) -> None:
    there = shutil.copy(bundle, tmp_path / "theirs.wfes")
    with at_terminal(shop, "debug", str(there), "--at", "4", folder=tmp_path) as terminal:
        asked = terminal.until(r"run it\? \[y/N\]: ")
        assert "would be run from the source in the bundle (shop.py)" in asked
        terminal.child.sendline("y")
        opened = terminal.prompt()
        assert "event 4 of 23: StepCompleted  price" in opened
        assert '-> cost = await step("price", price, item)' in opened
        assert terminal.ask("p item").strip() == "'tea'"
        assert "the handler has returned 210" in terminal.ask("goto end")
        assert terminal.quit() == 0
    with at_terminal(shop, "debug", str(there), folder=tmp_path) as terminal:
        terminal.until(r"run it\? \[y/N\]: ")
        terminal.child.sendline("n")
        assert terminal.ended()[0] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["theirs.wfes"]


def test_a_bundle_is_debugged_with_the_code_here_and_says_what_differs(
    shop: Shop, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP.replace("total = 0", "total = 0  # changed"))
    with at_terminal(shop, "debug", str(bundle), "--at", "4", folder=tmp_path) as terminal:
        opened = terminal.prompt()
        assert "differs: the handler's source" in opened
        assert "--trust runs the source in the bundle" in opened
        assert str(tmp_path / "shop.py") in opened
        assert terminal.quit() == 0
    with at_terminal(shop, "debug", str(bundle), "--at", "4", "--trust", folder=tmp_path) as terminal:
        opened = terminal.prompt()
        assert "differs: the handler's source" not in opened
        assert "wfes-bundle-" in opened
        assert terminal.quit() == 0


def test_a_bundle_says_what_it_was_made_with(shop: Shop, bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as file:
        assert file.read("source/shop.py").decode() == SHOP
        manifest = json.loads(file.read("manifest.json"))
    assert manifest["instance"] == "checkout"
    assert manifest["module"] == "shop"
    assert manifest["codes"][0]["digest"] == manifest["digest"]
    assert re.match(r"3\.\d+\.\d+", manifest["python"])
    assert "pydantic" in manifest["packages"]


def test_a_bundle_without_source_says_so(shop: Shop, tmp_path: Path) -> None:
    shutil.copy(shop.log, tmp_path / "shop.db")
    other = Shop(tmp_path)
    (tmp_path / "shop.py").unlink()
    text = other.wfes("export", "broken", "--bundle", "b.wfes", "--json")
    assert "the bundle has no source of the handler" in text
    facts = json.loads(text[text.index("{") :])
    assert facts["sources"] == []
    assert facts["events"] == 7
    refused = other.wfes("debug", "b.wfes", "--listen", "5678", code=2)
    assert "and the bundle has no source of it: say its module" in refused


# -- one step, for real ----------------------------------------------------------------------------------------------


def test_into_runs_a_steps_function_after_asking_and_records_nothing(shop: Shop) -> None:
    before = shop.digest()
    with at_terminal(shop, "debug", "checkout", "--into", "price#2", steps=True) as terminal:
        asked = terminal.until(r"run it\? \[y/N\]: ")
        assert "step 'price#2' of instance checkout" in asked
        assert "shop.price('cup')" in asked
        assert "real effects" in asked
        terminal.child.sendline("y")
        assert '-> if "NO_STEPS" in os.environ:' in terminal.until(r"\(wfes step\) ")
        terminal.child.sendline("n")
        assert "-> amount = len(item) * 10" in terminal.until(r"\(wfes step\) ")
        terminal.child.sendline("p item")
        assert "'cup'" in terminal.until(r"\(wfes step\) ")
        terminal.child.sendline("c")
        code, text = terminal.ended()
        assert code == 0
        assert "it returned 30; nothing is recorded" in text
    assert shop.digest() == before


def test_into_asks_and_no_means_no(shop: Shop) -> None:
    with at_terminal(shop, "debug", "checkout", "--into", "price") as terminal:
        terminal.until(r"run it\? \[y/N\]: ")
        terminal.child.sendline("")
        code, text = terminal.ended()
        assert code == 1
        assert "nothing was run" in text


def test_into_an_async_function_gives_it_the_recorded_results_of_inner_steps(shop: Shop) -> None:
    # Its inner step's function would fail; it is not called.
    with at_terminal(shop, "debug", "nested", "--into", "outer", "--yes") as terminal:
        assert '-> inner = await step("inner"' in terminal.until(r"\(wfes step\) ")
        terminal.child.sendline("n")
        assert "-> return inner + 1" in terminal.until(r"\(wfes step\) ")
        terminal.child.sendline("p inner")
        assert "30" in terminal.until(r"\(wfes step\) ")
        terminal.child.sendline("q")
        code, text = terminal.ended()
        assert code == 0
        assert "left in the middle; nothing is recorded" in text


def test_into_says_what_there_is(shop: Shop) -> None:
    with at_terminal(shop, "debug", "checkout", "--into", "nope", "--yes") as terminal:
        code, text = terminal.ended()
        assert code == 1
        assert "has no step 'nope'; the steps that have begun: price, price#2, left" in text
    with at_terminal(shop, "debug", "nested", "--into", "outer/inner", "--yes") as terminal:
        code, text = terminal.ended()
        assert code == 1
        assert "it lies inside step 'outer', whose function calls it" in text


# -- wrong usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (
            ["debug", "checkout", "--at", "24", "--listen", "1"],
            1,
            "has no version 24: its versions are 1 to 23",
        ),
        (["debug", "nobody", "--listen", "1"], 1, "there is no instance with the id 'nobody'"),
        (["debug", "checkout"], 2, "this is not a terminal; --listen PORT"),
        (["debug", "checkout", "--listen", "80x"], 2, "'80x' is no place to listen: PORT or HOST:PORT"),
        (["debug", "checkout", "--listen", "1", "--into", "price"], 2, "--into has a prompt of its own"),
        (["debug", "checkout", "--listen", "1", "--yes"], 2, "--yes goes with --into"),
        (["debug", "checkout", "--listen", "1", "--trust"], 2, "--trust goes with a bundle"),
        (["debug", "checkout", "--module", "shoop", "--listen", "1"], 2, "there is no module 'shoop'"),
        (
            ["debug", "checkout", "--module", "wfes.demo.inventory", "--listen", "1"],
            2,
            "no workflow 'checkout' in wfes.demo.inventory; there: stdlib-inventory",
        ),
        (["debug", "nowhere.wfes", "--listen", "1"], 1, "there is no file 'nowhere.wfes'"),
        (
            ["debug", "shop.py", "--listen", "1"],
            1,
            "shop.py is no bundle that can be read: File is not a zip file",
        ),
        (["export", "checkout"], 2, "say what is to be written: --bundle FILE"),
        (["export", "nobody", "--bundle", "n.wfes"], 1, "there is no instance with the id 'nobody'"),
    ],
)
def test_wrong_usage_is_said_in_a_line(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, text: str
) -> None:
    monkeypatch.chdir(shop.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name == "shop"]:
        monkeypatch.delitem(sys.modules, name)
    result = CliRunner().invoke(main, words, env={"WFES_URL": "sqlite:///shop.db"})
    sys.modules.pop("shop", None)
    assert text in result.output
    assert result.exit_code == code


def test_a_handler_that_cannot_be_imported_and_one_whose_source_is_gone(shop: Shop, tmp_path: Path) -> None:
    shutil.copy(shop.log, tmp_path / "shop.db")
    other = Shop(tmp_path)
    (tmp_path / "shop.py").write_text("import nothing_like_that\n")
    refused = other.wfes("debug", "broken", "--listen", "5678", code=2)
    assert "the module 'shop' cannot be imported: ModuleNotFoundError" in refused
    (tmp_path / "shop.py").unlink()
    refused = other.wfes("debug", "broken", "--listen", "5678", code=2)
    assert "the handler of workflow 'broken' was run from the module 'shop', which is not in" in refused
    assert "--module shop imports it" in refused
    # Python can run what it has compiled: the prompt works, without source lines.
    (tmp_path / "shop.py").write_text(SHOP)
    py_compile.compile(str(tmp_path / "shop.py"), cfile=str(tmp_path / "shop.pyc"))
    (tmp_path / "shop.py").unlink()
    with at_terminal(other, "debug", "broken", "--module", "shop") as terminal:
        opened = terminal.prompt()
        assert "the source of shop.broken is gone" in opened
        assert terminal.ask("p card").strip() == "'4711'"
        assert terminal.quit() == 0
