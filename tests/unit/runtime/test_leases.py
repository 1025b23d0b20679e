"""Who is dead: locks held by real processes, heartbeats by an observer's own clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from wfes.errors import LogUnavailable
from wfes.log import filelock
from wfes.log.file_presence import FileHold, FileLocks, lock_is_free, lock_path
from wfes.log.open import open_log
from wfes.log.presence import Beat, Hold
from wfes.runtime import leases
from wfes.runtime.leases import Census, Machine, Observer

HERE = Machine("here", "boot-1")

HOLDER = """
import sys, time
from pathlib import Path
from wfes.log.file_presence import FileHold
lock = FileHold(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""

FORKING = """
import os, sys
from pathlib import Path
from wfes.log.file_presence import FileHold
lock = FileHold(Path(sys.argv[1]), sys.argv[2])
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
    lock = FileHold(tmp_path, "w-1")
    lock.forget()
    looking = os.open(lock.path, os.O_RDWR)
    try:
        assert filelock.lock(looking, exclusive=False)
        assert lock_is_free(lock.path) is True
    finally:
        os.close(looking)


def test_released_locks_leave_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "log.db.workers"
    first, second = FileHold(directory, "w-1"), FileHold(directory, "w-2")
    assert first.is_held
    first.release()
    first.release()
    assert lock_is_free(first.path) is None
    assert lock_is_free(second.path) is False
    second.release()
    assert not directory.exists()


def test_a_deleted_lock_file_is_noticed(tmp_path: Path) -> None:
    lock = FileHold(tmp_path, "w-1")
    lock.path.unlink()
    assert not lock.is_held
    lock.path.write_text("")
    assert not lock.is_held, "another file of that name is not this lock"
    lock.release()


def test_an_id_is_used_once(tmp_path: Path) -> None:
    lock = FileHold(tmp_path, "w-1")
    with pytest.raises(LogUnavailable, match=r"worker=False"):
        FileHold(tmp_path, "w-1")
    lock.release()
    assert leases.new_worker_id() != leases.new_worker_id()


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LogUnavailable, match=r"lock a file there"):
        FileHold(file / "workers", "w-1")


def test_sweeping_takes_only_what_nobody_holds_or_speaks_of(tmp_path: Path) -> None:
    held = FileHold(tmp_path, "held")
    for name in ("young", "old", "registered"):
        lock_path(tmp_path, name).write_text("")
    for name in ("held", "old", "registered"):
        os.utime(lock_path(tmp_path, name), (1, 1))
    FileLocks(tmp_path).sweep(["registered"])
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["held", "registered", "young"]
    held.release()


def test_where_locks_are(tmp_path: Path) -> None:
    presence = open_log(f"sqlite:///{tmp_path}/a%20b.db").presence()
    assert isinstance(presence, FileLocks)
    assert presence.directory == tmp_path / "a b.db.workers"
    assert open_log("sqlite://").presence() is None


class Time:
    def __init__(self) -> None:
        self.nanos = 0

    def __call__(self) -> int:
        return self.nanos


def row(
    id: str,
    beat: int = 0,
    *,
    host: str = "there",
    boot: str = "boot-2",
    locked: int = 1,
    lease: int = 30_000_000,
    draining: int = 0,
    code: str = '{"job": {}}',
) -> tuple[object, ...]:
    return id, host, boot, beat, locked, lease, draining, code


def test_on_one_machine_the_lock_decides_at_once(tmp_path: Path) -> None:
    observer = Observer("me", HERE, FileLocks(tmp_path), monotonic=Time())
    lock = FileHold(tmp_path, "alive")
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
    observer = Observer("me", HERE, FileLocks(tmp_path))
    lock_path(tmp_path, "dead").write_text("")
    assert observer.look([row("dead", host=machine.host, boot=machine.boot)]).dead == ["dead"]


def looks(observer: Observer, clock: Time, seconds: int, rows: list[tuple[object, ...]]) -> Census:
    """Looks once a second for so long; what the last look found."""
    census = Census()
    for _ in range(seconds):
        clock.nanos += 1_000_000_000
        census = observer.look(rows)
    return census


def test_elsewhere_only_an_unchanged_heartbeat_means_dead(tmp_path: Path) -> None:
    clock = Time()
    observer = Observer("me", HERE, FileLocks(tmp_path), monotonic=clock)
    lock_path(tmp_path, "far").write_text("")
    census = observer.look([row("far", 1)])
    assert (census.alive, census.dead, census.needs_beat) == (["far"], [], True)
    assert looks(observer, clock, 29, [row("far", 1)]).dead == []
    assert looks(observer, clock, 1, [row("far", 2)]).dead == []
    assert looks(observer, clock, 29, [row("far", 2)]).dead == []
    assert looks(observer, clock, 1, [row("far", 2)]).dead == ["far"]
    assert observer.look([row("far", 3)]).dead == [], "it is alive after all"


def test_each_worker_is_judged_by_its_own_lease() -> None:
    clock = Time()
    observer = Observer("me", HERE, None, monotonic=clock)
    rows = [row("short", lease=2_000_000), row("long", lease=60_000_000)]
    observer.look(rows)
    assert looks(observer, clock, 2, rows).dead == ["short"]
    assert looks(observer, clock, 57, rows).dead == ["short"]
    assert looks(observer, clock, 1, rows).dead == ["short", "long"]


def test_time_in_which_nobody_could_look_counts_against_nobody() -> None:
    clock = Time()
    observer = Observer("me", HERE, None, monotonic=clock)
    observer.look([row("far")])
    clock.nanos += 3_600_000_000_000
    assert observer.look([row("far")]).dead == [], "the database was away, or this process stopped"
    assert looks(observer, clock, 27, [row("far")]).dead == []
    assert looks(observer, clock, 1, [row("far")]).dead == ["far"]


def test_a_lock_file_that_vanished_says_nothing(tmp_path: Path) -> None:
    clock = Time()
    observer = Observer("me", HERE, FileLocks(tmp_path), monotonic=clock)
    rows = [row("other", host="here", boot="boot-1")]
    assert observer.look(rows).alive == ["other"]
    assert looks(observer, clock, 29, rows).dead == []
    assert looks(observer, clock, 1, rows).dead == ["other"]


class Wire:
    """A presence with a connection in between."""

    certain = False

    def __init__(self, **free: bool) -> None:
        self.free = free

    def look(self, workers: Mapping[str, int]) -> Mapping[str, bool]:
        return {id: free for id, free in self.free.items() if id in workers}

    def hold(self, worker: str) -> Hold:
        raise NotImplementedError

    def tell(self, beat: Beat) -> bool:
        raise NotImplementedError

    def bury(self, worker: str) -> None:
        raise NotImplementedError

    def sweep(self, registered: Collection[str]) -> None:
        raise NotImplementedError


def test_a_lock_behind_a_connection_has_to_be_seen_free_twice() -> None:
    clock = Time()
    wire = Wire(w=True)
    observer = Observer("me", HERE, wire, monotonic=clock)
    rows = [row("w", host="here")]
    census = observer.look(rows)
    assert (census.dead, census.unsure) == ([], True), "its connection may have been cut, and be made again"
    wire.free["w"] = False
    clock.nanos += 120_000_000
    assert not observer.look(rows).unsure
    wire.free["w"] = True
    clock.nanos += 120_000_000
    assert observer.look(rows).dead == [], "this is the first look again"
    clock.nanos += 120_000_000
    assert observer.look(rows).dead == ["w"]


def test_a_lock_behind_a_connection_proves_nothing_while_it_is_held() -> None:
    clock = Time()
    observer = Observer("me", HERE, Wire(w=False), monotonic=clock)
    rows = [row("w", host="here")]
    assert observer.look(rows).needs_beat
    assert looks(observer, clock, 29, rows).dead == []
    assert looks(observer, clock, 1, rows).dead == ["w"]


def test_a_lock_behind_a_connection_says_nothing_about_other_machines() -> None:
    clock = Time()
    observer = Observer("me", HERE, Wire(far=True, unlocked=True), monotonic=clock)
    rows = [row("far"), row("unlocked", host="here", locked=0)]
    observer.look(rows)
    assert looks(observer, clock, 29, rows).dead == []
    assert looks(observer, clock, 1, rows).dead == ["far", "unlocked"]


def test_those_who_drain_or_run_something_else_are_no_peers() -> None:
    observer = Observer("me", HERE, None, workflows=["job"], monotonic=Time())
    rows = [
        row("a"),
        row("b", draining=1),
        row("c", code='{"other": {}}'),
        row("d", code='{"x": {}, "job": {}}'),
    ]
    census = observer.look(rows)
    assert (census.alive, census.peers) == (["a", "b", "c", "d"], ["a", "d"])


def test_a_lease_of_its_own_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leases.lease_micros() == 30_000_000
    monkeypatch.setenv("WFES_LEASE", "2s")
    assert leases.lease_micros() == 2_000_000
    monkeypatch.setenv("WFES_LEASE", "3")
    assert leases.lease_micros() == 3_000_000
    monkeypatch.setenv("WFES_LEASE", "10ms")
    with pytest.raises(ValueError, match="at least 1s"):
        leases.lease_micros()


def test_this_machine_is_the_same_for_all_its_processes() -> None:
    assert Machine.here() == Machine.here()
    assert Machine.here().sees_locks_of(Machine.here())
    assert not Machine("a", "1").sees_locks_of(Machine("b", "2"))
