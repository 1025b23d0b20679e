"""The engine's read models, one a file: its table, the rows an instance has in it, and its queries."""

from __future__ import annotations

from wfes.subscription.state import StateProjection
from wfes_projections.counts import Counts
from wfes_projections.instances import Instances, InstanceTags
from wfes_projections.listeners import Listeners
from wfes_projections.requests import Requests
from wfes_projections.retention import Archived, Ended, Retentions
from wfes_projections.subscriptions import Subscriptions
from wfes_projections.waiters import Waiters
from wfes_projections.work import Work

__all__ = [
    "Archived",
    "Counts",
    "Ended",
    "InstanceTags",
    "Instances",
    "Listeners",
    "Requests",
    "Retentions",
    "Subscriptions",
    "Waiters",
    "Work",
    "inline",
]


def inline() -> list[StateProjection]:
    """The projections the engine keeps inline."""
    return [
        Instances(),
        InstanceTags(),
        Counts(),
        Work(),
        Requests(),
        Listeners(),
        Waiters(),
        Subscriptions(),
        Ended(),
        Archived(),
        Retentions(),
    ]
