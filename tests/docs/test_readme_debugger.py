"""The debugger's session in README.md goes as it stands there, and an editor's configuration fits the debugger."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from wfes.timetravel.prompt import PROMPT, Prompt

if TYPE_CHECKING:
    from tests.docs.conftest import Readme


@pytest.mark.slow
def test_the_session_goes_as_shown(readme: Readme, tmp_path: Path, shell: Mapping[str, str]) -> None:
    for block in readme.of_kind("file"):
        (tmp_path / block.argument).write_text(block.code)
    (block,) = readme.of_kind("session")
    first, last = block.code.splitlines()
    subprocess.run(["bash", "-ec", first], cwd=tmp_path, env=dict(shell), check=True, capture_output=True)
    session = readme.after(block)
    assert session is not None
    opened, *exchanges = session.split(PROMPT)
    terminal: pexpect.spawn[str] = pexpect.spawn(
        "bash",
        ["-c", f"exec {last}"],
        cwd=str(tmp_path),
        env={**shell, "TERM": "dumb"},
        encoding="utf-8",
        timeout=20,
        dimensions=(40, 250),
    )
    terminal.setecho(False)
    try:
        terminal.expect_exact(PROMPT)
        assert_shown(opened, str(terminal.before))
        for exchange in exchanges[:-1]:
            typed, _, answer = exchange.partition("\n")
            terminal.sendline(typed)
            terminal.expect_exact(PROMPT)
            assert_shown(answer, str(terminal.before))
        terminal.sendline(exchanges[-1].strip())
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    assert terminal.exitstatus == 0


def assert_shown(expected: str, shown: str) -> None:
    """All lines are as expected, but for what `…` stands for."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    assert re.fullmatch(pattern, "\n".join(line.rstrip() for line in shown.strip().splitlines())), shown


def test_the_editors_configuration_attaches_to_what_the_command_serves(readme: Readme) -> None:
    (block,) = readme.of_kind("launch")
    configuration: dict[str, Any] = json.loads(block.code)["configurations"][0]
    assert configuration["request"] == "attach"
    assert configuration["type"] == "debugpy"
    assert f"--listen {configuration['connect']['port']}\n" in readme.text
    assert configuration["connect"]["host"] == "127.0.0.1"


def test_every_command_of_the_prompt_is_listed(readme: Readme) -> None:
    rows = readme.rows("Debugging a moment in the past")
    listed = {span.split()[0] for row in rows for span in readme.spans(row[0])}
    own = {name.removeprefix("do_") for name in vars(Prompt) if name.startswith("do_")}
    kept = {"c", "cont", "continue", "q", "exit", "quit", "EOF", "restart", "run", "f"}
    assert listed == own - kept
