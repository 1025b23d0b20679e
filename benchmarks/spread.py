"""How is a burst of starts that comes from one process spread over the workers, and how long does it take?

Method: so many worker processes, each an engine with a worker, on an empty log; one of them, the starter, starts
`--instances` instances of a workflow at once, and the time until the last has ended is taken. An instance has one step:

* *wait*: an async function that sleeps for 20 ms, as whoever calls another service does. A worker has room for all of
  them, so nothing is gained by spreading but that the handling of them costs CPU;
* *compute*: a function that keeps a core busy for 5 ms, in a thread. A second core halves the time, if it is used.

*Shares* are how many of the instances each worker ran, in per cent, the starter first; by the log. Every run has new
processes and a new database.

    python benchmarks/spread.py [--instances 1000] [--runs 3] [--processes 1,2,4] [--sqlite] [--postgres URL]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks._postgres import fresh, option
from benchmarks._report import Found, machine, parser, show, spread
from wfes import Engine, Step, workflow
from wfes.core import events as e
from wfes.log.application import decode
from wfes.log.open import open_log

SECONDS = {"wait": 0.020, "compute": 0.005}
WARM = 50
SEEN_SECONDS = 1.5
"""How long the workers get to see each other."""


def compute(seconds: float) -> None:
    """Keeps a core busy for so much CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        """Computes."""


@workflow
async def piece(kind: str, step: Step) -> None:
    """A piece of work."""
    if kind == "wait":
        await step("wait", asyncio.sleep, SECONDS[kind])
    else:
        await step("compute", compute, SECONDS[kind])


async def burst(number: int, kind: str) -> float:
    """Starts so many at once; the seconds until all have ended."""
    begun = time.perf_counter()
    started = await asyncio.gather(*(piece.start(kind) for _ in range(number)))
    await asyncio.gather(*(instance.result() for instance in started))
    return time.perf_counter() - begun


async def work(url: str) -> None:
    """A worker process; starts a burst whenever it is asked."""
    async with Engine(url, workflows=[piece]) as engine:
        print(json.dumps(engine._parts._worker.worker if engine._parts._worker else None), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            number, kind = line.split()
            print(json.dumps(await burst(int(number), kind)), flush=True)


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found: str = json.loads(process.stdout.readline())
    return found


@contextmanager
def worker(url: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A worker process, at work, and its worker's id."""
    line = [sys.executable, __file__, "--child", url]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, told(process)
        finally:
            process.kill()


def burst_seconds(process: subprocess.Popen[str], number: int, kind: str) -> float:
    """Lets a worker process start a burst."""
    assert process.stdin is not None
    process.stdin.write(f"{number} {kind}\n")
    process.stdin.flush()
    return float(told(process))


def measure(url: str, processes: int, kind: str, instances: int) -> Found:
    """One run: the seconds it took, and the share of each worker in per cent, the starter's first."""
    with ExitStack() as stack:
        crew = [stack.enter_context(worker(url)) for _ in range(processes)]
        time.sleep(SEEN_SECONDS)
        burst_seconds(crew[0][0], WARM, kind)
        log = open_log(url)
        log.open(())
        try:
            after = log.max_notification_id() or 0
            seconds = burst_seconds(crew[0][0], instances, kind)
            ran: Counter[str] = Counter()
            for stored in log.select_notifications(after + 1, 20 * instances):
                event = decode(stored).event
                if isinstance(event, e.RunClaimed):
                    ran[event.worker] += 1
        finally:
            log.close()
    return {"seconds": seconds, "shares": [round(ran[id] / ran.total() * 100) for _, id in crew]}


def report(arguments: argparse.Namespace) -> Found:
    """Each kind of work with each number of workers, `--runs` times."""
    shown: Found = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for kind in SECONDS:
            for processes in (int(number) for number in arguments.processes.split(",")):
                runs: list[Found] = []
                for number in range(arguments.runs):
                    if arguments.sqlite:
                        url = f"sqlite:///{Path(directory, f'{kind}-{processes}-{number}.db')}"
                        runs.append(measure(url, processes, kind, arguments.instances))
                    else:
                        with fresh(arguments.postgres or "") as url:
                            runs.append(measure(url, processes, kind, arguments.instances))
                shown[f"{kind}, {processes} workers"] = {
                    "seconds": spread([run["seconds"] for run in runs]),
                    "shares_percent": [run["shares"] for run in runs],
                }
        here = machine(directory)
    return {
        "question": "How is a burst that one process starts spread over the workers?",
        "machine": here,
        "log": "sqlite" if arguments.sqlite else "postgresql",
        "instances": arguments.instances,
        "work": shown,
    }


def main() -> None:
    options = parser(__doc__, instances=1000)
    options.add_argument("--processes", default="1,2,4", help="how many worker processes; default: 1,2,4")
    options.add_argument("--sqlite", action="store_true", help="on SQLite instead")
    option(options, "a server whose user may create databases; default: one of its own")
    arguments = options.parse_args()
    if arguments.child is None:
        show(report(arguments))
    else:
        asyncio.run(work(arguments.child))


if __name__ == "__main__":
    main()
