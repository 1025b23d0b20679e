"""Commands that start and run workflows: `run`, `worker`, `start`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import click

from wfes.cli.app import Failure, Place, actor, joined, json_option, opened, perform
from wfes.cli.following import printer
from wfes.cli.live import LiveView, Sizes, Watch
from wfes.cli.loading import AnyWorkflow, load_workflow, load_workflows
from wfes.cli.processes import PAUSE_MIN_SECONDS, Processes, stop_with_parent
from wfes.cli.screen import Screen, screen, status_part
from wfes.cli.timeline import ENDS
from wfes.cli.values import DURATION, JSON, error_text, json_text, span
from wfes.core.state import TERMINAL, Status
from wfes.engine import Engine
from wfes.errors import InstanceNotFound, LogUnavailable, UnknownWorkflow, WrongWorkflow
from wfes.handler.fanout import watchers
from wfes.instance import Instance
from wfes.runtime import collector
from wfes.views import RecordedEvent
from wfes.workflow import Workflow

OPENING_PAUSE_MAX_SECONDS = 5.0
"""How long a worker waits at most before it tries again to open its log."""


@click.command()
@click.argument("workflow", metavar="MODULE:WORKFLOW")
@click.option(
    "--input", "input_", type=JSON, metavar="JSON", help="The input; @FILE reads it, - takes standard input."
)
@click.option("--id", help="The instance's id. One that exists already goes on.")
@click.option("--key", help="What the instance is about.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be given several times.")
@json_option
@click.pass_obj
def run(
    place: Place,
    workflow: str,
    input_: Any,
    id: str | None,
    key: str | None,
    tags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a workflow, show what it does, print its output.

    The output goes to standard output, everything else to standard error. Exit code 1 if it does not complete.
    Ctrl-C stops cleanly; the instance stays in the log and says how to go on. With --json each event is one line,
    and the last line is the result.
    """
    wanted, known = load_workflow(workflow)
    runner = _Runner(place, workflow, as_json)
    try:
        instance = perform(_run(runner, wanted, known, input_, id, key, tags))
    except (KeyboardInterrupt, asyncio.CancelledError):
        runner.stopped()
        raise click.exceptions.Exit(1) from None
    runner.finished(instance)
    if instance.status != Status.COMPLETED:
        raise click.exceptions.Exit(1)


class _Runner:
    """What `run` says."""

    def __init__(self, place: Place, name: str, as_json: bool) -> None:
        self.place = place
        self.name = name
        self.as_json = as_json
        self.out = screen()
        self.progress = screen(sys.stderr)
        self.id: str | None = None
        self.sizes: Sizes = {}
        self._print = printer(self.out, as_json=True)

    def view(self) -> LiveView:
        assert self.id is not None
        return LiveView(self.progress, Watch(self.id, self.sizes))

    def began(self, instance: Instance[Any]) -> None:
        self.id = instance.id
        if not self.as_json:
            self.progress.line((instance.workflow, "strong"), f"  {instance.id}")

    def event(self, view: LiveView, event: RecordedEvent) -> None:
        if self.as_json:
            self._print(event)
            return
        view.feed(event, event.instance)
        if event.type == "RequestIssued":
            answer = self.place.command("provide", event.instance, str(event.data.get("name")))
            self.progress.line((f"  answer it with: {answer} JSON", "dim"))
        elif event.type == "WorkflowPaused" and event.instance == self.id:
            go_on = self.place.command("resume", event.instance)
            why = event.data.get("reason") or event.data.get("held") or "on request"
            self.progress.line(("paused", "wait"), f": {why}; `{go_on}` lets it go on")

    def stopped(self) -> None:
        """After Ctrl-C."""
        if self.id is None:
            click.echo("wfes: stopped before anything was started", err=True)
            return
        module = self.name.partition(":")[0]
        here = self.place.command("run", self.name, "--id", self.id)
        worker = self.place.command("worker", module)
        click.echo(
            f"wfes: stopped; instance {self.id} is as far as the log says. To go on: {here}   or: {worker}",
            err=True,
        )
        if self.as_json:
            self.out.json({"type": "stopped", "id": self.id, "go_on": here}, lines=True)

    def finished(self, instance: Instance[Any]) -> None:
        """At its end."""
        seconds = (instance.updated_at - instance.created_at).total_seconds()
        if self.as_json:
            result = {
                "type": "result",
                "id": instance.id,
                "workflow": instance.workflow,
                "status": instance.status,
                "output": instance.output,
                "error": instance.error,
                "reason": instance.reason,
                "seconds": seconds,
            }
            self.out.json(result, lines=True)
            return
        self.progress.line(status_part(instance.status), (f"  {span(max(seconds, 0.0))}", "dim"))
        if instance.status == Status.COMPLETED:
            self.out.line(json_text(instance.output))
        elif instance.error is not None:
            self.progress.line((error_text(instance.error), "bad"))
        elif instance.reason:
            self.progress.line(instance.reason)
        if instance.status != Status.COMPLETED:
            look = self.place.command("show", instance.id)
            self.progress.line((f"look at it with: {look}", "dim"))


async def _run(
    runner: _Runner,
    wanted: AnyWorkflow,
    known: Iterable[AnyWorkflow],
    input_: Any,
    id: str | None,
    key: str | None,
    tags: tuple[str, ...],
) -> Instance[Any]:
    workflows = {wf.name: wf for wf in [*known, wanted]}.values()
    with stop_on_sigterm(), _sizes_noted(runner.sizes):
        async with opened(runner.place, workflows=workflows, worker=True, creates=True) as engine:
            instance, after = await _begin(engine, wanted, input_, id, key, tags)
            runner.began(instance)
            with runner.view() as view:
                await _follow(engine, runner, view, instance, after)
            await instance.refresh()
            return instance


async def _begin(
    engine: Engine, wanted: AnyWorkflow, input_: Any, id: str | None, key: str | None, tags: tuple[str, ...]
) -> tuple[Instance[Any], int]:
    """The instance to run, and the log position its events come after."""
    after = (await engine.instances(limit=1)).position
    if id is not None and input_ is None:
        try:
            instance = await Workflow.get(id)
        except InstanceNotFound:
            pass
        else:
            if instance.workflow != wanted.name:
                raise WrongWorkflow(id, expected=wanted.name, actual=instance.workflow)
            return instance, (await instance.history(0, 1))[0].position - 1
    instance = await engine.start(wanted, input_, id=id, key=key, tags=tags or None)
    first = (await instance.history(0, 1))[0].position
    return instance, min(after, first - 1)


async def _follow(
    engine: Engine, runner: _Runner, view: LiveView, instance: Instance[Any], after: int
) -> None:
    family = {instance.id}
    # An end that a retry undid is not the end.
    await instance.refresh()
    upto = instance.version if instance.status in TERMINAL else 0
    async for event in engine.events(after=after):
        if event.instance not in family:
            continue
        if event.type == "ChildStarted":
            family.add(str(event.data.get("instance")))
        runner.event(view, event)
        if event.instance == instance.id and event.type in ENDS and event.version >= upto:
            await instance.refresh()
            if instance.status in TERMINAL:
                return


@contextmanager
def _sizes_noted(sizes: Sizes) -> Generator[None]:
    """Notes how many items each `map` of this process has, which is known before they have begun."""

    def note(instance: str, path: str, number: int) -> None:
        sizes[instance, path] = number

    watchers.append(note)
    try:
        yield
    finally:
        watchers.remove(note)


@contextmanager
def stop_on_sigterm() -> Generator[None]:
    """SIGTERM stops a command of the event loop as cleanly as Ctrl-C does."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="So many, under one parent.",
)
@click.option(
    "--max-running",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="How many instances each process has in memory at most.",
)
@click.option("--name", help="What to call it; shown by `wfes workers`.")
@click.option(
    "--grace",
    type=DURATION,
    default="10s",
    show_default=True,
    metavar="DURATION",
    help="How long running steps may take to finish at a stop.",
)
@click.option("--supervised", is_flag=True, hidden=True)
@json_option
@click.pass_obj
def worker(
    place: Place,
    modules: tuple[str, ...],
    processes: int,
    max_running: int,
    name: str | None,
    grace: int,
    supervised: bool,
    as_json: bool,
) -> None:
    """Run the workflows of modules until Ctrl-C or SIGTERM.

    MODULE is a module in the current folder or on the import path; MODULE:WORKFLOW runs one of it only. A stop is
    clean: nothing more is claimed, running steps get their grace, everything else goes on elsewhere at once. A second
    Ctrl-C or SIGTERM ends it.

    With --processes a parent runs that many worker processes, starts one again that died, and passes a stop on.
    """
    workflows = load_workflows(modules)
    if processes > 1:
        options = ["--max-running", str(max_running), "--grace", str(grace / 1_000_000)]
        options += ["--name", name] if name is not None else []
        options += ["--json"] if as_json else []
        command = [sys.executable, "-m", "wfes", "worker", *options, "--supervised", "--", *modules]
        code = asyncio.run(_processes(command, place.url, processes))
        raise click.exceptions.Exit(code)
    if supervised:
        stop_with_parent()
    out = screen()
    perform(_worker(place, workflows, out, as_json, max_running, name, grace))
    if as_json:
        out.json({"type": "stopped"}, lines=True)
    else:
        out.line("stopped")


async def _processes(command: list[str], url: str, number: int) -> int:
    def say(text: str) -> None:
        click.echo(f"wfes: {text}", err=True)

    # Not on their command lines, which everybody on this machine can read: it may hold a password.
    return await Processes(command, {**os.environ, "WFES_URL": url}, number, say).run()


async def _worker(
    place: Place,
    workflows: list[AnyWorkflow],
    out: Screen,
    as_json: bool,
    max_running: int,
    name: str | None,
    grace: int,
) -> None:
    names = sorted(workflow.name for workflow in workflows)
    async with AsyncExitStack() as stack:
        engine = await _patiently(
            lambda: stack.enter_async_context(
                opened(
                    place, workflows=workflows, worker=True, creates=True, max_running=max_running, name=name
                )
            )
        )
        collector.relax()
        working = asyncio.ensure_future(engine.run_forever(grace=grace / 1_000_000))
        await asyncio.sleep(0)  # Who reads that it runs may stop it at once, and then cleanly.
        if as_json:
            out.json({"type": "running", "url": place.shown, "workflows": names}, lines=True)
        else:
            out.line("runs ", (joined(names), "strong"), f" on {place.shown}; Ctrl-C stops it")
            out.stream.flush()
        await working


async def _patiently(enter: Callable[[], Awaitable[Engine]]) -> Engine:
    """An engine, as soon as its log can be opened: a worker may be started before the server of its log is.

    Raises:
        LogUnavailable: The log cannot be opened, and waiting does not help.
    """
    pause = PAUSE_MIN_SECONDS
    while True:
        try:
            return await enter()
        except LogUnavailable as error:
            if not error.retryable:
                raise
            click.echo(f"wfes: {error}; it is tried again in {pause:g} s", err=True)
        await asyncio.sleep(pause)
        pause = min(pause * 2, OPENING_PAUSE_MAX_SECONDS)


@click.command()
@click.argument("workflow", metavar="NAME|MODULE:WORKFLOW")
@click.option(
    "--input", "input_", type=JSON, metavar="JSON", help="The input; @FILE reads it, - takes standard input."
)
@click.option("--id", help="The instance's id; the same one twice is one instance.")
@click.option("--key", help="What the instance is about.")
@click.option("--delay", type=DURATION, metavar="DURATION", help="Begin no earlier than so long from now.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be given several times.")
@json_option
@click.pass_obj
def start(
    place: Place,
    workflow: str,
    input_: Any,
    id: str | None,
    key: str | None,
    delay: int | None,
    tags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Start an instance and return; a worker runs it.

    NAME is a workflow the log knows because a worker had it; its input is checked when it runs. MODULE:WORKFLOW
    checks the input at once.
    """
    wanted = load_workflow(workflow)[0] if ":" in workflow else workflow

    async def begin() -> Instance[Any]:
        known = [] if isinstance(wanted, str) else [wanted]
        named: Any = wanted  # its input is whatever was typed, which the engine checks
        async with opened(place, workflows=known, creates=not isinstance(wanted, str)) as engine:
            return await engine.start(
                named,
                input_,
                id=id,
                key=key,
                delay=None if delay is None else delay / 1_000_000,
                tags=tags or None,
            )

    try:
        instance = perform(begin())
    except UnknownWorkflow as error:
        raise Failure(
            f"the log knows no workflow named {workflow!r}: no worker had it yet; "
            "MODULE:WORKFLOW starts one by its module"
        ) from error
    out = screen()
    if as_json:
        document = {
            "id": instance.id,
            "workflow": instance.workflow,
            "status": instance.status,
            "actor": actor(),
        }
        out.json(document)
        return
    out.line("started ", instance.workflow, " ", (instance.id, "strong"))
