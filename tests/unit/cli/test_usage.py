"""What is wrong usage: said in a line, exit code 2, and nothing is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import wfes
from wfes.cli import main

COMMANDS = [
    "run",
    "worker",
    "start",
    "ls",
    "show",
    "history",
    "tail",
    "requests",
    "provide",
    "send",
    "publish",
    "cancel",
    "pause",
    "resume",
    "retry",
    "set-timeout",
    "schedules",
    "stats",
    "activity",
    "timers",
    "inbox",
    "projections",
    "debug",
    "export",
    "prune",
    "demo",
]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WFES_URL", raising=False)
    return CliRunner()


def test_help_lists_every_command_and_each_has_json(runner: CliRunner) -> None:
    text = runner.invoke(main, ["--help"]).output
    for command in COMMANDS:
        assert f"\n  {command} " in text
        help_text = runner.invoke(main, [command, "--help"])
        assert help_text.exit_code == 0
        assert "--json" in help_text.output


def test_version(runner: CliRunner) -> None:
    assert runner.invoke(main, ["--version"]).output == f"wfes {wfes.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "shop"], "write MODULE:WORKFLOW"),
        (["run", "wfes.demo.inventory:stdlib_inventory", "--input", "{a}"], "is no JSON"),
        (["worker"], "Missing argument"),
        (["worker", "cli_no_such_module"], "there is no module 'cli_no_such_module'"),
        (["ls", "--status", "happy"], "'happy' is not one of"),
        (["ls", "--limit", "0"], "0 is not in the range"),
        (["ls", "--count", "--key", "k"], "--count goes with --workflow alone"),
        (["set-timeout", "i-1"], "exactly one of --in DURATION and --at MOMENT"),
        (["set-timeout", "i-1", "--in", "1h", "--at", "2030-01-01T00:00Z"], "exactly one of"),
        (["set-timeout", "i-1", "--in", "soon"], "'soon'"),
        (["provide", "i-1", "approval", "yes"], "a text needs its quotes"),
        (["provide", "i-1"], "Missing argument"),
        (["demo"], "give --yes"),
        (["demo", "--yes", "--crash", "--url", "sqlite://"], "--crash needs a log on disk"),
        (["--url", "mysql://x", "ls"], "mysql://x"),
    ],
)
def test_wrong_usage(runner: CliRunner, words: list[str], said: str) -> None:
    result = runner.invoke(main, words)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "command", ["ls", "requests", "stats", "timers", "tail", "show i", "history i", "cancel i", "publish e"]
)
def test_a_log_that_is_not_there_is_not_made(runner: CliRunner, command: str) -> None:
    result = runner.invoke(main, command.split())
    assert result.exit_code == 1
    assert result.output.startswith(
        "wfes: there is no log at wfes.db: --url (or $WFES_URL) names another one"
    )
    assert list(Path().iterdir()) == []


def test_the_url_comes_from_the_option_then_the_environment(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WFES_URL", "sqlite:///env.db")
    assert "no log at env.db" in runner.invoke(main, ["ls"]).output
    assert "no log at option.db" in runner.invoke(main, ["--url", "sqlite:///option.db", "ls"]).output


def test_a_file_that_is_no_database_is_said_in_one_line(runner: CliRunner) -> None:
    Path("wfes.db").write_text("not a database, for sure\n" * 100)
    result = runner.invoke(main, ["ls"])
    assert result.exit_code == 1
    assert result.output.startswith("wfes: the log sqlite:///wfes.db is unavailable")
    assert len(result.output.splitlines()) == 1
