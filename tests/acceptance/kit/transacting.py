"""A customer's program that commits its own rows with wfes's, killed at a commit, and what must hold afterwards.

As a script it gets a log's URL, a folder and faults, runs trials in forked children, and prints what was wrong as JSON.
A trial makes orders (one row and one start each, in one transaction of the customer's own), whose workflow writes rows
in transactions of its steps, starts a follow-up inside one of them, and sends and answers by `connection=`. In the end
there is exactly one row for each completed transaction and each order has exactly one instance, whatever was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from nursery import _in_child
from places import NoLog, rows, url_of

from wfes import Engine, Retry, Step, workflow
from wfes.log import faults

ORDERS = 4
TABLES = (
    "CREATE TABLE IF NOT EXISTS shop_orders (id VARCHAR(100) PRIMARY KEY, number INTEGER)",
    "CREATE TABLE IF NOT EXISTS shop_made (instance VARCHAR(100), what VARCHAR(100), attempt INTEGER)",
)
INSERT_ORDER = "INSERT INTO shop_orders (id, number) VALUES (?, ?)"
INSERT_MADE = "INSERT INTO shop_made (instance, what, attempt) VALUES (?, ?, ?)"


def sql(connection: Any, statement: str) -> str:
    """The statement with the placeholders of the connection's driver."""
    return statement if isinstance(connection, sqlite3.Connection) else statement.replace("?", "%s")


def make(connection: Any, instance: str, what: str, attempt: int) -> str:
    """Writes a row; on the first attempts of some, too much, and fails."""
    connection.execute(sql(connection, INSERT_MADE), (instance, what, attempt))
    if what == "flaky" and attempt == 1:
        raise ValueError("not at the first attempt")
    return what


def make_at(connection: Any, instance: str, attempt: int) -> str:
    """Writes the row of a step that fails at its first attempt."""
    return make(connection, instance, "flaky", attempt)


async def make_and_start(connection: Any, instance: str, what: str) -> str:
    """Writes a row and starts an instance in the same transaction."""
    written = connection.execute(sql(connection, INSERT_MADE), (instance, what, 1))
    if asyncio.iscoroutine(written):
        await written
    started = await follow_up.start(instance, connection=connection)
    return started.id


@workflow(retry=Retry(initial=0.001, max="1ms"), requests={"approved": bool})
async def order(id: str, step: Step) -> list[Any]:
    first = await step.transaction("first", make, id, "first", 1)
    both = await asyncio.gather(
        step.transaction("flaky", make_at, id),
        step("plain", lambda: "plain"),
        step.transaction("beside", make, id, "beside", 1),
    )
    child = await step.transaction("starts", make_and_start, id, "starts")
    news = await step.listen("news")
    return [first, both, child, news]


@workflow
async def follow_up(of: str, step: Step) -> str:
    return str(await step.transaction("followed", make, of, "followed", 1))


def connected(url: str) -> Any:
    """A connection of the customer's own."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20)
    import psycopg

    return psycopg.connect(url.partition("?")[0])


KILL: dict[str, Any] = {"when": "", "order": -1}
"""Where the customer himself is killed: before or after his commit of this order."""


def _kill(when: str, number: int) -> None:
    if {"when": when, "order": number} == KILL:
        os.kill(os.getpid(), signal.SIGKILL)


async def trade(url: str) -> list[str]:
    """Makes the orders that are missing, runs everything to its end, and says what is wrong with the outcomes."""
    async with Engine(url, workflows=[order, follow_up]) as engine:
        with closing(connected(url)) as connection:
            for table in TABLES:
                connection.execute(table)
            connection.commit()
            for number in range(ORDERS):
                await _order(connection, f"o-{number}", number)
        wrong: list[str] = []
        for number in range(ORDERS):
            run = await engine.get(order, f"o-{number}")
            output = await run.result(timeout=30)
            follow = await (await engine.get(output[2])).result(timeout=30)
            found = [output[0], *output[1], output[3], follow]
            if found != ["first", "flaky", "plain", "beside", number, "followed"]:
                wrong.append(f"order {number} gave {found}")
        if left := await engine.outbox():
            wrong.append(f"the outbox holds {left}")
        return wrong


async def _order(connection: Any, id: str, number: int) -> None:
    """The customer's own transaction: his row, a start, an event for what it starts."""
    there = connection.execute(sql(connection, "SELECT 1 FROM shop_orders WHERE id = ?"), (id,)).fetchone()
    if there is None:
        connection.execute(sql(connection, INSERT_ORDER), (id, number))
        run = await order.start(id, id=id, connection=connection)
        await run.send("news", number, id=f"news-{number}", connection=connection)
    _kill("before", number)
    connection.commit()
    _kill("after", number)


def problems(folder: Path) -> list[str]:
    """What of the rows does not go with the log."""
    wrong: list[str] = []
    orders = {id for (id,) in rows(folder, "SELECT id FROM shop_orders")}
    instances = {id for (id,) in rows(folder, "SELECT id FROM wfes_instances WHERE workflow = 'order'")}
    if orders != instances:
        wrong.append(f"orders {sorted(orders)} and instances {sorted(instances)} differ")
    made = sorted(rows(folder, "SELECT instance, what FROM shop_made"))
    expected = sorted(
        (id, what) for id in orders for what in ("first", "flaky", "beside", "starts", "followed")
    )
    if made != expected:
        wrong.append(f"rows are {made}")
    followed = rows(folder, "SELECT count(*) FROM wfes_instances WHERE workflow = 'follow-up'")
    if followed != [(len(orders),)]:
        wrong.append(f"{followed} follow-ups")
    return wrong


def between(folder: Path) -> list[str]:
    """What must hold at any moment: a row is there if and only if its step's completion is."""
    try:
        made = sorted(rows(folder, "SELECT instance, what FROM shop_made"))
    except NoLog:
        return []
    paths = {"first", "flaky", "beside", "starts"}
    completed: list[tuple[str, str]] = []
    for stream, state in rows(
        folder,
        "SELECT originator_id, state FROM wfes_events WHERE topic = 'StepCompleted' AND originator_id LIKE 'o-%'",
    ):
        path = json.loads(bytes(state)[32:])["path"]
        if path in paths:
            completed.append((stream, path))
    mine = [row for row in made if row[1] in paths]
    return [] if mine == sorted(completed) else [f"rows {mine} go with completions {sorted(completed)}"]


def _run(folder: Path, fault: str, name: str) -> None:
    if fault.startswith("order:"):
        _, when, number = fault.split(":")
        KILL.update({"when": when, "order": int(number)})
        fault = "slow:999999:0"
    with faults.installed(fault):
        wrong = asyncio.run(trade(url_of(folder)))
    (folder / name).write_text(json.dumps(wrong))


def trial(folder: Path, fault: str) -> dict[str, Any]:
    """Runs it with a fault, then to its end."""
    status = _in_child(lambda: _run(folder, fault, "first"), folder, None)
    killed = os.WIFSIGNALED(status)
    wrong = between(folder) if killed else []
    status = _in_child(lambda: _run(folder, "slow:999999:0", "last"), folder, None)
    if status:
        failed = folder / "failed"
        wrong.append(failed.read_text() if failed.exists() else f"ended with {status}")
    else:
        wrong += json.loads((folder / "last").read_text())
    return {"killed": killed, "problems": wrong + problems(folder)}


if __name__ == "__main__":
    for line in sys.stdin:
        one, what = json.loads(line)
        print(json.dumps(trial(Path(one), what)), flush=True)
