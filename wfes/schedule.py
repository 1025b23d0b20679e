"""`Schedule`: at which moments a workflow starts by itself, and what happens when it cannot.

A description only, checked when it is made: what cannot be meant (a cron expression that never comes, a time zone
that does not exist) is refused where it is written. Its input is checked against the workflow's input type by
`@workflow`, which knows that type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args
from zoneinfo import ZoneInfo

from croniter import croniter

from wfes.core import durations
from wfes.core.durations import Duration
from wfes.validation import checked_name

Overlap = Literal["skip", "allow", "queue", "cancel"]

_FIELDS_ACCEPTED = (5, 6)
# croniter's `R` draws a random moment whenever it is read: two engines would disagree about the ticks.
_RANDOM_FIELD = re.compile(r"\bR\b", re.IGNORECASE)
# A leap day and every weekday occur within any 28 years up to 2099; an expression without a tick by then has none.
_SEARCH_FROM = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Starts an instance at each tick of a cron expression.

    Attributes:
        cron: Five fields (minute, hour, day of month, month, day of week) or six (then seconds last).
        timezone: The IANA name of the time zone in which the fields are read.
        input: The input of each instance it starts.
        jitter: A duration; each start is put off by up to that much. None: not at all.
        overlap: What a tick does while the previous instance is active: "skip" the tick, "allow" both, "queue" it
            until the previous ends, or "cancel" the previous.
        catch_up: What happens to ticks missed while no engine ran: "latest" runs the last of them once, a duration
            all that are not older than it, None none.
        name: Tells this schedule of its workflow from others, and stays its own if they come and go: it is then
            called `workflow:name`. Without it the first is called as its workflow, further ones `workflow#2`, ….

    Raises:
        ValueError: A field cannot be meant; the message names it.

    >>> Schedule("0 7 * * mon-fri", timezone="Europe/Berlin").overlap
    'skip'
    """

    cron: str
    timezone: str = "UTC"
    input: Any = None
    jitter: Duration | None = None
    overlap: Overlap = "skip"
    catch_up: Duration | Literal["latest"] | None = "latest"
    name: str | None = None

    def __post_init__(self) -> None:
        _check_cron(self.cron)
        _check_timezone(self.timezone)
        if self.overlap not in get_args(Overlap):
            raise ValueError(
                f"overlap is {self.overlap!r}; it must be one of {', '.join(map(repr, get_args(Overlap)))}"
            )
        if self.jitter is not None:
            durations.micros(self.jitter, "jitter")
        if self.catch_up is not None and self.catch_up != "latest":
            durations.micros(self.catch_up, "catch_up")
        if self.name is not None:
            checked_name(self.name, "schedule")

    @property
    def jitter_micros(self) -> int:
        """The most a start is put off, in microseconds."""
        return 0 if self.jitter is None else durations.micros(self.jitter)

    @property
    def catch_up_micros(self) -> int | None:
        """How old a missed tick that still runs may be, in microseconds; None: only the latest one runs.

        Zero where no missed tick runs (`catch_up=None`).
        """
        if self.catch_up == "latest":
            return None
        return 0 if self.catch_up is None else durations.micros(self.catch_up)


def schedules(value: str | Schedule | list[str | Schedule] | None) -> tuple[Schedule, ...]:
    """What `@workflow(schedule=...)` accepts, as schedules.

    Raises:
        TypeError: It is none of those.
        ValueError: An expression cannot be meant.
    """
    if value is None:
        return ()
    given: list[Any] = list(cast(Any, value)) if isinstance(value, (list, tuple)) else [value]
    result: list[Schedule] = []
    for one in given:
        if isinstance(one, Schedule):
            result.append(one)
        elif isinstance(one, str):
            result.append(Schedule(one))
        else:
            raise TypeError(f"schedule is {one!r}; it must be a cron text, a Schedule or a list of these")
    return tuple(result)


def schedule_names(workflow: str, several: Sequence[Schedule]) -> tuple[str, ...]:
    """What a workflow's schedules are called, in their order.

    Args:
        workflow: The workflow's name.
        several: Its schedules.

    Raises:
        ValueError: Two have the same name.

    >>> schedule_names("report", [Schedule("0 7 * * *"), Schedule("0 9 * * *"), Schedule("0 0 1 * *", name="monthly")])
    ('report', 'report#2', 'report:monthly')
    """
    names: list[str] = []
    for number, schedule in enumerate(several, 1):
        if schedule.name is not None:
            name = f"{workflow}:{schedule.name}"
        else:
            name = workflow if number == 1 else f"{workflow}#{number}"
        if name in names:
            raise ValueError(
                f"two schedules of workflow {workflow!r} are named {schedule.name!r}; give one another name"
            )
        names.append(name)
    return tuple(names)


def _check_cron(cron: object) -> None:
    accepted = 'it must have five fields, such as "*/15 9-17 * * mon-fri", or six with seconds last'
    if not isinstance(cron, str):
        raise ValueError(f"cron is {cron!r}; {accepted}")
    if len(cron.split()) not in _FIELDS_ACCEPTED:
        raise ValueError(f"cron is {cron!r}, which has {len(cron.split())} fields; {accepted}")
    if _RANDOM_FIELD.search(cron):
        raise ValueError(f"cron is {cron!r}; random fields (R) would tick at another moment in each engine")
    try:
        croniter(cron, _SEARCH_FROM).get_next(datetime)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cron is {cron!r}, which has no tick ({error}); {accepted}") from error


def _check_timezone(name: object) -> None:
    try:
        if not isinstance(name, str) or not name:
            raise ValueError("not a name")
        ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ValueError(
            f'timezone is {name!r}, which is not known; it must be an IANA name such as "Europe/Berlin"'
        ) from error
