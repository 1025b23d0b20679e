"""The debugger served to an editor: a client of the Debug Adapter Protocol attaches, looks, steps and goes back."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from dap import DapClient
from debugged import Shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("shop"))
    made.fill()
    return made


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def attached(shop: Shop, *words: str) -> Generator[tuple[DapClient, subprocess.Popen[str]]]:
    """An editor at a debugger that has stopped first; none of it calls a step's function or changes the log."""
    before = shop.digest()
    port = free_port()
    process = shop.command("debug", *words, "--listen", str(port))
    try:
        assert process.stdout is not None
        assert f"waiting for a debugger to attach to 127.0.0.1:{port}" in process.stdout.readline()
        client = DapClient(port)
        try:
            client.attach()
            yield client, process
        finally:
            client.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert shop.digest() == before


def test_an_editor_stops_at_the_event_steps_and_runs_to_the_end(shop: Shop) -> None:
    right = shop.version("checkout", "StepCompleted", "right")
    with attached(shop, "checkout", "--at", str(right)) as (client, _):
        thread, frames = client.stopped()
        assert [frame["name"] for frame in frames[:2]] == ["pair", "checkout"]
        assert frames[0]["source"]["path"] == str(shop.folder / "shop.py")
        assert 'await step("right"' in line_of(shop, frames[0])
        assert "await pair(step" in line_of(shop, frames[1])
        assert client.locals(frames[0])["first"] == "10"
        assert client.locals(frames[1])["total"] == "60"
        client.request("next", threadId=thread)
        thread, frames = client.stopped()
        assert "return first + second" in line_of(shop, frames[0])
        assert client.locals(frames[0])["second"] == "20"
        client.request("next", threadId=thread)
        thread, frames = client.stopped()
        assert frames[0]["name"] == "checkout"
        client.request(
            "setBreakpoints",
            source={"path": str(shop.folder / "shop.py")},
            breakpoints=[{"line": number_of(shop, "many = await")}],
        )
        client.request("continue", threadId=thread)
        thread, frames = client.stopped()
        assert "many = await" in line_of(shop, frames[0])
        assert client.locals(frames[0])["two"] == "50"
        client.request("continue", threadId=thread)
        thread, frames = client.stopped()  # behind the last event, at the handler's last line
        assert "return total + both" in line_of(shop, frames[0])
        client.request("continue", threadId=thread)


def test_an_editor_sees_parallel_tasks_goes_back_and_forth_by_the_console(shop: Shop) -> None:
    inside = shop.version("checkout", "StepCompleted", "right#2")
    with attached(shop, "checkout", "--at", str(inside)) as (client, _):
        thread, frames = client.stopped()
        assert [frame["name"] for frame in frames[:2]] == ["pair", "checkout"]
        assert client.locals(frames[0])["left"] == "'dd'"
        client.request("evaluate", expression="wfes_goto(4)", frameId=frames[0]["id"], context="repl")
        client.request("continue", threadId=thread)
        thread, frames = client.stopped()
        assert client.locals(frames[0])["item"] == "'tea'"
        client.request("next", threadId=thread)
        thread, frames = client.stopped()
        assert "total += cost" in line_of(shop, frames[0])
        client.request("evaluate", expression="wfes_goto(1)", frameId=frames[0]["id"], context="repl")
        client.request("continue", threadId=thread)
        thread, frames = client.stopped()
        assert "order" in client.locals(frames[0])
        assert "total" not in client.locals(frames[0])


def test_an_editor_opens_a_failure_where_it_happened_and_may_hang_up(shop: Shop) -> None:
    with attached(shop, "broken") as (client, _):
        _, frames = client.stopped()
        assert 'await step("charge"' in line_of(shop, frames[0])
        assert client.locals(frames[0])["card"] == "'4711'"


def test_a_port_that_is_taken_is_named(shop: Shop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = shop.wfes("debug", "checkout", "--listen", str(port), code=1)
    assert f"wfes: no debugger can be served on 127.0.0.1:{port}" in text
    assert "in use" in text


def line_of(shop: Shop, frame: dict[str, object]) -> str:
    """The source line that a frame is at."""
    line = frame["line"]
    assert isinstance(line, int)
    return (shop.folder / "shop.py").read_text().splitlines()[line - 1]


def number_of(shop: Shop, text: str) -> int:
    """The line's number that has this text."""
    lines = (shop.folder / "shop.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)
