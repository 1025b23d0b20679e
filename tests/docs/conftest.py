"""What README.md holds, for the tests of it: code blocks with what is to be done with them, and tables.

A comment above a block says how it is tested: `<!-- script -->`, `<!-- run {...} -->`, `<!-- file NAME -->`,
`<!-- tour -->`, `<!-- app -->`, `<!-- session ID -->`, `<!-- launch -->`, `<!-- skip: WHY -->`. A `text` block shows
what the commands above it print.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<what>.*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_CODE_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A code block. ``kind``: what the comment above it says first; ``argument``: the rest."""

    language: str
    kind: str
    argument: str
    code: str
    line: int

    @property
    def options(self) -> dict[str, Any]:
        """The argument as JSON."""
        found: dict[str, Any] = json.loads(self.argument)
        return found


@cache
def blocks() -> tuple[Block, ...]:
    """The code blocks of README.md, in order."""
    text = README.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        kind, _, argument = (match["what"] or "").partition(" ")
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], kind.rstrip(":"), argument, match["code"], line))
    return tuple(found)


def section(title: str) -> str:
    """The text under a heading, up to the next heading of any rank."""
    text = README.read_text(encoding="utf-8")
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"README.md has no section {title!r}"
    return match[1]


def titles() -> list[str]:
    """The headings; a comment of a shell block is none."""
    text = re.sub(r"^```.*?^```$", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.*)$", text, re.MULTILINE)


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    assert len(lines) > 2, f"section {title!r} has no table"
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    return [[cell.strip().replace("\\|", "|") for cell in cells] for cells in split]


def spans(cell: str) -> list[str]:
    """What stands in backquotes in a cell."""
    return _CODE_SPAN.findall(cell)


@dataclass(frozen=True)
class Readme:
    """README.md, for tests that do not import this module."""

    blocks: Callable[[], tuple[Block, ...]] = blocks
    section: Callable[[str], str] = section
    titles: Callable[[], list[str]] = titles
    rows: Callable[[str], list[list[str]]] = rows
    spans: Callable[[str], list[str]] = spans

    def of_kind(self, kind: str) -> list[Block]:
        """The blocks that are tested in this way."""
        return [block for block in blocks() if block.kind == kind]

    def after(self, block: Block) -> str | None:
        """The output shown below a block, if any."""
        everything = blocks()
        at = everything.index(block) + 1
        return everything[at].code if at < len(everything) and everything[at].language == "text" else None

    @property
    def text(self) -> str:
        """All of it."""
        return README.read_text(encoding="utf-8")


@pytest.fixture
def readme() -> Readme:
    return Readme()


@pytest.fixture
def shell(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a reader's shell: `wfes` and this Python are on the path, the log is in the folder."""
    programs = tmp_path.parent / f"{tmp_path.name}-bin"
    programs.mkdir()
    for name, words in (("wfes", "-m wfes "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("WFES_URL", "PYTHONSAFEPATH")}
    return {**kept, "PATH": f"{programs}{os.pathsep}{kept['PATH']}", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `script` or `snippet` runs once for each such block."""
    for argument, kind in (("script", "script"), ("snippet", "run")):
        if argument in metafunc.fixturenames:
            chosen = [block for block in blocks() if block.kind == kind]
            metafunc.parametrize(argument, chosen, ids=[f"line{block.line}" for block in chosen])
