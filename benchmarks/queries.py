"""How long does a page of instances take among a million?

Method: `--rows` instance rows are written through the projections' own statements into a new SQLite log: 20 workflows
of very different sizes over 30 days, nine in ten completed, a status that three instances have, a key that a fifth of
all share (over all workflows but two), a parent of a tenth, a conversation of a tenth, tags that many or four have,
5,000 instances of one and the same microsecond, and a workflow with none. Then, in a fresh process, an open engine is
asked for pages of 100:

- *served*: each filter by itself, and workflow with status, workflow with key, conversation with status, with common,
  rare and missing values, newest and oldest first: the first page, the next two, and one a third of the way down
  (after pages of 1,000). These must be full pages unless they are the last.
- *combined*: every combination of two and three of eleven filters that is not served, both orders: the first page and
  up to `--pages` that follow. These may be short or empty, with a cursor.

Totals are estimated, as by default. Each page is asked for `--repeats` times; its time is the median of these, from the
call to the `Page`, and the figure is the slowest page's. The single slowest call is told beside it: on a machine with
other work it is the machine's. Estimates are compared with exact counts.

    python benchmarks/queries.py [--rows 1000000] [--pages 3] [--repeats 5] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks._report import Found, at_most, machine, once, parser, percentile, show
from wfes import Engine, Page
from wfes.core.ids import new_id
from wfes.log.open import open_log
from wfes.subscription.rebuild import bring_up
from wfes_projections import inline
from wfes_projections.counts import Counts
from wfes_projections.instances import Instances, InstanceTags

PAGE_MILLIS_MAX = 20.0
LIMIT = 100
DEEP_PAGES = 10
WORKFLOWS = 20
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=30)
STATUSES = {
    "completed": 930,
    "failed": 40,
    "cancelled": 10,
    "aborted": 5,
    "listening": 10,
    "in_progress": 4,
    "pending": 1,
}
Filters = dict[str, Any]


def rows(total: int) -> Iterator[tuple[Any, ...]]:
    """Instance rows, oldest first."""
    chance = random.Random(7)
    names = [f"workflow-{number}" for number in range(WORKFLOWS)]
    sizes = [1 / (number + 1) ** 1.5 for number in range(WORKFLOWS)]
    workflows = chance.choices(names, sizes, k=total)
    statuses = chance.choices(list(STATUSES), list(STATUSES.values()), k=total)
    paused = set(chance.sample(range(total), 3))
    rare_tag = set(chance.sample(range(total), 4))
    first = round(BEGIN.timestamp() * 1e6)
    step = max(1, round(SPAN.total_seconds() * 1e6) // total)
    burst = range(total // 2, total // 2 + 5_000)
    ids: list[str] = []
    for number in range(total):
        at = first + (burst.start if number in burst else number) * step
        id = new_id(at // 1000, chance.randbytes(10))
        ids.append(id)
        workflow = workflows[number]
        status = "paused" if number in paused else statuses[number]
        key = parent = conversation = None
        draw = chance.random()
        if draw < 0.6:
            key = f"key-{chance.randrange(total // 3)}"
        elif draw < 0.81 and workflow not in names[-2:]:
            key = "shared"
        draw = chance.random()
        if draw < 0.1:
            parent = chance.choice(ids)
        elif draw < 0.2:
            parent = "fan-out"
        draw = chance.random()
        if draw < 0.1:
            conversation = f"chat-{chance.randrange(20_000)}"
        elif draw < 0.2:
            # Nothing of it failed.
            conversation = "busy" if status != "failed" else None
        tags = [f"tag-{min(int(chance.expovariate(0.1)), 99)}"] if chance.random() < 0.3 else []
        if chance.random() < 0.3:
            tags.append("common")
        if number in rare_tag:
            tags.append("rare")
        yield (id, workflow, key, status, at, at, parent, conversation, json.dumps(tags) if tags else None)


def fill(path: Path, total: int) -> None:
    """Writes the rows into a new log."""
    log = open_log(f"sqlite:///{path}")
    log.open([])
    bring_up(log, inline())
    transaction = log.begin()
    made = rows(total)
    counts: dict[tuple[str, str], int] = {}
    while batch := list(itertools.islice(made, 10_000)):
        transaction.executemany(Instances.upsert, batch)
        tagged = [(tag, row[4], row[0]) for row in batch if row[8] is not None for tag in json.loads(row[8])]
        transaction.executemany(InstanceTags.upsert, tagged)
        for row in batch:
            counts[row[1], row[3]] = counts.get((row[1], row[3]), 0) + 1
    transaction.executemany(Counts.upsert, [(*place, number) for place, number in counts.items()])
    transaction.commit()
    log.close()


def served() -> Iterator[Filters]:
    """Queries that have to fill their pages."""
    middle, day = BEGIN + SPAN / 2, timedelta(days=1)
    workflows = ["workflow-0", "workflow-19", "nobody"]
    statuses = ["completed", "failed", "paused", "timed_out"]
    yield {}
    yield from ({"workflow": workflow} for workflow in workflows)
    yield from ({"status": status} for status in statuses)
    yield {"status": ["completed", "failed", "paused"]}
    yield {"status": ["pending", "in_progress", "listening", "paused", "timed_out"]}
    yield from ({"key": key} for key in ("shared", "key-7", "nobody"))
    yield from ({"tags": [tag]} for tag in ("common", "tag-0", "tag-99", "rare", "nobody"))
    yield from ({"conversation": id} for id in ("busy", "chat-7", "nobody"))
    yield from ({"parent": id} for id in ("fan-out", "nobody"))
    yield from ({"created_after": moment} for moment in (BEGIN, middle, BEGIN + 2 * SPAN))
    yield from ({"created_before": moment} for moment in (BEGIN, middle, BEGIN + 2 * SPAN))
    yield {"created_after": middle, "created_before": middle + day}
    for workflow, status in itertools.product(workflows, statuses):
        yield {"workflow": workflow, "status": status}
    for workflow, key in itertools.product([*workflows, "workflow-18"], ("shared", "key-7")):
        yield {"workflow": workflow, "key": key}
    for id, status in itertools.product(("busy", "chat-7"), statuses):
        yield {"conversation": id, "status": status}
    yield {"workflow": "workflow-0", "created_after": middle}
    yield {"key": "shared", "created_before": middle}


def combined() -> Iterator[Filters]:
    """Combinations that no index serves."""
    single: list[Filters] = [
        {"workflow": "workflow-0"},
        {"workflow": "workflow-18"},
        {"status": "completed"},
        {"status": "failed"},
        {"status": ["listening", "paused"]},
        {"key": "shared"},
        {"tags": ["common"]},
        {"tags": ["tag-0", "common"]},
        {"conversation": "busy"},
        {"parent": "fan-out"},
        {"created_after": BEGIN + SPAN / 3, "created_before": BEGIN + SPAN / 2},
    ]
    known = [{"workflow", "status"}, {"workflow", "key"}, {"conversation", "status"}]
    for size in (2, 3):
        for chosen in itertools.combinations(single, size):
            filters = {name: value for one in chosen for name, value in one.items()}
            if len(filters) < sum(map(len, chosen)):
                continue
            plain = filters.keys() - {"created_after", "created_before"}
            if plain not in known and (len(plain) > 1 or len(filters.get("tags", ())) > 1):
                yield filters


class Clocked:
    """Asks an engine for pages, and keeps how long each took.

    Attributes:
        pages: what was asked for, and the median of its repetitions, in milliseconds.
        calls: each single call's milliseconds.
    """

    def __init__(self, engine: Engine, repeats: int) -> None:
        self._engine = engine
        self._repeats = repeats
        self.pages: list[tuple[float, str]] = []
        self.calls: list[float] = []

    async def page(self, what: str, **asked: Any) -> Page[Any]:
        """A page, and its time."""
        took: list[float] = []
        found: Page[Any] | None = None
        for _ in range(self._repeats):
            begun = time.perf_counter()
            found = await self._engine.instances(limit=LIMIT, **asked)
            took.append((time.perf_counter() - begun) * 1000)
        assert found is not None
        self.calls += took
        self.pages.append((statistics.median(took), what))
        return found

    def report(self) -> Found:
        """How long pages took, in milliseconds."""
        medians = [millis for millis, _ in self.pages]
        slowest = sorted(self.pages, reverse=True)[:5]
        return {
            "pages": len(medians),
            "millis": {
                "median": round(statistics.median(medians), 2),
                "p99": round(percentile(medians, 99), 2),
                "slowest": round(max(medians), 2),
            },
            "single_calls_over_limit": sum(millis > PAGE_MILLIS_MAX for millis in self.calls),
            "slowest_single_call_millis": round(max(self.calls), 2),
            "slowest": [f"{millis:.2f} {what}" for millis, what in slowest],
        }


def _told(filters: Filters, order: str, page: str) -> str:
    return " ".join([*(f"{name}={value}" for name, value in filters.items()), order, page])


async def time_served(engine: Engine, repeats: int) -> Found:
    """Times the queries that have to fill their pages."""
    clocked = Clocked(engine, repeats)
    short = 0
    for filters, order in itertools.product(served(), ("newest", "oldest")):
        cursor = None
        for number in range(3):
            page = await clocked.page(
                _told(filters, order, f"page {number + 1}"), cursor=cursor, order=order, **filters
            )
            short += page.cursor is not None and len(page) < LIMIT
            cursor = page.cursor
            if cursor is None:
                break
        for _ in range(DEEP_PAGES):
            if cursor is None:
                break
            cursor = (
                await engine.instances(limit=1000, cursor=cursor, order=order, total=None, **filters)
            ).cursor
        if cursor is not None:
            page = await clocked.page(_told(filters, order, "deep"), cursor=cursor, order=order, **filters)
            short += page.cursor is not None and len(page) < LIMIT
    return {**clocked.report(), "short_pages": short}


async def time_combined(engine: Engine, repeats: int, pages: int) -> Found:
    """Times the combinations that no index serves, and compares their estimates with exact counts."""
    clocked = Clocked(engine, repeats)
    items = 0
    for filters, order in itertools.product(combined(), ("newest", "oldest")):
        cursor = None
        for number in range(pages + 1):
            page = await clocked.page(
                _told(filters, order, f"page {number + 1}"), cursor=cursor, order=order, **filters
            )
            items += len(page)
            cursor = page.cursor
            if cursor is None:
                break
    return {**clocked.report(), "items_a_page": round(items / len(clocked.pages), 1)}


async def estimates(engine: Engine) -> Found:
    """How far estimated totals of more than 1,000 are from exact ones."""
    factors: list[tuple[float, str]] = []
    for filters in [*served(), *itertools.islice(combined(), 0, None, 5)]:
        guess = await engine.instances(limit=1, **filters)
        exact = (await engine.instances(limit=1, total="exact", **filters)).total
        assert guess.total is not None
        assert exact is not None
        if guess.total_exact and guess.total != exact:
            raise AssertionError(f"{filters}: {guess.total} is said to be exact, and it is {exact}")
        if exact > 1000 and not guess.total_exact:
            ratio = max(guess.total, 1) / exact
            factors.append((max(ratio, 1 / ratio), f"{guess.total} for {exact}: {_told(filters, '', '')}"))
    worst = max(factors)
    return {
        "compared": len(factors),
        "factor_median": round(statistics.median(factor for factor, _ in factors), 2),
        "factor_worst": round(worst[0], 2),
        "worst": worst[1].strip(),
    }


async def measure(path: Path, repeats: int, pages: int) -> Found:
    """One run, in this process."""
    async with Engine(f"sqlite:///{path}", worker=False) as engine:
        await engine.instances(limit=1)
        begun = time.perf_counter()
        counts = await engine.counts()
        counted = (time.perf_counter() - begun) * 1000
        return {
            "instances": counts.total,
            "statuses": counts.statuses,
            "counts_millis": round(counted, 2),
            "served": await time_served(engine, repeats),
            "combined": await time_combined(engine, repeats, pages),
            "estimates": await estimates(engine),
        }


def report(arguments: argparse.Namespace) -> Found:
    """Fills a log, and asks it in a fresh process."""
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        path = Path(directory, "queries.db")
        here = machine(directory)
        begun = time.perf_counter()
        fill(path, arguments.rows)
        filled = time.perf_counter() - begun
        size = path.stat().st_size
        found = once(__file__, arguments, "run", path)
    return {
        "question": "How long does a page of instances take among a million?",
        "machine": here,
        "fill_seconds": round(filled, 1),
        "file_mib": round(size / 2**20),
        **found,
        "figures": {
            "served": at_most(found["served"]["millis"]["slowest"], PAGE_MILLIS_MAX, "ms a page"),
            "served_pages_are_full": at_most(found["served"]["short_pages"], 0, "short pages"),
            "combined": at_most(found["combined"]["millis"]["slowest"], PAGE_MILLIS_MAX, "ms a page"),
        },
    }


def main() -> None:
    arguments = parser(__doc__, rows=1_000_000, pages=3, repeats=5).parse_args()
    if arguments.child is None:
        show(report(arguments))
        return
    print(json.dumps(asyncio.run(measure(arguments.file, arguments.repeats, arguments.pages))))


if __name__ == "__main__":
    main()
