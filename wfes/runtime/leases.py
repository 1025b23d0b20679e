"""Who runs instances on this log, and who of them is dead.

Owns the table ``wfes_workers`` (an operational table: it is not made from the log and nothing rests on it but *when*
somebody else may try; who is right is decided by the log alone) and the lock that each worker holds on a file
beside a SQLite database for as long as its process lives. The operating system frees that lock the moment the
process is gone, however it went, so a free lock means dead at once; a stopped process keeps it.

A lock tells about processes of this machine: those that share its boot (containers too), or its name (the boot
before the last restart). All others are judged by their heartbeat: a counter that did not change for one lease by
the observer's own monotonic clock. A heartbeat is written only while somebody is registered who needs it, so an
idle engine on its own disk writes nothing.

Invariants: a worker's row is written after it holds its lock and before it claims anything; an id is used once;
looking at a lock takes it shared, so that two who look do not take each other for its owner.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from wfes.core.durations import SECOND
from wfes.errors import LogUnavailable
from wfes.log.filelock import lock as _lock

LEASE_MICROS = 30 * SECOND
"""How long a heartbeat may stay unchanged before its worker is taken for dead."""
BEAT_SECONDS = 10.0
"""How often a heartbeat is written while somebody needs it."""
SWEEP_AGE_SECONDS = 60.0
"""How old a lock file must be to be removed without its worker ever having registered."""

CREATE: tuple[str, ...] = (
    """CREATE TABLE IF NOT EXISTS wfes_workers (
        id TEXT PRIMARY KEY,
        name TEXT,
        host TEXT NOT NULL,
        boot TEXT NOT NULL,
        pid INTEGER NOT NULL,
        started_at BIGINT NOT NULL,
        beat BIGINT NOT NULL,
        locked BIGINT NOT NULL,
        code TEXT NOT NULL
    )""",
)
"""Statements for ``Log.open``."""

SELECT = "SELECT id, host, boot, beat, locked FROM wfes_workers"
INSERT = """INSERT INTO wfes_workers (id, name, host, boot, pid, started_at, beat, locked, code)
    VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (id) DO NOTHING"""
BEAT = "UPDATE wfes_workers SET beat = beat + 1 WHERE id = ?"
DELETE = "DELETE FROM wfes_workers WHERE id = ?"


def new_worker_id() -> str:
    """An id that was never used before, readable by whoever asks which process that was."""
    host = "".join(c if c.isalnum() else "-" for c in platform.node().partition(".")[0])[:20] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a process runs: the host's name, and what is the same for all processes since it was switched on."""

    host: str
    boot: str

    @classmethod
    def here(cls) -> Machine:
        """This machine, as running now."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            boot = f"{uuid.getnode():012x}"
        return cls(platform.node(), boot)

    def sees_locks_of(self, other: Machine) -> bool:
        """Whether a file lock taken there is visible here."""
        return self.boot == other.boot or self.host == other.host


class WorkerLock:
    """A file lock held for as long as this process lives, or until `release`."""

    def __init__(self, directory: Path, worker: str) -> None:
        """Takes the lock of a new worker.

        Args:
            directory: created if it is missing.
            worker: the worker's id, never used before.

        Raises:
            LogUnavailable: the file cannot be made or locked.
        """
        self.path = lock_path(directory, worker)
        self._fd = -1
        try:
            self._fd = _create(self.path)
            _lock(self._fd, exclusive=True)
        except OSError as error:
            raise LogUnavailable(
                str(directory),
                f"a worker must be able to lock a file there ({error.strerror or error}); "
                "give this user the right to, or open the engine with worker=False",
            ) from error
        _held.add(self)

    @property
    def in_place(self) -> bool:
        """Whether the locked file is still the one that others find; somebody may have deleted it."""
        try:
            return os.fstat(self._fd).st_ino == self.path.stat().st_ino
        except OSError:
            return False

    def release(self) -> None:
        """Frees the lock and removes its file, and the directory with the last one. Safe to call twice."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.forget()
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()

    def forget(self) -> None:
        """Closes this process's hold on the file; a forked child's, without freeing its parent's lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        _held.discard(self)


def lock_path(directory: Path, worker: str) -> Path:
    """The lock file of a worker; found by its id, for the same folder may have another path in a container."""
    return directory / f"{worker}.lock"


def _create(path: Path) -> int:
    for _ in range(9):
        # The last worker to leave removes the folder, perhaps between these two lines.
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    raise FileNotFoundError(2, "its folder keeps vanishing")


def sweep(directory: Path, registered: Collection[str]) -> None:
    """Removes lock files that nobody holds and no row speaks of, as crashes leave them.

    Args:
        directory: where the lock files are.
        registered: ids of the workers in the table.
    """
    for path in directory.glob("*.lock"):
        with contextlib.suppress(OSError):
            # A young file may belong to a worker that is about to register.
            old = time.time() - path.stat().st_mtime > SWEEP_AGE_SECONDS
            if old and path.stem not in registered and lock_is_free(path):
                path.unlink()


_held: weakref.WeakSet[WorkerLock] = weakref.WeakSet()


def _forget_all() -> None:
    # A forked child shares its parent's open files, and would keep a dead parent's locks alive.
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def lock_is_free(path: Path) -> bool | None:
    """Whether nobody holds the lock; None where the file is gone, which says nothing about its owner."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return _lock(fd, exclusive=False)
    finally:
        os.close(fd)


def lock_directory(url: str) -> Path | None:
    """Where the workers of a log keep their locks: beside a SQLite file, nowhere for a database in memory."""
    scheme, _, rest = url.partition("://")
    path = unquote(rest.removeprefix("/"))
    if scheme != "sqlite" or path in ("", ":memory:"):
        return None
    file = Path(path).absolute()
    return file.with_name(f"{file.name}.workers")


@dataclass(frozen=True, slots=True)
class Registered:
    """One row of ``wfes_workers``."""

    id: str
    machine: Machine
    beat: int
    locked: bool


@dataclass(slots=True)
class Census:
    """What one look at the other workers found.

    Attributes:
        dead: ids of workers that will do nothing any more.
        alive: ids of the others.
        needs_beat: somebody is registered who cannot see this worker's lock.
    """

    dead: list[str] = field(default_factory=list[str])
    alive: list[str] = field(default_factory=list[str])
    needs_beat: bool = False


class Observer:
    """Judges other workers by their locks and heartbeats. Used by one thread at a time."""

    def __init__(
        self,
        worker: str,
        machine: Machine,
        directory: Path | None,
        *,
        lease_micros: int = LEASE_MICROS,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Makes an observer for the worker with this id on this machine, with this folder of lock files."""
        self._worker = worker
        self._machine = machine
        self._directory = directory
        self._lease = lease_micros * 1_000
        self._monotonic = monotonic
        self._seen: dict[str, tuple[int, int]] = {}

    def look(self, rows: Sequence[Sequence[object]]) -> Census:
        """Judges all workers but this one.

        Args:
            rows: what ``SELECT`` gave.
        """
        census = Census()
        now = self._monotonic()
        seen: dict[str, tuple[int, int]] = {}
        for row in rows:
            other = _registered(row)
            if other.id == self._worker:
                continue
            visible = self._machine.sees_locks_of(other.machine)
            census.needs_beat |= not visible
            if self._is_dead(other, visible, now, seen):
                census.dead.append(other.id)
            else:
                census.alive.append(other.id)
        self._seen = seen
        return census

    def _is_dead(self, other: Registered, visible: bool, now: int, seen: dict[str, tuple[int, int]]) -> bool:
        if visible and other.locked and self._directory is not None:
            free = lock_is_free(lock_path(self._directory, other.id))
            if free is not None:
                return free
        beat, since = self._seen.get(other.id, (other.beat, now))
        if beat != other.beat:
            since = now
        seen[other.id] = (other.beat, since)
        return now - since >= self._lease


def _registered(row: Sequence[object]) -> Registered:
    id, host, boot, beat, locked = row
    assert isinstance(beat, int)
    return Registered(str(id), Machine(str(host), str(boot)), beat, bool(locked))
