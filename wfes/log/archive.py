"""Where archived histories lie: files beside the log, one a day, each a row of gzip members called *blocks*.

Owns the bytes on disk: the folder, its lock, the end of a file, durability. What stands in a block says
``wfes.log.blocks``; this module only knows that a block says its own length, which is how the end of the last good one
is found without unpacking any.

Invariants: what ``append`` returned is on disk; a block is only added behind the last one that is whole, so that
``zcat`` reads a file from its beginning to its end; nothing that is whole is ever changed or cut off. What a crash
left of a block that was being written is cut off by the next one to append; anything else that is no block (somebody
wrote to the file, a disk lost a part of it) is left as it is, and the day goes on in another file.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from wfes.errors import ArchiveUnavailable
from wfes.log.filelock import lock

CHUNK_BYTES = 256 * 1024
"""How much of a block is read at once."""
SUFFIX = ".jsonl.gz"

_FILES_A_DAY_MAX = 1_000
_HEADER = struct.Struct("<3sB6sH2sHQ")
"""A gzip header with one extra field: the length of the whole block."""
_MAGIC = b"\x1f\x8b\x08"
_HAS_EXTRA = 4
_NO_TIME = b"\0\0\0\0\0\xff"
_FIELD = b"WF"
_BEGINNING = struct.pack("<3sB6sH2sH", _MAGIC, _HAS_EXTRA, _NO_TIME, 12, _FIELD, 8)
_TRAILER = struct.Struct("<II")


def block(content: bytes) -> bytes:
    """The content as a gzip member that says its own length."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush()
    trailer = _TRAILER.pack(zlib.crc32(content), len(content) & 0xFFFFFFFF)
    length = _HEADER.size + len(packed) + len(trailer)
    return _BEGINNING + struct.pack("<Q", length) + packed + trailer


class Archive(Protocol):
    """Blocks by file and place.

    Attributes:
        where: what errors call it.
    """

    where: str

    def try_lock(self) -> bool:
        """Takes the right to append; False while anybody else, in whatever process, has it.

        Raises:
            ArchiveUnavailable: it cannot be locked at all.
        """
        ...

    def unlock(self) -> None:
        """Gives that right back. Safe to call without it."""
        ...

    def append(self, day: str, blocks: Sequence[bytes]) -> tuple[str, list[int]]:
        """Adds blocks to the file of a day (``YYYY-MM-DD``); returns its name and where each block begins.

        When it returns, they survive power loss; if it raises, nothing was added.

        Raises:
            ArchiveUnavailable: they cannot be written: no space, no right to, no lock, …
        """
        ...

    def read(self, file: str, offset: int, length: int) -> Iterator[bytes]:
        """The bytes of a block, part by part.

        Raises:
            ArchiveUnavailable: they are not there or cannot be read.
        """
        ...


class FileArchive:
    """An archive in a folder of files.

    Whoever gives the lock back while a thread still appends (because whoever waited for that was cancelled) waits for
    the thread: nobody else appends meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        """Makes one; the folder is made when something is archived."""
        self.folder = folder
        self.where = str(folder)
        self._lock = -1
        self._appending = threading.Lock()
        self._ends: dict[str, int] = {}
        """Ends of files as this process left them: no need to look again while the size is still that."""

    def try_lock(self) -> bool:
        if self._lock >= 0:
            return False
        try:
            self._make_folder()
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._trouble(self.where, error) from error
        taken = False
        try:
            taken = lock(fd, exclusive=True)
        except OSError as error:
            raise self._trouble(self.where, error) from error
        finally:
            if not taken:
                os.close(fd)
        if taken:
            self._lock = fd
        return taken

    def unlock(self) -> None:
        with self._appending:
            fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)

    def append(self, day: str, blocks: Sequence[bytes]) -> tuple[str, list[int]]:
        with self._appending:
            if self._lock < 0:
                raise ArchiveUnavailable(self.where, "it is not locked by whoever wants to write to it")
            return self._append(day, blocks)

    def _append(self, day: str, blocks: Sequence[bytes]) -> tuple[str, list[int]]:
        file, fd, end = self._opened(day)
        path = self.folder / file
        offsets: list[int] = []
        try:
            at = end
            for content in blocks:
                offsets.append(at)
                _write(fd, content, at)
                at += len(content)
            os.fsync(fd)
            if not end:
                _sync_folder(self.folder)
        except OSError as error:
            self._ends.pop(file, None)
            with suppress(OSError):
                os.ftruncate(fd, end)
            raise self._trouble(str(path), error) from error
        finally:
            os.close(fd)
        self._ends[file] = at
        return file, offsets

    def read(self, file: str, offset: int, length: int) -> Iterator[bytes]:
        path = self.folder / file
        if path.name != file:
            raise ArchiveUnavailable(str(path), "the log names no file of this archive")
        try:
            with path.open("rb") as opened:
                opened.seek(offset)
                while length:
                    chunk = opened.read(min(length, CHUNK_BYTES))
                    if not chunk:
                        raise ArchiveUnavailable(str(path), "it is shorter than it was when the log named it")
                    length -= len(chunk)
                    yield chunk
        except OSError as error:
            raise self._trouble(str(path), error) from error

    # ------------------------------------------------------------------------------- files and their ends

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(exist_ok=True)
            _sync_folder(self.folder.parent)

    def _opened(self, day: str) -> tuple[str, int, int]:
        """The day's file that can be added to: its name, open, and where its last whole block ends."""
        for number in range(1, _FILES_A_DAY_MAX + 1):
            file = f"{day}{SUFFIX}" if number == 1 else f"{day}.{number}{SUFFIX}"
            path = self.folder / file
            fd = -1
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                end = self._end(file, fd)
                if end is not None:
                    return file, fd, end
                os.close(fd)
            except OSError as error:
                if fd >= 0:
                    os.close(fd)
                raise self._trouble(str(path), error) from error
        raise ArchiveUnavailable(
            self.where, f"none of its {_FILES_A_DAY_MAX:,} files of {day} can be added to"
        )

    def _end(self, file: str, fd: int) -> int | None:
        """Where the last whole block ends; a torn one behind it is cut off. None: the file is not to be added to."""
        size = os.fstat(fd).st_size
        if self._ends.get(file) == size:
            return size
        last, end = _walked(fd, size)
        if end < size:
            if not _is_torn(fd, end, size):
                return None
            os.ftruncate(fd, end)
        if end and not _is_whole(fd, last, end):
            return None
        return end

    @staticmethod
    def _trouble(place: str, error: OSError) -> ArchiveUnavailable:
        return ArchiveUnavailable(place, error.strerror or str(error))


class MemoryArchive:
    """An archive in this process's memory, for a log there."""

    def __init__(self) -> None:
        """Makes an empty one."""
        self.where = "(in memory)"
        self._files: dict[str, bytearray] = {}
        self._locked = False

    def try_lock(self) -> bool:
        if self._locked:
            return False
        self._locked = True
        return True

    def unlock(self) -> None:
        self._locked = False

    def append(self, day: str, blocks: Sequence[bytes]) -> tuple[str, list[int]]:
        file = f"{day}{SUFFIX}"
        content = self._files.setdefault(file, bytearray())
        offsets: list[int] = []
        for added in blocks:
            offsets.append(len(content))
            content += added
        return file, offsets

    def read(self, file: str, offset: int, length: int) -> Iterator[bytes]:
        content = self._files.get(file)
        if content is None or len(content) < offset + length:
            raise ArchiveUnavailable(f"{self.where}/{file}", "it is not there")
        yield bytes(content[offset : offset + length])


def _write(fd: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    os.lseek(fd, at, os.SEEK_SET)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(folder: Path) -> None:
    # Where a folder cannot be opened or synced (Windows, some network disks) its entries need no sync of their own.
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _walked(fd: int, size: int) -> tuple[int, int]:
    """Where the last block that is as long as it says begins and ends, from block to block."""
    last = end = 0
    while end + _HEADER.size <= size:
        header = _read(fd, end, _HEADER.size)
        (length,) = struct.unpack("<Q", header[-8:])
        if not header.startswith(_BEGINNING) or length < _HEADER.size or end + length > size:
            break
        last, end = end, end + length
    return last, end


def _is_torn(fd: int, end: int, size: int) -> bool:
    """Whether what stands behind ``end`` is the beginning of a block, or nothing but zeros, as a crash leaves it."""
    found = _read(fd, end, _HEADER.size)
    if found.startswith(_BEGINNING) or _BEGINNING.startswith(found):
        return True
    return all(not any(_read(fd, at, CHUNK_BYTES)) for at in range(end, size, CHUNK_BYTES))


def _is_whole(fd: int, start: int, end: int) -> bool:
    """Whether the block's content is what its checksum says."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        for at in range(start, end, CHUNK_BYTES):
            unpacker.decompress(_read(fd, at, min(CHUNK_BYTES, end - at)))
    except zlib.error:
        return False
    return unpacker.eof


def _read(fd: int, at: int, length: int) -> bytes:
    os.lseek(fd, at, os.SEEK_SET)
    return os.read(fd, length)
