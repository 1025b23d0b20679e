"""Commands that look: `ls`, `show`, `requests`."""

from __future__ import annotations

from typing import Any

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.finding import all_requests, find_instance
from wfes.cli.screen import Part, Screen, screen, status_part
from wfes.cli.timeline import Row, Timeline
from wfes.cli.values import clipped, clock, error_text, gist, json_text, short, span
from wfes.cli.workers import NO_WORKER
from wfes.core.state import Status
from wfes.instance import Instance
from wfes.views import DataRequest, InstanceCounts, InstanceRow, Page, RecordedEvent

BAR_CHARS = 24
INNER_SHOWN_MAX = 8
NOTE_CHARS = 70
REASON_CHARS = 120


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
            return page, await engine.without_worker(page)

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
                    if row.id in without
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
@click.option("--all", "everything", is_flag=True, help="Every inner step too, however many.")
@json_option
@click.pass_obj
def show(place: Place, id: str, everything: bool, as_json: bool) -> None:
    """Show an instance: status, waits, steps, output.

    The steps stand with when each was and how long it took. Of many inner ones only those are shown that are not
    over, failed or were started more than once; --all shows every one.
    """

    async def read() -> tuple[Instance[Any], list[RecordedEvent], bool]:
        async with opened(place) as engine:
            instance = await find_instance(engine, id)
            history = list(await instance.history())
            return instance, history, bool(await engine.without_worker([instance]))

    instance, events, without = perform(read())
    timeline = Timeline(events)
    out = screen()
    if as_json:
        steps = [row.to_json() for row in timeline.top]
        out.json({**facts(instance), "no_worker": without, "steps": steps})
        return
    _print_instance(out, place, instance)
    if without:
        out.line((NO_WORKER, "bad"), f": {place.command('workers')} shows who runs what")
    print_timeline(out, timeline, everything=everything)
    _print_end(out, instance)


def facts(instance: Instance[Any]) -> dict[str, Any]:
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
        "version": instance.version,
        "input": instance.input,
        "output": instance.output,
        "error": instance.error,
        "state": instance.state,
        "waiting_for": instance.waiting_for,
        "reason": instance.reason,
        "progress": progress,
    }


def _print_instance(out: Screen, place: Place, instance: Instance[Any]) -> None:
    pairs: list[tuple[str, Part]] = [
        ("instance", (instance.id, "strong")),
        ("workflow", instance.workflow),
        ("status", status_part(instance.status)),
    ]
    for name, value in (
        ("key", instance.key),
        ("tags", " ".join(instance.tags or ())),
        ("parent", instance.parent),
        ("conversation", instance.conversation),
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
        if wait.kind == "request":
            pairs.append(("", (f"answer: {place.command('provide', instance.id, wait.name)} JSON", "dim")))
    out.pairs(pairs)


def _print_end(out: Screen, instance: Instance[Any]) -> None:
    if instance.error is not None:
        out.line()
        out.line("error   ", (error_text(instance.error), "bad"))
        trace = getattr(instance.error, "traceback", "")
        for line in str(trace).rstrip().splitlines():
            out.line((f"  {line}", "dim"))
    elif instance.status == Status.COMPLETED:
        out.line()
        out.line("output  ", json_text(instance.output))


def print_timeline(
    out: Screen, timeline: Timeline, *, everything: bool = False, inner_max: int = INNER_SHOWN_MAX
) -> None:
    """Prints an instance's rows with their durations, and when each was, as bars over the whole time.

    Args:
        out: Where to.
        timeline: What.
        everything: Every inner row.
        inner_max: Otherwise, so many under one row at most.
    """
    if not timeline.top or timeline.began is None:
        return
    last = [row.ended or row.started for row in timeline.top]
    end = timeline.ended or max(last)
    whole = max((end - timeline.began).total_seconds(), 1e-6)
    rows: list[list[Part]] = []

    def bar_of(row: Row) -> str:
        assert timeline.began is not None
        start = (row.started - timeline.began).total_seconds() / whole
        stop = 1.0 if row.ended is None else (row.ended - timeline.began).total_seconds() / whole
        left = min(int(start * BAR_CHARS), BAR_CHARS - 1)
        width = max(1, round(stop * BAR_CHARS) - left)
        return " " * left + ("·" if row.kind == "progress" else "█" * min(width, BAR_CHARS - left))

    def add(row: Row, depth: int) -> None:
        assert timeline.began is not None
        offset = (row.started - timeline.began).total_seconds()
        rows.append(
            [
                "  " * depth + row.label,
                row.kind,
                status_part(row.status),
                f"+{span(max(offset, 0.0))}",
                "" if row.kind in ("progress", "call") or row.seconds is None else span(row.seconds),
                (bar_of(row), "busy"),
                (clipped(_remark(row), NOTE_CHARS), "dim"),
            ]
        )
        inner = row.inner
        if not everything and len(inner) > inner_max:
            inner = _telling(row.inner)[:inner_max]
        for child in inner:
            add(child, depth + 1)
        hidden = len(row.inner) - len(inner)
        if hidden:
            rows.append([("  " * (depth + 1) + f"… {hidden} more", "dim"), "", "", "", "", "", ""])

    for row in timeline.top:
        add(row, 0)
    out.line()
    out.table(["step", "kind", "status", "at", "took", "when", ""], rows)


def _telling(rows: list[Row]) -> list[Row]:
    """Of many rows, those that are not over or did not simply complete."""
    return [row for row in rows if row.status != "completed" or row.starts > 1]


def _remark(row: Row) -> str:
    parts: list[str] = []
    if row.inner:
        done = sum(child.status == "completed" for child in row.inner)
        parts.append(f"{done} of {len(row.inner)} done" if done < len(row.inner) else f"{done} done")
    if row.attempts > 1:
        parts.append(f"{row.attempts} attempts")
    if row.starts > row.attempts:
        parts.append(f"started {row.starts} times")
    if row.note:
        parts.append(row.note)
    elif row.kind == "step" and row.status == "completed" and row.value is not None:
        parts.append(f"→ {gist(row.value, 50)}")
    return ", ".join(parts)
