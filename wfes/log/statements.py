"""The SQL of the adapters: one statement a file, read once.

A statement is known by its file's name; a schema version is a folder of statements, run in the order of their names.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def statement(backend: str, name: str) -> str:
    """The statement ``name`` of a backend (``"sqlite"``)."""
    return files("wfes.log").joinpath("sql", backend, f"{name}.sql").read_text("utf-8").strip()


@cache
def schema(backend: str) -> tuple[tuple[str, ...], ...]:
    """The migrations: the statements that lead from version n to n + 1, for n = 0, 1, …"""
    folder = files("wfes.log").joinpath("sql", backend, "schema")
    versions = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
    if versions != list(range(1, len(versions) + 1)):
        raise RuntimeError(f"schema versions of {backend} are {versions}, not 1, 2, …")
    return tuple(
        tuple(
            entry.read_text("utf-8").strip()
            for entry in sorted(folder.joinpath(str(version)).iterdir(), key=lambda entry: entry.name)
            if entry.name.endswith(".sql")
        )
        for version in versions
    )
