"""One event in a few words, for people.

An event that there are no words for is shown by its name and data, never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from wfes.cli.schedule_words import SCHEDULE_WORDS
from wfes.cli.values import clipped, clock, error_text, moment_of, short


class LoggedEvent(Protocol):
    """The parts of a recorded event that are read here."""

    @property
    def position(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def at(self) -> datetime: ...
    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...
    @property
    def actor(self) -> str | None: ...
    @property
    def worker(self) -> str | None: ...


def outside_note(event: LoggedEvent) -> str:
    """What came from outside for a wait: an answer, another instance's end."""
    data = event.data
    if event.type == "DataProvided":
        who = f" by {event.actor}" if event.actor else ""
        return f"answered {short(data.get('data'), 40)}{who}"
    error = data.get("error")
    return f"{data.get('instance')} {data.get('status')}" + (
        f": {error_text(error)}" if error is not None else ""
    )


def wait_note(kind: str, data: Mapping[str, Any]) -> str:
    """What a wait of a kind waits for, and until when."""
    until = moment_of(data.get("until"))
    bound = f"until {clock(until)}" if until else ""
    match kind:
        case "sleep":
            return bound
        case "listen":
            parts = [f"event {data.get('event')!r}", bound]
        case "request":
            message = data.get("message")
            parts = [clipped(str(message), 60) if message else f"{data.get('name')!r}", bound]
        case "child":
            parts = [f"{data.get('workflow')} {data.get('instance')}", bound]
        case _:
            parts = [str(data.get("instance")), bound]
    return ", ".join(filter(None, parts))


def progress_note(data: Mapping[str, Any]) -> str:
    """A progress checkpoint's words."""
    percent = data.get("percent")
    return f"{data.get('message')}" + (f" ({percent:g} %)" if isinstance(percent, int | float) else "")


def described(event: LoggedEvent, chars_max: int = 100) -> str:
    """What an event says beside its name, in one line of at most `chars_max` characters."""
    words = _WORDS.get(event.type, _any_words)
    return clipped(words(event.data), chars_max)


def _any_words(data: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={short(value, 40)}" for name, value in data.items() if value is not None)


def _path(data: Mapping[str, Any], rest: str = "") -> str:
    return f"{data.get('path')}  {rest}".rstrip()


def _attempt(data: Mapping[str, Any]) -> str:
    attempt = data.get("attempt") or 1
    return f"attempt {attempt}" if attempt != 1 else ""


def _until(data: Mapping[str, Any], name: str = "until") -> str:
    return clock(moment_of(data.get(name)))


def _void_words(data: Mapping[str, Any]) -> str:
    body: Mapping[str, Any] = data.get("body") or {}
    path = body.get("path")
    what = f"{data.get('event')}{f' {path}' if path else ''}"
    return f"{what}, left out" if data.get("dropped") else f"{what}, which says nothing here"


def _started_words(data: Mapping[str, Any]) -> str:
    parts = [str(data.get("workflow")), short(data.get("input"))]
    parts.extend(f"{name} {data[name]}" for name in ("key", "parent") if data.get(name))
    return "  ".join(parts)


def _retry_words(data: Mapping[str, Any]) -> str:
    again = f"; again at {_until(data, 'retry_at')}" if data.get("retry_at") else ""
    return _path(data, f"attempt {data.get('attempt')}: {error_text(data.get('error'))}{again}")


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "WorkflowStarted": _started_words,
    "RunClaimed": lambda data: f"worker {data.get('worker')}, claim {data.get('epoch')}",
    "RunReleased": lambda data: "waiting" if data.get("waiting", True) else "stopped",
    "WorkflowCompleted": lambda data: short(data.get("output"), 100),
    "WorkflowFailed": lambda data: error_text(data.get("error")),
    "WorkflowAborted": lambda data: str(data.get("reason") or ""),
    "CancelRequested": lambda data: str(data.get("reason") or ""),
    "CancelDelivered": lambda data: " ".join(filter(None, [data.get("kind"), data.get("reason")])),
    "WorkflowCancelled": lambda data: str(data.get("reason") or ""),
    "WorkflowTimedOut": lambda data: str(data.get("reason") or ""),
    "WorkflowPaused": lambda data: " ".join(filter(None, [data.get("held"), data.get("reason")])),
    "WorkflowResumed": lambda data: "",
    "DeadlineChanged": lambda data: _until(data, "deadline"),
    "StateChanged": lambda data: short(data.get("changes"), 100),
    "PatchDecided": lambda data: f"{data.get('change')}: {'new' if data.get('new') else 'old'} code",
    "StepStarted": lambda data: _path(data, _attempt(data)),
    "StepAttemptFailed": _retry_words,
    "StepCompleted": lambda data: _path(data, f"→ {short(data.get('result'))}"),
    "StepFailed": lambda data: _path(data, error_text(data.get("error"))),
    "StepCancelled": _path,
    "ProgressRecorded": progress_note,
    "SleepScheduled": lambda data: _path(data, f"until {_until(data)}"),
    "SleepEnded": _path,
    "ListenEnded": _path,
    "RequestEnded": _path,
    "ChildEnded": _path,
    "WaitEnded": _path,
    "WaitTimedOut": lambda data: _path(data, "not in time"),
    "WaitCancelled": lambda data: _path(data, "withdrawn"),
    "EventVoided": lambda data: _void_words(data),
    "HistoryForked": lambda data: f"from {data.get('origin')} at {data.get('forked_at')}",
    "ResultReused": lambda data: _path(data, f"as in version {data.get('version')}"),
    "ListenStarted": lambda data: _path(data, wait_note("listen", data)),
    "EventReceived": lambda data: f"{data.get('event')}  {short(data.get('payload'))}",
    "RequestIssued": lambda data: _path(data, wait_note("request", data)),
    "DataProvided": lambda data: _path(data, f"→ {short(data.get('data'))}"),
    "ChildStarted": lambda data: _path(data, wait_note("child", data)),
    "WaitStarted": lambda data: _path(data, wait_note("workflow", data)),
    "TargetEnded": lambda data: _path(data, f"{data.get('instance')} {data.get('status')}"),
    "TimerScheduled": lambda data: f"asyncio timer, {_until(data, 'due')}",
    "TimerFired": lambda data: f"asyncio timer of {data.get('delay')}",
    "HistoryArchived": lambda data: f"versions 1 to {data.get('versions')} are in {data.get('file')}",
    **SCHEDULE_WORDS,
}
