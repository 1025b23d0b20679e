"""A worker's place among the others: signing on to a log that cannot be written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from wfes.errors import LogUnavailable
from wfes.log.faults import Fault, FaultyLog
from wfes.log.open import open_log
from wfes.log.writer import Writer
from wfes.runtime import leases
from wfes.runtime.claims import Work
from wfes.runtime.membership import Membership, Signature


def never() -> bool:
    return False


def test_signing_on_does_not_wait_for_ever(tmp_path: Path) -> None:
    log = FaultyLog(open_log(f"sqlite:///{tmp_path}/log.db"))
    log.open(leases.CREATE)

    def never_told(*told: object) -> None:
        raise AssertionError("it is not registered")

    async def main() -> None:
        log.faults = [Fault.parse("away:1-")]
        writer = Writer(log, clock=lambda: 1, deliver=lambda batch: None, command_timeout=0.05)
        writer.start(asyncio.get_running_loop())
        signature = Signature("w", None, {}, leases.Machine("here", "boot"))
        membership = Membership(log, writer, lambda: 1, Work(["wf"]), signature, never_told, never_told)
        try:
            with pytest.raises(LogUnavailable):
                await asyncio.wait_for(membership.sign_on(never, {}), 10)
            assert not writer.workers
            assert not list(tmp_path.glob("log.db.workers/*")), "the lock is freed"
        finally:
            writer.stop()

    try:
        asyncio.run(main())
    finally:
        log.close()
