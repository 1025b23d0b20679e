"""`verify`: is the log still what was written? Exit code 1 where it is not."""

from __future__ import annotations

import dataclasses
import sys

import click

from wfes.audit.findings import AuditReport
from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.finding import find_instance
from wfes.cli.screen import screen
from wfes.engine import Engine
from wfes.errors import InstanceNotFound

SHOWN_MAX = 50
"""So many problems are printed; `--json` has all of them."""


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@json_option
@click.pass_obj
def verify(place: Place, ids: tuple[str, ...], as_json: bool) -> None:
    """Compute the hash chains again: was anything changed since it was written?

    Of the instances named, or of everything in the log and its archive. The exit code is 1 if something was changed,
    removed, inserted, reordered or given to another instance.
    """
    report = perform(_verified(place, ids, quiet=as_json))
    out = screen()
    if as_json:
        out.json({"ok": report.ok, **dataclasses.asdict(report)})
    else:
        first, *lines = str(report).splitlines()
        out.line((first, "good" if report.ok else "bad"))
        for line in lines[:SHOWN_MAX]:
            out.line(line)
        if len(lines) > SHOWN_MAX:
            out.line((f"{len(lines) - SHOWN_MAX:,} more; --json has all of them", "dim"))
    if not report.ok:
        raise SystemExit(1)


async def _verified(place: Place, ids: tuple[str, ...], *, quiet: bool) -> AuditReport:
    shown = _Shown(quiet=quiet)
    async with opened(place) as engine:
        if not ids:
            report = await engine.verify(progress=shown)
            shown.clear()
            return report
        reports = [await _one(engine, id) for id in dict.fromkeys(ids)]
    return AuditReport(
        sum(report.events for report in reports),
        tuple(problem for report in reports for problem in report.problems),
        len(reports),
    )


async def _one(engine: Engine, id: str) -> AuditReport:
    try:
        # By its whole id first: the history of an instance that can no longer be read is verified just so.
        return await engine.verify(id)
    except InstanceNotFound:
        return await engine.verify((await find_instance(engine, id)).id)


class _Shown:
    """The line on a terminal that tells how far it is."""

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()

    def __call__(self, events: int) -> None:
        if self._on:
            print(f"\r\x1b[K{events:,} events …", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
