"""Workflows to be debugged, in a folder of their own with a log, and a terminal to do it at.

Every step function fails when it is called while the environment says so: nothing but `--into` may call one then.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect

SHOP = """
import asyncio
import os

from pydantic import BaseModel
from wfes import Step, workflow


class Order(BaseModel):
    order_id: str
    items: list[str]


class Progress(BaseModel):
    priced: int = 0


def price(item: str) -> int:
    if "NO_STEPS" in os.environ:
        raise AssertionError("a step's function was called")
    amount = len(item) * 10
    return amount


def refuse(card: str) -> None:
    price(card)
    raise ValueError("no such card")


async def pair(step: Step, left: str, right: str) -> int:
    first = await step("left", price, left)
    second = await step("right", price, right)
    return first + second


@workflow(state=Progress)
async def checkout(order: Order, step: Step, state: Progress) -> int:
    total = 0
    for item in order.items:
        cost = await step("price", price, item)
        total += cost
        state.priced += 1
    both = await pair(step, "a", "bb")
    one, two = await asyncio.gather(step("one", price, "c"), pair(step, "dd", "eee"))
    many = await step.map("many", order.items, price)
    return total + both + one + two + sum(many)


@workflow
async def broken(step: Step) -> None:
    card = "4711"
    await step("price", price, card)
    await step("charge", refuse, card, max_attempts=1)


@workflow
async def waiting(step: Step) -> str:
    greeting = await step("greet", price, "hello")
    name = await step.listen("name")
    return f"{greeting} {name}"


@workflow
async def nested(step: Step) -> int:
    async def outer(number: int) -> int:
        inner = await step("inner", price, "x" * number)
        return inner + 1

    return await step("outer", outer, 3)


@workflow
async def endless(step: Step) -> None:
    await step("first", price, "a")
    turns = 0
    while "NO_STEPS" in os.environ:
        turns += 1
        if turns == 1000:
            open("looping", "w").close()
"""
FILL = """
import asyncio
from shop import Order, broken, checkout, endless, nested, waiting
from wfes import Engine


async def main():
    async with Engine(workflows=[broken, checkout, endless, nested, waiting]):
        await (await checkout.start(Order(order_id="o-1", items=["tea", "cup"]), id="checkout")).result()
        await (await nested.start(id="nested")).result()
        await (await endless.start(id="endless")).result()
        for started in [await broken.start(id="broken"), await waiting.start(id="waiting")]:
            while (await started.refresh()).status not in ("failed", "listening"):
                await asyncio.sleep(0.01)


asyncio.run(main())
"""
LOOPING = "looping"
"""The file that `endless` makes when it goes round and round."""
PROMPT = r"\(wfes\) "
SECONDS_MAX = 20


class Shop:
    """A folder with the module, a log and whatever is run in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "shop.db"
        self._histories: dict[str, Any] = {}
        self.environment = {
            **os.environ,
            "WFES_URL": "sqlite:///shop.db",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "PYTHONSAFEPATH": "",
            "COLUMNS": "200",
        }
        (folder / "shop.py").write_text(SHOP)

    def fill(self) -> None:
        """Runs an instance of each workflow, whose id is the workflow's name."""
        subprocess.run(
            [sys.executable, "-c", FILL], cwd=self.folder, env=self.environment, check=True, timeout=60
        )

    def wfes(self, *words: str, code: int = 0) -> str:
        """Runs a command to its end; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "wfes", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def version(self, id: str, type: str, path: str) -> int:
        """The event of this type for a path."""
        if id not in self._histories:
            self._histories[id] = json.loads(self.wfes("history", id, "--json"))
        found = (e for e in self._histories[id] if e["type"] == type and e["data"].get("path") == path)
        return int(next(found)["version"])

    def digest(self) -> str:
        """What the log's file holds."""
        return hashlib.sha256(self.log.read_bytes()).hexdigest()

    def command(self, *words: str, steps: bool = False, folder: Path | None = None) -> subprocess.Popen[str]:
        """Starts a command that goes on; its steps' functions fail."""
        return subprocess.Popen(
            [sys.executable, "-m", "wfes", *words],
            cwd=folder or self.folder,
            env=self.environment if steps else {**self.environment, "NO_STEPS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


class Terminal:
    """A command at a pseudo-terminal."""

    def __init__(self, shop: Shop, *words: str, steps: bool = False, folder: Path | None = None) -> None:
        self.child: pexpect.spawn[str] = pexpect.spawn(
            sys.executable,
            ["-m", "wfes", *words],
            cwd=str(folder or shop.folder),
            env=shop.environment if steps else {**shop.environment, "NO_STEPS": "1"},
            encoding="utf-8",
            timeout=SECONDS_MAX,
            dimensions=(40, 200),
        )
        self.child.setecho(False)

    def until(self, pattern: str) -> str:
        """What it prints up to a pattern."""
        self.child.expect(pattern)
        return str(self.child.before).replace("\r\n", "\n")

    def prompt(self) -> str:
        """What it prints up to the debugger's prompt."""
        return self.until(PROMPT)

    def ask(self, line: str) -> str:
        """Types a line; what it answers, up to the next prompt."""
        self.child.sendline(line)
        return self.prompt()

    def interrupt(self) -> str:
        """Presses Ctrl-C until it ends: one that comes in the moment in which a line begins to be read is lost."""
        for _ in range(SECONDS_MAX * 2):
            self.child.sendintr()
            if self.child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=0.5) == 0:
                return str(self.child.before)
        raise AssertionError("Ctrl-C does not end it")

    def ended(self) -> tuple[int | None, str]:
        """Waits for its end; its exit code, and what it printed last."""
        self.child.expect(pexpect.EOF)
        text = str(self.child.before)
        self.child.close()
        return self.child.exitstatus, text

    def quit(self, line: str = "q") -> int | None:
        """Leaves; the exit code."""
        self.child.sendline(line)
        return self.ended()[0]
