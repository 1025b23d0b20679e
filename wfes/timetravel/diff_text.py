"""A `Diff` in lines for people: where two histories part, then what differs, `-` for what is gone, `+` for what is new.

Within inputs, outputs and states only the parts that differ are written, by their place (`input.items[1]`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from wfes.texts import clipped, jsonable, short
from wfes.timetravel.past import InstanceState, StepView
from wfes.timetravel.waits import WaitView
from wfes.validation import is_a
from wfes.views import ProgressView, RecordedEvent

if TYPE_CHECKING:
    from wfes.timetravel.diff import Change, Diff

VALUE_CHARS = 60
ERROR_CHARS = 100
NOTHING = "-"

_WHOLE = ("workflow", "status", "reason", "error", "progress")
"""Kinds of changes whose two sides are written as they are."""


def written(diff: Diff, changes_max: int) -> str:
    """The difference as text; at most `changes_max` lines for each kind of change."""
    lines = [*_heads(diff), *_parting_lines(diff)]
    if not diff:
        lines.append("nothing differs")
    kinds: dict[str, list[Change]] = {}
    for change in diff.changes:
        kinds.setdefault(change.kind, []).append(change)
    for kind, changes in kinds.items():
        its = [line for change in changes[: changes_max + 1] for line in change_lines(change)]
        if kind in ("step", "wait"):
            lines += [f"{kind}s: {_summary(changes)}"]
            its = [f"  {line}" for line in its]
        lines += its[:changes_max]
        more = len(its) - changes_max if len(changes) <= changes_max else len(changes) - changes_max
        if more > 0:
            lines.append(f"  … and {more:,} more")
    return "\n".join(lines)


def _heads(diff: Diff) -> list[str]:
    a, b = diff.before, diff.after
    if a.id == b.id and diff.parting is None:
        return [f"{a.workflow} {a.id}: {_place(a)} → {_place(b)}"]
    width = max(len(a.id), len(b.id))
    return [f"- {a.id:<{width}}  {a.workflow}, {_place(a)}", f"+ {b.id:<{width}}  {b.workflow}, {_place(b)}"]


def _place(state: InstanceState) -> str:
    return f"version {state.version}, {state.at:%Y-%m-%d %H:%M:%S} UTC, {state.status}"


def _parting_lines(diff: Diff) -> Iterator[str]:
    parting = diff.parting
    if parting is None:
        if diff.before.id != diff.after.id:
            yield "their histories do not part"
        return
    yield f"they part at {parting.path}:" if parting.path else "they part:"
    yield f"  - {_event(parting.before)}"
    yield f"  + {_event(parting.after)}"


def _event(event: RecordedEvent | None) -> str:
    if event is None:
        return "nothing like that"
    data = {
        name: value
        for name, value in event.data.items()
        if name
        in ("input", "result", "error", "output", "changes", "reason", "message", "event", "kind", "call")
        and value is not None
    }
    path = f" {event.data['path']}" if "path" in event.data else ""
    what = "".join(f"  {name} {_value(value)}" for name, value in data.items())
    return f"version {event.version}: {event.type}{path}{what}"


def _summary(changes: list[Change]) -> str:
    new = sum(change.before is None for change in changes)
    gone = sum(change.after is None for change in changes)
    parts = [
        f"{number:,} {what}"
        for number, what in ((new, "new"), (gone, "gone"), (len(changes) - new - gone, "changed"))
        if number
    ]
    return ", ".join(parts)


def change_lines(change: Change) -> Iterator[str]:
    """One change, in a line or more."""
    before, after = change.before, change.after
    name = f"{change.kind}.{change.path}" if change.kind == "state" else change.kind
    if change.kind in ("step", "wait"):
        if before is None:
            yield f"+ {change.path}  {_value(after)}".rstrip()
        elif after is None:
            yield f"- {change.path}  {_value(before)}".rstrip()
        else:
            yield f"~ {change.path}  {_value(before)} → {_value(after)}"
    elif change.kind in _WHOLE or before is None or after is None:
        yield f"{name}  {_value(before)} → {_value(after)}"
    else:
        for place, one, other in differences(jsonable(before), jsonable(after), name):
            yield f"{place}  {_side(one)} → {_side(other)}"


class _Absent:
    pass


_ABSENT = _Absent()


def differences(before: Any, after: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """The places at which two JSON values differ, the deepest that say it."""
    if is_a(before, dict) and is_a(after, dict):
        one, other = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        for name in {**one, **other}:
            yield from differences(one.get(name, _ABSENT), other.get(name, _ABSENT), f"{place}.{name}")
    elif is_a(before, list) and is_a(after, list):
        left, right = cast("list[Any]", before), cast("list[Any]", after)
        for number in range(max(len(left), len(right))):
            a = left[number] if number < len(left) else _ABSENT
            b = right[number] if number < len(right) else _ABSENT
            yield from differences(a, b, f"{place}[{number}]")
    elif type(before) is not type(after) or before != after:
        yield place, before, after


def _side(value: Any) -> str:
    return NOTHING if isinstance(value, _Absent) else short(value, VALUE_CHARS)


def _value(value: Any) -> str:
    match value:
        case None:
            return NOTHING
        case StepView():
            return _step(value)
        case WaitView():
            return _wait(value)
        case ProgressView():
            percent = "" if value.percent is None else f" ({value.percent:g} %)"
            return clipped(f"{value.message}{percent}", VALUE_CHARS)
        case str() if not value or value != value.strip() or "\n" in value:
            return short(value, VALUE_CHARS)
        case str():
            return clipped(value, VALUE_CHARS)
        case _:
            error = _error(value)
            return error if error is not None else short(value, VALUE_CHARS)


def _error(value: Any) -> str | None:
    if isinstance(value, Mapping) or not hasattr(value, "traceback"):
        return None
    return clipped(str(value), ERROR_CHARS)


def _step(step: StepView) -> str:
    parts = [step.status]
    if step.attempts > 1:
        parts.append(f"{step.attempts} attempts")
    text = ", ".join(parts)
    if step.error is not None:
        return f"{text}: {_error(step.error)}"
    return f"{text} {short(step.result, VALUE_CHARS)}" if step.result is not None else text


def _wait(wait: WaitView) -> str:
    text = f"{wait.kind} {wait.status}" if wait.kind == "sleep" else f"{wait.kind} {wait.name} {wait.status}"
    if wait.status == "waiting":
        return f"{text}, until {wait.until:%Y-%m-%d %H:%M:%S} UTC" if wait.until else text
    return f"{text} {short(wait.result, VALUE_CHARS)}" if wait.result is not None else text
