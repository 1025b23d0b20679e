"""`prune`: moves old histories from the log to its archive."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from datetime import timedelta

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.screen import screen
from wfes.cli.values import DURATION, counted
from wfes.runtime.pruning import Pruned

KIBIBYTE = 1024


@click.command()
@click.option("--workflow", help="Only instances of this workflow.")
@click.option(
    "--older-than",
    type=DURATION,
    metavar="DURATION",
    help="Only what ended so long ago: 90d, 2w, 12h. Default: each workflow's own retention.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def prune(
    place: Place, workflow: str | None, older_than: int | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Move histories of ended instances to the archive.

    They leave the log for compressed files in the folder beside it, and stay readable with `wfes show` and
    `wfes history`. Without --older-than this is what workflows with a retention allow.
    """
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json asks no questions: add --yes, or --dry-run to see what would be moved")
    age = None if older_than is None else timedelta(microseconds=older_than)
    shown = _Shown(quiet=as_json)
    out = screen()
    if dry_run or not yes:
        found = perform(_pruned(place, workflow, age, True, shown))
        shown.clear()
        if dry_run or not found.instances:
            if as_json:
                out.json({"dry_run": True, **dataclasses.asdict(found)})
                return
            out.line("nothing to archive" if not found.instances else f"would archive {_what(found)}")
            return
        if not click.confirm(f"archive {_what(found)}?"):
            raise click.Abort
    done = perform(_pruned(place, workflow, age, False, shown))
    shown.clear()
    if as_json:
        out.json({"dry_run": False, **dataclasses.asdict(done)})
    elif not done.instances:
        out.line("nothing to archive")
    else:
        out.line(f"archived {_what(done)} in {', '.join(done.files)}")


async def _pruned(
    place: Place, workflow: str | None, age: timedelta | None, dry_run: bool, show: Callable[[Pruned], None]
) -> Pruned:
    async with opened(place) as engine:
        return await engine.prune(workflow, age, dry_run=dry_run, progress=show)


class _Shown:
    """The line on a terminal that tells how far it is."""

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()

    def __call__(self, so_far: Pruned) -> None:
        if self._on:
            print(f"\r\x1b[K{_what(so_far)} …", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _what(pruned: Pruned) -> str:
    size = pruned.bytes / KIBIBYTE
    text = f"{size:,.0f} KiB" if size < 10 * KIBIBYTE else f"{size / KIBIBYTE:,.0f} MiB"
    histories = "1 history" if pruned.instances == 1 else f"{pruned.instances:,} histories"
    return f"{histories} with {counted(pruned.events, 'event')} ({text})"
