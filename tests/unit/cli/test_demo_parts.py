"""The demo's plain functions: modules, counts, the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from wfes.demo.library import Facts, dotted, find_modules, library_folder, read_file, together
from wfes.demo.report import rendered, write_report


def test_modules_and_packages_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text("")
    for file in (
        "pack/__init__.py",
        "pack/sub/__init__.py",
        "pack/tests/test_x.py",
        "test/test_y.py",
        "data/x.py",
    ):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    sources = find_modules(str(tmp_path))
    assert [(source.name, source.files, source.is_package) for source in sources] == [
        ("pack", ["pack/__init__.py", "pack/sub/__init__.py"], True),
        ("single", ["single.py"], False),
    ]
    with pytest.raises(FileNotFoundError):
        find_modules(str(tmp_path / "data" / "none"))


def test_this_machine_has_a_library() -> None:
    names = [source.name for source in find_modules(library_folder())]
    assert {"asyncio", "json", "ast"} <= set(names)
    assert "test" not in names


def test_what_a_file_holds(tmp_path: Path) -> None:
    code = "import os.path, sys\nfrom json import loads\nfrom . import x\n\nclass A:\n    async def f(self): ...\n"
    (tmp_path / "m.py").write_text(code)
    (tmp_path / "bad.py").write_text("def (")
    facts = read_file(str(tmp_path), "m.py")
    assert facts == Facts(name="m", lines=6, functions=1, classes=1, imports=["json", "os", "sys"])
    assert read_file(str(tmp_path), "bad.py") == Facts(name="bad", unreadable=1)
    whole = together("p", [facts, facts])
    assert (whole.files, whole.lines, whole.imports) == (2, 12, ["json", "os", "sys"])
    assert dotted("email/mime/text.py") == "email.mime.text"
    assert dotted("email/__init__.py") == "email"


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    text = rendered([Facts(name="m", lines=1200, imports=["os"])], "3.11.0", "/lib")
    assert "| `m` | 1 | 1,200 | 0 | 0 | 1 |" in text
    assert "| `os` | 1 |" in text
    path = tmp_path / "report.md"
    assert write_report(str(path), text) == len(text.encode())
    assert write_report(str(path), text) == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.md"]
