"""An instance's rows as a picture: each with its bar over the time that all of it took, and what was done from outside.

Owns what of many rows is shown, and how wide each column is. Long idle stretches are cut (`wfes.cli.axis`); of many
rows those are shown that are not over or did not simply complete, and the first and the last; the rest of them stand
as one line with one bar. A terminal gets as much as fits into a line; a file or pipe gets everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from wfes.cli.axis import Axis, Span
from wfes.cli.screen import Part, Screen, status_part
from wfes.cli.timeline import Mark, Row, Timeline, walk
from wfes.cli.values import clipped, gist, span

BAR_CHARS = 36
"""How wide bars are where no terminal's width says otherwise."""
BAR_CHARS_MIN = 12
BAR_CHARS_MAX = 80
TOP_SHOWN_MAX = 60
INNER_SHOWN_MAX = 8
NOTE_CHARS = 70
NOTE_CHARS_MIN = 12
NAME_CHARS_MAX = 40

_OUTCOMES = {
    "running": ("█", "busy"),
    "completed": ("█", "good"),
    "failed": ("▒", "bad"),
    "cut_off": ("░", "wait"),
    "suspended": ("░", "wait"),
    "cancelled": ("▒", "dim"),
}
_BETWEEN = {"failed": ("·", "wait"), "suspended": ("─", "wait")}
"""What follows an attempt until the next one."""
_LEGEND = {
    "▒": "failed or withdrawn attempt",
    "░": "cut off",
    "·": "backoff",
    "─": "waits",
    "▪": "several",
    "▸": "goes on",
    "┊": "idle time left out",
}
_ASCII = {"█": "#", "▒": "x", "░": "?", "·": ".", "─": "-", "▪": "=", "▸": ">", "┊": ":", "◆": "*", "…": "."}

Cell = tuple[str, str]
"""A character and its style."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Rows that are not shown."""

    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the picture."""

    name: str
    kind: str
    status: str
    at: str
    took: str
    cells: list[Cell]
    note: str


class Chart:
    """The picture of one timeline.

    Args:
        timeline: What is shown.
        until: Up to when what is open goes on; default: the timeline's last event.
        columns: How wide the bars are.
        inner_max: So many rows under another at most, unless `everything`.
        everything: Every row, however many.
    """

    def __init__(
        self,
        timeline: Timeline,
        *,
        until: datetime | None = None,
        columns: int = BAR_CHARS,
        inner_max: int = INNER_SHOWN_MAX,
        everything: bool = False,
    ) -> None:
        assert timeline.began is not None
        self._timeline = timeline
        self._began = timeline.began
        rows = [*walk(timeline.top)]
        last = [row.ended or row.started for row in rows]
        last += [mark.at for mark in timeline.marks if mark.type != "HistoryArchived"]
        self._end = timeline.ended or max([*last, until or self._began, self._began])
        self._several = len({worker for worker, _ in timeline.claims}) > 1
        self._inner_max = inner_max
        self._everything = everything
        self.axis = Axis(self._seconds(self._end), self._busy(rows), columns)

    def _seconds(self, moment: datetime) -> float:
        return max((moment - self._began).total_seconds(), 0.0)

    def _span(self, started: datetime, ended: datetime | None) -> Span:
        return self._seconds(started), self._seconds(ended or self._end)

    def _busy(self, rows: Sequence[Row]) -> Iterator[Span]:
        for row in rows:
            yield from (self._span(each.started, each.ended) for each in row.tries)

    # -- What is shown -----------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[Line]:
        """The picture, line by line."""
        marks = [mark for mark in self._timeline.marks if mark.at <= self._end or not self._timeline.ended]
        for item in self._chosen(self._timeline.top, TOP_SHOWN_MAX):
            first = item.rows[0] if isinstance(item, Hidden) else item
            while marks and marks[0].at <= first.started:
                yield self._mark(marks.pop(0))
            yield from self._item(item, 0)
        yield from map(self._mark, marks)

    def _item(self, item: Row | Hidden, depth: int) -> Iterator[Line]:
        if isinstance(item, Hidden):
            yield self._hidden(item, depth)
            return
        yield self._row(item, depth)
        for inner in self._chosen(item.inner, self._inner_max):
            yield from self._item(inner, depth + 1)

    def _chosen(self, rows: Sequence[Row], shown_max: int) -> Iterator[Row | Hidden]:
        """The rows to show, and what stands for the others, in order."""
        if self._everything or len(rows) <= shown_max:
            yield from rows
            return
        ends = shown_max // 6
        chosen = {*range(ends), *range(len(rows) - ends, len(rows))}
        telling = [number for number, row in enumerate(rows) if is_telling(row)]
        chosen.update(telling[: max(shown_max - 2 * ends, 0)])
        hidden: list[Row] = []
        for number, row in enumerate(rows):
            if number in chosen:
                if hidden:
                    yield Hidden(hidden)
                    hidden = []
                yield row
            else:
                hidden.append(row)
        if hidden:
            yield Hidden(hidden)

    # -- Lines -------------------------------------------------------------------------------------------------------

    def _row(self, row: Row, depth: int) -> Line:
        took = ""
        if row.kind not in ("progress", "call"):
            began, ended = self._span(row.started, row.ended)
            took = span(ended - began) + (" …" if self._goes_on(row) else "")
        return Line(
            "  " * depth + row.label,
            row.kind,
            self._status(row),
            f"+{span(self._seconds(row.started))}",
            took,
            self._bar(row),
            self._remark(row),
        )

    def _goes_on(self, row: Row) -> bool:
        return row.ended is None and self._timeline.ended is None

    def _status(self, row: Row) -> str:
        """The row's; what was open when the instance ended waits for nothing any more."""
        return row.status if row.ended is not None or self._goes_on(row) else "dropped"

    def _hidden(self, hidden: Hidden, depth: int) -> Line:
        cells = self._empty()
        for row in hidden.rows:
            for column in self.axis.cells(self._span(row.started, row.ended)):
                cells[column] = ("▪", "dim")
        counts = Counter(map(self._status, hidden.rows))
        words = ", ".join(f"{number:,} {status}" for status, number in counts.most_common())
        at = f"+{span(self._seconds(hidden.rows[0].started))}"
        return Line("  " * depth + f"… {len(hidden.rows):,} more", "", "", at, "", cells, words)

    def _mark(self, mark: Mark) -> Line:
        cells = self._empty()
        if mark.type != "HistoryArchived":
            cells[self.axis.column(self._seconds(mark.at))] = ("◆", "wait")
        by = f" by {mark.actor}" if mark.actor else ""
        words, _, rest = mark.words.partition(" ")
        note = f"{rest}{by}".strip() if rest or by else ""
        return Line(f"◆ {words}", "", "", f"+{span(self._seconds(mark.at))}", "", cells, note)

    def _empty(self) -> list[Cell]:
        cells: list[Cell] = [(" ", "")] * self.axis.columns
        for gap in self.axis.gaps:
            cells[gap.column] = ("┊", "dim")
        return cells

    def _bar(self, row: Row) -> list[Cell]:
        cells = self._empty()

        def draw(of: Span, cell: Cell) -> None:
            for column in self.axis.cells(of):
                cells[column] = cell

        whole = self._span(row.started, row.ended)
        if row.kind in ("progress", "call"):
            draw((whole[0], whole[0]), ("◆", "busy"))
        elif row.kind == "group":
            for inner in row.inner:
                draw(
                    self._span(inner.started, inner.ended), ("█", "good" if row.status != "failed" else "bad")
                )
        elif row.tries:
            for each, after in pairwise([*row.tries, None]):
                assert each is not None
                between = _BETWEEN.get(each.outcome)
                # Nothing follows the attempt that a step ended with, and the shortest bar is a column wide.
                is_last = after is None and each.ended == row.ended
                if between is not None and each.ended is not None and not is_last:
                    draw(
                        (
                            self._seconds(each.ended),
                            whole[1] if after is None else self._seconds(after.started),
                        ),
                        between,
                    )
            for each in row.tries:
                draw(self._span(each.started, each.ended), _OUTCOMES[each.outcome])
        else:
            draw(whole, ("─", "wait"))
        if self._goes_on(row):
            cells[self.axis.cells(whole)[-1]] = ("▸", "busy")
        return cells

    def _remark(self, row: Row) -> str:
        parts: list[str] = []
        if row.inner:
            done = sum(child.status == "completed" for child in row.inner)
            parts.append(f"{done} of {len(row.inner)} done" if done < len(row.inner) else f"{done} done")
        if row.attempts > 1:
            parts.append(f"{row.attempts} attempts")
        cut_offs = row.cut_offs
        if cut_offs:
            parts.append(f"cut off {'once' if cut_offs == 1 else f'{cut_offs} times'} and run again")
        elif row.starts > row.attempts:
            parts.append(f"started {row.starts} times")
        if self._several and row.tries:
            workers = {each.worker for each in row.tries if each.worker}
            parts.append(f"on {', '.join(sorted(workers))}" if workers else "")
        if row.note:
            parts.append(row.note)
        elif row.kind == "step" and row.status == "completed" and row.value is not None:
            parts.append(f"→ {gist(row.value, 50)}")
        return ", ".join(filter(None, parts))

    def ruler(self) -> str:
        """What stands above the bars: the beginning, how long each idle stretch was, and the whole."""
        cells = [" "] * self.axis.columns
        free = 0

        def put(at: int, text: str) -> bool:
            nonlocal free
            if at < free or at + len(text) > self.axis.columns:
                return False
            cells[at : at + len(text)] = text
            free = at + len(text) + 1
            return True

        whole = span(self._seconds(self._end))
        put(0, "0")
        edges = [*(gap.column for gap in self.axis.gaps[1:]), self.axis.columns]
        for gap, edge in zip(self.axis.gaps, edges, strict=False):
            label = f"┊{span(gap.seconds)}".replace(" ", "")
            put(gap.column, label if gap.column + len(label) <= edge else "┊")
        if free <= self.axis.columns - len(whole):
            put(self.axis.columns - len(whole), whole)
        return "".join(cells)


def is_telling(row: Row) -> bool:
    """Whether a row is not over, did not simply complete, or has one under it that did not."""
    return row.status != "completed" or row.starts > 1 or row.failed_inner > 0


def print_chart(
    out: Screen,
    timeline: Timeline,
    *,
    until: datetime | None = None,
    everything: bool = False,
    inner_max: int = INNER_SHOWN_MAX,
) -> None:
    """Prints an instance's rows with their durations, and when each was, as bars over the whole time.

    Args:
        out: Where to.
        timeline: What.
        until: Up to when what is open goes on; default: the last event.
        everything: Every row, however many.
        inner_max: Otherwise, so many under one row at most.
    """
    if (not timeline.top and not timeline.marks) or timeline.began is None:
        return
    chart = Chart(timeline, until=until, inner_max=inner_max, everything=everything)
    lines = [*chart.lines()]
    layout = _Layout(out, lines)
    if layout.bar != BAR_CHARS:
        chart = Chart(timeline, until=until, inner_max=inner_max, everything=everything, columns=layout.bar)
        lines = [*chart.lines()]
    out.line()
    layout.head(chart.ruler())
    for line in lines:
        layout.line(line)
    layout.legend(lines)


class _Layout:
    """How wide each column is: all of them where that fits, else fewer and narrower ones."""

    def __init__(self, out: Screen, lines: Sequence[Line]) -> None:
        self._out = out
        self._ascii = not _can_show(out)
        width = None if out.console is None else out.console.width
        self._name = min(max([4, *(len(line.name) for line in lines)]), NAME_CHARS_MAX)
        self._widths = {
            name: max([len(name), *(len(getattr(line, name)) for line in lines)])
            for name in ("kind", "status", "at", "took")
        }
        self._note: int | None = NOTE_CHARS
        self.bar = BAR_CHARS
        if width is not None:
            self._fit(width)

    def _fit(self, width: int) -> None:
        self._name = min(self._name, max(width // 3, 8))
        for dropped in ("", "kind", "at", "took", "status"):
            self._widths.pop(dropped, None)
            left = width - self._name - sum(each + 2 for each in self._widths.values()) - 2
            if left >= BAR_CHARS_MIN + 2:
                break
        left = max(left, 4)
        self.bar = min(max(min(left, BAR_CHARS_MIN), left * 3 // 5), BAR_CHARS_MAX)
        rest = left - self.bar - 2
        self._note = min(rest, NOTE_CHARS) if rest >= NOTE_CHARS_MIN else 0
        if not self._note:
            self.bar = min(left, BAR_CHARS_MAX)

    def head(self, ruler: str) -> None:
        """Prints the columns' names and the ruler."""
        parts: list[Part] = [(f"{'STEP':<{self._name}}  ", "strong")]
        parts += [(f"{name.upper():<{width}}  ", "strong") for name, width in self._widths.items()]
        self._out.line(*parts, (self._plain(ruler).rstrip(), "dim"))

    def line(self, line: Line) -> None:
        """Prints a line."""
        style = "wait" if line.name.startswith("◆ ") else "dim" if line.name.lstrip().startswith("…") else ""
        parts = [(self._plain(f"{_cut(line.name, self._name):<{self._name}}  "), style)]
        for column, width in self._widths.items():
            text = getattr(line, column)
            style = status_part(text)[1] if column == "status" else "dim" if column in ("kind", "at") else ""
            parts.append((self._plain(f"{text:<{width}}  "), style))
        parts += _runs([(self._plain(character), style) for character, style in line.cells])
        note = clipped(line.note, self._note) if self._note else ""
        if note:
            parts.append((f"  {note}", "dim"))
        else:
            while parts and not parts[-1][0].strip():
                parts.pop()
        if parts:
            parts[-1] = parts[-1] if note else (parts[-1][0].rstrip(), parts[-1][1])
        self._out.line(*parts)

    def legend(self, lines: Sequence[Line]) -> None:
        """Says what the bars' characters mean, of those that there are."""
        there = {character for line in lines for character, _ in line.cells}
        words = "  ".join(f"{self._plain(mark)} {what}" for mark, what in _LEGEND.items() if mark in there)
        if words:
            self._out.line((words, "dim"))

    def _plain(self, text: str) -> str:
        return "".join(_ASCII.get(character, character) for character in text) if self._ascii else text


def _can_show(out: Screen) -> bool:
    encoding = getattr(out.stream, "encoding", None) or "utf-8"
    try:
        "".join(_ASCII).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _runs(cells: Sequence[Cell]) -> list[Cell]:
    """Characters of one style as one part."""
    found: list[Cell] = []
    for character, style in cells:
        if found and (found[-1][1] == style or character == " "):
            found[-1] = found[-1][0] + character, found[-1][1]
        else:
            found.append((character, style))
    return found
