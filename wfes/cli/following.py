"""Commands that read events: `history` of one instance, `tail` of the whole log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.finding import find_instance
from wfes.cli.screen import Part, Screen, screen
from wfes.cli.telling import Telling
from wfes.cli.timeline import ENDS
from wfes.cli.values import POINT, clock
from wfes.cli.wording import described
from wfes.views import RecordedEvent

LINES_DEFAULT = 20


@click.command()
@click.argument("id")
@click.option(
    "--after",
    type=POINT,
    metavar="VERSION|MOMENT",
    default=0,
    help="Only events above this version, or made later.",
)
@click.option(
    "--upto", type=POINT, metavar="VERSION|MOMENT", help="Only events up to this version or moment."
)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with what happens, until it is over; Ctrl-C ends it."
)
@json_option
@click.pass_obj
def history(
    place: Place, id: str, after: int | datetime, upto: int | datetime | None, follow: bool, as_json: bool
) -> None:
    """Print every event of an instance, in order.

    With --follow and --json each event is one line.
    """

    async def read() -> list[RecordedEvent]:
        async with opened(place) as engine:
            instance = await find_instance(engine, id)
            # In words an event is told with what went before it.
            return list(await instance.history(after if as_json else 0, upto))

    if follow:
        if upto is not None or isinstance(after, datetime):
            raise click.UsageError("--follow goes with --after VERSION alone")
        with suppress(KeyboardInterrupt):
            perform(_follow(place, id, after, printer(screen(), as_json)))
        return
    events = perform(read())
    print_events(screen(), events, as_json, _version(events, after))


def _version(events: Sequence[RecordedEvent], point: int | datetime) -> int:
    if isinstance(point, int):
        return point
    return next((event.version - 1 for event in events if event.at > point), len(events))


async def _follow(place: Place, id: str, after: int, show: Callable[[RecordedEvent], None]) -> None:
    async with opened(place) as engine:
        instance = await find_instance(engine, id)
        async for event in instance.follow(after):
            show(event)


_COPIES_TOLD = {
    "changed": "(changed)",
    "reused": "(its result was given)",
    "unused": "(its result was not asked for)",
}


def print_events(out: Screen, events: Sequence[RecordedEvent], as_json: bool, after: int = 0) -> None:
    """Prints the events of one history; as a table those above a version, of a history from its first event on."""
    if as_json:
        out.json(events)
        return
    telling = Telling()
    rows: list[list[Part]] = []
    day = ""
    for event in events:
        told = telling.told(event)
        if event.copied in _COPIES_TOLD:
            told = f"{told}  {_COPIES_TOLD[event.copied]}"
        if event.version <= after:
            continue
        moment = clock(event.at)
        # The date stands only where it changes.
        when = moment if moment[:10] != day else clock(event.at, date=False)
        day = moment[:10]
        rows.append([str(event.version), when, _type_part(event), told, event.actor or ""])
    if not rows:
        out.line("no events there")
        return
    out.table(["version", "at", "event", "what", "actor"], rows)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on; Ctrl-C ends it.")
@click.option("--after", type=click.IntRange(0), help="Everything above this log position.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    default=LINES_DEFAULT,
    show_default=True,
    help="So many of the newest events, without --after.",
)
@json_option
@click.pass_obj
def tail(place: Place, follow: bool, after: int | None, lines: int, as_json: bool) -> None:
    """Print the log's newest events, of all instances.

    With --json each event is one line.
    """
    with suppress(KeyboardInterrupt):
        perform(_tail(place, follow, after, lines, printer(screen(), as_json)))


async def _tail(
    place: Place, follow: bool, after: int | None, lines: int, show: Callable[[RecordedEvent], None]
) -> None:
    async with opened(place) as engine:
        head = (await engine.instances(limit=1)).position
        start = max(0, head - lines) if after is None else after
        if not follow and start >= head:
            return
        async for event in engine.events(after=start):
            show(event)
            if not follow and event.position >= head:
                return


def printer(out: Screen, as_json: bool) -> Callable[[RecordedEvent], None]:
    """What prints one event a line, as it comes."""

    def as_line(event: RecordedEvent) -> None:
        by = f"  by {event.actor}" if event.actor else ""
        out.line(
            (f"{event.position:>6}  ", "dim"),
            clock(event.at, date=False),
            (f"  {event.instance}  ", "strong"),
            _type_part(event),
            f"  {described(event)}",
            (by, "dim"),
        )
        out.stream.flush()

    def as_document(event: RecordedEvent) -> None:
        out.json(event, lines=True)

    return as_document if as_json else as_line


def _type_part(event: RecordedEvent) -> Part:
    kind = event.type
    if kind in ("WorkflowCompleted", "StepCompleted"):
        return (kind, "good")
    if kind in ENDS or kind in ("StepFailed", "StepAttemptFailed", "WaitTimedOut"):
        return (kind, "bad")
    if kind in ("RequestIssued", "SleepScheduled", "ListenStarted", "WorkflowPaused"):
        return (kind, "wait")
    return (kind, "busy" if kind in ("StepStarted", "RunClaimed") else "")
