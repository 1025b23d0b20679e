"""Commands that look: `ls`, `show`, `requests`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.chart import print_chart
from wfes.cli.finding import all_requests, find_instance
from wfes.cli.screen import Part, Screen, screen, status_part
from wfes.cli.timeline import Timeline
from wfes.cli.values import POINT, clipped, clock, error_text, json_text, short
from wfes.cli.workers import NO_WORKER
from wfes.core.state import Status
from wfes.snapshot import Snapshot
from wfes.views import DataRequest, ForkRow, InstanceCounts, InstanceRow, Page, RecordedEvent

REASON_CHARS = 120
FORKS_SHOWN_MAX = 8


@click.command()
@click.option("--workflow", help="Only instances of this workflow.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.value for status in Status]),
    help="Only in this status; may be given several times.",
)
@click.option("--key", help="Only of this key.")
@click.option("--tag", "tags", multiple=True, help="Only with this tag; several: with all of them.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many at most.")
@click.option("--cursor", help="Where the page before ended, as it said.")
@click.option("--count", is_flag=True, help="How many there are by workflow and status, instead of a list.")
@json_option
@click.pass_obj
def ls(
    place: Place,
    workflow: str | None,
    statuses: tuple[str, ...],
    key: str | None,
    tags: tuple[str, ...],
    limit: int,
    cursor: str | None,
    count: bool,
    as_json: bool,
) -> None:
    """List instances, the newest first.

    Several filters must all hold. A page may then be short, or empty, and still name a cursor that goes on.
    """
    if count:
        if statuses or key or tags or cursor:
            raise click.UsageError("--count goes with --workflow alone: the counts are by status already")
        _print_counts(screen(), perform(_counts(place, workflow)), as_json=as_json)
        return

    async def read() -> tuple[Page[InstanceRow], set[str]]:
        async with opened(place) as engine:
            page = await engine.instances(
                workflow=workflow,
                status=[Status(status) for status in statuses] or None,
                key=key,
                tags=list(tags) or None,
                limit=limit,
                cursor=cursor,
            )
            rows = [
                dataclasses.replace(row, reason=(await engine.get(row.id)).reason)
                if row.status is Status.PAUSED
                else row
                for row in page.items
            ]
            return dataclasses.replace(page, items=rows), await engine.without_worker(page)

    page, without = perform(read())
    out = screen()
    if as_json:
        out.json(
            {
                "items": page.items,
                "no_worker": sorted(without),
                "cursor": page.cursor,
                "position": page.position,
                "total": page.total,
                "total_exact": page.total_exact,
            }
        )
        return
    if not page.items and page.cursor is None:
        out.line("no instances" + (" like that" if workflow or statuses or key or tags or cursor else ""))
        return
    rows: list[list[Part]] = [
        [
            (row.id, "strong"),
            row.workflow,
            status_part(row.status),
            clock(row.created_at),
            clock(row.updated_at),
            row.key or "",
            " ".join(row.tags),
        ]
        for row in page.items
    ]
    if rows:
        titles = ["id", "workflow", "status", "created", "since", "key", "tags"]
        if without or any(row.reason for row in page.items):
            titles.append("")
            for cells, row in zip(rows, page.items, strict=True):
                cells.append(
                    (NO_WORKER, "bad")
                    if row.id in without and (row.reason is None or row.status is Status.PENDING)
                    else (clipped(row.reason or "", REASON_CHARS), "dim")
                )
        out.table(titles, rows)
    if page.total is not None:
        about = "" if page.total_exact else "about "
        out.line((f"{len(page.items)} of {about}{page.total:,}", "dim"))
    if page.cursor:
        out.line((f"more: --cursor {page.cursor}", "dim"))


async def _counts(place: Place, workflow: str | None) -> InstanceCounts:
    async with opened(place) as engine:
        return await engine.counts(workflow)


def _print_counts(out: Screen, counts: InstanceCounts, *, as_json: bool) -> None:
    if as_json:
        out.json(
            {
                "workflows": counts.workflows,
                "statuses": counts.statuses,
                "total": counts.total,
                "position": counts.position,
            }
        )
        return
    if not counts.total:
        out.line("no instances")
        return
    statuses = counts.statuses
    rows: list[list[Part]] = [
        [
            (name, "strong"),
            *(f"{its[status]:,}" if status in its else "" for status in statuses),
            f"{sum(its.values()):,}",
        ]
        for name, its in counts.workflows.items()
    ]
    if len(rows) > 1:
        rows.append([("all", "dim"), *(f"{number:,}" for number in statuses.values()), f"{counts.total:,}"])
    out.table(["workflow", *map(str, statuses), "total"], rows)


@click.command()
@click.option("--workflow", help="Only of instances of this workflow.")
@json_option
@click.pass_obj
def requests(place: Place, workflow: str | None, as_json: bool) -> None:
    """List the open data requests, which wait for an answer."""

    async def read() -> list[DataRequest]:
        async with opened(place) as engine:
            return await all_requests(engine, workflow)

    found = perform(read())
    out = screen()
    if as_json:
        out.json({"items": found})
        return
    if not found:
        out.line("no open requests")
        return
    rows: list[list[Part]] = [
        [
            (request.instance, "strong"),
            request.name,
            request.workflow,
            clock(request.created_at),
            clock(request.deadline),
            request.id,
            clipped(request.message or "", 80),
        ]
        for request in found
    ]
    out.table(["instance", "request", "workflow", "since", "until", "request id", "message"], rows)
    first = found[0]
    out.line((f"answer: {place.command('provide', first.instance, first.name)} JSON", "dim"))


@click.command()
@click.argument("id")
@click.option(
    "--at", "asked", type=POINT, metavar="VERSION|MOMENT", help="As it was after this event, or then."
)
@click.option("--all", "everything", is_flag=True, help="Every step, however many.")
@json_option
@click.pass_obj
def show(place: Place, id: str, asked: int | datetime | None, everything: bool, as_json: bool) -> None:
    """Show an instance: status, waits, steps over time, output.

    Steps stand as bars over the time that all of it took, where long idle stretches are cut short. Of many steps those
    are shown that are not over, failed or were started more than once, and the first and the last; --all shows every
    one.
    """

    async def read() -> tuple[Snapshot[Any], list[RecordedEvent], list[ForkRow], bool]:
        async with opened(place) as engine:
            instance = await find_instance(engine, id)
            if asked is None:
                history = await instance.history()
                without = bool(await engine.without_worker([instance]))
                return instance, history, await instance.forks(), without
            then = await instance.at(asked)
            return then, await instance.history(upto=then.version), [], False

    instance, events, forks, without = perform(read())
    timeline = Timeline(events)
    out = screen()
    if as_json:
        steps = [row.to_json() for row in timeline.top]
        marks = [dataclasses.asdict(mark) for mark in timeline.marks]
        listed = [dataclasses.asdict(fork) for fork in forks]
        out.json({**facts(instance), "forks": listed, "no_worker": without, "steps": steps, "marks": marks})
        return
    _print_instance(out, place, instance, forks, is_past=asked is not None)
    if without:
        out.line((NO_WORKER, "bad"), f": {place.command('workers')} shows who runs what")
    until = asked if isinstance(asked, datetime) else None if asked is not None else datetime.now(UTC)
    print_chart(out, timeline, until=until, everything=everything)
    _print_end(out, instance)


def facts(instance: Snapshot[Any]) -> dict[str, Any]:
    """An instance as JSON data."""
    progress = instance.progress
    return {
        "id": instance.id,
        "workflow": instance.workflow,
        "status": instance.status,
        "key": instance.key,
        "tags": instance.tags,
        "created_at": instance.created_at,
        "updated_at": instance.updated_at,
        "parent": instance.parent,
        "conversation": instance.conversation,
        "forked_from": instance.forked_from,
        "forked_at": instance.forked_at or None,
        "version": instance.version,
        "input": instance.input,
        "output": instance.output,
        "error": instance.error,
        "state": instance.state,
        "waiting_for": instance.waiting_for,
        "reason": instance.reason,
        "progress": progress,
    }


def _print_instance(
    out: Screen, place: Place, instance: Snapshot[Any], forks: Sequence[ForkRow], *, is_past: bool
) -> None:
    pairs: list[tuple[str, Part]] = [
        ("instance", (instance.id, "strong")),
        ("workflow", instance.workflow),
        ("status", status_part(instance.status)),
    ]
    if is_past:
        pairs.insert(0, ("as of", (f"version {instance.version}, {clock(instance.updated_at)}", "wait")))
    for name, value in (
        ("key", instance.key),
        ("tags", " ".join(instance.tags or ())),
        ("parent", instance.parent),
        ("conversation", instance.conversation),
        ("fork of", instance.forked_from and f"{instance.forked_from} at {instance.forked_at}"),
        *(("forked", f"at {fork.at} as {fork.id}") for fork in forks[:FORKS_SHOWN_MAX]),
    ):
        if value:
            pairs.append((name, str(value)))
    pairs.append(("created", clock(instance.created_at)))
    pairs.append(("since", clock(instance.updated_at)))
    if instance.input is not None:
        pairs.append(("input", short(instance.input, 200)))
    if instance.state is not None:
        pairs.append(("state", short(instance.state, 200)))
    if instance.reason:
        pairs.append(("reason", instance.reason))
    if instance.progress is not None:
        percent = instance.progress.percent
        pairs.append(
            ("progress", instance.progress.message + (f" ({percent:g} %)" if percent is not None else ""))
        )
    for wait in instance.waiting_for:
        until = f" until {clock(wait.until)}" if wait.until else ""
        pairs.append(("waits for", (f"{wait.kind} {wait.name}, since {clock(wait.since)}{until}", "wait")))
        if wait.kind == "request" and not is_past:
            pairs.append(("", (f"answer: {place.command('provide', instance.id, wait.name)} JSON", "dim")))
    out.pairs(pairs)


def _print_end(out: Screen, instance: Snapshot[Any]) -> None:
    if instance.error is not None:
        out.line()
        out.line("error   ", (error_text(instance.error), "bad"))
        trace = getattr(instance.error, "traceback", "")
        for line in str(trace).rstrip().splitlines():
            out.line((f"  {line}", "dim"))
    elif instance.status == Status.COMPLETED:
        out.line()
        out.line("output  ", json_text(instance.output))
