"""The demo in a real process and an empty folder, with and without its crash, at a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SECONDS_MAX = 55.0


def wfes(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "wfes", *words],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "WFES_URL"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def test_the_demo_writes_a_report(tmp_path: Path) -> None:
    done = wfes(tmp_path, "demo", "--yes")
    report = (tmp_path / "stdlib-report.md").read_text()
    assert report.startswith("# The standard library of Python")
    assert "`asyncio`" in report
    assert "✓ modules" in done.stdout
    assert "? approval" in done.stdout
    assert str(tmp_path / "stdlib-report.md") in done.stdout
    look = next(line for line in done.stdout.splitlines() if line.startswith("look"))
    words = look.split()[2:]
    assert words[:3] == ["--url", "sqlite:///wfes-demo.db", "show"]
    shown = json.loads(wfes(tmp_path, *words, "--json").stdout)
    assert shown["status"] == "completed"
    assert shown["state"]["modules"] > 100


def test_the_demo_survives_its_crash(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for it"
    told: dict[str, Any] = json.loads(
        wfes(tmp_path, "demo", "--yes", "--crash", "--json", "--dir", str(folder)).stdout
    )
    assert told["status"] == "completed"
    assert Path(told["report"]).read_text().startswith("# The standard library")
    crash = told["crash"]
    assert len(crash["workers"]) == 2
    assert crash["recorded_twice"] == []
    assert crash["results_reused"] > 50
    # What was running at the kill ran again, nothing else: at most what runs at a time, and files of packages in it.
    assert 1 <= len(crash["again"]) <= 8 * 5
    assert set(crash["again"].values()) == {2}
    history = json.loads(wfes(tmp_path, "--url", told["url"], "history", told["id"], "--json").stdout)
    completed = [event["data"]["path"] for event in history if event["type"] == "StepCompleted"]
    assert len(completed) == len(set(completed))
    assert len(crash["once"]) + len(crash["again"]) == len(set(completed))


def test_the_crash_is_told_to_people(tmp_path: Path) -> None:
    text = wfes(tmp_path, "demo", "--yes", "--crash").stdout
    assert "killed itself with SIGKILL" in text
    assert "ran once: " in text
    assert "ran twice: " in text
    assert "reused" in text


def test_without_a_terminal_it_wants_a_yes(tmp_path: Path) -> None:
    done = wfes(tmp_path, "demo", code=2)
    assert "give --yes" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("typed", "code"), [(b"maybe\ny\n", 0), (b"n\n", 1)])
def test_at_a_terminal_it_asks(tmp_path: Path, typed: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "wfes", "demo"], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    end = time.monotonic() + SECONDS_MAX
    try:
        while b"[Y/n]" not in seen:
            assert time.monotonic() < end, seen
            seen += os.read(ours, 65536)
        os.write(ours, typed)
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side was closed
                break
            if not part:
                break
            seen += part
        process.wait(timeout=SECONDS_MAX)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert process.returncode == code, seen.decode(errors="replace")
    assert (tmp_path / "stdlib-report.md").exists() == (code == 0)
    if code:
        assert b"the report was not wanted" in seen
    else:
        assert b"please answer y or n" in seen
