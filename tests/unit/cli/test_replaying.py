"""`wfes replay`: one instance, many in processes of their own, files; what it prints and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wfes import Engine, Step, workflow
from wfes.cli import main
from wfes.cli.loading import load_workflows
from wfes.timetravel.many import ALONE_MAX

COUNT = ALONE_MAX + 5
CODE = """
import os
from wfes import Step, workflow

def act(value):
    if "WFES_TEST_ARMED" in os.environ:
        raise SystemExit("a step's function was called")
    return value

@workflow
async def order(number: int, step: Step) -> int:
    await step("price", act, number)
    if {ends} and number == 3:
        os._exit(9)
    await step({second}, act, number)
    return number

@workflow
async def parcel(number: int, step: Step) -> int:
    return await step("pack", act, number)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, and the modules that ran it and that do not any more."""
    folder = tmp_path_factory.mktemp("replaying")
    (folder / "replayed_then.py").write_text(CODE.format(second='"charge"', ends=False))
    (folder / "replayed_now.py").write_text(
        CODE.format(second='"pay" if number % 2 else "charge"', ends=False)
    )
    (folder / "replayed_dead.py").write_text(CODE.format(second='"charge"', ends=True))
    former = Path.cwd()
    os.chdir(folder)
    try:
        workflows = load_workflows(["replayed_then"])
    finally:
        os.chdir(former)

    async def fill() -> None:
        async with Engine(f"sqlite:///{folder}/log.db", workflows=workflows) as engine:
            runs = [await engine.start("order", number, id=f"order-{number:02}") for number in range(COUNT)]
            runs.append(await engine.start("parcel", 1, id="parcel-01"))
            await asyncio.gather(*(run.result(timeout=20) for run in runs))

    asyncio.run(fill())
    return folder


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WFES_TEST_ARMED", "1")


def wfes(*words: str) -> Result:
    return CliRunner().invoke(main, ["--url", "sqlite:///log.db", *words])


def content() -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path().glob("log.db*")) if path.is_file())


def test_one() -> None:
    same = wfes("replay", "order-01")
    assert (same.exit_code, same.output) == (0, "instance order-01 of order: reproduced, 7 events\n")
    changed = wfes("replay", "order-01", "--module", "replayed_now")
    assert changed.exit_code == 1
    for words in (
        "recorded: step 'charge'",
        "now:      asks for step 'pay'",
        "replayed_now.py:15 in order",
        "digest:",
    ):
        assert words in changed.output
    assert wfes("replay", "order-01", "--module", "replayed_now", "--at", "4").exit_code == 0
    several = wfes("replay", "order-01", "order-02", "parcel-01", "--module", "replayed_now")
    assert several.exit_code == 1
    assert several.output.endswith("3 instances replayed: 2 reproduced, 1 different\n")


def test_many_in_processes_of_their_own() -> None:
    before = content()
    same = wfes("replay", "--all", "--module", "replayed_then", "--processes", "2")
    assert (same.exit_code, same.output) == (0, f"{COUNT + 1} instances replayed: {COUNT + 1} reproduced\n")
    changed = wfes(
        "replay",
        "--all",
        "--workflow",
        "order",
        "--since",
        "30d",
        "--module",
        "replayed_now",
        "--processes",
        "2",
    )
    assert changed.exit_code == 1
    odd = COUNT // 2
    assert changed.output.count("recorded: step 'charge'") == 1, "alike differences are told once"
    assert f"the same in {odd - 1} more: " in changed.output
    assert changed.output.endswith(f"{COUNT} instances replayed: {COUNT - odd} reproduced, {odd} different\n")
    assert content() == before


def test_code_that_ends_its_process_is_told() -> None:
    ended = wfes("replay", "--all", "--workflow", "order", "--module", "replayed_dead", "--processes", "2")
    assert ended.exit_code == 1
    assert "handler code ends its process" in ended.output
    assert f"{COUNT} instances replayed" in ended.output


def test_json() -> None:
    found = wfes("replay", "--all", "--limit", "3", "--module", "replayed_now", "--json")
    tree: list[dict[str, Any]] = json.loads(found.output)
    assert len(tree) == 3
    assert {each["ok"] for each in tree} <= {True, False}
    (one,) = json.loads(wfes("replay", "order-01", "--module", "replayed_now", "--json").output)
    assert one["difference"]["expected"] == "step 'charge' was asked for"
    assert one["difference"]["place"]["line"] == 15
    assert one["difference"]["recorded"]["digest"] != one["difference"]["code"]["digest"]


def test_files(tmp_path: Path) -> None:
    file = str(tmp_path / "histories.gz")
    saved = wfes("replay", "--all", "--workflow", "order", "--save", file)
    assert (saved.exit_code, saved.output) == (0, f"wrote {file}: {COUNT} instances\n")
    runner = CliRunner()  # the database is not looked at
    found = runner.invoke(
        main, ["--url", "sqlite:///none.db", "replay", file, "--processes", "1", "--module", "replayed_then"]
    )
    assert (found.exit_code, found.output) == (0, f"{COUNT} instances replayed: {COUNT} reproduced\n")
    assert wfes("replay", file, "--module", "replayed_now", "--processes", "1").exit_code == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "name instances by their ids, or all that are meant with --all"),
        (["order-01", "--all"], 2, "name instances by their ids"),
        (["order-01", "--workflow", "order"], 2, "go with --all"),
        (["order-01", "order-02", "--at", "3"], 2, "--at goes with one instance"),
        (["order-01", "--at", "99"], 1, "has no version 99: its versions are 1 to 7"),
        (["order-01", "--at", "0"], 2, "0 is not in the range"),
        (["nobody"], 1, "'nobody'"),
        (["none.gz", "--module", "replayed_then"], 1, "there is no file 'none.gz'"),
        (["replayed_then.py"], 1, "replayed_then.py is neither a history file nor a bundle"),
        (["--all", "--module", "replayed_never"], 2, "there is no module 'replayed_never'"),
        (
            ["--all", "--workflow", "nix", "--module", "replayed_then"],
            2,
            "no workflow 'nix' in replayed_then",
        ),
        (["--all", "--since", "soon"], 2, "soon"),
        (["--all", "--status", "lost"], 2, "lost"),
        (["parcel-01", "--module", "replayed_then:order"], 1, "no workflow 'parcel' in today's code"),
    ],
)
def test_bad_input(words: list[str], code: int, text: str) -> None:
    told = wfes("replay", *words)
    assert told.exit_code == code, told.output
    assert text in told.output
    assert "Traceback" not in told.output


def test_a_handler_that_cannot_be_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module that ran it is nowhere here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "replayed_then", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    url = f"sqlite:///{folder}/log.db"
    alone = CliRunner().invoke(main, ["--url", url, "replay", "order-01"])
    assert alone.exit_code == 2
    assert "--module" in alone.output
    together = CliRunner().invoke(main, ["--url", url, "replay", "order-01", "order-02"])
    assert together.exit_code == 1
    assert "--module" in together.output
    assert together.output.endswith("2 instances replayed: 2 not replayed\n")


def test_at_and_a_file_of_several(tmp_path: Path) -> None:
    file = str(tmp_path / "several.gz")
    wfes("replay", "order-01", "order-02", "--save", file)
    told = wfes("replay", file, "--at", "3", "--module", "replayed_then")
    assert told.exit_code == 2
    assert "--at goes with one instance; " in told.output


def test_a_workflow_of_which_there_is_nothing_fails() -> None:
    """A mistyped name in somebody's CI would else be a check that never fails."""
    found = wfes("replay", "--all", "--workflow", "nix")
    assert found.exit_code == 1
    assert "no instance of a workflow 'nix' in this log; workflows there: order" in found.output


def test_no_instance_at_all_is_said() -> None:
    found = wfes("replay", "--all", "--workflow", "order", "--status", "aborted", "--module", "replayed_then")
    assert (found.exit_code, found.output) == (0, "0 instances replayed\n")


def test_a_progress_bar_on_a_terminal() -> None:
    pytest.importorskip("rich")
    mine, theirs = pty.openpty()
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "wfes",
            "--url",
            "sqlite:///log.db",
            "replay",
            "--all",
            "--module",
            "replayed_now",
            "--processes",
            "1",
        ],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    until = time.monotonic() + 50
    while time.monotonic() < until:
        if select.select([mine], [], [], 0.1)[0]:
            try:
                part = os.read(mine, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(mine)
    assert child.wait(timeout=10) == 1
    text = shown.decode(errors="replace")
    assert "replayed" in text
    assert "differ" in text
    assert f"{COUNT + 1} instances replayed" in text


def test_why_an_instance_is_paused(tmp_path: Path) -> None:
    """An instance that is held for its code is listed with the difference."""
    url = f"sqlite:///{tmp_path}/log.db"

    def made(first: str) -> Any:
        @workflow(name="parcel")
        async def parcel(step: Step) -> None:
            await step(first, abs, 1)
            await step.listen("picked up")

        return parcel

    async def fill() -> None:
        for first, wanted in (("pack", "listening"), ("weigh", "paused")):
            wf = made(first)
            async with Engine(url, workflows=[wf]):
                run = await wf.start(id="p-1")
                while run.status != wanted:
                    if run.status == "listening":
                        await run.send("picked up", id="once")
                    await asyncio.sleep(0.005)
                    await run.refresh()

    asyncio.run(fill())
    listed = CliRunner().invoke(main, ["--url", url, "ls", "--status", "paused"])
    assert listed.exit_code == 0
    for words in (
        "p-1",
        "of the history differs: recorded: step 'pack' was asked for",
        "asks for step 'weigh'",
    ):
        assert words in listed.output
    as_json = CliRunner().invoke(main, ["--url", url, "ls", "--status", "paused", "--json"])
    (row,) = json.loads(as_json.output)["items"]
    assert "  now:      asks for step 'weigh' (at " in row["reason"]
