"""The code and the commands of README.md run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import to_jsonable_python

from wfes import Instance, WfesError, Workflow, testing

if TYPE_CHECKING:
    from tests.docs.conftest import Block, Readme

SECONDS_MAX = 50.0
_VARYING = re.compile(r"\+?\d+(?:\.\d+)? m?s\b|…")


def test_every_block_says_how_it_is_tested(readme: Readme) -> None:
    known = {
        "python": {"script", "run", "file", "app"},
        "sh": {"tour", "commands", "session", "skip"},
        "json": {"launch"},
        "text": {""},
        "mermaid": {""},
    }
    # The very first block tells how to install, in one line.
    for block in readme.blocks()[1:]:
        assert block.kind in known[block.language], f"README.md, line {block.line}: {block.kind!r}"


@pytest.fixture
def reader(tmp_path: Path, readme: Readme) -> Path:
    """A folder in which a reader has saved the files that the text shows."""
    for block in readme.of_kind("file"):
        (tmp_path / block.argument).write_text(block.code)
    return tmp_path


def test_scripts_run(script: Block, reader: Path, shell: Mapping[str, str]) -> None:
    (reader / "script.py").write_text(script.code)
    done = _run([sys.executable, "-W", "error", "script.py"], reader, shell)
    if script.argument:
        assert script.argument.removeprefix("prints ") in done


def test_examples_run(snippet: Block) -> None:
    options = snippet.options
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(snippet.code, f"README.md, line {snippet.line}", "exec", dont_inherit=True), names)
    workflows: list[Workflow[Any, Any]] = [v for v in names.values() if isinstance(v, Workflow)]
    wanted: Workflow[Any, Any] = names[options["workflow"]]

    async def main() -> None:
        async with testing.engine(workflows) as env:
            run: Instance[Any] = await env.engine.start(wanted, options.get("input"))
            await _play(env, run, options)
            try:
                output = await env.until(run.result())
                assert to_jsonable_python(output) == options["output"]
            except WfesError:
                assert (await run.refresh()).status == options.get("status"), run.error
            assert (await run.refresh()).status == options.get("status", "completed")

    asyncio.run(main())


async def _play(env: testing.Environment, run: Instance[Any], options: Mapping[str, Any]) -> None:
    """What comes from outside: answers, events, a cancellation."""
    await env.settle()
    for request in await env.engine.requests():
        await env.engine.provide(None, request, options["answers"][request.name])
    for event, payload in options.get("send", {}).items():
        await run.send(event, payload)
    if "cancel" in options:
        await run.cancel(options["cancel"])


@pytest.mark.slow
def test_the_tour_runs(readme: Readme, reader: Path, shell: Mapping[str, str]) -> None:
    """One shell runs all of it, as a reader's does: `$!` goes on from one block to the next."""
    tour = readme.of_kind("tour")
    script = "".join(f"echo '== {block.line}'\n{block.code}" for block in tour)
    done = _run(["bash", "-c", f"exec 2>&1\n{script}wait\n"], reader, shell)
    shown = dict(re.findall(r"^== (\d+)\n(.*?)(?=^== |\Z)", done, re.MULTILINE | re.DOTALL))
    for block in tour:
        expected = readme.after(block)
        assert expected is not None, block
        _assert_shown(expected, shown[str(block.line)])


@pytest.mark.slow
def test_commands_run(readme: Readme, reader: Path, shell: Mapping[str, str]) -> None:
    for block in readme.of_kind("commands"):
        done = _run(["bash", "-ec", block.code], reader, shell)
        _assert_shown(readme.after(block) or "", done)


@pytest.mark.slow
def test_the_web_application_runs(readme: Readme, reader: Path, shell: Mapping[str, str]) -> None:
    (block,) = readme.of_kind("app")
    (reader / block.argument).write_text(block.code)
    (reader / "visit.py").write_text(VISIT)
    _run([sys.executable, "visit.py"], reader, shell)


VISIT = """
import time

from fastapi.testclient import TestClient
from web import app

ITEM = "a very long name"


def until(client, field, value):
    end = time.monotonic() + 30
    while (seen := client.get("/orders/order-7").json())[field] != value:
        assert time.monotonic() < end, seen
        time.sleep(0.05)
    return seen


with TestClient(app) as client:
    order = {"order_id": "7", "items": [ITEM]}
    assert client.get("/orders/order-7").status_code == 404
    for _ in range(2):
        assert client.post("/orders", json=order).json() == {"id": "order-7"}
    assert client.post("/orders", json={"order_id": "8"}).status_code == 422
    until(client, "waiting_for", ["approval"])

# The server is restarted while the order waits.
with TestClient(app) as client:
    assert client.post("/orders/order-7/approval", params={"approved": True}).status_code == 200
    seen = until(client, "status", "completed")
    assert seen["output"] == {"order_id": "7", "total": 10.0 * len(ITEM)}, seen
"""


def _assert_shown(expected: str, shown: str) -> None:
    """Each expected line stands in what was shown, in this order; times, and what `…` stands for, may differ."""
    at = 0
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in expected.splitlines():
        parts = _VARYING.split(" ".join(line.split()))
        pattern = re.compile(r".*?".join(re.escape(part.strip()) for part in parts))
        found = next((n for n in range(at, len(lines)) if pattern.search(lines[n])), None)
        # What two processes print at once may come in either order.
        if found is None:
            found = next((n for n in range(at) if pattern.search(lines[n])), None)
        assert found is not None, f"{line!r} is not in\n{shown}"
        at = max(at, found + 1)


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """What a command prints; nothing that it started outlives it."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=SECONDS_MAX)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        pytest.fail(f"{command[:2]} ended with {process.returncode}:\n{out}")
    return out
