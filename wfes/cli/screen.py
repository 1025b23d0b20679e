"""Where a command's words go: a terminal with colours and tables, or plain aligned text.

Owns the one decision of how it looks: rich where that is installed and the stream is a terminal, else plain text with
the same words. What a table or a line says is the commands' business. Nothing here wraps or cuts what it prints to a
file or pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from wfes.cli.values import json_text

if TYPE_CHECKING:
    from rich.console import Console

Part = str | tuple[str, str]
"""A piece of a line: text, or text and its style."""

STYLES = {
    "good": "green",
    "bad": "bold red",
    "busy": "cyan",
    "wait": "yellow",
    "dim": "dim",
    "strong": "bold",
}
STATUS_STYLES = {
    "pending": "dim",
    "in_progress": "busy",
    "started": "busy",
    "listening": "wait",
    "waiting": "wait",
    "backoff": "wait",
    "paused": "wait",
    "completed": "good",
    "failed": "bad",
    "timed_out": "bad",
    "interrupted": "wait",
    "aborted": "dim",
    "cancelled": "dim",
}
COLUMN_GAP = "  "
GRID_GAP_CHARS = 3
"""What lies between two columns of a table of rich's."""
FOLDED_CHARS_MIN = 16
"""How narrow a folded column may become."""


class Screen:
    """One stream to print on.

    Args:
        stream: Where to; looked up when the screen is made.
        console: Rich's console, or None for plain text.
    """

    def __init__(self, stream: TextIO, console: Console | None) -> None:
        self.stream = stream
        self.console = console

    def line(self, *parts: Part) -> None:
        """Prints one line made of parts."""
        if self.console is None:
            print("".join(part if isinstance(part, str) else part[0] for part in parts), file=self.stream)
            return
        self.console.print(self.text(*parts), soft_wrap=True, highlight=False)

    def text(self, *parts: Part) -> object:
        """The parts as rich's text; only where there is a console."""
        from rich.text import Text

        text = Text()
        for part in parts:
            words, style = (part, "") if isinstance(part, str) else part
            text.append(words, STYLES.get(style, ""))
        return text

    def pairs(self, pairs: Sequence[tuple[str, Part]]) -> None:
        """Prints names and values, one a line, the values aligned."""
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            self.line((f"{name:<{width}}{COLUMN_GAP}", "dim"), value)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Part]]) -> None:
        """Prints rows under their columns' names. Nothing is cut off: where a terminal is narrow, long texts are
        folded, and where even that is not enough, lines run on into the next."""
        texts = [columns, *([_words(part) for part in row] for row in rows)]
        widths = [max(map(len, cells)) for cells in zip(*texts, strict=True)]
        widest = widths.index(max(widths))
        folded = sum(widths) - widths[widest] + FOLDED_CHARS_MIN + GRID_GAP_CHARS * (len(widths) - 1)
        if self.console is None or folded > self.console.width:
            self._plain_table(columns, rows, widths)
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=number != widest, overflow="fold")
        for row in rows:
            table.add_row(*(self.text(part) for part in row))  # type: ignore[arg-type]
        self.console.print(table)

    def _plain_table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Part]], widths: Sequence[int]
    ) -> None:
        heads: Sequence[Part] = [(column.upper(), "strong") for column in columns]
        for cells in [heads, *rows]:
            filled = max((number for number, cell in enumerate(cells) if _words(cell)), default=-1)
            parts: list[Part] = []
            for number, cell in enumerate(cells[: filled + 1]):
                gap = widths[number] - len(_words(cell)) + len(COLUMN_GAP) if number < filled else 0
                parts += [cell, " " * gap]
            self.line(*parts)

    def json(self, value: object, *, lines: bool = False) -> None:
        """Prints a JSON document, indented, or in one line where several follow one another."""
        print(json_text(value, indent=None if lines else 2), file=self.stream, flush=True)


def _words(part: Part) -> str:
    return part if isinstance(part, str) else part[0]


def screen(stream: TextIO | None = None) -> Screen:
    """The screen for a stream; default: standard output as it is now."""
    out = sys.stdout if stream is None else stream
    if not out.isatty():
        return Screen(out, None)
    try:
        from rich.console import Console
    except ImportError:
        return Screen(out, None)
    return Screen(out, Console(file=out))


def status_part(status: str) -> Part:
    """A status in its colour."""
    return (str(status), STATUS_STYLES.get(str(status), ""))
