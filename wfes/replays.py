"""Checking in a test that today's code reproduces recorded histories: `assert_replays`, `save_histories`.

What `wfes.testing` and the pytest plugin give. No step's function is called and nothing is written, but for the file
that `save_histories` makes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

from wfes.core import events as e
from wfes.definition import Workflow
from wfes.engine import Engine
from wfes.errors import LogUnavailable
from wfes.instance import Instance
from wfes.timetravel.histories import (
    History,
    history_of,
    history_of_events,
    read_histories,
    write_histories,
)
from wfes.timetravel.recording import Recording, read_recording
from wfes.timetravel.replay import ReplayReport, replay
from wfes.validation import is_a, shown
from wfes.views import RecordedEvent

T = TypeVar("T")

SHOWN_MAX = 5
PAGE = 500
_FILE = "sqlite:///"

Source = (
    str
    | Path
    | Instance[Any]
    | Iterable[Instance[Any]]
    | Iterable[RecordedEvent]
    | Iterable[Iterable[RecordedEvent]]
)
"""Where histories are: a log's URL, a history file or bundle, instances, or events as `Instance.history` gives them."""


def assert_replays(
    workflow: Workflow[Any, Any] | Iterable[Workflow[Any, Any]], histories: Source
) -> list[ReplayReport]:
    """Fails unless today's code reproduces recorded histories.

    May be called in async code as well, where it blocks.

    Args:
        workflow: Today's code: a workflow, or several (those it names, such as children, may be among them).
        histories: A log's URL (every instance of these workflows), a file (`save_histories`, `wfes replay --save` or
            `wfes export --bundle` made it), an instance or several, or the events of one or several as
            `Instance.history` gives them.

    Returns:
        A report for each history.

    Raises:
        AssertionError: Today's code does something else, or there is no history of these workflows.
        WfesError: The histories cannot be read.
    """
    known = _by_name(workflow)
    return _apart(lambda: _replayed(known, histories))


def save_histories(path: str | Path, histories: Instance[Any] | Iterable[Instance[Any]] | str) -> int:
    """Writes the histories of instances to a file, for `assert_replays`; returns how many there are.

    The file is small (gzip), the same for the same histories, and holds what was recorded in clear.

    Args:
        path: The file.
        histories: An instance or several, or a log's URL: all of its instances.

    Raises:
        WfesError: The histories cannot be read.
    """

    def save() -> int:
        if isinstance(histories, str):
            return write_histories(Path(path), _of_log(histories, None))
        several = [histories] if isinstance(histories, Instance) else histories
        return write_histories(Path(path), [_recording(instance) for instance in several])

    return _apart(save)


def _by_name(workflow: object) -> dict[str, Workflow[Any, Any]]:
    several = [workflow] if is_a(workflow, Workflow) else workflow
    if isinstance(several, (str, bytes)) or not is_a(several, Iterable):
        raise TypeError(f"workflow is {shown(workflow)}; it must be a workflow or several")
    found: dict[str, Workflow[Any, Any]] = {}
    for each in cast("Iterable[Any]", several):
        if not is_a(each, Workflow):
            raise TypeError(f"{shown(each)} is no workflow; decorate it with @workflow")
        found[each.name] = each
    return found


def _replayed(known: dict[str, Workflow[Any, Any]], source: Source) -> list[ReplayReport]:
    reports: list[ReplayReport] = []
    for history in _histories(source, known):
        workflow = known.get(history.workflow)
        if workflow is None:
            raise AssertionError(
                f"instance {history.id} is of workflow {history.workflow!r}, and the code given is of "
                f"{', '.join(map(repr, known))}"
            )
        reports.append(replay(workflow, history.events, history.values, workflows=known, url=history.url))
    if not reports:
        raise AssertionError(f"there is no history of {', '.join(map(repr, known))} in {shown(source)}")
    wrong = [report for report in reports if not report.ok]
    if wrong:
        texts = "\n\n".join(str(report) for report in wrong[:SHOWN_MAX])
        more = f"\n\nand {len(wrong) - SHOWN_MAX} more" if len(wrong) > SHOWN_MAX else ""
        raise AssertionError(
            f"today's code does not reproduce {len(wrong)} of {len(reports)} histories\n\n{texts}{more}"
        )
    return reports


def _histories(source: Source, known: dict[str, Workflow[Any, Any]]) -> Iterator[History]:
    if isinstance(source, Instance):
        yield history_of(_recording(source))
        return
    if isinstance(source, Path) or (isinstance(source, str) and "://" not in source):
        recordings = read_histories(Path(source))
        yield from (history_of(each) for each in recordings if each.started.workflow in known)
        return
    if isinstance(source, str):
        yield from map(history_of, _of_log(source, known))
        return
    several: list[Any] = list(cast("Iterable[Any]", source))
    if several and isinstance(several[0], (RecordedEvent, e.Recorded)):
        yield history_of_events(several)
        return
    for each in several:
        if isinstance(each, Instance):
            yield history_of(_recording(cast("Instance[Any]", each)))
        else:
            yield history_of_events(list(each))


def _recording(instance: Instance[Any]) -> Recording:
    engine = instance._engine
    return read_recording(engine._log, instance.id, engine.url)


def _of_log(url: str, names: Iterable[str] | None) -> list[Recording]:
    """Every instance of a log, or of these workflows there, the oldest first.

    Raises:
        LogUnavailable: it cannot be opened; a file that there is not is not made.
    """
    if url.startswith(_FILE) and not Path(url.removeprefix(_FILE)).exists():
        raise LogUnavailable(url, "there is no such file")

    async def read() -> list[Recording]:
        found: list[Recording] = []
        async with Engine(url, worker=False) as engine:
            for name in [None] if names is None else names:
                cursor: str | None = None
                while True:
                    page = await engine.instances(
                        workflow=name, limit=PAGE, cursor=cursor, order="oldest", total=None
                    )
                    found.extend(read_recording(engine._log, row.id, url) for row in page.items)
                    cursor = page.cursor
                    if cursor is None:
                        break
        return found

    return asyncio.run(read())


def _apart(work: Callable[[], T]) -> T:
    """Runs it here, or in a thread where an event loop runs here: a replay drives loops of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return _in_thread(work)
    # Not in the `except`: what fails here has nothing to do with the loop that there is not.
    return work()


def _in_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result()
