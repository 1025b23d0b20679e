"""`assert_replays` and `save_histories`: every form in which histories may be given."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from wfes import Instance, LogUnavailable, Step, StepError, WfesError, Workflow, testing, workflow
from wfes.testing import assert_replays, save_histories

LARGE = 1_200_000


class Order(BaseModel):
    number: int
    price: Decimal


class Tally(BaseModel):
    total: Decimal = Decimal(0)


def act(value: Any) -> Any:
    return value


def refuse() -> None:
    raise LookupError("no")


def made(second: str = "second") -> Workflow[Order, Any]:
    @workflow(name="order", state=Tally)
    async def order(order: Order, step: Step, state: Tally) -> Any:
        state.total += order.price
        await step(
            "first", act, {"when": step.now(), "tags": {1, 2}, "large": "x" * LARGE * (order.number % 2)}
        )
        try:
            await step("never", refuse, max_attempts=2)
        except StepError as error:
            await step("failed", act, error.matches(LookupError))
        got = await step.listen("paid", timeout="1h")
        other = await child.start(order.number)
        await step("sum", act, [got, other.id])
        return await step(second, act, state.total)

    return order


@workflow
async def child(number: int, step: Step) -> int:
    return await step("work", act, number)


async def filled(env: testing.Environment, wf: Workflow[Order, Any], count: int = 3) -> list[Instance[Any]]:
    runs = [
        await wf.start(Order(number=number, price=Decimal("1.5")), id=f"o-{number}")
        for number in range(count)
    ]
    for run in runs:
        await run.send("paid", {"by": "card", "at": run.created_at})
        assert await env.until(run.result()) == Decimal("1.5")
    return runs


def test_every_form_of_histories(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    file = tmp_path / "orders.gz"

    async def main() -> None:
        async with testing.engine([wf := made(), child], url=url) as env:
            runs = await filled(env, wf)
            assert save_histories(file, runs) == 3
            histories = [await run.history() for run in runs]
            small = histories[0::2]  # the other has a value that lies beside the log
            for source, count in (
                (runs, 3),
                (runs[0], 1),
                (small, 2),
                (small[0], 1),
                (file, 3),
                (str(file), 3),
            ):
                assert len(assert_replays([made(), child], source)) == count
                with pytest.raises(AssertionError, match=f"{count} of {count} histories"):
                    assert_replays([made("another"), child], source)
        assert len(assert_replays(made(), url)) == 3
        assert len(assert_replays([made(), child], url)) == 6

    asyncio.run(main())
    assert len(assert_replays(made(), url)) == 3
    with pytest.raises(AssertionError) as raised:
        assert_replays(made("another"), url)
    for words in ("3 of 3 histories", "o-0", "recorded: step 'second'", "now:      asks for step 'another'"):
        assert words in str(raised.value)
    assert save_histories(tmp_path / "all.gz", url) == 6
    assert len(assert_replays(child, tmp_path / "all.gz")) == 3
    first = (tmp_path / "all.gz").read_bytes()
    save_histories(tmp_path / "all.gz", url)
    assert (tmp_path / "all.gz").read_bytes() == first


def test_no_history_at_all_fails(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"

    async def main() -> None:
        async with testing.engine([wf := made(), child], url=url) as env:
            await filled(env, wf, 1)

    asyncio.run(main())

    @workflow
    async def unheard_of(step: Step) -> None:
        """Has no history."""

    with pytest.raises(AssertionError, match="no history of 'unheard-of'"):
        assert_replays(unheard_of, url)
    with pytest.raises(AssertionError, match="no history"):
        assert_replays(made(), [])


def test_a_log_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="no such file"):
        assert_replays(made(), f"sqlite:///{tmp_path}/nowhere.db")
    with pytest.raises(LogUnavailable, match="no such file"):
        save_histories(tmp_path / "saved.gz", f"sqlite:///{tmp_path}/nowhere.db")
    assert not list(tmp_path.iterdir())


def test_a_failure_speaks_of_the_histories_only() -> None:
    with pytest.raises(AssertionError) as failed:
        assert_replays(made(), [])
    assert failed.value.__context__ is None


def test_another_workflows_instance_fails() -> None:
    async def main() -> None:
        async with testing.engine([wf := made(), child]) as env:
            (run,) = await filled(env, wf, 1)
            with pytest.raises(
                AssertionError, match="is of workflow 'order', and the code given is of 'child'"
            ):
                assert_replays(child, run)

    asyncio.run(main())


def test_what_is_no_history(tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with testing.engine([wf := made(), child]) as env:
            (run,) = await filled(env, wf, 1)
            return await run.history()

    history = asyncio.run(main())
    for events in (history[1:], history[:2] + history[3:]):
        with pytest.raises(ValueError, match="from version 1 on"):
            assert_replays(made(), events)
    with pytest.raises(WfesError, match="Unheard"):
        assert_replays(made(), [*history[:-1], dataclasses.replace(history[-1], type="Unheard")])
    for content, words in (
        (b"no gzip", "neither a history file nor a bundle"),
        (gzip.compress(b"{}\n"), "neither a history file nor a bundle"),
        (gzip.compress(b"no json\n"), "cannot be read"),
        (gzip.compress(b'{"format": "wfes-histories", "version": 99}\n'), "of version 99"),
        (gzip.compress(b'{"format": "wfes-histories", "version": 1}\n{"id": 1}\n'), "cannot be read"),
        (gzip.compress(b"x" * 99)[:-9], "cannot be read"),
        (b"PK\x03\x04", "wrong.gz"),
    ):
        file = tmp_path / "wrong.gz"
        file.write_bytes(content)
        with pytest.raises(WfesError, match=words):
            assert_replays(made(), file)
    with pytest.raises(FileNotFoundError):
        assert_replays(made(), tmp_path / "none.gz")
    for wrong in ("order", 3, [3]):
        with pytest.raises(TypeError):
            assert_replays(wrong, history)  # type: ignore[arg-type]


def test_the_fixture_is_there_wherever_wfes_is_installed(tmp_path: Path) -> None:
    """In a pytest of its own, as a user would run it."""
    (tmp_path / "shop.py").write_text(
        "from wfes import Step, workflow\n"
        "@workflow\n"
        "async def order(number: int, step: Step) -> int:\n"
        "    return await step(NAME, abs, number)\n"
    )
    (tmp_path / "test_shop.py").write_text(
        "import asyncio, shop\n"
        "from wfes import testing\n"
        "async def fill():\n"
        "    async with testing.engine([shop.order]) as env:\n"
        "        await env.until((await shop.order.start(1)).result())\n"
        "        testing.save_histories('orders.gz', [await env.engine.get(row.id) "
        "for row in (await env.engine.instances()).items])\n"
        "shop.NAME = 'one'\n"
        "asyncio.run(fill())\n"
        "def test_same(assert_replays):\n"
        "    assert_replays(shop.order, 'orders.gz')\n"
        "def test_changed(assert_replays):\n"
        "    shop.NAME = 'two'\n"
        "    assert_replays(shop.order, 'orders.gz')\n"
    )
    given = [] if _is_registered() else ["-p", "wfes.pytest_plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *given, "test_shop.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "recorded: step 'one' was asked for" in done.stdout


def _is_registered() -> bool:
    from importlib.metadata import entry_points

    return any(point.name == "wfes" for point in entry_points(group="pytest11"))
