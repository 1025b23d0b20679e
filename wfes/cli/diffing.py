"""`wfes diff`: what differs between two moments of an instance, or between two instances."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.finding import find_instance
from wfes.cli.reading import facts
from wfes.cli.screen import Part, Screen, screen
from wfes.cli.values import POINT
from wfes.timetravel.diff import Diff, diff
from wfes.timetravel.past import InstanceState

CHANGES_MAX = 50
_STYLES = {"+": "good", "-": "bad", "~": "wait"}


@click.command("diff")
@click.argument("first", metavar="ID")
@click.argument("second", metavar="[OTHER]", required=False)
@click.option(
    "--at",
    "points",
    type=POINT,
    multiple=True,
    metavar="VERSION|MOMENT",
    help="At which moment; given twice: that of the first and that of the second. Default: now.",
)
@click.option("--all", "everything", is_flag=True, help="Every difference, however many.")
@json_option
@click.pass_obj
def diff_command(
    place: Place,
    first: str,
    second: str | None,
    points: tuple[int | datetime, ...],
    everything: bool,
    as_json: bool,
) -> None:
    """Show what differs between two instances, or two moments of one.

    Of two instances it also says where their histories part. Lines with + are in the second alone, with - in the
    first alone, with ~ in both.

    \b
    wfes diff ID OTHER               two instances as they are now
    wfes diff ID --at 10 --at 20     one instance, at its versions 10 and 20
    wfes diff ID --at 10             what happened since version 10
    """
    if len(points) > 2:
        raise click.UsageError("--at can be given twice at most: there are two to compare")
    if second is None and not points:
        raise click.UsageError("give a second instance, or --at with a moment of this one (twice for two)")

    async def read() -> Diff:
        async with opened(place) as engine:
            one = await find_instance(engine, first)
            other = one if second is None else await find_instance(engine, second)
            a = points[0] if points else None
            b = points[1] if len(points) > 1 else None
            return await diff(one, other, a, b)

    found = perform(read())
    out = screen()
    if as_json:
        out.json(as_data(found))
        return
    _print(out, found.text(10**9 if everything else CHANGES_MAX))


def as_data(found: Diff) -> dict[str, Any]:
    """The difference as JSON data."""
    return {
        "before": _brief(found.before),
        "after": _brief(found.after),
        "parting": None if found.parting is None else dataclasses.asdict(found.parting),
        "changes": [
            {"kind": change.kind, "path": change.path, "before": change.before, "after": change.after}
            for change in found.changes
        ],
    }


def _brief(state: InstanceState) -> dict[str, Any]:
    whole = facts(state)
    return {name: whole[name] for name in ("id", "workflow", "status", "version", "updated_at")}


def _print(out: Screen, text: str) -> None:
    for line in text.split("\n"):
        part: Part = (line, _STYLES.get(line.lstrip()[:1], ""))
        out.line(part)
