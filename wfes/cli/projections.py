"""`projections`: how projections are, and looking after them: rebuild, check, lag, retry, drop.

Listing and checking change nothing: projections of a module are made known to the engine, not followed by it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import click

from wfes.cli.app import Commands, Failure, Place, json_option, opened, perform
from wfes.cli.loading import load_projections
from wfes.cli.screen import Part, screen
from wfes.engine import Engine
from wfes.subscription.check import CheckReport
from wfes.views import ProjectionStatus

_STYLES = {"live": "good", "building": "busy", "stopped": "bad", "unavailable": "bad", "absent": "wait"}
_BAR_CHARS = 30
_UNCHECKED = "not checked, its class is not known here: name its module with --module"

module_option = click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="A module with projections, such as shop, or one of them: shop:OrdersByDay. May be given several times.",
)


class _Group(Commands):
    """Commands that stand beside the list of projections."""


@click.group(cls=_Group, invoke_without_command=True)
@module_option
@json_option
@click.pass_context
def projections(ctx: click.Context, modules: tuple[str, ...], as_json: bool) -> None:
    """List projections with their status and lag; or look after one of them."""
    if ctx.invoked_subcommand is None:
        _list(ctx.obj, modules, as_json)


def _list(place: Place, modules: Sequence[str], as_json: bool) -> None:
    found = perform(_statuses(place, modules))
    out = screen()
    if as_json:
        out.json([dataclasses.asdict(status) for status in found])
        return
    out.table(
        ["name", "version", "kind", "status", "position", "lag", "note"],
        [
            [
                status.name,
                str(status.version),
                status.kind,
                (status.status, _STYLES.get(status.status, "")),
                f"{status.position:,}",
                _lag(status),
                _note(status),
            ]
            for status in found
        ],
    )


def _lag(status: ProjectionStatus) -> str:
    return f"{status.lag:,} events, {status.lag_seconds:,.1f}s" if status.lag else "0"


def _note(status: ProjectionStatus) -> Part:
    if status.error is not None and status.error_position is None:
        return (status.error, "bad")
    if status.error is not None:
        return (f"at {status.error_position}: {status.error}", "bad")
    if status.building is not None:
        return (f"being built anew, {status.building:.0%}", "busy")
    return "" if status.url is None else status.url


@projections.command("lag")
@module_option
@json_option
@click.pass_obj
def lag(place: Place, modules: tuple[str, ...], as_json: bool) -> None:
    """Show how far each projection is behind the log."""
    found = perform(_statuses(place, modules))
    out = screen()
    if as_json:
        out.json({each.name: {"events": each.lag, "seconds": each.lag_seconds} for each in found})
        return
    out.table(
        ["name", "events", "seconds"],
        [[status.name, f"{status.lag:,}", f"{status.lag_seconds:,.1f}"] for status in found],
    )


@projections.command("show")
@click.argument("name")
@module_option
@json_option
@click.pass_obj
def show(place: Place, name: str, modules: tuple[str, ...], as_json: bool) -> None:
    """Show one projection."""
    found = [status for status in perform(_statuses(place, modules)) if status.name == name]
    if not found:
        raise Failure(f"there is no projection {name!r} in this log; `wfes projections` lists them")
    out = screen()
    values = dataclasses.asdict(found[0])
    if as_json:
        out.json(values)
    else:
        out.pairs([(key, str(value)) for key, value in values.items() if value is not None])


@projections.command("rebuild")
@click.argument("name")
@module_option
@json_option
@click.pass_obj
def rebuild(place: Place, name: str, modules: tuple[str, ...], as_json: bool) -> None:
    """Build a projection anew from the log, beside the live rows, and swap them at once."""
    out = screen()

    async def run() -> ProjectionStatus:
        async with _engine(place, modules) as engine:
            with _bar(name, shown=not as_json) as progress:
                await engine.rebuild_projection(name, progress)
            return next(status for status in await engine.projections() if status.name == name)

    status = perform(run())
    if as_json:
        out.json(dataclasses.asdict(status))
    else:
        out.line((f"{name} is built anew", "good"), f", at position {status.position:,}")


@projections.command("check")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Check every projection of the log and the modules.")
@module_option
@json_option
@click.pass_obj
def check(place: Place, name: str | None, everything: bool, modules: tuple[str, ...], as_json: bool) -> None:
    """Compare a projection's rows with what the log makes of them.

    Exit code 1 where they differ, and where --all meets a projection that cannot be checked here.
    """
    if everything is (name is not None):
        raise click.UsageError("give the name of a projection, or --all")
    reports, passed_over = perform(_checked(place, modules, name))
    out = screen()
    if as_json:
        out.json(
            [{"ok": report.ok, **dataclasses.asdict(report)} for report in reports]
            + [{"ok": None, "name": each, "error": _UNCHECKED} for each in passed_over]
        )
    else:
        for report in reports:
            for number, line in enumerate(str(report).splitlines()):
                out.line((line, "" if number else "good" if report.ok else "bad"))
        for each in passed_over:
            out.line((f"{each}: {_UNCHECKED}", "bad"))
    if passed_over or not all(report.ok for report in reports):
        raise click.exceptions.Exit(1)


async def _checked(
    place: Place, modules: Sequence[str], name: str | None
) -> tuple[list[CheckReport], list[str]]:
    async with _engine(place, modules) as engine:
        if name is not None:
            return [await engine.check_projection(name)], []
        found = await engine.projections()
        known = [status.name for status in found if status.kind != "unknown" and status.version]
        unknown = [status.name for status in found if status.kind == "unknown"]
        return [await engine.check_projection(each) for each in known], unknown


@projections.command("retry")
@click.argument("name")
@module_option
@json_option
@click.pass_obj
def retry(place: Place, name: str, modules: tuple[str, ...], as_json: bool) -> None:
    """Let a stopped projection try again at the event where its handler raised."""

    async def run() -> None:
        async with _engine(place, modules) as engine:
            await engine.retry_projection(name)

    perform(run())
    out = screen()
    if as_json:
        out.json({"name": name, "retried": True})
    else:
        out.line(f"{name} is tried again by whoever follows it")


@projections.command("drop")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@module_option
@json_option
@click.pass_obj
def drop(place: Place, name: str, yes: bool, modules: tuple[str, ...], as_json: bool) -> None:
    """Remove a projection that no running engine follows: its tables and what is noted about it.

    The log is not touched: whoever opens an engine with the projection later gets it built anew.
    """
    if not yes:
        click.confirm(f"remove the tables of projection {name!r}?", abort=True, err=True)

    async def run() -> None:
        async with _engine(place, modules) as engine:
            await engine.drop_projection(name)

    perform(run())
    out = screen()
    if as_json:
        out.json({"name": name, "dropped": True})
    else:
        out.line((f"{name} is dropped", "good"))


async def _statuses(place: Place, modules: Sequence[str]) -> list[ProjectionStatus]:
    async with _engine(place, modules) as engine:
        return await engine.projections()


@asynccontextmanager
async def _engine(place: Place, modules: Sequence[str]) -> AsyncGenerator[Engine]:
    loaded = load_projections(modules)
    async with opened(place) as engine:
        engine.learn_projections(loaded)
        yield engine


@contextmanager
def _bar(name: str, *, shown: bool) -> Generator[Callable[[int, int], None]]:
    """A progress bar on standard error, where that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        with _plain_bar(name) as tell:
            yield tell
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task: Any = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def _plain_bar(name: str) -> Generator[Callable[[int, int], None]]:
    def tell(done: int, total: int) -> None:
        part = done / total if total else 1.0
        bar = "#" * round(part * _BAR_CHARS)
        print(f"\r\x1b[K{name} [{bar:<{_BAR_CHARS}}] {part:4.0%}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
