"""What is remembered of ends, within bounds, and what closing does to whoever waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from wfes import waiting
from wfes.core import events as e
from wfes.errors import EngineNotOpen
from wfes.waiting import Ends, Positions


def on_ends(test: Callable[[Ends], None]) -> None:
    async def main() -> None:
        test(Ends(asyncio.get_running_loop()))

    asyncio.run(main())


def ended(id: str, size: int = 0) -> e.Recorded:
    return e.Recorded(id, 3, e.WorkflowCompleted(at=1, output="x" * size))


def test_a_large_end_is_not_kept_but_read_by_whoever_asks_later() -> None:
    def test(ends: Ends) -> None:
        waiter = ends.expect("a")
        ends.tell([ended("a", waiting.END_MAX_BYTES), ended("b")], 10)
        assert waiter.result() == ended("a", waiting.END_MAX_BYTES).event
        assert ends.known("a") is None
        assert ends.known("b") == ended("b").event
        # Even who has listened since this very batch has to read; who has since the next does not.
        assert ends.forgotten_at > ends.heard_to == 10
        ends.tell([ended("c")], 11)
        assert ends.forgotten_at <= ends.heard_to

    on_ends(test)


def test_ends_are_bounded_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ENDS_MAX", 5)
    monkeypatch.setattr(waiting, "ENDS_MAX_BYTES", 10_000)

    def test(ends: Ends) -> None:
        for number in range(6):
            ends.tell([ended(f"small{number}")], number + 1)
        assert ends.known("small0") is None
        assert ends.known("small1") is not None
        assert ends.forgotten_at > 6
        for number in range(4):
            ends.tell([ended(f"large{number}", 4_000)], number + 7)
        assert [number for number in range(4) if ends.known(f"large{number}")] == [2, 3]
        # Ended again after a retry, it counts once.
        again = e.WorkflowRetried(at=1, void_from=2)
        for _ in range(4):
            ends.tell([ended("large3", 4_000)], 11)
            ends.tell([e.Recorded("large3", 4, again), ended("large3", 4_000)], 11)
        assert [number for number in range(4) if ends.known(f"large{number}")] == [2, 3]
        ends.tell([e.Recorded("large3", 4, again)], 12)
        assert ends.known("large3") is None

    on_ends(test)


def test_a_closed_engine_lets_nobody_wait_for_a_position() -> None:
    async def main() -> None:
        positions = Positions(asyncio.get_running_loop())
        positions.tell(5)
        await positions.reached(5)
        early = asyncio.ensure_future(positions.reached(6))
        await asyncio.sleep(0)
        positions.close()
        for late in (early, positions.reached(6), positions.reached(5)):
            with pytest.raises(EngineNotOpen, match="closed"):
                await asyncio.wait_for(late, 5)

    asyncio.run(main())
