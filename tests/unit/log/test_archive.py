"""The archive: blocks that survive, torn ends, foreign bytes, full disks; histories in blocks; the whole log."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from eventsourcing.persistence import Notification

from wfes.core import chain
from wfes.core import events as e
from wfes.errors import ArchiveUnavailable
from wfes.log import archived, blocks
from wfes.log.application import body_bytes, digest
from wfes.log.archive import Archive, FileArchive, MemoryArchive, block
from wfes.log.archived import missed, stored_history, whole_history, whole_log
from wfes.log.memory import MemoryLog
from wfes.log.open import open_log
from wfes.log.port import Log
from wfes_projections import Archived

DAY = "2030-01-31"
FILE = "2030-01-31.jsonl.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log.db.archive"


@pytest.fixture
def archive(folder: Path) -> FileArchive:
    return FileArchive(folder)


def content(archive: Archive, file: str, offset: int, size: int) -> bytes:
    return gzip.decompress(b"".join(archive.read(file, offset, size)))


def added(archive: FileArchive, *contents: bytes) -> list[tuple[str, int, int]]:
    made = [block(each) for each in contents]
    assert archive.try_lock()
    try:
        file, offsets = archive.append(DAY, made)
    finally:
        archive.unlock()
    return [(file, offset, len(each)) for offset, each in zip(offsets, made, strict=True)]


# -- files -----------------------------------------------------------------------------------------


def test_blocks_are_read_back_one_by_one(archive: FileArchive) -> None:
    large = os.urandom(700_000)
    places = [*added(archive, b"one\n", large), *added(archive, b"", b"four\n")]
    assert [content(archive, *place) for place in places] == [b"one\n", large, b"", b"four\n"]


def test_a_file_is_gzip_as_others_know_it(archive: FileArchive, folder: Path) -> None:
    added(archive, b"one\n", b"two\n")
    added(archive, b"three\n")
    with gzip.open(folder / FILE) as file:
        assert file.read() == b"one\ntwo\nthree\n"
    zcat = shutil.which("zcat")
    if zcat is not None:
        found = subprocess.run([zcat, folder / FILE], capture_output=True, check=True)
        assert found.stdout == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("left", [1, 5, 20, 24, 30, -1])
def test_a_torn_end_is_cut_off(archive: FileArchive, folder: Path, left: int) -> None:
    (first,) = added(archive, b"one\n")
    whole = (folder / FILE).read_bytes()
    torn = block(b"torn" * 100)[:left]
    (folder / FILE).write_bytes(whole + torn)
    (second,) = added(FileArchive(folder), b"two\n")
    assert second[:2] == (FILE, len(whole))
    assert gzip.decompress((folder / FILE).read_bytes()) == b"one\ntwo\n"
    assert content(archive, *first) == b"one\n"


def test_zeros_at_the_end_are_cut_off(archive: FileArchive, folder: Path) -> None:
    added(archive, b"one\n")
    with (folder / FILE).open("ab") as file:
        file.write(bytes(600_000))
    added(FileArchive(folder), b"two\n")
    assert gzip.decompress((folder / FILE).read_bytes()) == b"one\ntwo\n"


def test_what_is_no_block_is_left_alone(archive: FileArchive, folder: Path) -> None:
    added(archive, b"one\n")
    with (folder / FILE).open("ab") as file:
        file.write(gzip.compress(b"somebody's own\n"))
    before = (folder / FILE).read_bytes()
    ((file_name, offset, size),) = added(FileArchive(folder), b"two\n")
    assert (folder / FILE).read_bytes() == before
    assert (file_name, offset) == ("2030-01-31.2.jsonl.gz", 0)
    assert content(archive, file_name, offset, size) == b"two\n"


def test_nothing_is_added_behind_a_block_that_lost_its_content(archive: FileArchive, folder: Path) -> None:
    (place,) = added(archive, b"one\n" * 100)
    whole = bytearray((folder / FILE).read_bytes())
    whole[30] ^= 0xFF
    (folder / FILE).write_bytes(whole)
    assert added(FileArchive(folder), b"two\n")[0][0] == "2030-01-31.2.jsonl.gz"
    assert (folder / FILE).read_bytes() == whole
    with pytest.raises((zlib.error, gzip.BadGzipFile)):
        content(archive, *place)


def test_a_full_disk_adds_nothing(
    archive: FileArchive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(archive, b"one\n")
    before = (folder / FILE).read_bytes()
    real = os.write
    room = [30]

    def write(fd: int, data: bytes | memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data[: room[0]])
        room[0] -= len(part)
        return real(fd, part)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(ArchiveUnavailable, match="No space left on device") as caught:
        added(archive, b"two\n" * 100)
    assert caught.value.place == str(folder / FILE)
    assert (folder / FILE).read_bytes() == before
    monkeypatch.undo()
    added(archive, b"two\n")
    assert gzip.decompress((folder / FILE).read_bytes()) == b"one\ntwo\n"


def test_one_at_a_time(archive: FileArchive, folder: Path) -> None:
    other = FileArchive(folder)
    assert archive.try_lock()
    assert not archive.try_lock()
    assert not other.try_lock()
    archive.unlock()
    archive.unlock()
    assert other.try_lock()
    assert not archive.try_lock()
    other.unlock()


def test_without_the_lock_nothing_is_added(archive: FileArchive, folder: Path) -> None:
    with pytest.raises(ArchiveUnavailable, match="not locked"):
        archive.append(DAY, [block(b"one\n")])
    assert not folder.exists()


def test_the_lock_is_kept_until_what_is_being_added_is(
    archive: FileArchive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited for the thread that writes may be cancelled, and gives the lock back at once."""
    other = FileArchive(folder)
    writing, go_on = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(fd: int) -> None:
        writing.set()
        assert go_on.wait(20)
        real(fd)

    assert archive.try_lock()
    monkeypatch.setattr(os, "fsync", fsync)
    adding = threading.Thread(target=archive.append, args=(DAY, [block(b"one\n")]))
    adding.start()
    assert writing.wait(20)
    leaving = threading.Thread(target=archive.unlock)
    leaving.start()
    assert not other.try_lock()
    assert leaving.is_alive()
    go_on.set()
    adding.join(20)
    leaving.join(20)
    assert other.try_lock()
    other.unlock()


def test_a_file_that_is_not_there_says_so(archive: FileArchive, folder: Path) -> None:
    with pytest.raises(ArchiveUnavailable, match="No such file") as caught:
        list(archive.read("2031-01-01.jsonl.gz", 0, 10))
    assert caught.value.place == str(folder / "2031-01-01.jsonl.gz")
    added(archive, b"one\n")
    with pytest.raises(ArchiveUnavailable, match="shorter"):
        list(archive.read(FILE, 0, 10_000))
    with pytest.raises(ArchiveUnavailable, match="names no file"):
        list(archive.read("../log.db", 0, 10))


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveUnavailable, match="Not a directory"):
        FileArchive(tmp_path / "file" / "x.archive").try_lock()


def test_an_archive_in_memory() -> None:
    archive = MemoryArchive()
    assert archive.try_lock()
    assert not archive.try_lock()
    archive.unlock()
    made = block(b"one\n")
    file, offsets = archive.append(DAY, [made, made])
    assert content(archive, file, offsets[1], len(made)) == b"one\n"
    with pytest.raises(ArchiveUnavailable, match="not there"):
        list(archive.read("2031-01-01.jsonl.gz", 0, 10))


# -- histories -------------------------------------------------------------------------------------


def history(id: str, positions: list[int]) -> list[Notification]:
    """A chain of events, one at each position."""
    found: list[Notification] = []
    tail = chain.GENESIS
    for version, position in enumerate(positions, 1):
        event: e.Event = e.StepStarted(at=position, path=f"ä{version}")
        if version == 1:
            event = e.WorkflowStarted(at=position, workflow="w", input="\u2028☃")
        elif version == len(positions):
            event = e.WorkflowCompleted(at=position, output=position)
        found.append(Notification(id, version, event.topic, tail + body_bytes(event), position))
        tail = digest(found[-1])
    return found


def stone(stored: list[Notification], file: str, offset: int, length: int) -> e.HistoryArchived:
    return e.HistoryArchived(
        at=9,
        workflow="w",
        status="completed",
        versions=len(stored),
        digest=digest(stored[-1]).hex(),
        file=file,
        offset=offset,
        length=length,
        first=stored[0].id,
        last=stored[-1].id,
        created=1,
        ended=2,
    )


def put(archive: Archive, *histories: list[Notification]) -> dict[str, e.HistoryArchived]:
    """Archives histories in one block."""
    made = block(b"".join(blocks.line(stored) for each in histories for stored in each))
    file, (offset,) = archive.append(DAY, [made])
    return {str(each[0].originator_id): stone(each, file, offset, len(made)) for each in histories}


def test_a_history_comes_back_byte_for_byte() -> None:
    archive = MemoryArchive()
    a, b = history("a", [1, 2, 4]), history("b", [3, 5])
    stones = put(archive, a, b)
    assert list(blocks.history(archive, "a", stones["a"])) == a
    assert list(blocks.history(archive, "b", stones["b"])) == b
    assert sorted(blocks.histories(archive, stones), key=lambda each: each.id) == [
        a[0],
        a[1],
        b[0],
        a[2],
        b[1],
    ]
    assert blocks.broken_link(a) is None
    assert blocks.broken_link([a[0], replace(a[1], state=a[1].state + b" "), a[2]]) == 3
    assert blocks.broken_link(a[1:]) == 1


def test_a_line_is_json_that_people_can_read() -> None:
    (first, *_) = history("a", [7, 8])
    found = orjson.loads(blocks.line(first))
    assert found["position"] == 7
    assert found["instance"] == "a"
    assert found["version"] == 1
    assert found["type"] == "WorkflowStarted"
    assert found["prev"] == "0" * 64
    assert orjson.loads(found["body"])["input"] == "\u2028☃"
    assert blocks.event(blocks.line(first)) == first


def changed(stored: Notification) -> Notification:
    return replace(stored, state=stored.state.replace(b"path", b"Path"))


Change = Callable[[list[Notification]], list[Notification]]


CHANGES: list[tuple[Change, int]] = [
    (lambda h: [h[0], changed(h[1]), h[2], h[3]], 2),
    (lambda h: [h[0], h[2], h[3]], 2),
    (lambda h: h[:3], 4),
    (lambda h: [], 1),
    (lambda h: [h[0], h[2], h[1], h[3]], 2),
    (lambda h: [*h[:3], replace(h[3], state=h[3].state[:-1] + b" }")], 4),
]


@pytest.mark.parametrize(
    ("change", "version"), CHANGES, ids=["changed", "removed", "cut", "all gone", "swapped", "last changed"]
)
def test_a_changed_history_is_not_given(change: Change, version: int) -> None:
    archive = MemoryArchive()
    sound = history("a", [1, 2, 3, 4])
    made = block(b"".join(map(blocks.line, change(sound))))
    file, (offset,) = archive.append(DAY, [made])
    mark = stone(sound, file, offset, len(made))
    for reading in (
        blocks.history(archive, "a", mark),
        blocks.histories(archive, {"a": mark}),
    ):
        given: list[Notification] = []
        with pytest.raises(ArchiveUnavailable, match=f"version {version} ") as caught:
            given.extend(reading)
        assert caught.value.instance == "a"
        assert given == sound[: len(given)]
        assert len(given) < version


def test_a_block_that_is_none_says_so() -> None:
    archive = MemoryArchive()
    sound = history("a", [1, 2])
    for bytes_ in (b"no gzip at all", block(b"not json\n"), block(b"[1]\n"), block(b"x")[:-9]):
        file, (offset,) = archive.append(DAY, [bytes_])
        with pytest.raises(ArchiveUnavailable, match="changed or damaged") as caught:
            list(blocks.history(archive, "a", stone(sound, file, offset, len(bytes_))))
        assert caught.value.instance == "a"


# -- the whole log ---------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite://", "sqlite:///{}/log.db"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Log]:
    log = open_log(request.param.format(tmp_path))
    log.open(Archived().create)
    yield log
    log.close()


def insert(log: Log, *stored: Notification) -> None:
    write = log.begin()
    write.insert([(s.id, str(s.originator_id), s.originator_version, s.topic, s.state) for s in stored])
    write.commit()


def move(log: Log, *histories: list[Notification]) -> list[Notification]:
    """Moves histories to the archive as retention does; returns what stands in their place."""
    assert log.archive.try_lock()
    marks = put(log.archive, *histories)
    log.archive.unlock()
    write = log.begin()
    put_there: list[Notification] = []
    for each in histories:
        id = str(each[0].originator_id)
        write.delete_history(id, len(each))
        event = marks[id]
        there = Notification(
            id, len(each) + 1, event.topic, digest(each[-1]) + body_bytes(event), write.head + 1
        )
        write.insert([(there.id, id, there.originator_version, there.topic, there.state)])
        write.query(Archived().upsert, (id, event.file, event.first, event.last))
        put_there.append(there)
    write.commit()
    return put_there


def three(log: Log) -> tuple[list[Notification], list[Notification], list[Notification]]:
    a, b, c = history("a", [1, 3, 6]), history("b", [2, 4]), history("c", [5, 7, 8, 9])
    insert(log, *sorted([*a, *b, *c], key=lambda stored: stored.id))
    return a, b, c


def test_the_whole_log_is_in_order(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = three(log)
    everything = sorted([*a, *b, *c], key=lambda stored: stored.id)
    assert list(whole_log(log)) == everything
    stones = move(log, c, a)
    for page in (1, 2, 3, 5_000):
        monkeypatch.setattr(archived, "PAGE", page)
        assert list(whole_log(log)) == [*everything, *stones]
        assert list(whole_log(log, 4)) == [*everything[4:], *stones]
        assert list(whole_log(log, 4, upto=7)) == everything[4:7]
        only = [s for s in everything if s.topic == "WorkflowCompleted"]
        assert list(whole_log(log, topics=["WorkflowCompleted"])) == only
    move(log, b)
    assert list(whole_log(log))[:9] == everything


def test_what_is_archived_while_the_log_is_read_is_given_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = three(log)
    everything = sorted([*a, *b, *c], key=lambda stored: stored.id)
    stones = move(log, b)
    monkeypatch.setattr(archived, "PAGE", 2)
    reading = whole_log(log)
    found = [next(reading) for _ in range(3)]
    move(log, c, a)
    found.extend(reading)
    assert found == [*everything, *stones]


def test_who_reads_on_is_told_of_what_left_before_it_came(log: Log) -> None:
    a, b, _ = three(log)
    assert not missed(log, 0)
    move(log, b)
    assert missed(log, 3)
    assert not missed(log, 4)
    move(log, a)
    assert missed(log, 5)
    assert not missed(log, 6)


def test_a_stream_is_read_wherever_it_is(log: Log) -> None:
    a, b, _ = three(log)
    (there,) = move(log, a)
    assert list(stored_history(log, "a")) == [*a, there]
    assert list(stored_history(log, "a", after=1)) == [a[1], a[2], there]
    assert list(stored_history(log, "a", after=1, upto=2)) == [a[1]]
    assert list(stored_history(log, "a", after=1, limit=1)) == [a[1]]
    assert list(stored_history(log, "a", upto=3)) == a
    assert list(stored_history(log, "a", after=3)) == [there]
    assert list(stored_history(log, "a", after=4)) == []
    assert list(stored_history(log, "b")) == b
    assert list(stored_history(log, "b", after=2)) == []
    assert list(stored_history(log, "nobody", upto=3)) == []


def test_an_archive_that_is_gone(log: Log) -> None:
    a, b, _ = three(log)
    before = list(whole_log(log))
    (there,) = move(log, a)
    move(log, b)
    assert isinstance(log, MemoryLog) or Path(log.archive.where).is_dir()
    log.archive = MemoryArchive()
    with pytest.raises(ArchiveUnavailable):
        list(stored_history(log, "a"))
    with pytest.raises(ArchiveUnavailable):
        list(whole_log(log))
    assert list(whole_history(log.select_events("a"), "a", log.archive)) == [there]
    rest = [stored for stored in before if stored.originator_id == "c"]
    assert list(whole_log(log, lenient=True))[:4] == rest
