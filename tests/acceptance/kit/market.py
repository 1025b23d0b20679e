"""What chaos runs beside the corpus: workflows whose instances take turns, orders that customers make together with
rows of their own, and what must be true of both by the log and the rows.

An order is `transacting.order`: it is started, and sent its news, in its customer's own transaction; its steps write
rows in transactions of the log, one of which starts a follow-up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import corpus
import psycopg
import transacting
from eventsourcing.persistence import Notification

from wfes import Concurrency, Step, Workflow, workflow
from wfes.core import events as e
from wfes.log.application import decode

LIMIT = 2
KEY_LIMIT = 1
CUSTOMERS = "abc"


@workflow(concurrency=LIMIT)
async def counter(number: int, step: Step) -> list[int]:
    """One of a few at a time."""
    first = await step("take", corpus.same_async, number)
    await step.sleep("nap", "10ms")
    return [first, await step("give", corpus.same, first + 1)]


@workflow(concurrency=Concurrency(KEY_LIMIT, key="customer"))
async def desk(visit: dict[str, str], step: Step) -> str:
    """One of a customer's at a time."""
    await step("sit", corpus.same, visit["customer"])
    return await step("talk", corpus.same_async, visit["customer"])


WORKFLOWS: list[Workflow[Any, Any]] = [counter, desk, transacting.order, transacting.follow_up]


@dataclass(frozen=True)
class Turn:
    """An instance that takes its turn.

    Attributes:
        workflow: which.
        given: its input, by the instance's number.
        output: what it must give, by the number.
    """

    workflow: Workflow[Any, Any]
    given: Callable[[int], Any]
    output: Callable[[int], Any]


def _customer(number: int) -> str:
    return CUSTOMERS[number % len(CUSTOMERS)]


TURNS: dict[str, Turn] = {
    "counter": Turn(counter, lambda number: number, lambda number: [number, number + 1]),
    "desk": Turn(desk, lambda number: {"customer": _customer(number)}, _customer),
}


def crowded(stored: Iterable[Notification]) -> list[str]:
    """Where more instances ran at a time than a limit allows, as the log says."""
    limits: dict[str, int] = {counter.name: LIMIT, desk.name: KEY_LIMIT}
    queue: dict[str, tuple[str, str]] = {}
    holding: dict[str, tuple[str, str]] = {}
    held: Counter[tuple[str, str]] = Counter()
    problems: list[str] = []
    for notification in stored:
        id, event = str(notification.originator_id), decode(notification).event
        if isinstance(event, e.WorkflowStarted) and event.workflow in limits:
            queue[id] = event.workflow, event.input["customer"] if event.workflow == desk.name else ""
        elif id not in queue:
            continue
        elif isinstance(event, (e.SlotGranted, e.RunClaimed)) and id not in holding:
            holding[id] = queue[id]
            held[queue[id]] += 1
            if held[queue[id]] > limits[queue[id][0]]:
                at_once = sorted(other for other, where in holding.items() if where == queue[id])
                problems.append(f"{queue[id]}: {at_once} at a time, by {event.topic} at {notification.id}")
        elif event.terminal and id in holding:
            held[holding.pop(id)] -= 1
    if not any(kind == counter.name for kind, _ in held):
        problems.append("nobody took turns")
    return problems


# -------------------------------------------------------------------------------------------- customers


def prepare(url: str) -> None:
    """Makes the customers' tables."""
    with psycopg.connect(_plain(url), autocommit=True) as connection:
        for table in transacting.TABLES:
            connection.execute(table.encode())


def _plain(url: str) -> str:
    return urlsplit(url)._replace(query="").geturl()


async def trade(url: str, id: str, news: int, *, leaves: bool) -> bool:
    """A customer's transaction: a row, the start of an order, and its news; tried until it is known what became of it.

    Args:
        url: the log's.
        id: the order's.
        news: what it is sent.
        leaves: the customer thinks better of it, and rolls back.

    Returns:
        Whether it is committed.
    """
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(_plain(url)) as connection:
                return await _trade(connection, id, news, leaves=leaves)
        except (psycopg.OperationalError, psycopg.errors.UniqueViolation):
            # What became of it is looked up by the next one. A commit may still be on its way: then the next one's row
            # waits for it.
            await asyncio.sleep(0.1)


async def _trade(connection: psycopg.AsyncConnection[Any], id: str, news: int, *, leaves: bool) -> bool:
    there = await connection.execute("SELECT 1 FROM shop_orders WHERE id = %s", (id,))
    if await there.fetchone():
        return True
    await connection.execute("INSERT INTO shop_orders (id, number) VALUES (%s, %s)", (id, news))
    run = await transacting.order.start(id, id=id, connection=connection)
    await run.send("news", news, id=f"news of {id}", connection=connection)
    if leaves:
        await connection.rollback()
    else:
        await connection.commit()
    return not leaves
