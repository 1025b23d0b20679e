"""The engine's read models, one a file: its table, the rows an instance has in it, and its queries."""

from __future__ import annotations

from wfes.subscription.projection import Projection
from wfes.subscription.state import StateProjection
from wfes_projections.activity import Activity
from wfes_projections.counts import Counts
from wfes_projections.forks import Forks
from wfes_projections.inbox import Inbox
from wfes_projections.instances import Instances, InstanceTags
from wfes_projections.listeners import Listeners
from wfes_projections.progress import Progress
from wfes_projections.requests import Requests
from wfes_projections.retention import Archived, Ended, Retentions
from wfes_projections.schedules import Schedules
from wfes_projections.slots import Limits, SlotCounts, Slots, SlotTotals
from wfes_projections.statistics import Statistics
from wfes_projections.subscriptions import Subscriptions
from wfes_projections.timers import Timers
from wfes_projections.waiters import Waiters
from wfes_projections.work import Work

__all__ = [
    "Activity",
    "Archived",
    "Counts",
    "Ended",
    "Forks",
    "Inbox",
    "InstanceTags",
    "Instances",
    "Limits",
    "Listeners",
    "Progress",
    "Requests",
    "Retentions",
    "Schedules",
    "SlotCounts",
    "SlotTotals",
    "Slots",
    "Statistics",
    "Subscriptions",
    "Timers",
    "Waiters",
    "Work",
    "following",
    "inline",
    "inline_events",
]


def inline_events() -> list[Projection]:
    """The projections by event type that the engine keeps inline."""
    return [Schedules()]


def inline() -> list[StateProjection]:
    """The state projections, which the engine keeps inline."""
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
        Limits(),
        Slots(),
        SlotCounts(),
        SlotTotals(),
        Forks(),
    ]


def following() -> list[type[Projection]]:
    """The projections that an engine follows once somebody asks them, or when it was given them."""
    return [Timers, Inbox, Progress, Statistics, Activity]
