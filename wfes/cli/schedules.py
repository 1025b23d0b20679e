"""`wfes schedules`: what ticks when, what became of it, and the ways to step in.

A schedule is declared with its workflow, `@workflow(schedule=...)`; nothing here needs that code. The bare group lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import click

from wfes.cli.app import Commands, Place, json_option, opened, perform
from wfes.cli.following import print_events
from wfes.cli.screen import Part, screen
from wfes.cli.values import MOMENT, clock, counted, short
from wfes.engine import Engine
from wfes.schedules import ScheduleRow
from wfes.views import Page, RecordedEvent

UPCOMING = 5
PAGE = 1_000


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--workflow", help="Only schedules of this workflow.")
@click.option("--paused", is_flag=True, help="Only paused ones.")
@json_option
@click.pass_context
def schedules(ctx: click.Context, workflow: str | None, paused: bool, as_json: bool) -> None:
    """List schedules, and pause, resume, trigger, backfill or remove them.

    NAME is a schedule's name as listed: that of its workflow, with #2, #3 … for further ones, or `workflow:name`.
    """
    if ctx.invoked_subcommand is not None:
        if workflow is not None or paused or as_json:
            raise click.UsageError(
                f"give options behind the command: wfes schedules {ctx.invoked_subcommand} …"
            )
        return
    _list(ctx.obj, workflow, paused, as_json)


@schedules.command("list")
@click.option("--workflow", help="Only schedules of this workflow.")
@click.option("--paused", is_flag=True, help="Only paused ones.")
@json_option
@click.pass_obj
def list_(place: Place, workflow: str | None, paused: bool, as_json: bool) -> None:
    """List schedules; the same as without a command."""
    _list(place, workflow, paused, as_json)


def _list(place: Place, workflow: str | None, paused: bool, as_json: bool) -> None:
    async def read() -> list[ScheduleRow]:
        found: list[ScheduleRow] = []
        async with opened(place) as engine:
            page: Page[ScheduleRow] | None = None
            while page is None or page.cursor is not None:
                cursor = None if page is None else page.cursor
                page = await engine.schedules(workflow, paused=paused or None, limit=PAGE, cursor=cursor)
                found.extend(page.items)
        return found

    rows = perform(read())
    out = screen()
    if as_json:
        out.json([_plain(row) for row in rows])
        return
    if not rows:
        out.line("no schedules" + (" are paused" if paused else ""))
        return
    table: list[list[Part]] = [
        [
            (row.name, "strong"),
            row.cron,
            row.timezone,
            ("paused", "wait") if row.paused else clock(row.next) or "never",
            clock(row.last_at),
            str(len(row.open) or ""),
            str(row.queued or ""),
            str(row.missed or ""),
        ]
        for row in rows
    ]
    out.table(["schedule", "cron", "zone", "next", "last", "open", "queued", "missed"], table)


@schedules.command()
@click.argument("name")
@click.option(
    "-n",
    "--ticks",
    type=click.IntRange(1, 1000),
    default=UPCOMING,
    show_default=True,
    help="So many next ticks.",
)
@json_option
@click.pass_obj
def show(place: Place, name: str, ticks: int, as_json: bool) -> None:
    """Show a schedule, and when it ticks next."""

    async def read() -> tuple[ScheduleRow, list[datetime]]:
        async with opened(place) as engine:
            return await engine.schedule(name), await engine.schedule_ticks(name, limit=ticks)

    row, upcoming = perform(read())
    out = screen()
    if as_json:
        out.json({**_plain(row), "ticks": upcoming})
        return
    reason = f": {row.pause_reason}" if row.pause_reason else ""
    last = f"{row.last_tick}" if row.last_tick else "none"
    numbers = (
        f"{row.started:,} started, {row.skipped:,} skipped, {row.missed:,} missed, {row.queued:,} queued"
    )
    pairs: list[tuple[str, Part]] = [
        ("schedule", (row.name, "strong")),
        ("workflow", row.workflow),
        ("cron", f"{row.cron}  ({row.timezone})"),
        ("overlap", row.overlap),
        ("catch-up", str(row.catch_up or "none")),
        *([("jitter", f"up to {row.jitter}")] if row.jitter else []),
        *([("input", short(row.input))] if row.input is not None else []),
        ("status", (f"paused{reason}", "wait") if row.paused else ("on", "good")),
        ("last tick", last),
        *([("last instance", row.last_instance)] if row.last_instance else []),
        *([("open", ", ".join(row.open))] if row.open else []),
        ("ticks", numbers),
        *([("backfills", f"{row.backfills} not done")] if row.backfills else []),
    ]
    out.pairs(pairs)
    out.line()
    for tick in upcoming:
        out.line(("next  ", "dim"), tick.isoformat(), (f"  {clock(tick)} here", "dim"))


@schedules.command()
@click.argument("name")
@click.option("--after", type=click.IntRange(0), default=0, help="Only events above this version.")
@click.option("--upto", type=click.IntRange(1), help="Only events up to this version.")
@json_option
@click.pass_obj
def history(place: Place, name: str, after: int, upto: int | None, as_json: bool) -> None:
    """Print every event of a schedule: definitions, ticks, pauses; also of a removed one."""

    async def read() -> list[RecordedEvent]:
        async with opened(place) as engine:
            return await engine.schedule_history(name, after, upto)

    print_events(screen(), perform(read()), as_json)


@schedules.command()
@click.argument("name")
@click.option("--reason", help="Why; recorded with it.")
@json_option
@click.pass_obj
def pause(place: Place, name: str, reason: str | None, as_json: bool) -> None:
    """Hold a schedule: its ticks start nothing until it is resumed."""
    _change(place, name, "held", lambda engine: engine.pause_schedule(name, reason=reason), as_json)


@schedules.command()
@click.argument("name")
@json_option
@click.pass_obj
def resume(place: Place, name: str, as_json: bool) -> None:
    """Release a schedule; the ticks of the pause are recorded as missed."""
    _change(place, name, "released", lambda engine: engine.resume_schedule(name), as_json)


def _change(
    place: Place, name: str, did: str, change: Callable[[Engine], Awaitable[None]], as_json: bool
) -> None:
    async def work() -> ScheduleRow:
        async with opened(place) as engine:
            await change(engine)
            return await engine.schedule(name)

    row = perform(work())
    out = screen()
    if as_json:
        out.json(_plain(row))
        return
    now: Part = ("paused", "wait") if row.paused else f"next {clock(row.next) or 'never'}"
    out.line(f"{did}: ", (row.name, "strong"), ", ", now)


@schedules.command()
@click.argument("name")
@json_option
@click.pass_obj
def trigger(place: Place, name: str, as_json: bool) -> None:
    """Start an instance now, as a tick would; a worker runs it."""

    async def work() -> dict[str, Any]:
        async with opened(place) as engine:
            instance = await engine.trigger_schedule(name)
            return {"id": instance.id, "workflow": instance.workflow, "status": instance.status}

    done = perform(work())
    out = screen()
    if as_json:
        out.json(done)
        return
    out.line(f"started: {done['workflow']} ", (done["id"], "strong"))


@schedules.command()
@click.argument("name")
@click.option("--from", "start", type=MOMENT, required=True, metavar="MOMENT", help="ISO 8601 with its zone.")
@click.option(
    "--to", "end", type=MOMENT, required=True, metavar="MOMENT", help="The same; both are included."
)
@json_option
@click.pass_obj
def backfill(place: Place, name: str, start: datetime, end: datetime, as_json: bool) -> None:
    """Let the ticks of a time in the past start an instance each, as far as they have none."""

    async def work() -> int:
        async with opened(place) as engine:
            return await engine.backfill_schedule(name, start, end)

    ticks = perform(work())
    out = screen()
    if as_json:
        out.json({"schedule": name, "start": start, "end": end, "ticks": ticks})
    elif not ticks:
        out.line("no tick lies in that time")
    else:
        out.line(f"asked for {counted(ticks, 'tick')} of ", (name, "strong"), "; a worker runs them")


@schedules.command()
@click.argument("name")
@click.option("--reason", help="Why; recorded with it.")
@json_option
@click.pass_obj
def remove(place: Place, name: str, reason: str | None, as_json: bool) -> None:
    """End a schedule; what it has started goes on.

    A process that is opened with a workflow that still declares it defines it again.
    """

    async def work() -> None:
        async with opened(place) as engine:
            await engine.remove_schedule(name, reason=reason)

    perform(work())
    out = screen()
    if as_json:
        out.json({"schedule": name, "removed": True})
        return
    out.line("removed: ", (name, "strong"))


def _plain(row: ScheduleRow) -> dict[str, Any]:
    """The row for JSON; durations in seconds, as elsewhere on the command line."""
    plain = dataclasses.asdict(row)
    plain["jitter"] = row.jitter.total_seconds()
    if row.catch_up is not None and not isinstance(row.catch_up, str):
        plain["catch_up"] = row.catch_up.total_seconds()
    return plain
