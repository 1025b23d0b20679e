"""The Python standard library as data: which modules it has, and what one source file holds.

Plain functions without a trace of workflows: the steps of the demo call them. They only read.
"""

from __future__ import annotations

import ast
import sysconfig
import tokenize
from pathlib import Path

from pydantic import BaseModel

SKIPPED = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "idlelib",
        "lib2to3",
        "lib-dynload",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
"""Folders that are no part of the library, or are programs and tests that come with it."""


class Source(BaseModel):
    """A module of the library: one file, or the files of a package, relative to the library's folder."""

    name: str
    files: list[str]
    is_package: bool = False


class Facts(BaseModel):
    """What a file or a module holds.

    Attributes:
        name: The module's dotted name.
        imports: The top-level names it imports, each once, sorted.
        unreadable: How many of its files are no Python this interpreter can parse.
    """

    name: str
    files: int = 1
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: list[str] = []
    unreadable: int = 0


def library_folder() -> str:
    """Where this interpreter's standard library lies."""
    return sysconfig.get_path("stdlib")


def find_modules(folder: str) -> list[Source]:
    """The modules and packages of the library, by name.

    Raises:
        FileNotFoundError: There are no source files there.
    """
    root = Path(folder)
    found = [Source(name=path.stem, files=[path.name]) for path in root.glob("*.py")]
    for package in root.iterdir():
        if package.name in SKIPPED or not (package / "__init__.py").is_file():
            continue
        files = [
            path.relative_to(root)
            for path in package.rglob("*.py")
            if not SKIPPED.intersection(path.relative_to(root).parts)
        ]
        found.append(
            Source(name=package.name, files=sorted(path.as_posix() for path in files), is_package=True)
        )
    if not found:
        raise FileNotFoundError(f"there are no Python source files in {folder}")
    return sorted(found, key=lambda source: source.name)


def dotted(file: str) -> str:
    """A file's module name: `email/mime/text.py` is `email.mime.text`."""
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def read_file(folder: str, file: str) -> Facts:
    """Counts what a source file holds; one that cannot be parsed is counted as unreadable."""
    name = dotted(file)
    try:
        with tokenize.open(Path(folder) / file) as stream:
            text = stream.read()
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return Facts(name=name, unreadable=1)
    functions = classes = 0
    imports: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
            case ast.ClassDef():
                classes += 1
            case ast.Import(names=names):
                imports.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                imports.add(module.partition(".")[0])
            case _:
                pass
    return Facts(
        name=name,
        lines=text.count("\n") + (not text.endswith("\n") and bool(text)),
        functions=functions,
        classes=classes,
        imports=sorted(imports - {name.partition(".")[0]}),
    )


def together(name: str, parts: list[Facts]) -> Facts:
    """The facts of a package from those of its files."""
    return Facts(
        name=name,
        files=sum(part.files for part in parts),
        lines=sum(part.lines for part in parts),
        functions=sum(part.functions for part in parts),
        classes=sum(part.classes for part in parts),
        imports=sorted({imported for part in parts for imported in part.imports}),
        unreadable=sum(part.unreadable for part in parts),
    )
