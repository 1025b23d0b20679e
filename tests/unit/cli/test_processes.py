"""`wfes worker --processes`: a parent and its worker processes, for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MODULE = """
from wfes import workflow, Step

@workflow
async def job(step: Step) -> int:
    return await step("one", lambda: 1)
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.said = path / "said"
        (path / "jobs.py").write_text(MODULE)

    def wfes(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wfes", *words]
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=30, check=False)

    def pids(self) -> set[int]:
        """Of the workers that are registered."""
        if not (self.path / "wfes.db").exists():
            return set()
        found: dict[str, Any] = json.loads(self.wfes("workers", "--json").stdout)
        return {worker["pid"] for worker in found["items"] if worker["status"] == "running"}

    @contextmanager
    def parent(self, *options: str) -> Generator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "wfes", "worker", "jobs", "--processes", "2", *options]
        with (
            self.said.open("wb") as said,
            subprocess.Popen(command, cwd=self.path, stdout=said, stderr=said) as parent,
        ):
            try:
                yield parent
            finally:
                # Its processes stop by themselves when it is gone.
                parent.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def until(true: Callable[[], object], seconds: float = 25.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it did not become true in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Whoever is dead and not waited for yet is still known to the system.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_one_that_dies_is_started_again_and_a_stop_is_passed_on(folder: Folder) -> None:
    with folder.parent("--name", "crew", "--grace", "5s") as parent:
        until(lambda: len(folder.pids()) == 2)
        first, second = folder.pids()
        os.kill(first, signal.SIGKILL)
        until(lambda: len(folder.pids() - {first}) == 2)
        assert second in folder.pids()
        assert (
            f"(pid {first}) was ended by SIGKILL; another one is started in 0.5 s" in folder.said.read_text()
        )
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 0
        assert folder.said.read_text().count("stopped") == 2
        assert folder.pids() == set()


def test_its_processes_stop_when_the_parent_is_gone(folder: Folder) -> None:
    with folder.parent() as parent:
        until(lambda: len(folder.pids()) == 2)
        pids = folder.pids()
        parent.kill()
        parent.wait()
        until(lambda: not any(map(alive, pids)))
        assert folder.said.read_text().count("stopped") == 2, "they stopped cleanly"


def test_what_cannot_be_imported_is_said_once(folder: Folder) -> None:
    found = folder.wfes("worker", "nowhere", "--processes", "2")
    assert (found.returncode, found.stderr.count("nowhere'")) == (2, 2)
