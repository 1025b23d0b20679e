"""The events of a schedule in a few words, for `wfes schedules history` and `wfes tail`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wfes.cli.values import clock, counted, moment_of, short


def _definition(data: Mapping[str, Any]) -> str:
    parts = [f"{data.get('cron')!r} {data.get('timezone')}", f"overlap {data.get('overlap')}"]
    parts.append(f"catch-up {data.get('catch_up') or 'none'}")
    if data.get("input") is not None:
        parts.append(f"input {short(data['input'])}")
    parts.extend(f"{name} {data[name]}" for name in ("jitter", "lifetime") if data.get(name))
    return ", ".join(parts)


def _defined(data: Mapping[str, Any]) -> str:
    former = data.get("former")
    if not former:
        return _definition(data)
    changed = [name for name, value in former.items() if data.get(name) != value]
    return ", ".join(f"{name} {short(former[name])} → {short(data.get(name))}" for name in changed) or "again"


def _started(data: Mapping[str, Any]) -> str:
    kind = data.get("kind", "tick")
    parts = [f"{data.get('instance')}", f"({kind})" if kind != "tick" else ""]
    if data.get("cancelled"):
        parts.append(f"cancelling {', '.join(data['cancelled'])}")
    return " ".join(filter(None, parts))


def _skipped(data: Mapping[str, Any]) -> str:
    return f"{data.get('tick')}: {data.get('reason')}"


def _missed(data: Mapping[str, Any]) -> str:
    first, last = data.get("first"), data.get("last")
    ticks = str(first) if first == last else f"{first} to {last}"
    return f"{counted(int(data.get('count', 1)), 'tick')}, {ticks}: {data.get('reason')}"


def _backfill(data: Mapping[str, Any]) -> str:
    start, end = moment_of(data.get("start")), moment_of(data.get("end"))
    return f"{clock(start)} to {clock(end)}, {counted(int(data.get('ticks', 0)), 'tick')}"


def _advanced(data: Mapping[str, Any]) -> str:
    present = int(data.get("present", 0))
    parts = [
        f"{counted(present, 'tick')} had run before" if present else "",
        "done" if data.get("done") else "",
    ]
    return ", ".join(filter(None, parts))


def _reason(data: Mapping[str, Any]) -> str:
    return str(data.get("reason") or "")


SCHEDULE_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ScheduleDefined": _defined,
    "ScheduleRemoved": _reason,
    "SchedulePaused": _reason,
    "ScheduleResumed": lambda data: "",
    "TickStarted": _started,
    "TickQueued": lambda data: str(data.get("tick")),
    "TickSkipped": _skipped,
    "TicksMissed": _missed,
    "BackfillRequested": _backfill,
    "BackfillAdvanced": _advanced,
}
"""By the event's name; what it says beside that."""
