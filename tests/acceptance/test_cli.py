"""The command line in real processes: a shop's workflows are run, watched, asked, answered and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SHOP = '''
import time

from pydantic import BaseModel
from wfes import Step, workflow


class Order(BaseModel):
    order_id: str
    items: list[str]


def price(item: str) -> int:
    return len(item) * 10


def refuse() -> None:
    raise ValueError("no such card")


@workflow(requests={"approval": bool})
async def checkout(order: Order, step: Step) -> dict[str, int]:
    """Price an order and ask for approval."""
    prices = await step.map("price", order.items, price)
    await step.progress("priced", percent=50)
    if sum(prices) > 100 and not await step.request("approval", f"Approve {sum(prices)}?"):
        step.fail("not approved")
    return {"total": sum(prices)}


@workflow
async def broken(step: Step) -> None:
    await step("charge", refuse, max_attempts=1)


@workflow
async def patient(step: Step) -> str:
    await step("first", price, "x")
    paid = await step.listen("paid")
    return f"paid {paid}"


@workflow(on="order.placed")
async def placed(order_id: str) -> str:
    return order_id
'''

SECONDS_MAX = 20.0


class Shop:
    """A folder with the shop's module, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "WFES_URL": "sqlite:///shop.db", "NO_COLOR": "1"}
        (folder / "shop.py").write_text(SHOP)

    def popen(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "wfes", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.popen(*words)
        try:
            out, err = process.communicate(timeout=SECONDS_MAX)
        finally:
            process.kill()
        assert process.returncode == code, (words, process.returncode, out, err)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.call(*words, "--json", code=code).stdout)

    @contextmanager
    def worker(self) -> Generator[subprocess.Popen[str]]:
        process = self.popen("worker", "shop")
        try:
            assert process.stdout is not None
            assert "checkout" in process.stdout.readline()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=SECONDS_MAX)
        assert process.returncode == 0, err
        assert out == "stopped\n"

    def until(self, id: str, status: str) -> Any:
        return until(lambda: self.json("show", id), lambda shown: shown["status"] == status)


def until(read: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + SECONDS_MAX
    while True:
        found = read()
        if good(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_run_shows_steps_and_prints_the_output(shop: Shop) -> None:
    done = shop.call("run", "shop:checkout", "--input", '{"order_id": "o-1", "items": ["tea", "cup"]}')
    assert json.loads(done.stdout) == {"total": 60}
    assert "✓ price  2 items" in done.stderr
    assert "price  1 of 2 done" in done.stderr
    assert "· priced (50 %)" in done.stderr
    assert "completed" in done.stderr


def test_run_as_json_lines(shop: Shop) -> None:
    done = shop.call("run", "shop:checkout", "--input", '{"order_id": "o-1", "items": ["tea"]}', "--json")
    *events, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "WorkflowStarted"
    assert events[0]["actor"].startswith("cli:")
    assert (result["type"], result["status"], result["output"]) == ("result", "completed", {"total": 30})


def test_run_of_a_workflow_that_fails(shop: Shop) -> None:
    done = shop.call("run", "shop:broken", code=1)
    assert done.stdout == ""
    assert "✗ charge" in done.stderr
    assert "no such card" in done.stderr
    shown = shop.json("ls", "--status", "failed")
    assert [row["workflow"] for row in shown["items"]] == ["broken"]
    text = shop.call("show", shown["items"][0]["id"]).stdout
    assert "no such card" in text


def test_ls_pages_and_counts(shop: Shop) -> None:
    for number in range(3):
        shop.call("start", "shop:patient", "--id", f"p-{number}", "--tag", "slow")
    shop.call("start", "shop:placed", "--id", "o-1", "--input", '"o-1"')
    shop.call("cancel", "p-1")
    page = shop.json("ls", "--tag", "slow", "--limit", "2")
    assert [row["id"] for row in page["items"]] == ["p-2", "p-1"]
    assert (page["total"], page["total_exact"]) == (3, True)
    rest = shop.json("ls", "--tag", "slow", "--limit", "2", "--cursor", page["cursor"])
    assert ([row["id"] for row in rest["items"]], rest["cursor"]) == (["p-0"], None)
    text = shop.call("ls", "--tag", "slow", "--limit", "2").stdout
    assert "2 of 3" in text
    assert f"more: --cursor {page['cursor']}" in text
    counts = shop.json("ls", "--count")
    assert counts["workflows"] == {"patient": {"pending": 2, "cancelled": 1}, "placed": {"pending": 1}}
    assert (counts["statuses"], counts["total"]) == ({"pending": 3, "cancelled": 1}, 4)
    lines = [line.split() for line in shop.call("ls", "--count").stdout.splitlines()]
    assert lines[0] == ["WORKFLOW", "PENDING", "CANCELLED", "TOTAL"]
    assert lines[-1] == ["all", "3", "1", "4"]
    assert shop.json("ls", "--count", "--workflow", "placed")["total"] == 1
    assert shop.call("ls", "--count", "--workflow", "nobody").stdout == "no instances\n"
    refused = shop.call("ls", "--status", "pending", "--cursor", page["cursor"], code=2)
    assert "belongs to a query with other filters" in refused.stderr


def test_bad_input_starts_nothing(shop: Shop) -> None:
    done = shop.call("run", "shop:checkout", "--input", '{"order_id": 1}', code=1)
    assert done.stderr.startswith("wfes: input does not fit the input type of workflow 'checkout'")
    assert shop.json("ls")["items"] == []


def test_a_run_is_stopped_and_goes_on(shop: Shop) -> None:
    process = shop.popen("run", "shop:patient", "--id", "p-1")
    try:
        until(lambda: (shop.folder / "shop.db").exists(), bool)
        until(
            lambda: shop.popen("show", "p-1", "--json").communicate(timeout=SECONDS_MAX)[0],
            lambda text: '"listening"' in text,
        )
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS_MAX)
    finally:
        process.kill()
    assert process.returncode == 1
    assert out == ""
    assert "To go on: wfes run shop:patient --id p-1" in err
    assert "Traceback" not in err
    assert shop.json("send", "p-1", "paid", "7")["status"] == "listening"
    done = shop.call("run", "shop:patient", "--id", "p-1")
    assert json.loads(done.stdout) == "paid 7"
    assert [step["starts"] for step in shop.json("show", "p-1")["steps"] if step["kind"] == "step"] == [1]


def test_start_answer_and_watch_with_a_worker_elsewhere(shop: Shop) -> None:
    order = '{"order_id": "o-1", "items": ["a long cup of tea"]}'
    with shop.worker():
        started = shop.json(
            "start", "shop:checkout", "--input", order, "--id", "c-1", "--key", "o-1", "--tag", "vip"
        )
        assert started["id"] == "c-1"
        shown = shop.until("c-1", "listening")
        assert shown["waiting_for"][0]["name"] == "approval"
        assert shown["progress"]["message"] == "priced"
        (request,) = shop.json("requests")["items"]
        assert (request["instance"], request["name"], request["message"]) == (
            "c-1",
            "approval",
            "Approve 170?",
        )
        assert "wfes provide c-1 approval JSON" in shop.call("requests").stdout
        assert "open there: approval" in shop.call("provide", "c-1", "other", "true", code=1).stderr
        refused = shop.call("provide", "c-1", "approval", '"maybe"', code=1).stderr
        assert "must be boolean" in refused
        shop.json("provide", "c-1", "approval", "true")
        assert shop.until("c-1", "completed")["output"] == {"total": 170}
        assert "has no open request" in shop.call("provide", "c-1", "approval", "true", code=1).stderr
        # By its name alone, which the log knows from the worker.
        shop.json("start", "checkout", "--input", order, "--id", "c-2")
        shop.until("c-2", "listening")
        request = shop.json("requests")["items"][0]
        shop.json("provide", request["id"], "false")
        assert shop.until("c-2", "failed")["error"]["message"] == "not approved"
        shop.json("publish", "order.placed", '"o-9"', "--id", "e-1")
        until(
            lambda: shop.json("ls", "--workflow", "placed", "--status", "completed")["items"],
            lambda items: len(items) == 1,
        )
    assert [row["id"] for row in shop.json("ls", "--tag", "vip")["items"]] == ["c-1"]
    assert [row["id"] for row in shop.json("ls", "--key", "o-1")["items"]] == ["c-1"]
    page = shop.json("ls", "--limit", "2")
    rest = shop.json("ls", "--limit", "2", "--cursor", page["cursor"])
    assert len({row["id"] for row in page["items"] + rest["items"]}) == 3
    events = shop.json("history", "c-1")
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    provided = next(event for event in events if event["type"] == "DataProvided")
    assert provided["actor"].startswith("cli:")
    assert [event["version"] for event in shop.json("history", "c-1", "--after", "1", "--upto", "3")] == [
        2,
        3,
    ]
    for words in (["ls"], ["show", "c-1"], ["history", "c-1"], ["tail"], ["requests"]):
        assert shop.call(*words).stdout


def test_pause_resume_cancel_retry_and_timeouts(shop: Shop) -> None:
    with shop.worker():
        shop.json("start", "shop:patient", "--id", "p-1")
        shop.until("p-1", "listening")
        assert shop.json("pause", "p-1", "--reason", "lunch")["status"] == "paused"
        assert shop.json("resume", "p-1")["status"] == "listening"
        shop.json("set-timeout", "p-1", "--in", "1h")
        shop.json("cancel", "p-1", "--reason", "enough")
        shop.until("p-1", "cancelled")
        assert "is over" in shop.call("send", "p-1", "paid", code=1).stderr
        shop.json("start", "shop:broken", "--id", "b-1")
        shop.until("b-1", "failed")
        shop.json("retry", "b-1")
        shop.until("b-1", "failed")
        shop.json("start", "shop:patient", "--id", "p-2")
        shop.until("p-2", "listening")
        shop.json("set-timeout", "p-2", "--in", "0.2")
        shop.until("p-2", "timed_out")
    assert "has passed" in shop.call("set-timeout", "p-2", "--at", "2001-01-01T00:00Z", code=2).stderr


def test_ids_may_be_cut_and_unknown_ones_are_named(shop: Shop) -> None:
    for id in ("invoice-one", "invoice-two"):
        shop.json("start", "shop:patient", "--id", id)
    assert shop.json("show", "invoice-o")["id"] == "invoice-one"
    assert shop.json("show", "ice-two")["id"] == "invoice-two"
    said = shop.call("show", "invoice-", code=1).stderr
    assert "fits 2 instances" in said
    assert "invoice-one" in said
    assert (
        "there is no instance with the id 'nothing-like-it'"
        in shop.call("show", "nothing-like-it", code=1).stderr
    )
    assert "there is no instance with the id 'inv'" in shop.call("show", "inv", code=1).stderr
    assert "the log knows no workflow named 'unknown'" in shop.call("start", "unknown", code=1).stderr
    assert "must not start with '$'" in shop.call("start", "shop:patient", "--id", "$x", code=2).stderr
    assert "no page gave" in shop.call("ls", "--cursor", "bogus", code=2).stderr
    delayed = shop.json("start", "shop:patient", "--id", "later", "--delay", "1h")
    assert delayed["status"] == "pending"


def test_tail_follows_the_log(shop: Shop) -> None:
    shop.json("start", "shop:patient", "--id", "p-1")
    lines = [json.loads(line) for line in shop.call("tail", "--json").stdout.splitlines()]
    assert "WorkflowStarted" in [line["type"] for line in lines]
    last = lines[-1]["position"]
    assert shop.call("tail", "--after", str(last), "--json").stdout == ""
    assert len(shop.call("tail", "-n", "1").stdout.splitlines()) == 1
    process = shop.popen("tail", "-f", "--after", str(last), "--json")
    try:
        shop.json("send", "p-1", "paid", "7")
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        assert (event["type"], event["instance"]) == ("EventReceived", "p-1")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS_MAX)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert err == ""
