"""A short run of chaos; `make chaos` makes a long one.

``WFES_CHAOS_SECONDS`` and ``WFES_CHAOS_INSTANCES`` make this one longer; ``WFES_CHAOS_SEED`` repeats one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos import CALM_SECONDS_MAX, Chaos

SECONDS = float(os.environ.get("WFES_CHAOS_SECONDS", "20"))
INSTANCES = int(os.environ.get("WFES_CHAOS_INSTANCES", "100"))
SEED = int(os.environ.get("WFES_CHAOS_SEED", "1"))


@pytest.mark.timeout(SECONDS + CALM_SECONDS_MAX + 120)
def test_everything_comes_right(tmp_path: Path) -> None:
    """G1 to G6, G9, G10: every instance ends, no recorded step runs again, no acknowledged command is lost, no refused
    one happens, no stale write is accepted, every history is whole, and projections equal their rebuild."""
    report = Chaos(tmp_path, instances=INSTANCES, seconds=SECONDS, seed=SEED).run()
    assert report.problems == [], report
    assert report.instances >= INSTANCES
    assert report.takeovers > 0
