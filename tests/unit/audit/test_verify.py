"""Verifying: whatever is done to a log behind the engine's back is found, and the first bad event named."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from wfes import AuditReport, Engine, InstanceNotFound, Problem, Step, workflow
from wfes.audit import rows
from wfes.audit.positions import Positions
from wfes.audit.verify import verify_history, verify_log
from wfes.cli import main
from wfes.core import chain
from wfes.core import events as e
from wfes.log.application import body_bytes
from wfes.log.archive import block
from wfes.log.open import open_log
from wfes.log.port import StoredRow

AT = 1_900_000_000_000_000
STEPS = 7
LENGTH = 2 * STEPS + 3
INSTANCES = 120
"""More than two thousand events: more than one page."""

Change = Callable[[sqlite3.Connection], object]


def history(number: int) -> list[e.Event]:
    """The events of one instance."""
    at = AT + number * 1_000
    steps: list[e.Event] = []
    for step in range(STEPS):
        steps.append(e.StepStarted(at=at + step, path=f"s{step}", attempt=1))
        steps.append(e.StepCompleted(at=at + step, path=f"s{step}", result={"number": number, "step": step}))
    started = e.WorkflowStarted(at=at, workflow="w", input=number)
    return [
        started,
        e.RunClaimed(at=at, worker="w", epoch=1),
        *steps,
        e.WorkflowCompleted(at=at + 9, output=1),
    ]


def name(number: int) -> str:
    return f"i-{number:03d}"


def write(url: str, instances: int) -> None:
    """Writes a log in which the histories of every two instances are interleaved."""
    made: list[StoredRow] = []
    position = 0
    for first in range(0, instances, 2):
        pair = [name(first), name(first + 1)]
        tails = dict.fromkeys(pair, chain.GENESIS)
        for version, both in enumerate(zip(history(first), history(first + 1), strict=True), 1):
            for stream, event in zip(pair, both, strict=True):
                position += 1
                state = tails[stream] + body_bytes(event)
                made.append((position, stream, version, event.topic, state))
                tails[stream] = chain.digest(stream, version, event.topic, state)
    log = open_log(url)
    log.open([])
    target = log.begin()
    target.insert(made)
    target.commit()
    log.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that nobody touched."""
    path = tmp_path_factory.mktemp("verify") / "log.db"
    write(f"sqlite:///{path}", INSTANCES)
    asyncio.run(_opened(path))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


async def _opened(path: Path) -> None:
    async with Engine(f"sqlite:///{path}", worker=False):
        """Its tables are made."""


def changed(whole: Path, folder: Path, change: Change) -> AuditReport:
    """What verifying finds in a copy of the log that something was done to."""
    path = folder / "changed.db"
    shutil.copy(whole, path)
    connection = sqlite3.connect(path)
    change(connection)
    connection.commit()
    connection.close()
    return verified(path)


def verified(path: Path, instance: str | None = None) -> AuditReport:
    log = open_log(f"sqlite:///{path}")
    assert log.open_to_read()
    try:
        return verify_log(log) if instance is None else verify_history(log, instance)
    finally:
        log.close()


def first(report: AuditReport) -> tuple[str | None, int | None, str]:
    assert not report.ok
    problem = report.problems[0]
    return problem.instance, problem.version, problem.kind


def update(column: str, value: Any, version: int, stream: str = name(5)) -> Change:
    sql = f"UPDATE wfes_events SET {column} = ? WHERE originator_id = ? AND originator_version = ?"
    return lambda connection: connection.execute(sql, (value, stream, version))


def flip(version: int, bit: int, stream: str = name(5)) -> Change:
    def change(connection: sqlite3.Connection) -> None:
        state = bytearray(state_of(connection, version, stream))
        state[bit // 8] ^= 1 << bit % 8
        update("state", bytes(state), version, stream)(connection)

    return change


def state_of(connection: sqlite3.Connection, version: int, stream: str = name(5)) -> bytes:
    sql = "SELECT state FROM wfes_events WHERE originator_id = ? AND originator_version = ?"
    found: bytes = connection.execute(sql, (stream, version)).fetchone()[0]
    return found


def delete(where: str) -> Change:
    return lambda connection: connection.execute(f"DELETE FROM wfes_events WHERE {where}")


def of(version: int, stream: str = name(5)) -> str:
    return f"originator_id = '{stream}' AND originator_version = {version}"


def test_a_whole_log(whole: Path) -> None:
    report = verified(whole)
    assert report.ok
    assert bool(report)
    assert (report.events, report.histories) == (LENGTH * INSTANCES, INSTANCES)
    assert str(report) == "2,040 events of 120 histories verified: every hash chain is whole"
    assert verified(whole, name(5)) == AuditReport(LENGTH)


def test_each_flipped_bit_of_an_event_names_it(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.db"
    shutil.copy(whole, path)
    connection = sqlite3.connect(path, isolation_level=None)
    draw = random.Random(11)
    bits = len(state_of(connection, 8)) * 8
    for bit in [*range(0, 256, 9), *draw.sample(range(256, bits), 60)]:
        flip(8, bit)(connection)
        assert first(verified(path, name(5))) == (name(5), 8, "changed"), bit
        flip(8, bit)(connection)
    assert verified(path, name(5)).ok
    connection.close()


@pytest.mark.parametrize("version", [1, 2, LENGTH - 1])
def test_the_ends_of_a_history(whole: Path, tmp_path: Path, version: int) -> None:
    for bit in (3, 200, 300, 400):
        assert first(changed(whole, tmp_path, flip(version, bit))) == (name(5), version, "changed"), bit


def test_the_last_event_is_vouched_for_by_nothing_but_its_shape(whole: Path, tmp_path: Path) -> None:
    for bit in (3, 200, 257, 270):
        assert first(changed(whole, tmp_path, flip(LENGTH, bit))) == (name(5), LENGTH, "changed"), bit

    def later(connection: sqlite3.Connection) -> None:
        state = state_of(connection, LENGTH)
        update("state", state.replace(b'"output":1', b'"output":2'), LENGTH)(connection)

    assert changed(whole, tmp_path, later).ok  # as the documentation says: a checkpoint sees it


COLUMNS: list[tuple[Change, int, str]] = [
    (update("topic", "StepCompleted", 7), 7, "changed"),
    (update("topic", "Nothing", 7), 7, "changed"),
    (update("topic", "Nothing", LENGTH), LENGTH, "unreadable"),
    (update("state", "no bytes", 7), 7, "changed"),
    (update("state", b"", 7), 7, "changed"),
    (update("originator_version", 99, 7), 7, "reordered"),
    (update("originator_version", 99, LENGTH), LENGTH, "reordered"),
    (update("originator_version", -3, 7), -3, "reordered"),
    (update("originator_id", name(999), 7), 7, "re-attributed"),
    (update("originator_id", name(999), 1), 1, "re-attributed"),
    (update("notification_id", 1_000_000, 7), 7, "reordered"),
    (delete(of(7)), 7, "removed"),
    (delete(of(1)), 1, "removed"),
]


@pytest.mark.parametrize("number", range(len(COLUMNS)))
def test_every_column(whole: Path, tmp_path: Path, number: int) -> None:
    change, version, kind = COLUMNS[number]
    report = changed(whole, tmp_path, change)
    assert first(report) == (name(5), version, kind), str(report)


def test_a_version_that_is_no_number(whole: Path, tmp_path: Path) -> None:
    report = changed(whole, tmp_path, update("originator_version", "seven", 7))
    assert (name(5), 7, "removed") in {(each.instance, each.version, each.kind) for each in report.problems}


def test_an_event_given_to_another_instance(whole: Path, tmp_path: Path) -> None:
    def give(connection: sqlite3.Connection) -> None:
        sql = "UPDATE wfes_events SET originator_id = ?, originator_version = ? WHERE " + of(7)
        connection.execute(sql, (name(8), LENGTH + 1))

    report = changed(whole, tmp_path, give)
    assert [(each.instance, each.version, each.kind) for each in report.problems] == [
        (name(5), 7, "re-attributed"),
        (name(8), LENGTH + 1, "re-attributed"),
    ]
    assert f"stands in {name(8)} as version {LENGTH + 1}" in report.problems[0].text
    assert f"belongs to {name(5)}, behind version 6" in report.problems[1].text


@pytest.mark.parametrize(("one", "other"), [(7, 8), (7, 9), (4, 12), (3, LENGTH)])
def test_swapped_within_a_history(whole: Path, tmp_path: Path, one: int, other: int) -> None:
    def swap(connection: sqlite3.Connection) -> None:
        for source, target in ((one, -1), (other, one), (-1, other)):
            update("originator_version", target, source)(connection)

    report = changed(whole, tmp_path, swap)
    assert first(report)[:2] == (name(5), one), str(report)
    assert {each.kind for each in report.problems} == {"reordered"}, str(report)


def test_swapped_between_histories(whole: Path, tmp_path: Path) -> None:
    def swap(connection: sqlite3.Connection) -> None:
        mine, theirs = state_of(connection, 7), state_of(connection, 9, name(8))
        update("state", theirs, 7)(connection)
        update("state", mine, 9, name(8))(connection)

    report = changed(whole, tmp_path, swap)
    assert {(each.instance, each.version, each.kind) for each in report.problems} == {
        (name(5), 7, "re-attributed"),
        (name(8), 9, "re-attributed"),
    }, str(report)


def test_inserted_and_the_rest_renumbered(whole: Path, tmp_path: Path) -> None:
    for link in ("right", "wrong"):

        def insert(connection: sqlite3.Connection, link: str = link) -> None:
            prev = state_of(connection, 7)[: chain.SIZE] if link == "right" else b"x" * chain.SIZE
            for version in range(LENGTH, 6, -1):
                update("originator_version", version + 1, version)(connection)
            state = prev + body_bytes(e.StepStarted(at=AT, path="forged", attempt=1))
            connection.execute(
                "INSERT INTO wfes_events VALUES (100000, ?, 7, 'StepStarted', ?)", (name(5), state)
            )

        report = changed(whole, tmp_path, insert)
        assert first(report) == (name(5), 7, "inserted"), str(report)
        assert [each.version for each in report.problems if each.instance] == [7], str(report)


def test_removed_and_the_rest_renumbered(whole: Path, tmp_path: Path) -> None:
    def remove(connection: sqlite3.Connection) -> None:
        delete(of(7))(connection)
        for version in range(8, LENGTH + 1):
            update("originator_version", version - 1, version)(connection)

    report = changed(whole, tmp_path, remove)
    assert [(each.instance, each.version, each.kind) for each in report.problems] == [(name(5), 7, "removed")]


def test_ends_and_whole_histories_show_as_positions(whole: Path, tmp_path: Path) -> None:
    end = changed(whole, tmp_path, delete(of(LENGTH)))
    assert [(each.instance, each.position, each.kind) for each in end.problems] == [(None, 102, "removed")]
    instance = changed(whole, tmp_path, delete(f"originator_id = '{name(5)}'"))
    assert "17 events of the log stand in no history any more, at position 70, 72, 74" in str(instance)
    tail = changed(whole, tmp_path, delete(f"notification_id > {LENGTH * INSTANCES - 2 * LENGTH}"))
    assert first(tail) == (None, None, "removed")
    assert f"position {LENGTH * (INSTANCES - 2) + 1} to {LENGTH * INSTANCES}" in str(tail)


def test_a_history_that_was_renumbered_away_needs_a_checkpoint(whole: Path, tmp_path: Path) -> None:
    """What the documentation says cannot be seen, cannot."""

    def remove(connection: sqlite3.Connection) -> None:
        delete(f"originator_id >= '{name(INSTANCES - 2)}'")(connection)
        connection.execute("UPDATE sqlite_sequence SET seq = (SELECT max(notification_id) FROM wfes_events)")

    assert changed(whole, tmp_path, remove).ok


def test_several_problems_are_all_named(whole: Path, tmp_path: Path) -> None:
    def change(connection: sqlite3.Connection) -> None:
        flip(4, 300)(connection)
        flip(9, 300)(connection)
        flip(9, 300, name(77))(connection)
        delete(of(12))(connection)

    report = changed(whole, tmp_path, change)
    assert [(each.instance, each.version, each.kind) for each in report.problems] == [
        (name(5), 4, "changed"),
        (name(5), 9, "changed"),
        (name(5), 12, "removed"),
        (name(77), 9, "changed"),
    ]


def test_neighbours_that_were_changed_are_both_named(whole: Path, tmp_path: Path) -> None:
    def change(connection: sqlite3.Connection) -> None:
        flip(7, 300)(connection)
        flip(8, 300)(connection)

    report = changed(whole, tmp_path, change)
    assert [(each.version, each.kind) for each in report.problems] == [(7, "changed"), (8, "changed")]


@pytest.mark.parametrize("version", [1, 7, LENGTH])
@pytest.mark.parametrize(
    "change", ["topic = CAST(x'ff41' AS TEXT)", "state = state || ' '", "state = CAST(state AS TEXT)"]
)
def test_text_that_is_none(whole: Path, tmp_path: Path, change: str, version: int) -> None:
    def tamper(connection: sqlite3.Connection) -> None:
        connection.execute(f"UPDATE wfes_events SET {change} WHERE {of(version)}")
        flip(4, 300, name(9))(connection)

    report = changed(whole, tmp_path, tamper)
    kind = "unreadable" if "topic" in change and version == LENGTH else "changed"
    assert [(each.instance, each.version) for each in report.problems] == [(name(5), version), (name(9), 4)]
    assert report.problems[0].kind in ("changed", kind), str(report)


def test_a_name_that_is_no_text(whole: Path, tmp_path: Path) -> None:
    def tamper(connection: sqlite3.Connection) -> None:
        connection.execute(f"UPDATE wfes_events SET originator_id = CAST(x'ff41' AS TEXT) WHERE {of(7)}")

    report = changed(whole, tmp_path, tamper)
    assert any(each.kind == "unreadable" and "is no text" in each.text for each in report.problems)
    assert (name(5), 7, "removed") in {(each.instance, each.version, each.kind) for each in report.problems}


def test_a_table_that_says_otherwise_than_its_index(whole: Path, tmp_path: Path) -> None:
    """Bytes of the file itself were edited: SQLite would read the name in the index, which is as it was."""
    path = tmp_path / "changed.db"
    content = whole.read_bytes()
    record = name(5).encode() + bytes([7]) + b"StepStarted"
    assert content.count(record) == 1
    path.write_bytes(content.replace(record, record.replace(b"i-", b"j-")))
    for instance in (None, name(5)):
        report = verified(path, instance)
        assert first(report) == (name(5), 7, "changed"), str(report)
        assert "the table has it as version 7 of j-005" in report.problems[0].text


def test_a_copy_put_behind_the_end(whole: Path, tmp_path: Path) -> None:
    def copy(connection: sqlite3.Connection) -> None:
        row = (100_000, name(5), LENGTH + 1, "StepStarted", state_of(connection, 9))
        connection.execute("INSERT INTO wfes_events VALUES (?, ?, ?, ?, ?)", row)

    assert first(changed(whole, tmp_path, copy)) == (name(5), LENGTH + 1, "inserted")


def test_random_edits(whole: Path, tmp_path: Path) -> None:
    """Nothing that is done to rows goes unseen, and the first bad event is named."""
    draw = random.Random(6)
    path = tmp_path / "changed.db"
    shutil.copy(whole, path)
    connection = sqlite3.connect(path, isolation_level=None)
    for turn in range(90):
        stream, version = name(draw.randrange(INSTANCES)), draw.randint(1, LENGTH - 1)
        later = draw.randint(version, LENGTH - 1)
        connection.execute("BEGIN")
        match turn % 3:
            case 0:
                state = bytearray(state_of(connection, version, stream))
                for _ in range(draw.randint(1, 40)):
                    state[draw.randrange(chain.SIZE, len(state))] ^= draw.randint(1, 255)
                update("state", bytes(state), version, stream)(connection)
            case 1:
                delete(f"originator_id = '{stream}' AND originator_version BETWEEN {version} AND {later}")(
                    connection
                )
            case _:
                for source, target in ((version, -9), (LENGTH, version), (-9, LENGTH)):
                    update("originator_version", target, source, stream)(connection)
        connection.execute("COMMIT")
        assert first(verified(path, stream))[:2] == (stream, version), turn
        connection.execute("DELETE FROM wfes_events WHERE originator_id = ?", (stream,))
        connection.execute("ATTACH ? AS whole", (str(whole),))
        sql = "INSERT INTO wfes_events SELECT * FROM whole.wfes_events WHERE originator_id = ?"
        connection.execute(sql, (stream,))
        connection.execute("DETACH whole")
    assert verified(path).ok
    connection.close()


def test_histories_that_are_archived_meanwhile_are_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAGE", 3)
    url = f"sqlite:///{tmp_path}/log.db"
    asyncio.run(_made(url))

    async def run(after: int) -> AuditReport:
        turns = 0
        async with Engine(url, workflows=[twice]) as engine:
            loop = asyncio.get_running_loop()

            def meanwhile(_: int) -> None:
                nonlocal turns
                turns += 1
                if turns == after:
                    asyncio.run_coroutine_threadsafe(more(), loop).result(20)

            async def more() -> None:
                await (await twice.start(7, id=f"order-00-{after}")).result(timeout=20)
                assert (await engine.prune(twice, older_than=timedelta(0), dry_run=False)).instances

            return await engine.verify(progress=meanwhile)

    for after in range(1, 6):
        report = asyncio.run(run(after))
        assert report.ok, (after, str(report))


def test_postgresql(postgres_url: str) -> None:
    write(postgres_url, 10)
    log = open_log(postgres_url)
    log.open([])
    try:
        report = verify_log(log)
        assert report.ok, str(report)
        assert report.events == 10 * LENGTH
        with psycopg.connect(postgres_url) as connection:
            sql = "UPDATE wfes_events SET state = state || ''::bytea || ' '::bytea WHERE "
            connection.execute((sql + of(7)).encode())
            connection.execute(
                ("UPDATE wfes_events SET topic = 'StepFailed' WHERE " + of(9, name(3))).encode()
            )
            connection.execute(("DELETE FROM wfes_events WHERE " + of(LENGTH, name(1))).encode())
        report = verify_log(log)
        assert [(each.instance, each.version, each.kind) for each in report.problems] == [
            (name(3), 9, "changed"),
            (name(5), 7, "changed"),
            (None, None, "removed"),
        ], str(report)
        assert first(verify_history(log, name(3))) == (name(3), 9, "changed")
    finally:
        log.close()


@given(st.lists(st.integers(1, 200_000), max_size=50), st.integers(1, 200_000))
@settings(max_examples=25, deadline=None)
def test_positions(there: list[int], upto: int) -> None:
    positions = Positions()
    for position in there:
        positions.add(position)
    found = positions.missing(upto)
    assert all(first <= last for first, last in found)
    assert sum(last - first + 1 for first, last in found) == upto - len(
        {each for each in there if each <= upto}
    )
    assert not any(first <= position <= last for first, last in found for position in there)


def test_full_chunks_of_positions() -> None:
    positions = Positions()
    for position in range(1, 200_001):
        positions.add(position)
    assert positions.missing(200_000) == []
    assert positions.missing(200_003) == [(200_001, 200_003)]
    assert positions.greatest == 200_000


# -- as a user sees it ------------------------------------------------------------------------------------------------


@workflow
async def twice(number: int, step: Step) -> int:
    """Doubles a number."""
    return await step("double", lambda: number * 2)


async def _made(url: str) -> None:
    async with Engine(url, workflows=[twice]) as engine:
        for number in range(4):
            started = await twice.start(number, id=f"order-{number}")
            await started.result(timeout=20)
        report = await (await engine.get("order-1")).verify()
        assert report.ok
        assert report.events == 5
        with pytest.raises(InstanceNotFound):
            await engine.verify("nobody")


def test_the_engine_and_the_command(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    asyncio.run(_made(url))
    run = CliRunner()
    done = run.invoke(main, ["--url", url, "verify"])
    assert done.exit_code == 0, done.output
    assert "21 events of 5 histories verified" in done.output  # `$workflow/twice` is one of them
    assert json.loads(run.invoke(main, ["--url", url, "verify", "order-1", "--json"]).output) == {
        "ok": True,
        "events": 5,
        "problems": [],
        "histories": 1,
        "further": 0,
    }
    missing = run.invoke(main, ["--url", url, "verify", "nobody-knows"])
    assert missing.exit_code == 1
    with sqlite3.connect(tmp_path / "log.db") as connection:
        flip(3, 300, "order-2")(connection)
    for words in (["verify"], ["verify", "order-1", "order-2"]):
        found = run.invoke(main, ["--url", url, *words])
        assert found.exit_code == 1
        assert "order-2 version 3: changed: its bytes are not those that version 4 says" in found.output
    problem = json.loads(run.invoke(main, ["--url", url, "verify", "--json"]).output)["problems"][0]
    assert Problem(**problem).version == 3


def test_archives(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    path = tmp_path / "log.db"

    async def prune() -> None:
        await _made(url)
        async with Engine(url, worker=False) as engine:
            moved = await engine.prune(twice, older_than=timedelta(0))
            assert moved.instances == 4

    asyncio.run(prune())
    report = verified(path)
    assert report.ok, str(report)
    assert (report.events, report.histories) == (25, 5)
    assert verified(path, "order-2").events == 6
    (archive,) = (tmp_path / "log.db.archive").glob("*.gz")
    before = archive.read_bytes()
    _change_in(archive, b'"order-2","version":3', b'"order-2","version":4')
    assert first(verified(path)) == ("order-2", 1, "unreadable")  # its block ends early
    archive.unlink()
    assert [(each.instance, each.version, each.kind) for each in verified(path).problems] == [
        (f"order-{number}", 1, "unreadable") for number in range(4)
    ]
    archive.write_bytes(before)
    with sqlite3.connect(path) as connection:
        sql = "SELECT state FROM wfes_events WHERE originator_id = 'order-1'"
        state = connection.execute(sql).fetchone()[0]
        update("state", state.replace(b'"versions":5', b'"versions":4'), 6, "order-1")(connection)
    assert first(verified(path)) == ("order-1", 6, "changed")


def test_an_archive_that_was_written_anew(tmp_path: Path) -> None:
    """Where the log was told where the new block is, what was changed in it is named as in the log itself."""
    url = f"sqlite:///{tmp_path}/log.db"

    async def prune() -> None:
        await _made(url)
        async with Engine(url, worker=False) as engine:
            await engine.prune(twice, older_than=timedelta(0))

    asyncio.run(prune())
    (archive,) = (tmp_path / "log.db.archive").glob("*.gz")
    text = gzip.decompress(archive.read_bytes())
    lines = text.splitlines(keepends=True)
    third = next(n for n, each in enumerate(lines) if b'"order-2","version":3' in each)
    lines[third] = lines[third].replace(b"double", b"treble")
    packed = block(b"".join(lines))
    archive.write_bytes(packed)
    with sqlite3.connect(tmp_path / "log.db") as connection:
        for number in range(4):
            stream = f"order-{number}"
            state = state_of(connection, 6, stream)
            body = json.loads(state[chain.SIZE :])
            told = json.dumps({**body, "length": len(packed)}).encode()
            update("state", state[: chain.SIZE] + told, 6, stream)(connection)
    report = verified(tmp_path / "log.db")
    assert [(each.instance, each.version, each.kind) for each in report.problems] == [
        ("order-2", 3, "changed")
    ], str(report)


def _change_in(archive: Path, old: bytes, new: bytes) -> None:
    text = gzip.decompress(archive.read_bytes())
    assert old in text
    archive.write_bytes(gzip.compress(text.replace(old, new, 1)))


def test_a_log_that_this_process_may_not_write(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    shutil.copy(whole, path)
    path.chmod(0o444)

    async def run() -> AuditReport:
        async with Engine(f"sqlite:///{path}", worker=False) as engine:
            return await engine.verify()

    assert asyncio.run(run()).ok
