"""The same words with and without rich."""

from __future__ import annotations

import io
import sys

import pytest

from wfes.cli.screen import Screen, screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_plain_aligned_text() -> None:
    out = screen(io.StringIO())
    out.table(["id", "status"], [["a", ("completed", "good")], ["longer", "failed"]])
    out.pairs([("id", ("a", "strong")), ("workflow", "shop")])
    out.line("a ", ("b", "bad"))
    assert isinstance(out.stream, io.StringIO)
    assert out.stream.getvalue().splitlines() == [
        "ID      STATUS",
        "a       completed",
        "longer  failed",
        "id        a",
        "workflow  shop",
        "a b",
    ]


def test_a_terminal_gets_rich() -> None:
    pytest.importorskip("rich")
    out = screen(Terminal())
    assert out.console is not None
    out.line("[not markup] ", ("b", "bad"))
    out.table(["id", "what"], [["a", "[x]"]])
    assert isinstance(out.stream, Terminal)
    assert "[not markup] " in out.stream.getvalue()
    assert "[x]" in out.stream.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_a_narrow_terminal_loses_nothing(width: int) -> None:
    out = screen(Terminal())
    if out.console is None:
        pytest.skip("rich is not installed")
    out.console.width = width
    words = [f"word{number}" for number in range(12)]
    out.table(["instance", "what", "since"], [["01m81qatna5z", " ".join(words), "13:32:41"]])
    assert isinstance(out.stream, Terminal)
    shown = out.stream.getvalue()
    for whole in ("01m81qatna5z", "13:32:41", *words):
        assert whole in shown


def test_a_terminal_without_rich_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    out = screen(Terminal())
    assert out.console is None


def test_json_lines_and_documents() -> None:
    stream = io.StringIO()
    out = Screen(stream, None)
    out.json({"a": [1]}, lines=True)
    out.json({"a": 1})
    assert stream.getvalue() == '{"a": [1]}\n{\n  "a": 1\n}\n'
