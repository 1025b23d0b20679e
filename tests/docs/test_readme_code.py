"""The code and the commands of README.md run as they stand there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import to_jsonable_python

from wfes import Instance, Workflow, WfesError, testing

if TYPE_CHECKING:
    from conftest import Block, Readme

SECONDS_MAX = 50.0
_VARYING = re.compile(r"\+?\d+(?:\.\d+)? m?s\b|…")


def test_every_block_says_how_it_is_tested(readme: Readme) -> None:
    known = {
        "python": {"script", "run", "file", "app"},
        "sh": {"tour", "commands", "skip"},
        "text": {""},
        "mermaid": {""},
    }
    # The very first block tells how to install, in one line.
    for block in readme.blocks()[1:]:
        assert block.kind in known[block.language], f"README.md, line {block.line}: {block.kind!r}"


def test_scripts_run(script: Block, tmp_path: Path, shell: Mapping[str, str], readme: Readme) -> None:
    for block in readme.of_kind("file"):
        (tmp_path / block.argument).write_text(block.code)
    (tmp_path / "reader.py").write_text(script.code)
    done = _run([sys.executable, "reader.py"], tmp_path, shell)
    for expected in script.argument.split(" prints ")[1:]:
        assert expected in done.stdout


def test_examples_run(example: Block) -> None:
    options = example.options
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example.code, f"README.md, line {example.line}", "exec", dont_inherit=True), names)
    workflows = [value for value in names.values() if isinstance(value, Workflow)]
    wanted = names[options["workflow"]]

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


def test_the_tour_runs(readme: Readme, tmp_path: Path, shell: Mapping[str, str]) -> None:
    for block in readme.of_kind("file"):
        (tmp_path / block.argument).write_text(block.code)
    parts = [f"echo '== {block.line}'\n{block.code}" for block in readme.of_kind("tour")]
    script = "exec 2>&1\n" + "".join(parts) + "wait\n"
    done = _run(["bash", "-c", script], tmp_path, shell)
    shown = {int(line): text for line, text in re.findall(r"^== (\d+)\n(.*?)(?=^== |\Z)", done.stdout, re.M | re.S)}
    everything = list(readme.blocks())
    for at, block in enumerate(everything):
        if block.kind == "tour":
            assert everything[at + 1].language == "text"
            _assert_shown(everything[at + 1].code, shown[block.line])


def test_the_tour_keeps_its_promise(readme: Readme, tmp_path: Path, shell: Mapping[str, str]) -> None:
    """Every `file` block is a module that imports, and has the workflow that the commands name."""
    for block in readme.of_kind("file"):
        (tmp_path / block.argument).write_text(block.code)
        module = block.argument.removesuffix(".py")
        _run([sys.executable, "-c", f"import {module}"], tmp_path, shell)


def test_commands_run(readme: Readme, tmp_path: Path, shell: Mapping[str, str]) -> None:
    for block in readme.of_kind("file"):
        (tmp_path / block.argument).write_text(block.code)
    for block in readme.of_kind("commands"):
        _run(["bash", "-ec", block.code], tmp_path, shell)


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


def _run(
    command: list[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    took = time.monotonic() - began
    if done.returncode:
        pytest.fail(f"{command[:2]} ended with {done.returncode} after {took:.1f} s:\n{done.stdout}")
    return done
