"""`outbox`: what callers committed with rows of their own and that is not in the log."""

from __future__ import annotations

import click

from wfes.cli.app import Failure, Place, json_option, opened, perform
from wfes.cli.screen import Part, screen
from wfes.cli.values import clock
from wfes.handover import HandedOver


@click.command()
@click.option("--refused", is_flag=True, help="Only what was refused.")
@click.option("--drop", type=int, metavar="NUMBER", help="Remove this refused command.")
@json_option
@click.pass_obj
def outbox(place: Place, refused: bool, drop: int | None, as_json: bool) -> None:
    """List what was committed with `connection=` and is not in the log.

    What waits is about to be appended. What was refused stays, with the reason, until it is dropped.
    """

    async def read() -> tuple[bool, list[HandedOver]]:
        async with opened(place) as engine:
            dropped = drop is None or await engine.drop_refused(drop)
            return dropped, await engine.outbox(refused=refused)

    dropped, found = perform(read())
    if not dropped:
        raise Failure(f"the outbox has no refused command of number {drop}")
    out = screen()
    if as_json:
        out.json({"items": found})
    elif found:
        rows: list[list[Part]] = [
            [(str(each.number), "strong"), each.kind, each.id, clock(each.at), _state(each)] for each in found
        ]
        out.table(["number", "kind", "id", "since", "state"], rows)
    else:
        out.line("nothing in the outbox")


def _state(each: HandedOver) -> Part:
    return "waits" if each.error is None else (f"refused: {each.error.message}", "bad")
