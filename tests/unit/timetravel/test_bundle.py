"""Bundles: what goes in comes out byte by byte, and a file that is damaged, changed or newer is refused by name."""

from __future__ import annotations

import json
import tempfile
import zipfile
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfes.core import chain, codec
from wfes.core import events as e
from wfes.errors import WfesError
from wfes.log.application import digest, encode
from wfes.runtime.values import Values
from wfes.timetravel.bundle import Code, read_bundle, unpack_sources, write_bundle
from wfes.timetravel.recording import Recording, referred

ID = "i-1"
LARGE = "x" * (1024 * 1024 + 1)
CODE = Code(
    module="shop.orders",
    digest="d" * 64,
    python="3.11.7",
    wfes="0.1",
    packages={"pydantic": "2.11"},
    sources={"shop/__init__.py": "", "shop/orders.py": "# the handler's ünicode\n"},
)


def recorded() -> Recording:
    """An instance with a large input, claimed once."""
    sealed = Values(lambda _: None).seal(LARGE, "input")
    blobs = dict(sealed.blobs)
    claim = e.RunClaimed(at=2, worker="w", epoch=1, code={"module": "shop.orders", "python": "3.11"})
    rows: list[tuple[int, str, int, str, bytes]] = []
    prev = chain.GENESIS
    for version, event in enumerate(
        [e.WorkflowStarted(at=1, workflow="checkout", input=sealed.tree), claim], 1
    ):
        stored = encode(event, ID, version, prev)
        rows.append((version * 10, ID, version, stored.topic, stored.state))
        prev = digest(stored)
    return Recording(ID, rows, referred(rows, blobs.get))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.wfes"


@pytest.fixture
def written(path: Path) -> Path:
    write_bundle(path, recorded(), CODE)
    return path


def changed(path: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    """Writes the bundle again with one part changed, or left out."""
    with zipfile.ZipFile(path) as file:
        parts = {info.filename: file.read(info) for info in file.infolist()}
    parts[name] = change(parts.get(name, b"")) or b""
    with zipfile.ZipFile(path, "w") as file:
        for each, content in parts.items():
            if content or each != name:
                file.writestr(each, content)


def test_what_is_written_is_read_again(written: Path, tmp_path: Path) -> None:
    bundle = read_bundle(written)
    first = recorded()
    assert bundle.recording.rows == first.rows
    assert bundle.recording.history == first.history
    assert bundle.recording.blobs == first.blobs
    assert bundle.recording.values.open(bundle.recording.started.input) == LARGE
    assert bundle.recording.codes == [{"module": "shop.orders", "python": "3.11"}]
    assert bundle.code == CODE
    unpack_sources(bundle.code, tmp_path / "out")
    assert (tmp_path / "out/shop/orders.py").read_text(encoding="utf-8") == CODE.sources["shop/orders.py"]
    assert not list(tmp_path.glob(".*"))


def test_a_missing_large_value_is_missed_only_when_it_is_opened() -> None:
    found = recorded()
    without = Recording(ID, found.rows, referred(found.rows, lambda _: None))
    assert without.blobs == {}
    assert without.history == found.history
    with pytest.raises(WfesError, match="missing"):
        without.values.open(without.started.input)


def test_no_zip_file(path: Path) -> None:
    path.write_text("hello")
    with pytest.raises(WfesError, match=r"one\.wfes is no bundle that can be read: File is not a zip file"):
        read_bundle(path)


def test_a_zip_file_of_something_else(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(WfesError, match="wfes export ID --bundle FILE"):
        read_bundle(path)


def test_a_cut_off_file(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-100])
    with pytest.raises(WfesError, match="no bundle that can be read"):
        read_bundle(written)


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_changes_nothing(at: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.wfes"
        path.write_bytes(small_bundle())
        content = bytearray(path.read_bytes())
        content[int(at * len(content))] ^= 1 << bit
        path.write_bytes(content)
        with suppress(WfesError):
            assert read_bundle(path).recording.rows[1:] == recorded().rows[1:]


@cache
def small_bundle() -> bytes:
    """A bundle without its large value."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.wfes"
        write_bundle(path, Recording(ID, recorded().rows, {}), CODE)
        return path.read_bytes()


def test_a_history_that_begins_elsewhere(written: Path) -> None:
    stored = encode(e.StepStarted(at=1, path="a", attempt=1), ID, 1, chain.GENESIS)
    line = {"version": 1, "position": 1, "type": stored.topic, "stored": b64encode(stored.state).decode()}
    changed(written, "history.jsonl", lambda _: json.dumps(line).encode())
    changed(written, "manifest.json", lambda data: json.dumps({**json.loads(data), "events": 1}).encode())
    with pytest.raises(WfesError, match="begins with StepStarted"):
        read_bundle(written)


def test_a_newer_bundle(written: Path) -> None:
    changed(written, "manifest.json", lambda data: json.dumps({**json.loads(data), "version": 2}).encode())
    with pytest.raises(WfesError, match="version 2 and this wfes reads version 1"):
        read_bundle(written)


def test_a_manifest_that_says_nothing(written: Path) -> None:
    changed(written, "manifest.json", lambda _: b'{"format": "wfes-bundle", "version": 1}')
    with pytest.raises(WfesError, match="KeyError: 'instance'"):
        read_bundle(written)


def test_an_event_that_was_changed(written: Path) -> None:
    def change(data: bytes) -> bytes:
        first, second = data.splitlines()
        entry = json.loads(first)
        other = encode(e.WorkflowStarted(at=1, workflow="other"), ID, 1, chain.GENESIS)
        entry["stored"] = b64encode(other.state).decode()
        return json.dumps(entry).encode() + b"\n" + second + b"\n"

    changed(written, "history.jsonl", change)
    with pytest.raises(WfesError, match="event 2 does not follow what stands before it"):
        read_bundle(written)


def test_an_event_that_is_missing(written: Path) -> None:
    changed(written, "history.jsonl", lambda data: data.splitlines()[1] + b"\n")
    with pytest.raises(WfesError, match="event 1 is missing"):
        read_bundle(written)


def test_a_last_event_that_is_missing(written: Path) -> None:
    changed(written, "history.jsonl", lambda data: data.splitlines()[0] + b"\n")
    with pytest.raises(WfesError, match="it has 1 of 2 events"):
        read_bundle(written)


def test_a_large_value_that_was_changed(written: Path) -> None:
    (name,) = (f"blobs/{each}" for each in recorded().blobs)
    changed(written, name, lambda data: data[:-2] + b'y"')
    with pytest.raises(WfesError, match="was changed"):
        read_bundle(written)


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "shop/../../evil.py", "shop/run.sh"])
def test_a_source_that_would_lie_elsewhere(written: Path, name: str) -> None:
    changed(written, f"source/{name}", lambda _: b"print()")
    with pytest.raises(WfesError, match="no place for a source file"):
        read_bundle(written)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "one.wfes"
    with pytest.raises(WfesError, match=r"cannot be written to .*one\.wfes: No such file or directory"):
        write_bundle(target, recorded(), CODE)


def test_a_bundle_that_was_there_stays_when_a_new_one_cannot_be_written(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(WfesError, match="No space left"):
        write_bundle(written, recorded(), CODE)
    assert written.read_bytes() == before
    assert [each.name for each in written.parent.iterdir()] == [written.name]


def test_no_reference_is_missed_inside_of_other_values() -> None:
    ref = codec.blob_ref("ab" * 32, 7)
    event = e.StepCompleted(at=1, path="a", attempt=1, result={"list": [{"deep": ref}]})
    stored = encode(event, ID, 1, chain.GENESIS)
    assert referred([(1, ID, 1, stored.topic, stored.state)], lambda _: b"content") == {"ab" * 32: b"content"}
