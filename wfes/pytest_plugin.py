"""The pytest plugin: a fixture `assert_replays`, in every test where wfes is installed.

``def test_orders(assert_replays): assert_replays(checkout, "tests/histories.gz")``
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def assert_replays() -> Callable[..., Any]:
    """`wfes.testing.assert_replays(workflow, histories)`: fails unless today's code reproduces recorded histories."""
    from wfes import testing  # not in every test session

    return testing.assert_replays
