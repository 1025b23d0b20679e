"""Logs full of finished instances, written past the engine: a million events in a few seconds."""

from __future__ import annotations

from wfes.core import chain
from wfes.core import events as e
from wfes.log.application import body_bytes
from wfes.log.open import open_log
from wfes.log.port import StoredRow

AT = 1_900_000_000_000_000
"""When the first instance begins, in microseconds since the Unix epoch."""
STEPS = 9
EVENTS = 2 * STEPS + 3
"""Events of one instance."""
_AT_ONCE = 2_000


def history(number: int, begun: int = AT) -> list[e.Event]:
    """The events of an instance of nine steps."""
    at = begun + number * 1_000
    events: list[e.Event] = [
        e.WorkflowStarted(at=at, workflow=f"w{number % 5}", input=number, key=f"k{number % 1_000}"),
        e.RunClaimed(at=at, worker="w", epoch=1),
    ]
    for step in range(STEPS):
        events.append(e.StepStarted(at=at + step, path=f"s{step}", attempt=1))
        events.append(e.StepCompleted(at=at + step, path=f"s{step}", result={"number": number}))
    return [*events, e.WorkflowCompleted(at=at + STEPS, output=number)]


def write(url: str, instances: int, begun: int = AT) -> int:
    """Writes instances into a new log; returns how many events it holds."""
    log = open_log(url)
    log.open([])
    position = 0
    for first in range(0, instances, _AT_ONCE):
        rows: list[StoredRow] = []
        for number in range(first, min(instances, first + _AT_ONCE)):
            prev, stream = chain.GENESIS, f"i-{number:09d}"
            for version, event in enumerate(history(number, begun), 1):
                position += 1
                stored = prev + body_bytes(event)
                rows.append((position, stream, version, event.topic, stored))
                prev = chain.digest(stream, version, event.topic, stored)
        target = log.begin()
        target.insert(rows)
        target.commit()
    log.close()
    return position
