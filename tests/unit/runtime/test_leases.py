"""Who is dead: locks held by real processes, heartbeats by an observer's own clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wfes.errors import LogUnavailable
from wfes.runtime import leases
from wfes.runtime.leases import Machine, Observer, WorkerLock, lock_directory, lock_is_free, lock_path

HERE = Machine("here", "boot-1")

HOLDER = """
import sys, time
from pathlib import Path
from wfes.runtime.leases import WorkerLock
lock = WorkerLock(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""

FORKING = """
import os, sys
from pathlib import Path
from wfes.runtime.leases import WorkerLock
lock = WorkerLock(Path(sys.argv[1]), sys.argv[2])
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(directory: Path, worker: str, program: str = HOLDER) -> Generator[subprocess.Popen[str]]:
    """Another process that holds a worker's lock."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory), worker],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()
            if holder.stdin is not None:
                holder.stdin.close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.005)


def test_a_lock_lives_and_dies_with_its_process(tmp_path: Path) -> None:
    with process(tmp_path, "w-1") as holder:
        path = lock_path(tmp_path, "w-1")
        assert lock_is_free(path) is False
        assert lock_is_free(path) is False, "looking does not free it"
        holder.send_signal(signal.SIGSTOP)
        assert lock_is_free(path) is False, "a stopped process is not dead"
        holder.kill()
        until(lambda: lock_is_free(path) is True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path: Path) -> None:
    with process(tmp_path, "w-1", FORKING) as holder:
        path = lock_path(tmp_path, "w-1")
        assert lock_is_free(path) is False
        holder.kill()
        until(lambda: lock_is_free(path) is True)


def test_two_who_look_do_not_see_each_other(tmp_path: Path) -> None:
    lock = WorkerLock(tmp_path, "w-1")
    lock.forget()
    looking = os.open(lock.path, os.O_RDWR)
    try:
        assert leases._lock(looking, exclusive=False)
        assert lock_is_free(lock.path) is True
    finally:
        os.close(looking)


def test_released_locks_leave_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "log.db.workers"
    first, second = WorkerLock(directory, "w-1"), WorkerLock(directory, "w-2")
    assert first.in_place
    first.release()
    first.release()
    assert lock_is_free(first.path) is None
    assert lock_is_free(second.path) is False
    second.release()
    assert not directory.exists()


def test_a_deleted_lock_file_is_noticed(tmp_path: Path) -> None:
    lock = WorkerLock(tmp_path, "w-1")
    lock.path.unlink()
    assert not lock.in_place
    lock.path.write_text("")
    assert not lock.in_place, "another file of that name is not this lock"
    lock.release()


def test_an_id_is_used_once(tmp_path: Path) -> None:
    lock = WorkerLock(tmp_path, "w-1")
    with pytest.raises(LogUnavailable, match=r"worker=False"):
        WorkerLock(tmp_path, "w-1")
    lock.release()
    assert leases.new_worker_id() != leases.new_worker_id()


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LogUnavailable, match=r"lock a file there"):
        WorkerLock(file / "workers", "w-1")


def test_sweeping_takes_only_what_nobody_holds_or_speaks_of(tmp_path: Path) -> None:
    held = WorkerLock(tmp_path, "held")
    for name in ("young", "old", "registered"):
        lock_path(tmp_path, name).write_text("")
    for name in ("held", "old", "registered"):
        os.utime(lock_path(tmp_path, name), (1, 1))
    leases.sweep(tmp_path, ["registered"])
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["held", "registered", "young"]
    held.release()


def test_where_locks_are() -> None:
    assert lock_directory("sqlite:////data/a%20b.db") == Path("/data/a b.db.workers")
    assert lock_directory("sqlite:///shop.db") == Path("shop.db.workers").absolute()
    assert lock_directory("sqlite://") is None
    assert lock_directory("sqlite:///:memory:") is None
    assert lock_directory("postgresql://host/db") is None


class Time:
    def __init__(self) -> None:
        self.nanos = 0

    def __call__(self) -> int:
        return self.nanos


def row(
    id: str, beat: int = 0, *, host: str = "there", boot: str = "boot-2", locked: bool = True
) -> tuple[object, ...]:
    return id, host, boot, beat, int(locked)


def test_on_one_machine_the_lock_decides_at_once(tmp_path: Path) -> None:
    observer = Observer("me", HERE, tmp_path, monotonic=Time())
    lock = WorkerLock(tmp_path, "alive")
    lock_path(tmp_path, "dead").write_text("")
    rows = [
        row("me", host="here", boot="boot-1"),
        row("alive", host="here", boot="boot-1"),
        row("dead", host="here", boot="boot-1"),
    ]
    census = observer.look(rows)
    assert (census.alive, census.dead, census.needs_beat) == (["alive"], ["dead"], False)
    lock.release()


@pytest.mark.parametrize("machine", [Machine("here", "boot-0"), Machine("container", "boot-1")])
def test_the_boot_before_and_containers_count_as_this_machine(tmp_path: Path, machine: Machine) -> None:
    observer = Observer("me", HERE, tmp_path)
    lock_path(tmp_path, "dead").write_text("")
    assert observer.look([row("dead", host=machine.host, boot=machine.boot)]).dead == ["dead"]


def test_elsewhere_only_an_unchanged_heartbeat_means_dead(tmp_path: Path) -> None:
    clock = Time()
    observer = Observer("me", HERE, tmp_path, lease_micros=30_000_000, monotonic=clock)
    lock_path(tmp_path, "far").write_text("")
    census = observer.look([row("far", 1)])
    assert (census.alive, census.dead, census.needs_beat) == (["far"], [], True)
    clock.nanos = 29_000_000_000
    assert observer.look([row("far", 2)]).dead == []
    clock.nanos = 58_000_000_000
    assert observer.look([row("far", 2)]).dead == []
    clock.nanos = 59_000_000_000
    assert observer.look([row("far", 2)]).dead == ["far"]
    assert observer.look([row("far", 3)]).dead == [], "it is alive after all"


def test_a_lock_file_that_vanished_says_nothing(tmp_path: Path) -> None:
    clock = Time()
    observer = Observer("me", HERE, tmp_path, monotonic=clock)
    rows = [row("other", host="here", boot="boot-1")]
    assert observer.look(rows).alive == ["other"]
    clock.nanos = 31_000_000_000
    assert observer.look(rows).dead == ["other"]


def test_this_machine_is_the_same_for_all_its_processes() -> None:
    assert Machine.here() == Machine.here()
    assert Machine.here().sees_locks_of(Machine.here())
    assert not Machine("a", "1").sees_locks_of(Machine("b", "2"))
