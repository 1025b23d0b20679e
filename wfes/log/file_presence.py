"""Workers' locks on files beside a SQLite database.

The operating system frees such a lock the moment its process is gone, however it went, so a free lock means dead at
once; a stopped process keeps it. It tells about processes of this machine only.

Invariants: an id is used once; looking at a lock takes it shared, so that two who look do not take each other for
its owner; a forked child does not keep its parent's lock.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path

from wfes.errors import LogUnavailable
from wfes.log.filelock import lock as _lock
from wfes.log.presence import Beat

SWEEP_AGE_SECONDS = 60.0
"""How old a lock file must be to be removed without its worker ever having registered."""
_ERA = 1


class FileLocks:
    """The port's Presence: one locked file a worker, in a folder beside the database.

    Args:
        directory: the folder; it is made with the first lock and goes with the last.
    """

    certain = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def hold(self, worker: str) -> FileHold:
        return FileHold(self.directory, worker)

    def look(self, workers: Mapping[str, int]) -> Mapping[str, bool]:
        found = {worker: lock_is_free(lock_path(self.directory, worker)) for worker in workers}
        return {worker: free for worker, free in found.items() if free is not None}

    def tell(self, beat: Beat) -> bool:
        """Not offered: a SQLite database has one writer at a time."""
        return False

    def bury(self, worker: str) -> None:
        lock_path(self.directory, worker).unlink(missing_ok=True)

    def sweep(self, registered: Collection[str]) -> None:
        for path in self.directory.glob("*.lock"):
            with contextlib.suppress(OSError):
                # A young file may belong to a worker that is about to register.
                old = time.time() - path.stat().st_mtime > SWEEP_AGE_SECONDS
                if old and path.stem not in registered and lock_is_free(path):
                    path.unlink()


class FileHold:
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
    def era(self) -> int:
        return _ERA

    @property
    def is_held(self) -> bool:
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


_held: weakref.WeakSet[FileHold] = weakref.WeakSet()


def _forget_all() -> None:
    # A forked child shares its parent's open files, and would keep a dead parent's locks alive.
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
