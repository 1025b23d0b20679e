"""What every benchmark's report is made of: runs in fresh processes, medians with their spread, figures.

Each run is a process of its own, so that none inherits warm caches, threads or memory from another. A figure is
judged on the median; the spread stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from wfes import Engine
from wfes.log.sqlite import SQLiteLog
from wfes.log.writer import Writer

Found = dict[str, Any]

RUNS = 3
_SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}


def parser(description: str | None, **numbers: int) -> argparse.ArgumentParser:
    """A benchmark's options: how many runs, where, and its own numbers."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--runs", type=int, default=RUNS, help="how often it is measured; 3 or more")
    made.add_argument(
        "--directory", type=Path, default=None, help="where logs are made; decides on which disk"
    )
    made.add_argument("--child", default=None, help=argparse.SUPPRESS)
    made.add_argument("--file", type=Path, default=None, help=argparse.SUPPRESS)
    for name, value in numbers.items():
        made.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default: {value}")
    return made


def command(script: str, arguments: argparse.Namespace, child: str, file: Path) -> list[str]:
    """The command line of one child process of a benchmark, with the benchmark's own numbers."""
    line = [sys.executable, script, "--child", child, "--file", str(file)]
    for name, value in vars(arguments).items():
        if value is not None and name not in ("runs", "directory", "child", "file"):
            line += [f"--{name.replace('_', '-')}", str(value)]
    return line


def once(script: str, arguments: argparse.Namespace, child: str, file: Path) -> Found:
    """Runs a child process and returns what it printed."""
    done = subprocess.run(command(script, arguments, child, file), stdout=subprocess.PIPE, check=True)
    found: Found = json.loads(done.stdout)
    return found


def begin(script: str, arguments: argparse.Namespace, child: str, file: Path) -> subprocess.Popen[str]:
    """Starts a child process and waits until it says that it is ready."""
    started = subprocess.Popen(
        command(script, arguments, child, file), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    answer = _pipe(started.stdout).readline().strip()
    if answer != "ready":
        started.kill()
        raise RuntimeError(f"{script} {child} answered {answer!r} and not 'ready'")
    return started


def go(children: Sequence[subprocess.Popen[str]]) -> list[Found]:
    """Tells children that wait to go, all at once, and returns what each printed in the end."""
    for child in children:
        _pipe(child.stdin).write("go\n")
        _pipe(child.stdin).flush()
    found = [json.loads(child.communicate()[0]) for child in children]
    for child in children:
        if child.returncode:
            raise RuntimeError(f"a child process ended with {child.returncode}")
    return found


def ready() -> None:
    """In a child: says that it is ready, and waits for the word to go."""
    print("ready", flush=True)
    sys.stdin.readline()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def spread(values: Sequence[float], digits: int = 2) -> Found:
    """Median, least and greatest of the runs."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "runs": len(values),
    }


def spreads(found: Sequence[Found], names: Sequence[str], digits: int = 2) -> Found:
    """The spread of each of these numbers over the runs."""
    return {name: spread([one[name] for one in found], digits) for name in names}


def at_most(value: float, limit: float, unit: str) -> Found:
    """A figure that is reached if the value is not above the limit."""
    return {"value": round(value, 3), "limit": f"<= {limit:g} {unit}", "reached": value <= limit}


def at_least(value: float, limit: float, unit: str) -> Found:
    """A figure that is reached if the value is not below the limit."""
    return {"value": round(value, 3), "limit": f">= {limit:g} {unit}", "reached": value >= limit}


def median(found: Found) -> float:
    """The median in a spread."""
    return float(found["median"])


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def writer(engine: Engine) -> Writer:
    """The writer of an open engine, which counts commits and events."""
    found = engine._parts._writer
    assert found is not None
    return found


def durability(engine: Engine) -> Found:
    """What the open engine's own write connection is set to."""
    log = engine._log
    if log.dialect == "postgresql":
        settings = ("synchronous_commit", "fsync", "server_version")
        found = [log.read("SELECT current_setting(?)", (name,))[0][0] for name in settings]
        return {"log": "postgresql", **dict(zip(settings, found, strict=True))}
    if not isinstance(log, SQLiteLog) or log._writing is None:
        return {"log": "memory"}
    journal = log._writing.execute("PRAGMA journal_mode").fetchone()[0]
    synchronous = log._writing.execute("PRAGMA synchronous").fetchone()[0]
    return {"log": "sqlite", "journal_mode": journal, "synchronous": _SYNCHRONOUS[synchronous]}


def resident_bytes() -> int:
    """Resident memory of this process now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def machine(directory: str) -> Found:
    """Where this ran, and what an fsync costs there."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "fsync_micros": round(fsync_micros(directory)),
    }


def fsync_micros(directory: str, rounds: int = 50) -> float:
    """How long it takes here to append 4 KiB to a file and make that durable; the median."""
    took: list[float] = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(rounds):
            begun = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e6


def show(found: Found) -> None:
    """Prints a report; its last field says whether every figure is reached."""
    figures: Found = found.get("figures", {})
    found["reached"] = all(figure["reached"] for figure in figures.values())
    print(json.dumps(found, indent=2))
