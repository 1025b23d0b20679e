"""Workflows and projections named on a command line: `MODULE:WORKFLOW` and `MODULE`.

The current folder is on the import path, as for `python -m`. Whatever goes wrong in importing is wrong usage: one
line with the module's name, what happened and where.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from wfes import ambient
from wfes.subscription.projection import Projection
from wfes.validation import is_a
from wfes.workflow import Workflow

AnyWorkflow = Workflow[Any, Any]
_PACKAGE = str(Path(ambient.__file__).parent) + os.sep


def load_workflow(name: str) -> tuple[AnyWorkflow, list[AnyWorkflow]]:
    """The workflow that `MODULE:WORKFLOW` names, and every workflow its module has (children among them).

    `WORKFLOW` is the attribute's name or the workflow's own.

    Raises:
        click.UsageError: There is no such module or workflow.
    """
    module_name, colon, wanted = name.partition(":")
    if not colon or not wanted:
        raise click.UsageError(f"{name!r} names no workflow: write MODULE:WORKFLOW, such as shop:checkout")
    module = _imported(module_name)
    found = _workflows_of(module)
    return _pick(module, found, wanted), found


def load_workflows(names: Iterable[str]) -> list[AnyWorkflow]:
    """Every workflow of these modules; `MODULE:WORKFLOW` stands for that one alone. Each one once.

    Raises:
        click.UsageError: There is no such module or workflow, or a module has none.
    """
    chosen: dict[int, AnyWorkflow] = {}
    for name in names:
        module_name, colon, wanted = name.partition(":")
        module = _imported(module_name)
        found = _workflows_of(module)
        if colon:
            found = [_pick(module, found, wanted)]
        elif not found:
            raise click.UsageError(
                f"the module {module_name!r} has no workflow: no name in it is a @workflow"
            )
        # By identity: two workflows of one name are the engine's to refuse.
        chosen.update({id(workflow): workflow for workflow in found})
    return list(chosen.values())


def load_projections(names: Iterable[str]) -> list[Projection | type[Projection]]:
    """Every projection of these modules, made ones and classes; `MODULE:PROJECTION` stands for that one alone.

    Raises:
        click.UsageError: There is no such module or projection, or a module has none.
    """
    chosen: dict[str, Projection | type[Projection]] = {}
    for name in names:
        module_name, colon, wanted = name.partition(":")
        module = _imported(module_name)
        found = _projections_of(module)
        if colon:
            value = getattr(module, wanted, None)
            found = {key: each for key, each in found.items() if wanted == key or each is value}
        if not found:
            missing = f"no projection {wanted!r}" if colon else "no projection"
            raise click.UsageError(
                f"the module {module_name!r} has {missing}: a projection is a class with a name, such as "
                "`class OrdersByDay(Projection)`"
            )
        chosen.update(found)
    return list(chosen.values())


def _projections_of(module: ModuleType) -> dict[str, Projection | type[Projection]]:
    """By name; one that is made stands before its class."""
    found: dict[str, Projection | type[Projection]] = {}
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, Projection) and getattr(value, "name", None):
            found.setdefault(value.name, value)
    for value in vars(module).values():
        if isinstance(value, Projection):
            found[value.name] = value
    return found


def _imported(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if not name:
        raise click.UsageError("the name of a module is missing: write MODULE, such as shop")
    if name.endswith(".py") or "/" in name:
        proposed = name.removesuffix(".py").strip("./").replace("/", ".")
        raise click.UsageError(f"{name!r} is a file's name; the module's is wanted: {proposed}")
    try:
        with ambient.importing(name):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise click.UsageError(
                f"there is no module {name!r}: no {error.name!r} in {folder} or on the import path"
            ) from error
        raise click.UsageError(f"the module {name!r} cannot be imported: {_reason(error)}") from error
    except (Exception, SystemExit) as error:
        raise click.UsageError(f"the module {name!r} cannot be imported: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return text
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")
    ]
    # The last line that is neither in this package nor in the import system is the one to look at.
    places = [
        frame
        for frame in frames
        if frame.filename != importlib.__file__ and not frame.filename.startswith(_PACKAGE)
    ]
    return f"{text} ({places[-1].filename}, line {places[-1].lineno})" if places else text


def _workflows_of(module: ModuleType) -> list[AnyWorkflow]:
    found: dict[int, AnyWorkflow] = {}
    for value in vars(module).values():
        if is_a(value, Workflow):
            found[id(value)] = value
    return list(found.values())


def _pick(module: ModuleType, found: list[AnyWorkflow], wanted: str) -> AnyWorkflow:
    value: Any = module
    for part in wanted.split("."):
        value = getattr(value, part, None)
    if is_a(value, Workflow):
        workflow: AnyWorkflow = value
        return workflow
    for workflow in found:
        if workflow.name == wanted:
            return workflow
    if value is not None:
        raise click.UsageError(
            f"{module.__name__}:{wanted} is a {type(value).__name__}, not a workflow: is @workflow missing?"
        )
    names = ", ".join(sorted(workflow.name for workflow in found)) or "none"
    raise click.UsageError(f"the module {module.__name__!r} has no workflow {wanted!r}; it has: {names}")
