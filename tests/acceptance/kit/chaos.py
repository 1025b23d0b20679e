"""Chaos: processes are killed and stopped, connections are cut, the server crashes, and everything must come right.

``python chaos.py --seconds 600 --instances 2000`` is one run, with a report of what happened and what was wrong; a test
makes a short one. Four workers and a driver are on one PostgreSQL by way of a proxy. One worker's clock is ahead of the
server's, one's is behind; two say that they run on machines of their own, so that they are judged by heartbeats alone.

No recorded step runs again: each call was announced by its own process, and nobody announces what is completed. While
they run the log is read again and again as well: what has stood there as completed for a while is called by nobody but
a process that was stopped meanwhile, with its call already announced.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import chaotic
import checks
import driver
import market
import places
import psycopg
import transacting
import witness
from pg_server import Server
from proxy import Proxy
from scenarios import environment

from wfes.core import events as e
from wfes.core.state import ACTIVE
from wfes.log.application import decode

LEASE = "2s"
STOPPED_SECONDS_MAX = 6.0
AWAY_SECONDS_MAX = 2.0
CALM_SECONDS_MAX = 120.0
MARK_SECONDS = 2.0
AWARE_SECONDS = 8.0
"""After so long a process has made the call that it had announced, or has heard that it was taken for dead: it may have
been stopped, cut off, or without a server until then."""
PAUSE_SECONDS = (0.1, 1.2)
"""Between two disturbances."""
CUT_CHANCE = 0.04
"""How many commits are cut."""

ROLES: tuple[dict[str, Any], ...] = (
    {"clock": 0.0, "elsewhere": False},
    {"clock": 0.0, "elsewhere": True},
    {"clock": 2.0, "elsewhere": False},
    {"clock": -2.0, "elsewhere": True},
)
DISTURBANCES = {"kill": 5, "stop": 5, "drain": 1, "crash": 1, "cut one": 4, "cut all": 1, "refuse": 1}
"""What is done to whom, and how often in comparison."""


class Family:
    """The mother process and her children."""

    def __init__(self, folder: Path) -> None:
        self._stderr = (folder / "stderr").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, chaotic.__file__, str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=environment() | {"WFES_LEASE": LEASE},
            start_new_session=True,
        )

    def __enter__(self) -> Family:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._stderr.close()

    def _ask(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def fork(self, kind: str, **role: Any) -> int:
        """A child's process id."""
        return self._ask({"fork": kind, **role})

    def reap(self, pid: int) -> int:
        """Waits for a child's end; its exit code, negative where a signal ended it."""
        return self._ask({"reap": pid})


@dataclass(frozen=True)
class _Mark:
    """What was known at a moment: everything up to a position, with so many bytes of calls, and who was stopped or had
    just been."""

    at: float
    position: int
    calls: int
    stopped: frozenset[int]


@dataclass
class Report:
    """What became of a run."""

    seconds: float = 0.0
    left: dict[str, int] = field(default_factory=dict[str, int])
    """By workflow, how many were not over when the disturbances were."""
    calm_seconds: float = 0.0
    done: Counter[str] = field(default_factory=Counter[str])
    cuts: dict[str, int] = field(default_factory=dict[str, int])
    told: dict[str, Any] = field(default_factory=dict[str, Any])
    events: int = 0
    instances: int = 0
    takeovers: int = 0
    marks: int = 0
    noted: float = 0.0
    problems: list[str] = field(default_factory=list[str])


class Chaos:
    """One run."""

    def __init__(self, folder: Path, *, instances: int, seconds: float, seed: int) -> None:
        self._folder = folder
        self._instances = instances
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._server = Server("fsync=on")
        self._workers: dict[int, int] = {}
        """By role, the process."""
        self._stopped: dict[int, float] = {}
        """By process, when it goes on."""
        self._woken: dict[int, float] = {}
        """By process, when it went on."""
        self._known = 0
        self._completed: dict[tuple[str, str], int] = {}
        self._marks: list[_Mark] = []
        self.report = Report()

    def run(self) -> Report:
        """Makes it; whatever happens, no process is left."""
        began = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self._server.remove)
            self._server.start()
            places.put(self._folder, self._server.url)
            market.prepare(self._server.url)
            self._proxy = stack.enter_context(Proxy(self._server.url, self._chance.randrange(2**32)))
            (self._folder / "proxied").write_text(self._proxy.url(places.url_of(self._folder)))
            self._family = stack.enter_context(Family(self._folder))
            self._disturbed(began)
            self.report.seconds = time.monotonic() - began
            self._judge()
        return self.report

    def _disturbed(self, began: float) -> None:
        for number in range(len(ROLES)):
            self._fork(number)
        driving = self._family.fork("driver", count=self._instances, seconds=self._seconds * 0.9)
        self._proxy.chance = CUT_CHANCE
        marked = 0.0
        while (now := time.monotonic()) < began + self._seconds:
            self._wake(now)
            if now - marked > MARK_SECONDS:
                self._mark()
                marked = time.monotonic()
            kinds = list(DISTURBANCES)
            self._disturb(self._chance.choices(kinds, [DISTURBANCES[kind] for kind in kinds])[0])
            time.sleep(self._chance.uniform(*PAUSE_SECONDS))
        self._proxy.chance = 0.0
        self._wake(float("inf"))
        calm = time.monotonic()
        self.report.left = self._left()
        while not self._is_over(driving):
            self._mark()
            if time.monotonic() > calm + CALM_SECONDS_MAX:
                self.report.problems.append("not everything ended")
                self.report.problems += self._unfinished()
                os.kill(driving, signal.SIGKILL)
                break
            time.sleep(0.2)
        self.report.calm_seconds = time.monotonic() - calm
        if code := self._family.reap(driving):
            self.report.problems.append(f"the driver ended with {code}")
        for pid in self._workers.values():
            os.kill(pid, signal.SIGTERM)
        for number, pid in self._workers.items():
            if code := self._family.reap(pid):
                self.report.problems.append(f"worker {number} ended with {code}")

    @staticmethod
    def _is_over(pid: int) -> bool:
        # The state of a child that nobody has reaped yet.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z"

    def _fork(self, number: int) -> None:
        self._workers[number] = self._family.fork("worker", **ROLES[number])

    # --------------------------------------------------------------------------------- disturbances

    def _disturb(self, kind: str) -> None:
        self.report.done[kind] += 1
        number = self._chance.choice(list(self._workers))
        pid = self._workers[number]
        match kind:
            case "kill":
                os.kill(pid, signal.SIGKILL)
                self._replace(number, -signal.SIGKILL)
            case "stop":
                if pid not in self._stopped:
                    os.kill(pid, signal.SIGSTOP)
                    self._stopped[pid] = time.monotonic() + self._chance.uniform(0.1, STOPPED_SECONDS_MAX)
            case "drain":
                if pid not in self._stopped:
                    os.kill(pid, signal.SIGTERM)
                    self._replace(number, 0)
            case "crash":
                self._server.stop(immediate=True)
                time.sleep(self._chance.uniform(0, AWAY_SECONDS_MAX))
                self._server.start()
            case "cut one":
                self._proxy.cut_some()
            case "cut all":
                self._proxy.cut_all()
            case _:
                self._proxy.refusing = True
                self._proxy.cut_all()
                time.sleep(self._chance.uniform(0, AWAY_SECONDS_MAX))
                self._proxy.refusing = False

    def _replace(self, number: int, expected: int) -> None:
        pid = self._workers[number]
        # It may have to wait for one that is stopped.
        while not self._is_over(pid):
            self._wake(time.monotonic())
            time.sleep(0.01)
        code = self._family.reap(pid)
        if code != expected:
            self.report.problems.append(f"worker {number} ended with {code}: {self._why(pid)}")
        self._stopped.pop(pid, None)
        self._fork(number)

    def _why(self, pid: int) -> str:
        failed = self._folder / f"failed-{pid}"
        return failed.read_text() if failed.exists() else "it did not say why"

    def _wake(self, now: float) -> None:
        for pid in [pid for pid, until in self._stopped.items() if until <= now]:
            self._woken[pid] = time.monotonic()
            os.kill(pid, signal.SIGCONT)
            del self._stopped[pid]

    # --------------------------------------------------------------------------------------- checks

    def _left(self) -> dict[str, int]:
        statuses = ", ".join(repr(str(status)) for status in sorted(ACTIVE))
        sql = f"SELECT workflow, count(*) FROM wfes_instances WHERE status IN ({statuses}) GROUP BY workflow"
        return dict(places.rows(self._folder, sql))

    def _unfinished(self) -> list[str]:
        """Which instances are not over, how they stand in the work to be done, and what their last events are."""
        problems = [
            f"there is a worker: {row}"
            for row in places.rows(self._folder, "SELECT id, host, beat, locked FROM wfes_workers")
        ]
        histories = checks.histories_of(checks.stored_events(self._folder))
        work = {row[0]: row for row in places.rows(self._folder, "SELECT * FROM wfes_work")}
        for stream, history in histories.items():
            if not stream.startswith("$") and not any(recorded.event.terminal for recorded in history):
                last = "; ".join(repr(recorded.event) for recorded in history[-4:])
                problems.append(f"{stream} is not over: {work.get(stream)}; {last}")
        return problems

    def _mark(self) -> None:
        """Reads on in the log: what is completed now must not be called from here on."""
        try:
            stored = checks.stored_events(self._folder, self._known)
        except (psycopg.OperationalError, places.NoLog):
            return
        for notification in stored:
            event = decode(notification).event
            if isinstance(event, e.StepCompleted):
                path = event.path.replace(" ", "_")
                self._completed[str(notification.originator_id), path] = notification.id
            self._known = notification.id
        calls = self._folder / "calls"
        size = calls.stat().st_size if calls.exists() else 0
        late = {pid for pid, at in self._woken.items() if time.monotonic() - at < AWARE_SECONDS}
        self._marks.append(_Mark(time.monotonic(), self._known, size, frozenset(late | {*self._stopped})))

    def _called_again(self) -> list[str]:
        """Calls of steps whose results had been seen in the log for so long that whoever called them had to know."""
        problems: list[str] = []
        marks = iter(self._marks)
        ahead = next(marks, None)
        past: deque[_Mark] = deque()
        at = 0
        path = self._folder / "calls"
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            while ahead is not None and ahead.calls <= at:
                past.append(ahead)
                ahead = next(marks, None)
            while len(past) > 1 and past[1].at <= past[-1].at - AWARE_SECONDS:
                past.popleft()
            at += len(line)
            id, step, attempt, pid = line.decode().split(" ")
            position = self._completed.get((id, step))
            if not past or position is None or past[0].at > past[-1].at - AWARE_SECONDS:
                continue
            if position <= past[0].position and not any(int(pid) in mark.stopped for mark in past):
                problems.append(
                    f"{id} {step} attempt {attempt}: called by {pid} long after its result was recorded"
                )
        return problems

    def _judge(self) -> None:
        report, folder = self.report, self._folder
        self._mark()
        report.problems += self._called_again()
        outcome = folder / "outcome"
        report.told = json.loads(outcome.read_text()) if outcome.exists() else {}
        wrong = folder / "wrong"
        report.problems += map(json.loads, wrong.read_text().splitlines()) if wrong.exists() else ()
        report.problems += [path.read_text() for path in folder.glob("failed-*")]
        report.problems += checks.problems_of(folder) + transacting.problems(folder)
        stored = checks.stored_events(folder)
        histories = checks.histories_of(stored)
        report.problems += market.crowded(stored)
        instances = {stream: history for stream, history in histories.items() if not stream.startswith("$")}
        positions = {(str(n.originator_id), n.originator_version): n.id for n in stored}
        by = witness.writers(folder)
        report.problems += witness.stale(instances, positions, by)
        report.problems += witness.unannounced(instances, witness.calls_in(folder / "calls"))
        report.problems += _happened_though_refused(folder, histories)
        report.cuts = {str(cut): count for cut, count in self._proxy.cuts.items()}
        report.events, report.instances, report.marks = len(stored), len(instances), len(self._marks)
        report.noted = round(len(by.keys() & positions.values()) / max(1, len(positions)), 3)
        report.takeovers = sum(
            isinstance(recorded.event, e.RunClaimed) and recorded.event.epoch > 1
            for history in instances.values()
            for recorded in history
        )
        if len(by) < len(positions) / 2:
            report.problems.append(f"of {len(positions)} events only {len(by)} were witnessed")


def _happened_though_refused(folder: Path, histories: checks.Histories) -> list[str]:
    """Commands that ended with LogUnavailable, and are in the log all the same."""
    published = {
        history[0].event.id
        for history in histories.values()
        if isinstance(history[0].event, e.EventPublished)
    }
    return [
        f"{kind} {id} was refused, and is in the log"
        for kind, id, _ in driver.read_acks(folder / "refused")
        if (id in histories if kind == "start" else id in published)
    ]


def main() -> None:
    """One run, by the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long (default 600)")
    parser.add_argument("--instances", type=int, default=2_000, help="how many are started (default 2000)")
    parser.add_argument("--seed", type=int, default=None, help="of chance; shown, to make a run again")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for what the processes leave")
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    print(f"chaos for {given.seconds:g} s with {given.instances} instances, seed {seed}", flush=True)
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wfes-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        report = Chaos(folder, instances=given.instances, seconds=given.seconds, seed=seed).run()
    problems = report.problems
    print(json.dumps({**vars(report), "problems": len(problems)}, indent=2))
    for problem in problems[:50]:
        print(problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
