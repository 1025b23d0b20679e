"""Locking an open file against other processes, without waiting; the operating system frees it with the process."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import msvcrt

    def lock(fd: int, *, exclusive: bool) -> bool:
        """Locks the open file without waiting; False if somebody else holds it. Freed when it is closed."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        if not exclusive:
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        return True

else:
    import fcntl

    def lock(fd: int, *, exclusive: bool) -> bool:
        """Locks the open file without waiting; False if somebody else holds it. Freed when it is closed."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
