"""The garbage collector in a process that does nothing but run instances.

Executions leave no circles of references behind, so nearly everything they made is gone with them. Python's own
settings look through all young objects each time 700 more have been made than freed, which is every few instances:
a fifth of the CPU time of a burst of wake-ups. Only who owns the process may decide otherwise, so an engine never does
this by itself; ``wfes worker`` does.
"""

from __future__ import annotations

import gc

YOUNG_MAX = 50_000
"""Objects made and not freed before the young ones are looked through; about 10 MB of them."""
_MIDDLE_MAX = 20
_OLD_MAX = 50


def relax() -> None:
    """Lets the collector look rarely, and never at what exists now: modules, definitions, an open engine."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, _MIDDLE_MAX, _OLD_MAX)
