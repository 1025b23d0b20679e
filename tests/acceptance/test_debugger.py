"""The debugger at a real pseudo-terminal: stops in a handler at any event, goes forward and back, changes nothing."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from debugged import LOOPING, SHOP, Shop, Terminal

AWAITS_PRICE = '-> cost = await step("price", price, item)'


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("shop"))
    made.fill()
    return made


@contextmanager
def debugging(shop: Shop, *words: str, folder: Path | None = None) -> Generator[Terminal]:
    """A debugger at its first prompt, without a log: it was read before; at the end it is left, and was not changed."""
    before = shop.digest()
    terminal = Terminal(shop, "debug", *words, folder=folder)
    try:
        yield terminal
        assert terminal.quit() == 0
    finally:
        terminal.child.close(force=True)
    assert shop.digest() == before


def line_at(text: str) -> str:
    """The source line that a stop shows."""
    found: list[str] = re.findall(r"^-> .*$", text, re.MULTILINE)
    return found[-1].strip() if found else ""


def test_stops_at_an_event_with_real_locals_and_goes_forward_and_back_to_the_end(shop: Shop) -> None:
    with debugging(shop, "checkout", "--at", "4") as terminal:
        first = terminal.prompt()
        assert "event 4 of 23: StepCompleted  price" in first
        assert line_at(first) == AWAITS_PRICE
        assert terminal.ask("p total, item, state").strip() == "(0, 'tea', Progress(priced=0))"
        assert "event 6 of 23" in terminal.ask("forward 2")
        assert terminal.ask("p total, item").strip() == "(30, 'cup')"
        assert "+ state.priced: 1" in terminal.ask("diff 4")
        assert "event 5 of 23" in terminal.ask("back")
        assert "event 1 of 23" in terminal.ask("goto 1")
        assert "the history begins here" in terminal.ask("back")
        end = terminal.ask("goto end")
        assert "the handler has returned 210" in end
        assert line_at(end) == "-> return total + both + one + two + sum(many)"
        assert terminal.ask("p total, both, many").strip() == "(60, 30, [30, 30])"
        assert "the history ends here, with event 23" in terminal.ask("forward")
        assert "there is no event 24" in terminal.ask("goto 24")
        assert "event 22 of 23" in terminal.ask("back")
        assert "event 23" not in terminal.ask("forward")  # given to nobody: it is the handler's own end
        assert "the history ends here" in terminal.ask("forward")


def test_pdbs_own_commands_go_on_in_the_handlers_code(shop: Shop) -> None:
    with debugging(shop, "checkout", "--at", "1") as terminal:
        assert "event 1 of 23: WorkflowStarted" in terminal.prompt()
        assert "o-1" in terminal.ask("p order.order_id")
        assert line_at(terminal.ask("n")) == "-> total = 0"
        assert "event 1 of 23: WorkflowStarted" in terminal.ask("back")
        assert "event 1 of 23: WorkflowStarted" in terminal.ask("goto 1")
        assert "event 3 of 23" in terminal.ask("goto 3")
        assert "event 3 of 23" in terminal.ask("goto 3")
        assert "event 1 of 23: WorkflowStarted" in terminal.ask("restart")
        assert line_at(terminal.ask("n")) == "-> total = 0"
        assert line_at(terminal.ask("n")) == "-> for item in order.items:"
        assert line_at(terminal.ask("n")) == AWAITS_PRICE
        over = terminal.ask("n")  # across the await: the recorded result is there
        assert line_at(over) == "-> total += cost"
        assert "after event 4 of 23" in over
        assert terminal.ask("p cost").strip() == "30"
        assert "Breakpoint 1" in terminal.ask("b pair")
        assert line_at(terminal.ask("c")) == '-> first = await step("left", price, left)'
        where = terminal.ask("w")
        assert "checkout()" in where
        assert "pair()" in where
        assert "wfes/" not in where
        assert line_at(terminal.ask("u")) == '-> both = await pair(step, "a", "bb")'
        assert terminal.ask("p both_is_there if 'both' in dir() else total").strip() == "60"
        terminal.ask("d")
        assert line_at(terminal.ask("n")) == '-> second = await step("right", price, right)'
        assert line_at(terminal.ask("n")) == "-> return first + second"
        assert line_at(terminal.ask("n")).startswith("-> one, two = await asyncio.gather")
        called = terminal.ask("s")  # into the coroutine that gather runs
        assert "--Call--" in called
        assert line_at(called).startswith("-> async def pair(")
        assert line_at(terminal.ask("s")) == '-> first = await step("left", price, left)'
        assert terminal.ask("p left").strip() == "'dd'"
        assert "event 3 of 23" in terminal.ask("goto 3")
        assert line_at(terminal.ask("c")) == '-> first = await step("left", price, left)'
        assert "Deleted breakpoint 1" in terminal.ask("cl 1")
        assert "the handler has returned 210" in terminal.ask("c")


def test_a_variable_that_is_assigned_at_the_prompt_is_the_handlers(shop: Shop) -> None:
    with debugging(shop, "checkout", "--at", "4") as terminal:
        terminal.prompt()
        terminal.ask("total = 1000")
        assert terminal.ask("p total").strip() == "1000"
        assert line_at(terminal.ask("n")) == "-> total += cost"
        terminal.ask("n")
        assert terminal.ask("p total").strip() == "1030"
        assert "the handler has returned 1210" in terminal.ask("goto end")
        # A run from the beginning knows nothing of it.
        assert "event 7" in terminal.ask("goto 7")
        assert terminal.ask("p total").strip() == "30"


def test_tasks_that_run_side_by_side_are_found_by_what_they_await(shop: Shop) -> None:
    one = shop.version("checkout", "StepCompleted", "one")
    right = shop.version("checkout", "StepCompleted", "right#2")
    item = shop.version("checkout", "StepCompleted", "many/0")
    with debugging(shop, "checkout", "--at", str(right)) as terminal:
        inside = terminal.prompt()
        assert line_at(inside) == '-> second = await step("right", price, right)'
        assert terminal.ask("p left, first").strip() == "('dd', 20)"
        assert "-> one, two = await asyncio.gather" in terminal.ask("w")
        assert line_at(terminal.ask(f"goto {one}")).startswith("-> one, two = await asyncio.gather")
        assert terminal.ask("p both").strip() == "30"
        assert line_at(terminal.ask("n")).startswith("-> many = await step.map")
        assert line_at(terminal.ask(f"goto {item}")) == '-> many = await step.map("many", order.items, price)'


def test_breakpoints_in_the_source_stop_only_who_runs_on(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP.replace("total = 0", "breakpoint()\n    total = 0"))
    shutil.copy(shop.log, tmp_path / "shop.db")
    with debugging(shop, "checkout", "--at", "4", folder=tmp_path) as terminal:
        assert "event 4 of 23" in terminal.prompt()
        assert "event 1 of 23" in terminal.ask("goto 1")
        assert line_at(terminal.ask("c")) == "-> total = 0"
        assert "event 3 of 23" in terminal.ask("goto 3")


def test_a_failed_instance_is_opened_where_it_failed(shop: Shop) -> None:
    with debugging(shop, "broken") as terminal:
        opened = terminal.prompt()
        assert "the handler has raised StepError: step 'charge' failed" in opened
        assert line_at(opened) == '-> await step("charge", refuse, card, max_attempts=1)'
        assert terminal.ask("p card").strip() == "'4711'"
        assert "event 6 of 7: StepFailed" in terminal.ask("back")
        assert "StepError: step 'charge' failed" in terminal.ask("n")
        steps = terminal.ask("steps")
        assert re.search(r"price +completed: 40", steps)
        assert re.search(r"charge +failed: ValueError: no such card", steps)
        assert re.search(r"status +failed", terminal.ask("state 7"))
        assert re.search(r"status +in_progress", terminal.ask("state 4"))
        events = terminal.ask("events")
        assert "-> 6" in events
        assert len(events.strip().splitlines()) == 7
        assert "is no event" in terminal.ask("events 99")


def test_a_waiting_instance_stands_at_its_wait_and_no_code_runs_behind_the_end(shop: Shop) -> None:
    with debugging(shop, "waiting") as terminal:
        assert line_at(terminal.prompt()) == '-> name = await step.listen("name")'
        assert re.search(r"waits for name +listen name", terminal.ask("state"))
        for _ in range(2):
            assert "the end: all 6 events are given" in terminal.ask("n")
        assert terminal.ask("p greeting").strip() == "50"


def test_nested_steps_do_not_run(shop: Shop) -> None:
    with debugging(shop, "nested", "--at", "5") as terminal:
        assert line_at(terminal.prompt()) == '-> return await step("outer", outer, 3)'
        assert "the handler has returned 31" in terminal.ask("goto end")


def test_a_difference_is_shown_where_the_code_has_it(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP.replace('step("right"', 'step("wrong"'))
    shutil.copy(shop.log, tmp_path / "shop.db")
    version = shop.version("checkout", "StepStarted", "right")
    with debugging(shop, "checkout", folder=tmp_path) as terminal:
        opened = terminal.prompt()
        assert f"version {version} of the history differs" in opened
        assert "step 'right' was asked for" in opened
        assert "step 'wrong'" in opened
        assert line_at(opened) == '-> second = await step("wrong", price, right)'
        assert terminal.ask("p first").strip() == "10"
        assert "it cannot go on" in terminal.ask("forward")
        assert line_at(terminal.ask("back")) == '-> first = await step("left", price, left)'
        assert line_at(terminal.ask("n")) == '-> second = await step("wrong", price, right)'
        assert "of the history differs" in terminal.ask("n")


def test_ctrl_c_stops_an_endless_loop_and_ctrl_d_leaves(shop: Shop) -> None:
    with closed(Terminal(shop, "debug", "endless", "--at", "4")) as terminal:
        terminal.prompt()
        terminal.child.sendline("c")
        until = time.monotonic() + 20
        while not (shop.folder / LOOPING).exists():
            assert time.monotonic() < until
        terminal.child.sendintr()
        assert "interrupted" in terminal.prompt()
        assert terminal.ask("p turns >= 1000").strip() == "True"
        assert line_at(terminal.ask("back")) == '-> await step("first", price, "a")'
        terminal.child.sendeof()
        assert terminal.ended()[0] == 0


def test_ctrl_c_at_the_prompt_leaves(shop: Shop) -> None:
    with closed(Terminal(shop, "debug", "broken")) as terminal:
        terminal.prompt()
        assert "Traceback" not in terminal.interrupt()
        terminal.child.close()
        assert terminal.child.exitstatus == 0


@contextmanager
def closed(terminal: Terminal) -> Generator[Terminal]:
    """A terminal whose program does not outlive the test."""
    try:
        yield terminal
    finally:
        terminal.child.close(force=True)


def test_the_log_is_not_needed_any_more_once_the_prompt_is_there(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    shutil.copy(shop.log, tmp_path / "shop.db")
    with debugging(shop, "checkout", folder=tmp_path) as terminal:
        terminal.prompt()
        for file in tmp_path.glob("shop.db*"):
            file.unlink()
        assert "event 4 of 23" in terminal.ask("goto 4")
        assert "priced" in terminal.ask("state 8")
    assert not list(tmp_path.glob("shop.db*"))
