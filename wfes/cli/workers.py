"""`workers`: who works on the log, what each holds and runs, and what no worker can run."""

from __future__ import annotations

from collections.abc import Mapping

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.screen import Part, screen
from wfes.cli.values import clock
from wfes.workers import Unserved, WorkerCode, WorkerRow

DIGEST_CHARS = 8
NO_WORKER = "no worker can run this"
_STYLES = {"running": "good", "draining": "wait", "dead": "bad"}


@click.command()
@json_option
@click.pass_obj
def workers(place: Place, as_json: bool) -> None:
    """List the workers: who lives, what they hold, the code they run.

    Draining ones finish what they are at and claim nothing more. Dead ones hold what is not taken over yet. What
    instances wait for a worker that there is none of is said below.
    """

    async def read() -> tuple[list[WorkerRow], list[Unserved]]:
        async with opened(place) as engine:
            return await engine.workers(), await engine.unserved()

    found, unserved = perform(read())
    out = screen()
    if as_json:
        out.json({"items": found, "unserved": unserved})
        return
    if found:
        names = ["worker", "status", "host", "pid", "name", "since", "last beat", "holds", "runs"]
        rows: list[list[Part]] = [
            [
                (row.id, "strong"),
                (row.status, _STYLES[row.status]),
                row.host or "",
                "" if row.pid is None else str(row.pid),
                row.name or "",
                clock(row.started_at),
                clock(row.last_beat),
                _held(row.holds),
                _codes(row.code),
            ]
            for row in found
        ]
        out.table(names, rows)
    else:
        out.line("no workers")
    for each in unserved:
        out.line((NO_WORKER, "bad"), f": {_described(each)}")


def _described(each: Unserved) -> str:
    many = f"{each.instances:,} instance{'' if each.instances == 1 else 's'} of {each.workflow}"
    if each.version is None:
        return f"{many}; start one with `wfes worker MODULE`"
    return (
        f"{many} that ran under version {each.version!r}, which is newer than that of any running worker; "
        "start one with that version or a newer one"
    )


def _held(holds: Mapping[str, int]) -> str:
    return ", ".join(f"{workflow} {number:,}" for workflow, number in holds.items())


def _codes(codes: Mapping[str, WorkerCode]) -> str:
    """Each workflow with its label and digest, then what all of them run on."""
    names = [_code(workflow, code) for workflow, code in sorted(codes.items())]
    platforms = {(code.python, code.wfes) for code in codes.values()}
    names += [f"(python {python}, wfes {wfes})" for python, wfes in sorted(platforms, key=str)]
    return " ".join(names)


def _code(workflow: str, code: WorkerCode) -> str:
    label = "" if code.version is None else f" {code.version!r}"
    return f"{workflow}{label}@{(code.digest or '?')[:DIGEST_CHARS]}"
