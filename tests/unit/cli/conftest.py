"""Histories made by hand, for what reads them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wfes.views import RecordedEvent

BEGAN = datetime(2030, 1, 31, 12, 0, 0, tzinfo=UTC)

Make = Callable[..., RecordedEvent]


@pytest.fixture
def event() -> Make:
    """Makes the next event of an instance: `event("StepStarted", path="a")`, each 1 s after the one before."""
    made: dict[str, int] = {}

    def make(type: str, *, of: str = "i-1", actor: str | None = None, **data: Any) -> RecordedEvent:
        version = made[of] = made.get(of, 0) + 1
        return RecordedEvent(
            position=sum(made.values()),
            instance=of,
            version=version,
            at=BEGAN + timedelta(seconds=sum(made.values()) - 1),
            type=type,
            data=data,
            actor=actor,
        )

    return make
