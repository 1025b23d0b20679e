"""The inventory as a Markdown report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wfes.demo.library import Facts

TOP = 15


def rendered(facts: list[Facts], python: str, folder: str) -> str:
    """The report's text; the same facts always give the same text.

    Args:
        facts: One entry a module.
        python: The interpreter's version.
        folder: Where the library lies.
    """
    imported = Counter(name for module in facts for name in module.imports)
    unreadable = sum(module.unreadable for module in facts)
    lines = [
        f"# The standard library of Python {python}",
        "",
        f"An inventory of `{folder}`, without tests and programs, made by a `wfes` workflow.",
        "",
        *_table(
            ["modules", "files", "lines", "functions", "classes"],
            [
                [
                    len(facts),
                    sum(module.files for module in facts),
                    sum(module.lines for module in facts),
                    sum(module.functions for module in facts),
                    sum(module.classes for module in facts),
                ]
            ],
        ),
        *([f"{unreadable} files could not be parsed.", ""] if unreadable else []),
        "## The largest",
        "",
        *_table(["module", *_COLUMNS], [_row(module) for module in _sorted(facts, "lines")[:TOP]]),
        "## The most classes",
        "",
        *_table(["module", *_COLUMNS], [_row(module) for module in _sorted(facts, "classes")[:TOP]]),
        "## The most imported",
        "",
        *_table(
            ["module", "imported by"],
            [
                [f"`{name}`", count]
                for name, count in sorted(imported.items(), key=lambda it: (-it[1], it[0]))[:TOP]
            ],
        ),
        "## All of them",
        "",
        *_table(["module", *_COLUMNS], [_row(module) for module in facts]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def write_report(path: str, text: str) -> int:
    """Writes the report, whole or not at all; gives its size in bytes. Doing it twice does no harm."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    content = text.encode()
    partial.write_bytes(content)
    partial.replace(target)
    return len(content)


_COLUMNS = ["files", "lines", "functions", "classes", "imports"]


def _sorted(facts: list[Facts], by: str) -> list[Facts]:
    return sorted(facts, key=lambda module: (-int(getattr(module, by)), module.name))


def _row(module: Facts) -> list[str | int]:
    counts = [module.files, module.lines, module.functions, module.classes, len(module.imports)]
    return [f"`{module.name}`", *counts]


def _table(columns: list[str], rows: Sequence[Sequence[str | int]]) -> list[str]:
    head = f"| {' | '.join(columns)} |"
    line = f"| {' | '.join('---' if number == 0 else '---:' for number in range(len(columns)))} |"
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    return [head, line, *(f"| {' | '.join(row)} |" for row in cells), ""]
