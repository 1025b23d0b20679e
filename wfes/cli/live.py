"""What a running instance does, as it happens: lines for what is over, bars and clocks for what is going on.

`Watch` is pure: it takes events and says what to print; `LiveView` puts that on a terminal (with bars that move, where
rich is there) or in a file or pipe (lines only). Nothing here waits, reads the log or knows the engine.

The items of a `map` have no step of their own above them. Such a group gets a bar, and one line when it is over: when
all it has started has ended and something after it begins. How many items there will be is not in the log; where the
caller knows (`expect`), the bar shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from wfes.cli.screen import Part, Screen
from wfes.cli.timeline import ENDS, Row, Timeline
from wfes.cli.values import clipped, counted, error_text, gist, span
from wfes.cli.wording import LoggedEvent

Line = list[Part]
Sizes = dict[tuple[str, str], int]
"""How many items a group of an instance has: (instance, path) → number."""

BAR_CHARS = 30
OPEN_SHOWN_MAX = 6
REFRESHES_PER_SECOND = 10
VALUE_CHARS = 60
MARKS: dict[str, Part] = {
    "completed": ("✓ ", "good"),
    "failed": ("✗ ", "bad"),
    "timed_out": ("✗ ", "bad"),
    "cancelled": ("- ", "dim"),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """How far a group is: of `total` items, where that is known, or of those started so far."""

    label: str
    done: int
    started: int
    total: int | None
    failed: int


class _Followed:
    """One instance of the family: its rows and what of them was printed."""

    def __init__(self, id: str, depth: int) -> None:
        self.id = id
        self.depth = depth
        self.timeline = Timeline()
        self.printed: set[int] = set()


class Watch:
    """Follows an instance and the children it starts.

    Args:
        id: The instance.
        sizes: How many items a group has, by instance and path, where that is known; may grow meanwhile.

    Attributes:
        id: The instance.
        over: Whether it has ended.
    """

    def __init__(self, id: str, sizes: Sizes | None = None) -> None:
        self.id = id
        self.over = False
        self._family: dict[str, _Followed] = {id: _Followed(id, 0)}
        self._sizes: Sizes = {} if sizes is None else sizes
        self._milestones: dict[int, int] = {}

    def expect(self, instance: str, path: str, total: int) -> None:
        """Says how many items a group of an instance will have."""
        self._sizes[instance, path] = total

    def feed(self, event: LoggedEvent, instance: str) -> list[Line]:
        """Takes an event of any instance; gives the lines to print for good."""
        followed = self._family.get(instance)
        if followed is None:
            return []
        lines: list[Line] = []
        row = followed.timeline.feed(event)
        if event.type in ENDS:
            lines += self._finished_groups(followed, None)
            if instance == self.id:
                self.over = True
        elif event.type == "WorkflowRetried" and instance == self.id:
            self.over = False
        elif event.type == "RunClaimed" and len(followed.timeline.claims) > 1:
            lines += self._claimed(followed)
        if row is not None:
            lines += self._finished_groups(followed, row)
            lines += self._about(followed, row, event)
        return lines

    def bars(self) -> list[Bar]:
        """The groups that are going on."""
        found: list[Bar] = []
        for followed in self._family.values():
            groups = (row for row in followed.timeline.top if row.kind == "group")
            found.extend(self._bar(followed, row) for row in groups if id(row) not in followed.printed)
        return found

    def open_rows(self) -> list[Row]:
        """The single steps and waits that are going on, without the items of groups."""
        return [
            row
            for followed in self._family.values()
            for row in followed.timeline.top
            if row.kind != "group" and row.ended is None
        ]

    def _bar(self, followed: _Followed, row: Row) -> Bar:
        done = sum(item.ended is not None for item in row.inner)
        failed = sum(item.status == "failed" for item in row.inner)
        total = self._sizes.get((followed.id, row.path))
        return Bar(row.path, done, len(row.inner), total, failed)

    def _finished_groups(self, followed: _Followed, current: Row | None) -> list[Line]:
        """Lines for the groups that are over, now that something outside of them happens."""
        root = None if current is None else current.path.partition("/")[0]
        lines: list[Line] = []
        for row in followed.timeline.top:
            if row.kind != "group" or id(row) in followed.printed or row.path == root:
                continue
            if row.ended is not None or current is None:
                followed.printed.add(id(row))
                lines.append(self._group_line(followed, row))
        return lines

    def _group_line(self, followed: _Followed, row: Row) -> Line:
        done = sum(item.status == "completed" for item in row.inner)
        under = sum(len(item.inner) for item in row.inner)
        items = counted(len(row.inner), "item")
        words = f"{done} of {items}" if done < len(row.inner) else items
        if under:
            words += f", {counted(under, 'inner step')}"
        mark = MARKS.get(row.status, ("- ", "dim"))
        return [*_indent(followed), mark, (row.path, "strong"), f"  {words}", *_took(row)]

    def _claimed(self, followed: _Followed) -> list[Line]:
        before, now = (worker for worker, _ in followed.timeline.claims[-2:])
        if before == now:
            return []
        return [[*_indent(followed), ("→ ", "wait"), f"worker {now} carries on"]]

    def _about(self, followed: _Followed, row: Row, event: LoggedEvent) -> list[Line]:
        if event.type == "StepAttemptFailed":
            what = f"attempt {event.data.get('attempt')} failed: {error_text(event.data.get('error'))}"
            return [[*_indent(followed), ("↻ ", "wait"), (row.path, "strong"), f"  {clipped(what, 160)}"]]
        if "/" in row.path:
            return self._milestone(followed, row)
        if row.kind == "progress":
            return [[*_indent(followed), ("· ", "busy"), row.note]]
        if row.kind in ("child", "request") and event.type in ("ChildStarted", "RequestIssued"):
            if row.kind == "child" and row.target:
                self._family[row.target] = _Followed(row.target, followed.depth + 1)
            mark = ("? ", "wait") if row.kind == "request" else ("→ ", "busy")
            return [[*_indent(followed), mark, (row.path, "strong"), f"  {row.note}"]]
        if row.ended is None or row.kind == "call" or id(row) in followed.printed:
            return []
        followed.printed.add(id(row))
        return [[*_indent(followed), *_ended(row)]]

    def _milestone(self, followed: _Followed, row: Row) -> list[Line]:
        """For where no bar moves: how far a group is, at each tenth where its size is known, else ever more seldom."""
        group = followed.timeline.rows.get(row.path.rpartition("/")[0])
        if group is None or group.kind != "group" or row.ended is None:
            return []
        bar = self._bar(followed, group)
        reached = bar.done * 10 // bar.total if bar.total else _seldom(bar.done)
        if reached <= self._milestones.get(id(group), 0) or bar.done == bar.total:
            return []
        self._milestones[id(group)] = reached
        of = f" of {bar.total}" if bar.total else ""
        return [[*_indent(followed), ("  ", "dim"), (f"{bar.label}  {bar.done}{of} done", "milestone")]]


def _indent(followed: _Followed) -> Line:
    return ["  " * followed.depth] if followed.depth else []


def _took(row: Row) -> Line:
    return [] if row.seconds is None else [(f"  {span(max(row.seconds, 0.0))}", "dim")]


def _ended(row: Row) -> Line:
    mark = MARKS.get(row.status, ("- ", "dim"))
    line: Line = [mark, (row.path, "strong"), *_took(row)]
    if row.inner:
        line.append((f"  {counted(len(row.inner), 'inner step')}", "dim"))
    if row.status == "failed" and row.note:
        line.append((f"  {clipped(row.note, 160)}", "bad"))
    elif row.status == "timed_out":
        line.append("  not in time")
    elif row.kind in ("request", "child") and row.note:
        line.append((f"  {clipped(row.note, 100)}", "dim"))
    elif row.value is not None:
        line.append((f"  → {gist(row.value, VALUE_CHARS)}", "dim"))
    return line


def _seldom(count: int) -> int:
    """0 below 10, then one more at 10, 25, 50, 100, 250, 500, 1000, …"""
    reached, step = 0, 10
    while step <= count:
        for factor in (1.0, 2.5, 5.0):
            reached += count >= step * factor
        step *= 10
    return reached


class LiveView:
    """Shows what a `Watch` says; a context manager.

    Args:
        out: Where to.
        watch: What to show.
        also: Gives a line to keep at the bottom while it runs, or None.
    """

    def __init__(self, out: Screen, watch: Watch, also: Callable[[], Line | None] | None = None) -> None:
        self.out = out
        self.watch = watch
        self._also = also
        self._live: Any = None

    def __enter__(self) -> Self:
        self.move()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.still()

    def still(self) -> None:
        """Takes what moves off the terminal, so that something can be asked there; `move` puts it back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def move(self) -> None:
        """Puts what moves on the terminal."""
        if self.out.console is None or self._live is not None:
            return
        from rich.live import Live

        # A new one each time: one that was stopped would wipe out what was printed since.
        self._live = Live(
            get_renderable=self._moving,
            console=self.out.console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def feed(self, event: LoggedEvent, instance: str) -> None:
        """Shows an event."""
        for line in self.watch.feed(event, instance):
            style = line[-1][1] if isinstance(line[-1], tuple) else ""
            if style == "milestone" and self.out.console is not None:
                continue  # the bar shows it
            self.out.line(*line)
        self.out.stream.flush()

    def _moving(self) -> Any:
        from rich.console import Group

        now = datetime.now(UTC)
        lines: list[Line] = [bar_line(bar) for bar in self.watch.bars()]
        open_rows = self.watch.open_rows()
        for row in open_rows[:OPEN_SHOWN_MAX]:
            seconds = max((now - row.started).total_seconds(), 0.0)
            words = f"  {clipped(row.note, 80)}" if row.note and row.kind != "step" else ""
            lines.append([("… ", "busy"), (row.path, "strong"), (f"  {span(seconds)}", "dim"), words])
        if len(open_rows) > OPEN_SHOWN_MAX:
            lines.append([(f"… and {len(open_rows) - OPEN_SHOWN_MAX} more", "dim")])
        last = self._also() if self._also is not None else None
        if last is not None:
            lines.append(last)
        return Group(*(self.out.text(*line) for line in lines))  # type: ignore[arg-type]


def bar_line(bar: Bar) -> Line:
    """A group's bar: filled by what is done of the total, or of what was started where the total is not known."""
    whole = bar.total or max(bar.started, 1)
    filled = min(BAR_CHARS, BAR_CHARS * bar.done // whole)
    of = str(bar.total) if bar.total is not None else f"{bar.started} started"
    line: Line = [
        ("… ", "busy"),
        (f"{bar.label}  ", "strong"),
        ("━" * filled, "good"),
        ("━" * (BAR_CHARS - filled), "dim"),
        f"  {bar.done} of {of}",
    ]
    if bar.failed:
        line.append((f", {bar.failed} failed", "bad"))
    return line
