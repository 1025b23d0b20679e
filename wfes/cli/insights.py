"""Commands that look at instances as a whole: `stats`, `activity`, `timers`, `inbox`.

They ask read models that follow the log. Where nobody follows it, the command itself brings the rows up to the log's
end, however long that takes, and what it has done stays for the next one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.screen import Part, Screen, screen
from wfes.cli.values import DURATION, MOMENT, clock, span
from wfes.engine import Engine
from wfes.measures import ActivityCount, Due, Durations, InboxEvent, StatisticsReport
from wfes.views import Answer, Page

T = TypeVar("T")

MINUTES_SHOWN = timedelta(hours=3)
"""A longer time is shown by the hour, unless the resolution is given."""
_TOOK = ["p50", "p95", "p99"]


async def _caught_up(place: Place, ask: Callable[[Engine, int], Awaitable[T]]) -> T:
    """The answer that reflects everything in the log, after whatever time that takes."""
    async with opened(place) as engine:
        position = await engine.position()
        while True:
            try:
                return await ask(engine, position)
            except TimeoutError as error:  # a long log that nobody has followed yet
                click.echo(f"wfes: still at it: {error}", err=True)


@click.command()
@click.option("--workflow", help="Only this workflow.")
@json_option
@click.pass_obj
def stats(place: Place, workflow: str | None, as_json: bool) -> None:
    """Show how workflows and their steps did, and how long they took.

    Half of all took no longer than p50, 95 of 100 no longer than p95, 99 of 100 no longer than p99, within one per
    cent. A step's counts are of all places of its name; `name/*` stands for the items of a map or batch.
    """
    answer = perform(_caught_up(place, lambda engine, at: engine.statistics(workflow, at_least=at)))
    report, out = answer.value, screen()
    if as_json:
        plain = dataclasses.asdict(report, dict_factory=_in_seconds)
        out.json({**plain, "position": answer.position})
    elif not report.workflows:
        out.line("no instances" + (f" of {workflow}" if workflow else ""))
    else:
        _print_statistics(out, report)


def _print_statistics(out: Screen, report: StatisticsReport) -> None:
    counts = ["started", "completed", "failed", "timed_out", "cancelled", "aborted", "retried"]
    rows: list[list[Part]] = [
        [(name, "strong"), *_numbers(each, counts), *_took(each.durations)]
        for name, each in report.workflows.items()
    ]
    if len(rows) > 1:
        rows.append([("all", "dim"), *_numbers(report.total, counts), *_took(report.total.durations)])
    out.table(["workflow", *_heads(counts), *_TOOK], rows)
    counts = ["started", "completed", "failed", "retries", "cancelled", "cut_offs"]
    rows = [
        [(name, "strong"), step, *_numbers(each, counts), *_took(each.durations)]
        for name, whole in report.workflows.items()
        for step, each in whole.steps.items()
    ]
    if rows:
        out.line()
        out.table(["workflow", "step", *_heads(counts), *_TOOK], rows)


@click.command()
@click.option("--workflow", help="Only this workflow.")
@click.option(
    "--since",
    type=DURATION,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How far back: 30m, 2d.",
)
@click.option(
    "--resolution",
    type=click.Choice(["minute", "hour"]),
    help="Default: minutes, of more than 3 hours hours.",
)
@json_option
@click.pass_obj
def activity(place: Place, workflow: str | None, since: int, resolution: str | None, as_json: bool) -> None:
    """Show how many instances started and ended, minute by minute or hour by hour.

    Minutes and hours in which nothing did are left out; with --json they are there.
    """
    back = timedelta(microseconds=since)
    chosen = resolution or ("minute" if back <= MINUTES_SHOWN else "hour")

    async def ask(engine: Engine, at: int) -> Answer[list[ActivityCount]]:
        now = datetime.now(UTC)
        return await engine.activity(now - back, now, resolution=chosen, workflow=workflow, at_least=at)

    answer = perform(_caught_up(place, ask))
    out = screen()
    if as_json:
        out.json({"items": answer.value, "resolution": chosen, "position": answer.position})
        return
    names = ["started", "completed", "failed", "timed_out", "cancelled", "aborted"]
    rows: list[list[Part]] = [
        [clock(each.at), *_numbers(each, names)]
        for each in answer.value
        if any(getattr(each, name) for name in names)
    ]
    if not rows:
        out.line(f"nothing started or ended within {span(back.total_seconds())}")
        return
    out.table([chosen, *_heads(names)], rows)


@click.command()
@click.option("--workflow", help="Only of instances of this workflow.")
@click.option("--instance", metavar="ID", help="Only of this instance.")
@click.option(
    "--before", type=MOMENT, metavar="MOMENT", help="Only what is due before: 2030-01-31T18:00+01:00."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many at most.")
@click.option("--cursor", help="Where the page before ended, as it said.")
@json_option
@click.pass_obj
def timers(
    place: Place,
    workflow: str | None,
    instance: str | None,
    before: datetime | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List what is due by itself, the next first.

    Sleeps, bounds of waits, deadlines, delayed starts, and the next attempts of steps that back off.
    """

    async def ask(engine: Engine, at: int) -> Page[Due]:
        return await engine.timers(
            workflow, instance=instance, before=before, limit=limit, cursor=cursor, at_least=at
        )

    page = perform(_caught_up(place, ask))
    out = screen()
    if as_json:
        out.json({"items": page.items, "cursor": page.cursor, "position": page.position})
        return
    if not page.items:
        out.line("nothing is due")
        return
    now = datetime.now(UTC)
    rows: list[list[Part]] = [
        [
            clock(row.due),
            _left(row.due - now),
            row.kind,
            row.workflow,
            (row.instance, "strong"),
            row.path or "",
        ]
        for row in page.items
    ]
    out.table(["due", "in", "kind", "workflow", "instance", "path"], rows)
    _print_more(out, page.cursor)


@click.command()
@click.option("--workflow", help="Only for instances of this workflow.")
@click.option("--instance", metavar="ID", help="Only for this instance.")
@click.option("--event", metavar="NAME", help="Only events of this name.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many at most.")
@click.option("--cursor", help="Where the page before ended, as it said.")
@json_option
@click.pass_obj
def inbox(
    place: Place,
    workflow: str | None,
    instance: str | None,
    event: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List events that were sent to an instance and that it has not consumed, the oldest first."""

    async def ask(engine: Engine, at: int) -> Page[InboxEvent]:
        return await engine.inbox(
            workflow, instance=instance, event=event, limit=limit, cursor=cursor, at_least=at
        )

    page = perform(_caught_up(place, ask))
    out = screen()
    if as_json:
        out.json({"items": page.items, "cursor": page.cursor, "position": page.position})
        return
    if not page.items:
        out.line("no events wait")
        return
    rows: list[list[Part]] = [
        [
            clock(row.received_at),
            (row.event, "strong"),
            row.workflow,
            row.instance,
            str(row.version),
            row.actor or "",
            row.id or "",
        ]
        for row in page.items
    ]
    out.table(["received", "event", "workflow", "instance", "version", "from", "event id"], rows)
    _print_more(out, page.cursor)


def _print_more(out: Screen, cursor: str | None) -> None:
    if cursor:
        out.line((f"more: --cursor {cursor}", "dim"))


def _left(time: timedelta) -> Part:
    seconds = time.total_seconds()
    return span(seconds) if seconds >= 0 else ("overdue", "wait")


def _heads(names: list[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def _numbers(of: object, names: list[str]) -> list[Part]:
    return [f"{getattr(of, name):,}" for name in names]


def _took(durations: Durations) -> list[Part]:
    return [
        "" if value is None else span(value.total_seconds())
        for value in (durations.p50, durations.p95, durations.p99)
    ]


def _in_seconds(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields for JSON: a duration as a number of seconds, its name saying so."""
    plain: dict[str, Any] = {}
    for name, value in fields:
        if name in ("total", *_TOOK) and not isinstance(value, dict):
            plain[f"{name}_seconds"] = None if value is None else value.total_seconds()
        else:
            plain[name] = value
    return plain
