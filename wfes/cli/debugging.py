"""`debug`: look around at a moment of an instance's past, in the code of its handler; `export`: an instance as a file.

Invariants: the log is read before anything else and closed, so nothing of the debugger can touch it; a step's function
runs only by `--into`, after somebody agreed.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

from wfes.cli.app import Failure, Place, json_option, opened
from wfes.cli.finding import find_instance
from wfes.cli.handlers import Handlers, handlers_of, handlers_of_bundle
from wfes.cli.screen import screen
from wfes.cli.values import counted
from wfes.cli.wording import described
from wfes.timetravel.attached import Attached
from wfes.timetravel.bundle import code_here, read_bundle, write_bundle
from wfes.timetravel.debugger import Debugger
from wfes.timetravel.glance import Glance
from wfes.timetravel.into import Left, StepPrompt, step_call
from wfes.timetravel.moment import Front
from wfes.timetravel.pages import Pages
from wfes.timetravel.prompt import Prompt
from wfes.timetravel.recording import Recording, read_recording

LOOPBACK = "127.0.0.1"


@click.command()
@click.argument("id", metavar="ID|FILE")
@click.option(
    "--at", type=click.IntRange(1), metavar="N", help="Stop at event N; `wfes history ID` lists them."
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Where the handler is; default: the module that ran it, in the current folder.",
)
@click.option(
    "--listen",
    metavar="[HOST:]PORT",
    help="Serve the debugger of an editor (VS Code, PyCharm) instead of a prompt; on this machine only, unless HOST "
    "is given.",
)
@click.option(
    "--into",
    "path",
    metavar="PATH",
    help="Run this step's function, for real, after asking; with --at: as it had begun by event N.",
)
@click.option("--yes", is_flag=True, help="With --into: do not ask.")
@click.option("--trust", is_flag=True, help="With a bundle: run the source it holds.")
@json_option
@click.pass_obj
def debug(
    place: Place,
    id: str,
    at: int | None,
    modules: tuple[str, ...],
    listen: str | None,
    path: str | None,
    yes: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Stop inside the handler at a moment of the past.

    The handler of instance ID, or of the bundle FILE, is run again on its recorded history: no step's function is
    called, nothing is written. It stops at the line that awaits event N; without --at where it failed, else at the
    last event. At the prompt, which is pdb's, `forward`, `back` and `goto N` move along the history; `events`, `state`,
    `steps` and `diff` show it; `help` lists everything. With --json there is no prompt: the handler's frames and their
    variables at that moment are printed.
    """
    if path is not None and listen is not None:
        raise click.UsageError("--into and --listen do not go together: --into has a prompt of its own")
    if as_json and not (path is None and listen is None):
        raise click.UsageError("--json goes with --at alone: it prints the moment and asks nothing")
    if yes and path is None:
        raise click.UsageError("--yes goes with --into")
    address = None if listen is None else _address(listen)
    if address is None and not as_json and not _has_terminal():
        raise click.UsageError(
            "the debugger asks what to do, and this is not a terminal; --listen PORT serves an editor's debugger"
        )
    recording, handlers = _found(place, id, modules, trust)
    _say_missing_source(handlers)
    if path is not None:
        _run_step(recording, handlers, path, at, yes)
        return
    pages = Pages(recording, described)
    if as_json:
        once = Glance()
        Debugger(recording, handlers.workflow, once, at=at, workflows=handlers.known).run()
        screen().json(once.seen)
        return
    front: Front = Prompt(pages, handlers.workflow.module.partition(".")[0])
    if address is not None:
        own = handlers.workflow.handler.__code__.co_filename
        front = Attached(*address, lambda line: click.echo(line, err=True), pages.heading, own)
    Debugger(recording, handlers.workflow, front, at=at, workflows=handlers.known).run()


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise click.BadParameter(
            f"{text!r} is no place to listen: PORT or HOST:PORT, such as 5678", param_hint="--listen"
        )
    return host.strip("[]") or LOOPBACK, int(port)


def _found(place: Place, id: str, modules: tuple[str, ...], trust: bool) -> tuple[Recording, Handlers]:
    path = Path(id)
    if path.is_file() or os.sep in id or path.suffix:
        if not path.is_file():
            raise Failure(f"there is no file {id!r}; a bundle is made by `wfes export ID --bundle FILE`")
        bundle = read_bundle(path)
        return bundle.recording, handlers_of_bundle(bundle, modules, trust=trust)
    if trust:
        raise click.UsageError("--trust goes with a bundle: it allows to run the source that is in it")
    recording = asyncio.run(_read(place, id))
    return recording, handlers_of(recording, modules)


async def _read(place: Place, id: str) -> Recording:
    async with opened(place) as engine:
        instance = await find_instance(engine, id)
        return await asyncio.to_thread(read_recording, engine._log, instance.id, engine.url)


def _say_missing_source(handlers: Handlers) -> None:
    workflow = handlers.workflow
    file = Path(workflow.handler.__code__.co_filename)
    if not file.is_file():
        click.echo(f"the source of {workflow.place} is gone ({file}): its lines cannot be shown", err=True)


def _run_step(recording: Recording, handlers: Handlers, path: str, at: int | None, yes: bool) -> None:
    call = step_call(recording, handlers.workflow, path, at=at, workflows=handlers.known)
    click.echo(
        f"step {path!r} of instance {recording.id}, as event {call.version} began it: {call}", err=True
    )
    if not yes:
        click.echo(
            "run here it has its real effects; its result is thrown away and nothing is recorded", err=True
        )
        if not click.confirm("run it?", err=True):
            raise Failure("nothing was run")
    out = screen()
    try:
        result: Any = call.run(StepPrompt())
    except (Left, KeyboardInterrupt):
        out.line("left in the middle; nothing is recorded")
    except Exception as error:
        out.line((f"it raised {type(error).__name__}: {error}", "bad"))
    else:
        out.line(f"it returned {result!r}; nothing is recorded")


@click.command()
@click.argument("id")
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="One file for `wfes debug FILE` on another machine: history, large values, the handler's source, versions.",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Where the handler is, whose source goes along; default: the module that ran it, in the current folder.",
)
@json_option
@click.pass_obj
def export(place: Place, id: str, bundle: Path | None, modules: tuple[str, ...], as_json: bool) -> None:
    """Write an instance to a file.

    A bundle holds everything that was recorded of it: inputs, results, answers, in clear.
    """
    if bundle is None:
        raise click.UsageError("say what is to be written: --bundle FILE")
    recording = asyncio.run(_read(place, id))
    handlers: Handlers | None = None
    try:
        handlers = handlers_of(recording, modules)
    except click.UsageError as error:
        if modules:
            raise
        click.echo(f"the bundle has no source of the handler: {error.message}", err=True)
    code = code_here(None if handlers is None else handlers.workflow)
    write_bundle(bundle, recording, code)
    facts = {
        "file": str(bundle),
        "bytes": bundle.stat().st_size,
        "instance": recording.id,
        "events": len(recording.rows),
        "large_values": len(recording.blobs),
        "sources": list(code.sources),
        "python": platform.python_version(),
    }
    out = screen()
    if as_json:
        out.json(facts)
        return
    out.line(
        f"wrote {bundle}: {counted(len(recording.rows), 'event')}, "
        f"{counted(len(recording.blobs), 'large value')}, {counted(len(code.sources), 'source file')}, "
        f"{counted(bundle.stat().st_size, 'byte')}"
    )
    out.line((f"look at it with: wfes debug {bundle}", "dim"))
