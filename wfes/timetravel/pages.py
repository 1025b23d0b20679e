"""What the debugger's own commands show: events, the instance's state, its steps, what changed.

Everything is read off the recorded history; no handler code runs for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from wfes.core.codec import Json
from wfes.core.error_info import ErrorInfo
from wfes.core.evolve import fold
from wfes.core.state import InstanceState, StepState
from wfes.timetravel.moment import Kind, Moment
from wfes.views import RecordedEvent, moment

if TYPE_CHECKING:
    from wfes.timetravel.recording import Recording

VALUE_CHARS = 100
HERE = "->"


class Pages:
    """See the module's text. Every method gives lines of text.

    Args:
        recording: the instance.
        describe: an event in a few words.
    """

    def __init__(self, recording: Recording, describe: Callable[[RecordedEvent], str]) -> None:
        self._recording = recording
        self._describe = describe

    def heading(self, at: Moment) -> Sequence[str]:
        """What stands above the source line at a stop."""
        lines: list[str] = []
        if at.kind is Kind.EVENT:
            lines.append(f"event {at.position} of {at.events}: {self._words(at.position)}")
        elif at.kind is Kind.LINE:
            lines.append(
                f"after event {at.position} of {at.events}"
                if at.position
                else "before the first event is given"
            )
        elif at.kind is Kind.END:
            lines.append(f"the end: all {at.events} events are given; the last: {self._words(at.events)}")
        for note in at.notes:
            lines.extend(note.splitlines())
        return lines

    def _words(self, version: int) -> str:
        event = self._recording.events[version - 1]
        return f"{event.type}  {self._describe(event)}".rstrip()

    def events(self, first: int, last: int, current: int) -> Sequence[str]:
        """The events of these versions, the current one marked."""
        width = len(str(last))
        return [
            f"{HERE if version == current else '':>2} {version:>{width}}  "
            f"{self._recording.events[version - 1].at:%H:%M:%S}  {self._words(version)}"
            for version in range(first, last + 1)
        ]

    def state(self, version: int) -> Sequence[str]:
        """The instance as it was after this event."""
        folded = self._folded(version)
        lines = [f"after event {version}, at {moment(folded.at):%Y-%m-%d %H:%M:%S.%f} UTC"]
        lines.extend(f"{name:<10} {text}" for name, text in self._facts(folded).items())
        return lines

    def steps(self, version: int) -> Sequence[str]:
        """The instance's steps as they were after this event."""
        steps = self._steps(self._folded(version))
        width = max(map(len, steps), default=0)
        return [f"{path:<{width}}  {text}" for path, text in steps.items()] or ["no step has begun"]

    def diff(self, a: int, b: int) -> Sequence[str]:
        """What changed from one version to another."""
        before, after = self._folded(a), self._folded(b)
        changes = _changes(self._facts(before), self._facts(after))
        changes += _changes(self._steps(before), self._steps(after), "step ")
        return [f"from event {a} to event {b}:", *(changes or ["nothing has changed"])]

    # -- reading a state ---------------------------------------------------------------------------------------------

    def _folded(self, version: int) -> InstanceState:
        return fold(self._recording.id, self._recording.history[:version], detailed=True)

    def _facts(self, folded: InstanceState) -> dict[str, str]:
        facts = {"status": str(folded.status)}
        for name, tree in folded.fields.items():
            facts[f"state.{name}"] = self._value(tree)
        for path, wait in folded.waits.items():
            until = "" if wait.until is None else f" until {moment(wait.until):%Y-%m-%d %H:%M:%S} UTC"
            facts[f"waits for {path}"] = f"{wait.kind} {wait.name}{until}"
        if folded.progress is not None:
            percent = "" if folded.progress.percent is None else f" {folded.progress.percent:g} %"
            facts["progress"] = f"{folded.progress.message}{percent}"
        if folded.output is not None:
            facts["output"] = self._value(folded.output)
        if folded.error is not None:
            facts["error"] = _error(folded.error)
        return facts

    def _steps(self, folded: InstanceState) -> dict[str, str]:
        steps = {**(folded.done or {}), **folded.steps}
        return {path: self._step(step) for path, step in steps.items()}

    def _step(self, step: StepState) -> str:
        text = str(step.status)
        if step.attempts > 1:
            text += f", attempt {step.attempts}"
        if step.error is not None:
            text += f": {_error(step.error)}"
        elif step.status == "completed":
            text += f": {self._value(step.result)}"
        return text

    def _value(self, tree: Json) -> str:
        text = repr(self._recording.values.open(tree))
        return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 1]}…"


def _error(tree: Json) -> str:
    info = ErrorInfo.from_json(tree)
    return f"{info.type}: {info.message}"


def _changes(before: Mapping[str, str], after: Mapping[str, str], what: str = "") -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old is None:
            lines.append(f"+ {what}{name}: {new}")
        elif new is None:
            lines.append(f"- {what}{name}: {old}")
        else:
            lines.append(f"~ {what}{name}: {old} -> {new}")
    return lines
