"""The garbage collector's settings in a worker's own process."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import gc, json
from wfes.runtime import collector
before = gc.get_threshold()
collector.relax()
circle = []
circle.append(circle)
del circle
print(json.dumps([before[0], gc.get_threshold()[0], gc.get_freeze_count(), gc.collect()]))
"""


def test_it_looks_rarely_and_still_collects() -> None:
    # In a process of its own: the settings are the whole process's.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after, frozen, collected = json.loads(done.stdout)
    assert after == 50_000 > before
    assert frozen > 1_000
    assert collected >= 1
