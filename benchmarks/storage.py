"""How many bytes does a step take in the file?

Method: the workflow of `throughput.py` fills two new files, with `--instances` instances of `--steps` and of twice as
many steps. What the second file's events take more, divided by the steps it has more, is what a step takes: its two
events with a small result, with the index and with what pages leave unused. Counted are the pages of the table of
events and of its index as they lie in the file, not compacted. The whole of the first file's events by its steps is
shown too: it has the events that start, claim and end an instance in it, three for ten steps.

The figure: at most 400 bytes a step. (Where SQLite was built without dbstat, the two are copied to a file of their own
and that file's pages are counted.)

    python benchmarks/storage.py [--instances 300] [--steps 10] [--runs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks._report import Found, at_most, durability, machine, median, once, parser, show, spreads
from benchmarks.throughput import run, several
from wfes import Engine

BYTES_PER_STEP_MAX = 400.0
TABLE = "wfes_events"


async def fill(path: Path, instances: int, steps: int) -> Found:
    """Fills a file and measures it."""
    async with Engine(f"sqlite:///{path}", workflows=[several]) as engine:
        await run(instances, steps, 100)
        settings = durability(engine)
    return {**sizes(path), "durability": settings}


def sizes(path: Path) -> Found:
    """Bytes of the events' table and of its indexes."""
    with closing(sqlite3.connect(path)) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE tbl_name = ?", [TABLE])
        ]
        events = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]
        try:
            pages = {name: _pages(connection, name) for name in names}
        except sqlite3.OperationalError:
            pages = {TABLE: _copied(connection, path.with_suffix(".copy"))}
    table = pages.pop(TABLE)
    return {
        "events": events,
        "file_bytes": path.stat().st_size,
        "table_bytes": table,
        "index_bytes": sum(pages.values()),
        "bytes": table + sum(pages.values()),
    }


def _pages(connection: sqlite3.Connection, name: str) -> int:
    found: int | None = connection.execute(
        "SELECT sum(pgsize) FROM dbstat WHERE name = ?", [name]
    ).fetchone()[0]
    return found or 0


def _copied(connection: sqlite3.Connection, path: Path) -> int:
    statements = connection.execute(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC", [TABLE]
    ).fetchall()
    with closing(sqlite3.connect(path)) as copy:
        for (sql,) in statements:
            copy.execute(sql)
        rows = connection.execute(f"SELECT * FROM {TABLE} ORDER BY 1").fetchall()
        copy.executemany(f"INSERT INTO {TABLE} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        copy.commit()
    size = path.stat().st_size
    path.unlink()
    return size


def report(arguments: argparse.Namespace) -> Found:
    """All runs."""
    found: list[Found] = []
    settings: Found = {}
    short, long = arguments.instances * arguments.steps, arguments.instances * arguments.steps * 2
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        here = machine(directory)
        for number in range(arguments.runs):
            once_ = once(__file__, arguments, "once", Path(directory, f"{number}-once.db"))
            twice = once(__file__, arguments, "twice", Path(directory, f"{number}-twice.db"))
            settings = once_["durability"]
            found.append(
                {
                    "bytes_per_step": (twice["bytes"] - once_["bytes"]) / (long - short),
                    "table_bytes_per_step": (twice["table_bytes"] - once_["table_bytes"]) / (long - short),
                    "index_bytes_per_step": (twice["index_bytes"] - once_["index_bytes"]) / (long - short),
                    "bytes_per_step_with_its_share_of_the_instance": once_["bytes"] / short,
                    "file_bytes_per_step": once_["file_bytes"] / short,
                }
            )
    result = spreads(found, list(found[0]), 1)
    return {
        "question": "How many bytes does a step take in the file?",
        "machine": here,
        "durability": settings,
        "engine": result,
        "figures": {"bytes": at_most(median(result["bytes_per_step"]), BYTES_PER_STEP_MAX, "bytes a step")},
    }


def main() -> None:
    arguments = parser(__doc__, instances=300, steps=10).parse_args()
    if arguments.child is None:
        show(report(arguments))
        return
    steps = arguments.steps if arguments.child == "once" else arguments.steps * 2
    print(json.dumps(asyncio.run(fill(arguments.file, arguments.instances, steps))))


if __name__ == "__main__":
    main()
