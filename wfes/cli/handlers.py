"""The code of a recorded instance's handler: found by a module's name, or taken from a bundle.

The log does not say where code lies but for the name of the module that a worker ran, and a name from a log is only
used where its source stands in the current folder, or where somebody gave it. Code from a bundle runs after somebody
agreed to that.
"""

from __future__ import annotations

import atexit
import importlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from wfes.cli.app import Failure
from wfes.cli.loading import AnyWorkflow, load_workflows
from wfes.timetravel.bundle import Bundle, differences, unpack_sources
from wfes.timetravel.recording import Recording

DIFFERENCES_MAX = 8
DEMO = "wfes.demo."


class Handlers:
    """What there is to run an instance's handler.

    Attributes:
        workflow: the instance's.
        known: all that its modules have, by name.
    """

    def __init__(self, workflow: AnyWorkflow, known: Sequence[AnyWorkflow]) -> None:
        self.workflow = workflow
        self.known = {each.name: each for each in known}


def handlers_of(recording: Recording, modules: Sequence[str]) -> Handlers:
    """The handler of an instance, from modules that were named, else from the one that ran it last.

    Raises:
        click.UsageError: there is none, or a module cannot be imported.
    """
    name = recording.started.workflow
    if modules:
        found = load_workflows(modules)
        return _chosen(name, found, modules)
    module = _recorded_module(recording)
    if module is None:
        raise click.UsageError(
            f"which module has the handler of workflow {name!r} is not recorded: say it, such as --module shop"
        )
    if not _is_here(module):
        raise click.UsageError(
            f"the handler of workflow {name!r} was run from the module {module!r}, which is not in {Path.cwd()}; "
            f"--module {module} imports it from wherever it is, another name takes another module"
        )
    return _chosen(name, load_workflows([module]), [module])


def _chosen(name: str, found: Sequence[AnyWorkflow], modules: Sequence[str]) -> Handlers:
    for workflow in found:
        if workflow.name == name:
            return Handlers(workflow, found)
    names = ", ".join(sorted(workflow.name for workflow in found)) or "none"
    raise click.UsageError(f"no workflow {name!r} in {', '.join(modules)}; there: {names}")


def _recorded_module(recording: Recording) -> str | None:
    """The module that ran it last."""
    modules = [str(code["module"]) for code in recording.codes if code.get("module")]
    if not modules or not all(part.isidentifier() for part in modules[-1].split(".")):
        return None
    return modules[-1]


def _is_here(module: str) -> bool:
    """Whether its source stands in the current folder or below, where nobody but its owner puts modules."""
    path = Path.cwd().joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() or module.startswith(DEMO)


def handlers_of_bundle(bundle: Bundle, modules: Sequence[str], *, trust: bool) -> Handlers:
    """The handler of a bundle's instance: what stands in the current folder, else the bundle's own source.

    What differs between here and there is said.

    Args:
        bundle: the bundle.
        modules: what was named to be used.
        trust: the bundle's own source is to be run, where what is here differs from it.

    Raises:
        click.UsageError: there is no handler, or nobody agreed to run the bundle's.
    """
    found = _found_here(bundle, modules)
    code = bundle.code
    wants_other = found is None or (trust and found.workflow.digest != code.digest)
    if wants_other and not modules:
        found = _from_bundle(bundle, agreed=trust)
    assert found is not None
    different = differences(code, found.workflow)
    for text in different[:DIFFERENCES_MAX]:
        click.echo(f"differs: {text}", err=True)
    if len(different) > DIFFERENCES_MAX:
        click.echo(f"differs: {len(different) - DIFFERENCES_MAX} more packages", err=True)
    if code.sources and found.workflow.digest != code.digest:
        click.echo("the handler here is another one; --trust runs the source in the bundle", err=True)
    return found


def _found_here(bundle: Bundle, modules: Sequence[str]) -> Handlers | None:
    if modules:
        return handlers_of(bundle.recording, modules)
    module = bundle.code.module
    if module is None or not all(part.isidentifier() for part in module.split(".")) or not _is_here(module):
        return None
    with suppress(click.UsageError):
        return handlers_of(bundle.recording, [module])
    return None


def _from_bundle(bundle: Bundle, *, agreed: bool) -> Handlers:
    recording, code = bundle.recording, bundle.code
    name = recording.started.workflow
    if code.module is None or not code.sources:
        raise click.UsageError(
            f"the handler of workflow {name!r} is not in {Path.cwd()}, and the bundle has no source of it: say its "
            "module, such as --module shop"
        )
    files = ", ".join(list(code.sources)[:4]) + (", …" if len(code.sources) > 4 else "")
    told = f"the handler of workflow {name!r} would be run from the source in the bundle ({files})"
    if not agreed:
        if not sys.stdin.isatty():
            raise click.UsageError(
                f"{told}: --trust allows it, --module NAME takes a module of yours instead"
            )
        click.echo(f"{told}; that runs code of whoever made the bundle", err=True)
        if not click.confirm("run it?", err=True):
            raise Failure("nothing was run")
    folder = tempfile.mkdtemp(prefix="wfes-bundle-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    unpack_sources(code, Path(folder))
    top = {path.partition("/")[0].removesuffix(".py") for path in code.sources}
    for loaded in list(sys.modules):
        if loaded.partition(".")[0] in top:
            del sys.modules[loaded]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    click.echo(f"the handler's source is the bundle's, in {folder}", err=True)
    return _chosen(name, _loaded(code.module), [code.module])


def _loaded(module: str) -> list[Any]:
    found: list[Any] = load_workflows([module])
    return found
