"""`replay`: does today's code still do what is recorded? For one instance, for many, and for a build to rely on.

Invariants: no step's function is called and nothing is written; workflows are not made known to the log. Exit code 1
where today's code does something else than a history says, or a history could not be replayed at all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from wfes.cli.app import Failure, Place, json_option, opened
from wfes.cli.finding import find_instance
from wfes.cli.handlers import handlers_of
from wfes.cli.loading import AnyWorkflow, load_workflows
from wfes.cli.screen import Screen, screen
from wfes.cli.values import DURATION, counted
from wfes.core.state import Status
from wfes.engine import Engine
from wfes.timetravel.histories import read_histories, write_histories
from wfes.timetravel.many import Answer, Unreplayed, replay_many, replay_one
from wfes.timetravel.recording import Recording, read_recording
from wfes.timetravel.replay import ReplayReport, replay

SHOWN_MAX = 10
"""So many differences are printed in full."""
NAMED_MAX = 8
PAGE = 500
_KINDS = ("reproduced", "reproduced up to an await outside of the workflow", "different", "not replayed")


@dataclasses.dataclass(slots=True)
class _Wanted:
    """Which histories are to be replayed.

    Attributes:
        expected: how many they are about, once that is known.
    """

    names: tuple[str, ...]
    everything: bool
    workflow: str | None
    since: int | None
    statuses: tuple[str, ...]
    limit: int | None
    expected: int | None = None


@click.command(name="replay")
@click.argument("names", metavar="[ID|FILE]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every instance that the other options leave.")
@click.option("--workflow", help="With --all: only instances of this workflow.")
@click.option(
    "--since",
    type=DURATION,
    metavar="DURATION",
    help="With --all: only what was started so long ago: 30d, 12h.",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.value for status in Status]),
    help="With --all: only in this status; may be given several times.",
)
@click.option("--limit", type=click.IntRange(1), help="With --all: the newest so many at most.")
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Where today's code is; may be given several times. Default: the module that ran it, in the current folder.",
)
@click.option("--at", type=click.IntRange(1), metavar="N", help="One instance: only as far as event N.")
@click.option("--processes", type=click.IntRange(1), help="How many at most; default: one a processor.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the histories to a file, for tests and other machines, instead of replaying them.",
)
@json_option
@click.pass_obj
def replay_command(
    place: Place,
    names: tuple[str, ...],
    everything: bool,
    workflow: str | None,
    since: int | None,
    statuses: tuple[str, ...],
    limit: int | None,
    modules: tuple[str, ...],
    at: int | None,
    processes: int | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Run handlers against recorded histories: does today's code still do what is recorded?

    No step's function is called and nothing is written. Instances are named by their ids, or all those meant by --all;
    FILE is a bundle or a file that --save wrote. The exit code is 1 if today's code does something else.
    """
    wanted = _Wanted(names, everything, workflow, since, statuses, limit)
    _check(wanted, at)
    # Closed here, whatever happens: it holds the log open.
    with closing(_recordings(place, wanted)) as found:
        if save is not None:
            count = write_histories(save, found)
            screen().line(f"wrote {save}: {counted(count, 'instance')}")
            return
        if at is not None:
            _one(list(found), wanted, modules, at, as_json)
            return
        chosen = _chosen(modules, workflow)
        if not chosen:
            answers = _with_recorded_modules(found, alone=len(names) == 1)
        else:
            answers = replay_many(found, chosen, load, processes)
        _tell(answers, as_json, wanted)


def load(modules: Sequence[str]) -> dict[str, AnyWorkflow]:
    """The workflows of modules by name, in whatever process."""
    return {workflow.name: workflow for workflow in load_workflows(modules)}


def _check(wanted: _Wanted, at: int | None) -> None:
    if wanted.everything == bool(wanted.names):
        raise click.UsageError("name instances by their ids, or all that are meant with --all")
    narrowing = (wanted.workflow, wanted.since, wanted.limit)
    if not wanted.everything and (wanted.statuses or any(given is not None for given in narrowing)):
        raise click.UsageError("--workflow, --since, --status and --limit go with --all")
    if at is not None and len(wanted.names) != 1:
        raise click.UsageError("--at goes with one instance")


def _chosen(modules: tuple[str, ...], workflow: str | None) -> tuple[str, ...]:
    """The modules, once it is sure that they can be imported and have what is asked for."""
    if modules:
        known = load(modules)
        if workflow is not None and workflow not in known:
            names = ", ".join(sorted(known))
            raise click.UsageError(f"no workflow {workflow!r} in {', '.join(modules)}; there: {names}")
    return modules


# -- what is to be replayed -------------------------------------------------------------------------------------------


def _recordings(place: Place, wanted: _Wanted) -> Generator[Recording]:
    files = [name for name in wanted.names if _is_file(name)]
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise Failure(f"there is no file {name!r}")
        yield from read_histories(path)
    ids = [name for name in wanted.names if name not in files]
    wanted.expected = len(ids) if ids and not files else None
    if ids or wanted.everything:
        yield from _from_log(place, wanted, ids)


def _is_file(name: str) -> bool:
    return Path(name).is_file() or os.sep in name or Path(name).suffix in (".gz", ".zip")


def _from_log(place: Place, wanted: _Wanted, ids: list[str]) -> Iterator[Recording]:
    with asyncio.Runner() as runner:
        context = opened(place)
        engine = runner.run(context.__aenter__())
        try:
            if ids:
                for id in ids:
                    instance = runner.run(find_instance(engine, id))
                    yield read_recording(engine._log, instance.id, engine.url)
                return
            if wanted.workflow is not None:
                runner.run(_check_known(engine, wanted.workflow))
            cursor: str | None = None
            left = wanted.limit
            while True:
                page = runner.run(_page(engine, wanted, cursor, left))
                if page.total is not None:
                    wanted.expected = min(page.total, wanted.limit or page.total)
                for row in page.items:
                    yield read_recording(engine._log, row.id, engine.url)
                left = None if left is None else left - len(page.items)
                cursor = page.cursor
                if cursor is None or left == 0:
                    return
        finally:
            runner.run(context.__aexit__(None, None, None))


async def _check_known(engine: Engine, workflow: str) -> None:
    """A mistyped name would be a check that nothing can fail."""
    known = (await engine.counts()).workflows
    if workflow not in known:
        names = ", ".join(sorted(known)) or "none"
        raise Failure(f"no instance of a workflow {workflow!r} in this log; workflows there: {names}")


async def _page(engine: Engine, wanted: _Wanted, cursor: str | None, left: int | None) -> Any:
    since = None
    if wanted.since is not None:
        since = datetime.now(UTC) - timedelta(microseconds=wanted.since)
    return await engine.instances(
        workflow=wanted.workflow,
        status=[Status(status) for status in wanted.statuses] or None,
        created_after=since,
        limit=PAGE if left is None else min(PAGE, left),
        cursor=cursor,
        total="estimate" if cursor is None else None,
    )


# -- replaying --------------------------------------------------------------------------------------------------------


def _with_recorded_modules(recordings: Iterator[Recording], *, alone: bool) -> Iterator[Answer]:
    """Replays each history with the code of the module that ran it, in this process."""
    for recording in recordings:
        try:
            handlers = handlers_of(recording, ())
        except click.UsageError as error:
            if alone:
                raise
            yield Unreplayed(recording.id, recording.started.workflow, error.message)
            continue
        yield replay_one(recording, {**handlers.known, handlers.workflow.name: handlers.workflow})


def _one(found: list[Recording], wanted: _Wanted, modules: tuple[str, ...], at: int, as_json: bool) -> None:
    if len(found) != 1:
        raise click.UsageError(f"--at goes with one instance; {wanted.names[0]} has {len(found)}")
    (recording,) = found
    handlers = handlers_of(recording, modules)
    report = replay(
        handlers.workflow,
        recording.history,
        recording.values,
        upto=at,
        workflows=handlers.known,
        url=recording.url,
    )
    _tell(iter([report]), as_json, wanted)


def _tell(answers: Iterator[Answer], as_json: bool, wanted: _Wanted) -> None:
    """Prints what came of it, and ends with exit code 1 where that is not well."""
    out = screen()
    found: list[Answer] = []
    with _progress(wanted, quiet=as_json) as advance:
        for answer in answers:
            found.append(answer)
            advance(0 if _is_well(answer) else 1)
    if as_json:
        out.json([_as_json(answer) for answer in found])
    else:
        _print(out, found)
    if not all(_is_well(answer) for answer in found):
        raise SystemExit(1)


def _is_well(answer: Answer) -> bool:
    return isinstance(answer, ReplayReport) and answer.ok


def _print(out: Screen, found: list[Answer]) -> None:
    if len(found) == 1:
        out.line((str(found[0]), "" if _is_well(found[0]) else "bad"))
        return
    bad = [answer for answer in found if not _is_well(answer)]
    groups = _grouped(bad)
    for text, alike in list(groups.items())[:SHOWN_MAX]:
        out.line((f"{alike[0].instance} of {alike[0].workflow}", "strong"))
        out.line((text, "bad"))
        if len(alike) > 1:
            others = ", ".join(each.instance for each in alike[1 : NAMED_MAX + 1])
            more = ", …" if len(alike) > NAMED_MAX + 1 else ""
            out.line((f"the same in {len(alike) - 1} more: {others}{more}", "dim"))
        out.line()
    if len(groups) > SHOWN_MAX:
        out.line((f"{len(groups) - SHOWN_MAX} other differences are not shown", "dim"))
    out.line(_summary(found))


def _grouped(bad: list[Answer]) -> dict[str, list[Answer]]:
    """By what is wrong: many instances of one workflow mostly differ alike."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in bad:
        if isinstance(answer, Unreplayed):
            alike = answer.reason
        else:
            assert answer.difference is not None
            alike = f"{answer.difference.expected}\n{answer.difference.actual}\n{answer.difference.place}"
        groups.setdefault((answer.workflow, alike), []).append(answer)
    return {
        (each[0].reason if isinstance(each[0], Unreplayed) else str(each[0].difference)): each
        for each in groups.values()
    }


def _summary(found: list[Answer]) -> str:
    kinds = Counter(map(_kind, found))
    parts = ", ".join(f"{kinds[kind]:,} {kind}" for kind in _KINDS if kinds[kind])
    return f"{counted(len(found), 'instance')} replayed" + (f": {parts}" if parts else "")


def _kind(answer: Answer) -> str:
    if isinstance(answer, Unreplayed):
        return _KINDS[3]
    return _KINDS[2] if not answer.ok else _KINDS[0] if answer.complete else _KINDS[1]


def _as_json(answer: Answer) -> dict[str, Any]:
    tree = dataclasses.asdict(answer)
    if isinstance(answer, ReplayReport):
        return {**tree, "ok": answer.ok, "complete": answer.complete}
    return {**tree, "ok": False}


@contextmanager
def _progress(wanted: _Wanted, *, quiet: bool) -> Generator[Any]:
    """How many are done and how many of those differ, on a terminal."""

    def nothing(wrong: int) -> None:
        """Nobody looks."""

    if quiet or not sys.stderr.isatty():
        yield nothing
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield nothing
        return
    columns = (
        TextColumn("replayed {task.completed:,}"),
        BarColumn(),
        TextColumn("{task.fields[wrong]} differ"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, wrong=0)
        differing = 0

        def advance(wrong: int) -> None:
            nonlocal differing
            differing += wrong
            progress.update(task, advance=1, total=wanted.expected, wrong=differing)

        yield advance
