"""The tables and the diagram of README.md say what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

import wfes
import wfes.errors
from wfes import Engine, Instance, Status, Step, Workflow, workflow
from wfes.cli import main as command_line
from wfes.core.state import ACTIVE, TRANSITIONS

if TYPE_CHECKING:
    from tests.docs.conftest import Readme

_EDGE = re.compile(r"^\s*(\w+) --> (\w+)", re.MULTILINE)
_COMMON = {"as_json"}


def test_the_diagram_is_the_table_of_transitions(readme: Readme) -> None:
    (block,) = [block for block in readme.blocks() if block.language == "mermaid"]
    drawn: set[tuple[str, str]] = set()
    for source, target in _EDGE.findall(block.code):
        drawn.update((status, target) for status in (ACTIVE if source == "active" else [source]))
    assert drawn == {(source, target) for source, targets in TRANSITIONS.items() for target in targets}


def test_the_changelog_has_this_version() -> None:
    changelog = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d.*?)\]", changelog, re.MULTILINE)
    assert released[0] == wfes.__version__


def test_what_is_said_to_be_missing_is_missing(readme: Readme) -> None:
    text = readme.section("Not there yet")
    for kind, names in ((Instance, ("redact",)),):
        for name in names:
            assert f"{name}`" in text
            assert not hasattr(kind, name)
    missing: dict[str, Any] = {"keys": "k", "conversations": [1]}
    for option, value in missing.items():
        assert f"`{option}=`" in text
        with pytest.raises(wfes.NotSupported, match=option):
            Engine("sqlite://", **{option: value})


def test_every_status_is_explained(readme: Readme) -> None:
    assert [readme.spans(row[0]) for row in readme.rows("Statuses")] == [[status] for status in Status]


def test_every_error_is_listed_with_its_builtin_bases(readme: Readme) -> None:
    listed = {readme.spans(name)[0]: set(readme.spans(bases)) for name, bases, _ in readme.rows("Errors")}
    defined: dict[str, set[str]] = {}
    for name, kind in vars(wfes.errors).items():
        public = inspect.isclass(kind) and not name.startswith("_") and kind.__module__ == "wfes.errors"
        if public and issubclass(kind, wfes.errors.WfesError) and kind is not wfes.errors.WfesError:
            own = [each for each in kind.__mro__ if each is kind or each.__name__.startswith("_")]
            bases = (base for each in own for base in each.__bases__)
            defined[name] = {base.__name__ for base in bases if base.__module__ == "builtins"}
            assert getattr(wfes, name) is kind
    assert listed == defined


def test_every_command_is_listed_with_its_arguments_and_options(readme: Readme) -> None:
    listed = {readme.spans(row[0])[0] for row in readme.rows("Command line")}
    assert {words.split()[0] for words in listed} == set(command_line.commands)
    for words in listed:
        name, *rest = words.split()
        command = command_line.commands[name]
        options = {word.strip("[]") for word in rest if word.startswith("[--")}
        arguments = [word for word in rest if not word.startswith("[--")]
        parameters = [p for p in command.params if p.name not in _COMMON]
        declared = {max(p.opts, key=len) for p in parameters if isinstance(p, click.Option) and not p.hidden}
        assert options == declared, name
        context = click.Context(command)
        usages = [p.make_metavar(context) for p in parameters if isinstance(p, click.Argument)]
        assert arguments == usages, name
        assert any(p.name == "as_json" for p in command.params), name


def test_every_option_of_workflow_is_listed(readme: Readme) -> None:
    listed = {readme.spans(row[0])[0] for row in readme.rows("Options of `@workflow`")}
    assert listed == set(inspect.signature(workflow).parameters) - {"fn"}


def test_every_call_of_the_public_classes_is_listed(readme: Readme) -> None:
    for kind in (Step, Workflow, Instance, Engine):
        calls = _listed(readme, f"`{kind.__name__}`")
        public = {
            name for name, value in inspect.getmembers(kind) if not name.startswith("_") and callable(value)
        }
        if kind is Step:
            public |= {"__call__", "attempt", "index"}
        assert set(calls) == public - _INTERNAL.get(kind, set()), kind
        for name, words in calls.items():
            _check_call(getattr(kind, name), words)


_INTERNAL: dict[type[Any], set[str]] = {
    # What handles and handlers ask of an engine, and what an engine asks of a definition.
    Engine: {
        *("perform", "end", "history", "read_state", "workflow", "enter_context", "running_instance"),
        *("at", "follow", "past", "replay", "fork", "fork_plan", "forks"),
    },
    Workflow: {"check", "validate_input", "validate_output", "validate_data", "bind", "wants"},
}


def _listed(readme: Readme, title: str) -> dict[str, str]:
    """The calls of a table: name → what stands between the brackets."""
    found: dict[str, str] = {}
    for row in readme.rows(title):
        words = readme.spans(row[0])[0].removeprefix("await ")
        match = re.fullmatch(r"\w+(?:\.(\w+))?(?:\((.*)\))?", words)
        assert match is not None, words
        found[match[1] or "__call__"] = match[2] or ""
    return found


def _check_call(member: Any, words: str) -> None:
    """Every option shown (`name=`) is a parameter of the call."""
    options = re.findall(r"(\w+)=", words)
    if options:
        parameters = inspect.signature(member).parameters
        assert set(options) <= set(parameters), (member, words)


def test_the_sections_the_text_links_to_exist(readme: Readme) -> None:
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in readme.titles()}
    links = set(re.findall(r"\]\(#([^)]+)\)", readme.text))
    assert links <= anchors, links - anchors


def test_every_public_name_is_in_the_text(readme: Readme) -> None:
    missing = {name for name in wfes.__all__ if not re.search(rf"\b{name}\b", readme.text)}
    assert missing <= _UNNAMED, missing - _UNNAMED


_UNNAMED = {
    "__version__",
    "DataRequest",
    "ErrorInfo",
    "InstanceRow",
    "RecordedEvent",
    "Concurrency",
    "Wait",
}
"""Types of what calls return, and of options that have no effect yet."""
