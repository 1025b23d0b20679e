"""`wfes fork`: a new instance whose history begins with another's, after saying what it would be.

The handler's code is needed to know the types of changed values only. It is looked for where `wfes replay` looks for
it; where it is not found, and no module was named, values are taken as they are. Nothing of it is made known to the
log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.finding import find_instance
from wfes.cli.handlers import handlers_of
from wfes.cli.screen import Part, Screen, screen, status_part
from wfes.cli.values import JSON, POINT, clock
from wfes.engine import Engine
from wfes.instance import Instance
from wfes.timetravel.fork_plan import ForkPart, ForkPlan
from wfes.timetravel.recording import read_recording

SHOWN_MAX = 30
_TITLES = {
    "kept": ("kept", "good"),
    "changed": ("changed", "wait"),
    "given": ("given by path", "good"),
    "open": ("waited for", "wait"),
    "again": ("runs again", "bad"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Forked:
    """What was done: a fork, or a plan of one."""

    plan: ForkPlan
    fork: Instance[Any] | None = None


@click.command("fork")
@click.argument("id")
@click.option(
    "--at",
    "point",
    type=POINT,
    required=True,
    metavar="VERSION|MOMENT",
    help="The last event that it begins with: a version, or a moment, ISO 8601 with its zone.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PATH=JSON",
    help="Another result for a step or wait; several may be given. JSON may be @FILE.",
)
@click.option("--input", "given", type=JSON, metavar="JSON", help="Another input.")
@click.option(
    "--drop",
    "dropped",
    type=int,
    multiple=True,
    metavar="VERSION",
    help="Leave this event out; several may be.",
)
@click.option(
    "--by-path", is_flag=True, help="Replay nothing, give every result by path: for code that has changed."
)
@click.option("--id", "new_id", metavar="ID", help="The fork's id.")
@click.option("--dry-run", is_flag=True, help="Only say what is kept and what would run again.")
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Where the handler is, for the types of values. Default: the module that ran it, in the current folder.",
)
@json_option
@click.pass_context
def fork_command(
    ctx: click.Context,
    id: str,
    point: int | datetime,
    settings: tuple[str, ...],
    given: Any,
    dropped: tuple[int, ...],
    by_path: bool,
    new_id: str | None,
    dry_run: bool,
    modules: tuple[str, ...],
    as_json: bool,
) -> None:
    """Start a new instance whose history begins with this one's.

    What is recorded up to VERSION is not done again; from there a worker goes on live. After a changed result, what
    followed is void in the fork, and its results are given to the steps that are asked for once more, by path. The
    instance itself is left as it is.

    \b
    wfes fork ID --at 12                          as it was after event 12
    wfes fork ID --at 12 --set price=100          with another result of the step `price`
    wfes fork ID --at 12 --drop 11 --dry-run      what it would be without event 11
    """
    changes: dict[str, Any] = {"by_path": by_path}
    if ctx.get_parameter_source("given") is click.core.ParameterSource.COMMANDLINE:
        changes["input"] = given
    if settings:
        changes["results"] = dict(_setting(text, ctx) for text in settings)
    if dropped:
        changes["events"] = dict.fromkeys(dropped)
    place: Place = ctx.obj
    done = perform(_fork(place, id, point, changes, modules, new_id, dry_run=dry_run))
    out = screen()
    if as_json:
        out.json(_as_data(done))
        return
    _print(out, place, done)


def _setting(text: str, ctx: click.Context) -> tuple[str, Any]:
    """`PATH=JSON` as the path and the value."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise click.UsageError(f"--set {text!r} is not PATH=JSON, such as --set price=100", ctx)
    return path, JSON.convert(value, None, ctx)


async def _fork(
    place: Place,
    id: str,
    point: int | datetime,
    changes: dict[str, Any],
    modules: Sequence[str],
    new_id: str | None,
    *,
    dry_run: bool,
) -> Forked:
    async with opened(place) as engine:
        instance = await find_instance(engine, id)
        if modules or changes.keys() & {"input", "results"}:
            instance = await _with_handler(engine, instance, modules)
        plan = await instance.fork_plan(point, **changes)
        if dry_run:
            return Forked(plan)
        return Forked(plan, await instance.fork(point, **changes, id=new_id))


async def _with_handler(engine: Engine, instance: Instance[Any], modules: Sequence[str]) -> Instance[Any]:
    """A handle whose workflow the engine has met, where its code is found; where not, that is said."""
    recording = read_recording(engine._log, instance.id, engine.url)
    if modules:
        return await engine.get(handlers_of(recording, modules).workflow, instance.id)
    try:
        return await engine.get(handlers_of(recording, ()).workflow, instance.id)
    except click.UsageError as error:
        click.echo(f"types of new values are not checked: {error.message}", err=True)
        return instance


def _as_data(done: Forked) -> dict[str, Any]:
    plan: dict[str, Any] = {
        field.name: getattr(done.plan, field.name) for field in dataclasses.fields(done.plan)
    }
    plan["parts"] = [dataclasses.asdict(part) for part in done.plan.parts]
    fork = done.fork
    return {
        "dry_run": fork is None,
        "id": None if fork is None else fork.id,
        "status": done.plan.status if fork is None else fork.status,
        "plan": plan,
    }


def _print(out: Screen, place: Place, done: Forked) -> None:
    plan, fork = done.plan, done.fork
    if fork is not None:
        head: list[Part] = [f"forked {plan.workflow} ", (plan.origin, "strong"), f" at {plan.at}: "]
        out.line(*head, (fork.id, "strong"), ", now ", status_part(fork.status))
    else:
        out.line(
            f"would fork {plan.workflow} ", (plan.origin, "strong"), f" at {plan.at}; nothing is recorded"
        )
    if plan.void_from is not None:
        void = (
            f"version {plan.at} is"
            if plan.void_from == plan.at
            else f"versions {plan.void_from} to {plan.at} are"
        )
        out.line((f"{void} void: results of those are given by path, if asked for", "dim"))
    if plan.dropped:
        out.line((f"left out: {', '.join(map(str, plan.dropped))}", "dim"))
    for what, (title, style) in _TITLES.items():
        parts = plan.of(what)
        for part in parts[:SHOWN_MAX]:
            out.line((f"{title:<14}", style), _about(part))
        if len(parts) > SHOWN_MAX:
            out.line((f"{title:<14}… and {len(parts) - SHOWN_MAX} more", "dim"))
    if fork is not None:
        out.line((f"where they part: {place.command('diff', plan.origin, fork.id)}", "dim"))


def _about(part: ForkPart) -> str:
    until = "" if part.until is None else f", until {clock(part.until)}"
    return f"{part.kind} {part.path}{until}{f', {part.note}' if part.note else ''}"
