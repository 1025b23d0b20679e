"""`wfes demo`: a real workflow on this machine's standard library, with a crash on request.

The workflows are in `wfes.demo`; here they are started, watched and asked about, and what happened is told from the
log alone.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from wfes.cli.app import Failure, Place, json_option, opened, perform
from wfes.cli.chart import print_chart
from wfes.cli.crew import Crew
from wfes.cli.live import LiveView, Watch
from wfes.cli.running import stop_on_sigterm
from wfes.cli.screen import Screen, screen
from wfes.cli.timeline import ENDS, Timeline
from wfes.cli.values import error_text, span
from wfes.cli.witness import Account, account
from wfes.core.state import Status
from wfes.demo.inventory import WORKFLOWS, Order, stdlib_inventory
from wfes.demo.library import library_folder
from wfes.engine import Engine
from wfes.instance import Instance
from wfes.views import RecordedEvent

REPORT = "stdlib-report.md"
DATABASE = "wfes-demo.db"
MODULES = "modules"
IN_MEMORY = "sqlite://"
NAMES_WIDTH = 96


@click.command()
@click.option("--yes", is_flag=True, help="Approve the report without being asked.")
@click.option(
    "--crash", is_flag=True, help="Kill the worker halfway with SIGKILL and carry on in a new process."
)
@click.option("--url", help=f"The log; default: {DATABASE} in the folder.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the report and the log go; default: the current folder.",
)
@json_option
@click.pass_context
def demo(ctx: click.Context, yes: bool, crash: bool, url: str | None, folder: Path, as_json: bool) -> None:
    """Make an inventory of Python's standard library.

    A workflow finds the modules, parses each one in a step of its own, asks for approval and lets a child workflow
    write the report. With --crash its worker is killed halfway, and the log tells what ran once and what twice.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(
            "the demo asks for approval, and standard input is no terminal; give --yes to approve beforehand"
        )
    place = _place(ctx, url, folder)
    if crash and place.url == IN_MEMORY:
        raise click.UsageError("--crash needs a log on disk: a log in memory dies with its process")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"the folder {folder} cannot be made: {error}") from error
    out = screen(sys.stderr) if as_json else screen()
    show = _Demo(place, out, folder.resolve() / REPORT, yes=yes, crash=crash)
    try:
        told = perform(show.run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        show.stopped()
        raise click.exceptions.Exit(1) from None
    if as_json:
        screen().json(told.to_json(place.shown))
    else:
        _print_told(out, place, told)
    if told.instance.status != Status.COMPLETED:
        raise click.exceptions.Exit(1)


def _place(ctx: click.Context, url: str | None, folder: Path) -> Place:
    """The demo's own log, unless a command line names one: what `$WFES_URL` names is for real work."""
    parent = ctx.parent
    if (
        url is None
        and parent is not None
        and parent.get_parameter_source("url") is ParameterSource.COMMANDLINE
    ):
        url = parent.params.get("url")
    return Place(url or f"sqlite:///{folder / DATABASE}", given=True)


@dataclass(slots=True)
class _Told:
    """What there is to tell in the end."""

    instance: Instance[Any]
    events: list[RecordedEvent]
    crash: Account | None

    @property
    def seconds(self) -> float:
        return (self.events[-1].at - self.events[0].at).total_seconds()

    def to_json(self, url: str) -> dict[str, Any]:
        """As JSON data."""
        output = self.instance.output
        return {
            "id": self.instance.id,
            "status": self.instance.status,
            "url": url,
            "report": None if output is None else output.report.path,
            "totals": self.instance.state,
            "seconds": self.seconds,
            "steps": [row.to_json() for row in Timeline(self.events).top],
            "crash": None if self.crash is None else self.crash.to_json(),
        }


class _Demo:
    """One run of the demo."""

    def __init__(self, place: Place, out: Screen, report: Path, *, yes: bool, crash: bool) -> None:
        self.place = place
        self.out = out
        self.report = report
        self.yes = yes
        self.crash = crash
        self.id: str | None = None

    async def run(self) -> _Told:
        """Runs it to its end."""
        with stop_on_sigterm():
            async with opened(self.place, workflows=WORKFLOWS, worker=not self.crash, creates=True) as engine:
                position = (await engine.instances(limit=1)).position
                order = Order(folder=library_folder(), report=str(self.report))
                instance = await engine.start(stdlib_inventory, order, tags=["demo"])
                self.id = instance.id
                self.out.line(("stdlib-inventory", "strong"), f"  {instance.id}  of {order.folder}")
                watch = Watch(instance.id)
                with LiveView(self.out, watch) as view:
                    await self._follow(engine, instance, view, position)
                await instance.refresh()
                events = list(await instance.history())
                return _Told(instance, events, account(events) if self.crash else None)

    def stopped(self) -> None:
        """After Ctrl-C."""
        if self.id is None:
            return
        go_on = self.place.command("worker", "wfes.demo.inventory")
        answer = self.place.command("provide", self.id, "approval", "true")
        click.echo(
            f"wfes: stopped; instance {self.id} is as far as the log says. To go on: {go_on}", err=True
        )
        click.echo(f"      and, once it asks: {answer}", err=True)

    async def _follow(self, engine: Engine, instance: Instance[Any], view: LiveView, after: int) -> None:
        """Shows what happens until the instance is over; the workers are other processes if one is to die."""
        following = asyncio.ensure_future(self._watch(engine, instance, view, after))
        if not self.crash:
            await following
            return
        crew = Crew(self.place.url, lambda *parts: self.out.line(*parts))
        working = asyncio.ensure_future(crew.work())
        try:
            await asyncio.wait({following, working}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                # The workers end first only where something is wrong with them.
                await working
            await following
        finally:
            following.cancel()
            working.cancel()
            await asyncio.gather(following, working, return_exceptions=True)
            await crew.dismiss()

    async def _watch(self, engine: Engine, instance: Instance[Any], view: LiveView, after: int) -> None:
        async for event in engine.events(after=after):
            if event.instance.startswith("$"):
                continue
            if event.type == "StepCompleted" and event.data.get("path") == "find modules":
                view.watch.expect(event.instance, MODULES, len(event.data["result"]))
            view.feed(event, event.instance)
            if event.instance != instance.id:
                continue
            if event.type == "RequestIssued":
                await self._answer(engine, event, view)
            elif event.type == "WorkflowPaused":
                raise Failure(f"instance {instance.id} was paused: {event.data.get('reason')}")
            elif event.type in ENDS:
                return

    async def _answer(self, engine: Engine, event: RecordedEvent, view: LiveView) -> None:
        answer = True
        if not self.yes:
            view.still()
            answer = await self._asked(str(event.data.get("message")))
            view.move()
        page = await engine.requests(workflow=stdlib_inventory.name, limit=1000)
        for request in page.items:
            if request.id == event.data.get("id"):
                await engine.provide(stdlib_inventory, request, answer)

    async def _asked(self, question: str) -> bool:
        """Asks at the terminal, without holding up anything else in this process."""
        while True:
            print(f"  {question} [Y/n] ", end="", file=self.out.stream, flush=True)
            line = await _line_typed()
            if not line:  # the end of input is no answer
                self.out.line()
                raise asyncio.CancelledError
            match line.strip().lower():
                case "" | "y" | "yes":
                    return True
                case "n" | "no":
                    return False
                case _:
                    self.out.line("  please answer y or n")


async def _line_typed() -> str:
    """The next line of standard input; empty at its end. Ctrl-C interrupts it, as nothing is read in a thread."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()


def _print_told(out: Screen, place: Place, told: _Told) -> None:
    instance = told.instance
    print_chart(out, Timeline(told.events), inner_max=0)
    if told.crash is not None:
        out.line()
        for line in told.crash.lines(NAMES_WIDTH):
            out.line(*line)
    out.line()
    output = instance.output
    if output is not None:
        totals = output.totals
        out.line(
            ("✓ ", "good"),
            f"{totals.modules} modules, {totals.files} files, {totals.lines:,} lines, {totals.functions:,} functions, ",
            f"{totals.classes:,} classes in {span(told.seconds)}, {len(told.events)} events",
        )
        out.line("report  ", (output.report.path, "strong"))
    else:
        why = error_text(instance.error) or instance.reason or ""
        out.line(
            (f"{instance.status}", "bad"),
            f": {why}; no report was written" if why else "; no report was written",
        )
    if place.url == IN_MEMORY:
        return
    out.line("look    ", (place.command("show", instance.id), "strong"))
    out.line("        ", (place.command("history", instance.id), "strong"))
