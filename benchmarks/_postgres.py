"""A PostgreSQL for benchmarks: the tests' own server at its default durability, or one that is named."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

KIT = Path(__file__).resolve().parent.parent / "tests" / "acceptance" / "kit"
_TICKS = os.sysconf("SC_CLK_TCK")


def option(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds `--postgres [URL]`: empty without a URL, None where it is not given."""
    parser.add_argument("--postgres", nargs="?", const="", default=None, metavar="URL", help=text)


@contextmanager
def fresh(url: str) -> Generator[str]:
    """The URL of an empty database, dropped afterwards.

    Args:
        url: of a server whose user may create databases; empty: a server of this process's own.
    """
    kit = str(KIT)
    if kit not in sys.path:
        sys.path.insert(0, kit)
    import pg_server

    if url:
        os.environ[pg_server.VARIABLE] = url
    with pg_server.database() as made:
        yield made


def server_cpu_seconds(url: str) -> float | None:
    """The CPU time of all processes of a server on this machine so far; None where there is none here."""
    import psycopg

    if not url.startswith("postgresql"):
        return None
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT pg_backend_pid(), inet_server_addr() = inet_client_addr()"
        ).fetchone()
        if row is None or not row[1] or not Path(f"/proc/{row[0]}").exists():
            return None
        first = _stat(row[0])[1]  # while that process is there
    while True:
        ended = _stat(first)[4:]
        ticks = sum(_stat(first)[2:4]) + sum(ended) + _running(first)
        if _stat(first)[4:] == ended:  # else somebody ended meanwhile, and was counted twice or not at all
            return ticks / _TICKS


def _running(first: int) -> int:
    ticks = 0
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                _, parent, user, system, *_ = _stat(int(each.name))
            except OSError:
                continue  # it has just ended
            if parent == first:
                ticks += user + system
    return ticks


def _stat(pid: int) -> list[int]:
    """A process: its id, its parent's, and its ticks as user, in the system, and the same of children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [pid, *(int(fields[at]) for at in (1, 11, 12, 13, 14))]
