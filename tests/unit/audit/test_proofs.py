"""Proof files and the verifier that checks them with the public key alone."""

from __future__ import annotations

import ast
import base64
import random
import subprocess
import sys
from pathlib import Path

import pytest
import rfc6962

from wfes.audit import check as checking
from wfes.audit.check import Leaf, Malformed, NotProven, check, leaf_bytes, leaf_hash, main
from wfes.audit.checkpoint import Checkpoint, Signer
from wfes.audit.proofs import consistency_proof, inclusion_proof
from wfes.audit.tree import Frontier, TiledNodes

LOG = Signer.generate("example.com/orders")
KEYS = [LOG.verifier]
EVENTS = [
    Leaf(
        position,
        f"order-{position % 7}",
        position // 7 + 1,
        "StepCompleted",
        bytes(32) + b'{"result":"%d"}' % position,
    )
    for position in range(1, 601)
]


class Stored:
    """A log's tree, its tiles kept in memory."""

    def __init__(self, events: list[Leaf]) -> None:
        edge = Frontier()
        self._tiles = {tile[:2]: tile[2] for tile in edge.extend(leaf_hash(*event) for event in events)}

    def tile(self, level: int, number: int) -> bytes:
        return self._tiles.get((level, number), b"")


NODES = TiledNodes(Stored(EVENTS))
REFERENCE = rfc6962.Inputs([leaf_bytes(*event) for event in EVENTS])


def sealed(size: int) -> str:
    return LOG.sign(Checkpoint("example.com/orders", size, REFERENCE.mth(size)))


INCLUDED = inclusion_proof(NODES, EVENTS[41], sealed(600))
CONSISTENT = consistency_proof(NODES, sealed(300), sealed(600))


# -- Files that prove -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 600])
def test_an_event_is_proven(size: int) -> None:
    for index in {0, size // 2, size - 1}:
        text = inclusion_proof(NODES, EVENTS[index], sealed(size))
        proven = check(text, KEYS)
        assert proven.leaf == EVENTS[index]
        assert [checkpoint.size for checkpoint in proven.checkpoints] == [size]


def test_an_inclusion_proof_is_written_as_others_read_it() -> None:
    head, _, checkpoint = INCLUDED.partition("\n\n")
    kind, extra, index, *path = head.split("\n")
    assert (kind, index, checkpoint) == ("c2sp.org/tlog-proof@v1", "index 41", sealed(600))
    assert extra == "extra " + base64.b64encode(leaf_bytes(*EVENTS[41])).decode()
    hashes = [base64.b64decode(line) for line in path]
    leaf = rfc6962.sha(b"\x00", leaf_bytes(*EVENTS[41]))
    assert rfc6962.from_path(leaf, 41, 600, hashes) == REFERENCE.mth(600)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 600), (1, 600), (256, 257), (300, 600), (600, 600)])
def test_two_checkpoints_are_proven_to_be_of_one_log(old: int, new: int) -> None:
    text = consistency_proof(NODES, sealed(old), sealed(new))
    proven = check(text, KEYS)
    assert [checkpoint.size for checkpoint in proven.checkpoints] == [old, new]
    hashes = [base64.b64decode(line) for line in text.partition("\n\n")[0].split("\n")[1:]]
    if old:
        roots = REFERENCE.mth(old), REFERENCE.mth(new)
        assert rfc6962.from_proof(roots[0], old, new, hashes) == roots


# -- Files that do not ------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [INCLUDED, CONSISTENT], ids=["inclusion", "consistency"])
def test_every_changed_bit_is_seen(file: str) -> None:
    data = file.encode()
    for at in random.Random(5).sample(range(len(data) * 8), 1500):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        try:
            text = changed.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises((Malformed, NotProven)):
            check(text, KEYS)


@pytest.mark.parametrize("file", [INCLUDED, CONSISTENT], ids=["inclusion", "consistency"])
def test_every_cut_and_every_lost_line_is_seen(file: str) -> None:
    for end in range(len(file)):
        with pytest.raises((Malformed, NotProven)):
            check(file[:end], KEYS)
    lines = file.splitlines(keepends=True)
    for at in range(len(lines)):
        wrong = [lines[:at] + lines[at + 1 :]]
        if not lines[at].startswith("\N{EM DASH}"):  # the same signature may stand there twice
            wrong.append(lines[: at + 1] + lines[at:])
        for changed in wrong:
            with pytest.raises((Malformed, NotProven)):
                check("".join(changed), KEYS)


def test_an_event_that_was_changed_after_it_was_sealed_is_not_proven() -> None:
    event = EVENTS[41]
    for changed in (
        event._replace(state=event.state[:-2] + b"9}"),
        event._replace(stream="order-1"),
        event._replace(version=event.version + 1),
        event._replace(topic="StepFailed"),
        event._replace(position=43),
    ):
        with pytest.raises(NotProven, match="was changed"):
            inclusion_proof(NODES, changed, sealed(600))


def test_a_proof_of_another_place_is_refused() -> None:
    with pytest.raises(NotProven, match="its position is 42, the proof 41"):
        check(INCLUDED.replace("index 41\n", "index 40\n"), KEYS)


def test_an_event_behind_the_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="position 42, the checkpoint 41 events: seal the log again"):
        inclusion_proof(NODES, EVENTS[41], sealed(41))


def test_a_log_whose_past_was_changed_is_not_consistent() -> None:
    changed = [*EVENTS[:10], EVENTS[10]._replace(topic="StepFailed"), *EVENTS[11:]]
    nodes = TiledNodes(Stored(changed))
    root = rfc6962.Inputs([leaf_bytes(*event) for event in changed]).mth(600)
    forged = LOG.sign(Checkpoint("example.com/orders", 600, root))
    with pytest.raises(NotProven, match="another root than that of the older tree, of 300"):
        consistency_proof(nodes, sealed(300), forged)


def test_a_log_whose_end_was_cut_off_is_not_consistent() -> None:
    with pytest.raises(NotProven, match="older checkpoint has 600 events, the newer one 300"):
        consistency_proof(NODES, sealed(600), sealed(300))


def test_checkpoints_of_two_logs_are_refused() -> None:
    other = Signer.generate("example.com/other")
    theirs = other.sign(Checkpoint("example.com/other", 600, REFERENCE.mth(600)))
    with pytest.raises(NotProven, match=r"two logs, 'example.com/orders' and 'example.com/other'"):
        consistency_proof(NODES, sealed(300), theirs)
    with pytest.raises(NotProven, match="two logs"):
        check(CONSISTENT.replace(sealed(600), theirs), [*KEYS, other.verifier])


# -- The verifier's command line --------------------------------------------------------------------


def files(folder: Path) -> dict[str, str]:
    texts = {
        "key": f"{LOG.verifier}\n",
        "checkpoint": sealed(600),
        "event": INCLUDED,
        "growth": CONSISTENT,
        "cut": INCLUDED[:-9],
        "forged": INCLUDED.replace("index 41\n", "index 40\n"),
        "two-pasts": LOG.sign(Checkpoint("example.com/orders", 600, bytes(32))),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    return {name: str(folder / name) for name in texts}


def test_the_verifier_needs_nothing_of_wfes(tmp_path: Path) -> None:
    source = Path(checking.__file__).read_text(encoding="utf-8")
    imported = [
        name
        for node in ast.walk(ast.parse(source))
        for name in (
            [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    ]
    others = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert others == {"cryptography"}
    copied = tmp_path / "check.py"
    copied.write_text(source, encoding="utf-8")
    at = files(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-I", str(copied), "--key", at["key"], at["checkpoint"], at["event"], at["growth"]],
        capture_output=True,
        check=False,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.count(b": proven\n") == 3
    for told in b"600 events, root", b"unchanged, that it held with 300 events", b'{"result":"42"}':
        assert told in ran.stdout
    assert b"holds at position 42: StepCompleted, version 7 of order-0" in ran.stdout


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().out


def test_what_is_not_proven_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = files(tmp_path)
    key = "--key", str(LOG.verifier)  # the key itself, not a file
    assert told(capsys, *key, at["event"])[0] == 0
    code, text = told(capsys, *key, at["event"], at["forged"])
    assert code == 1
    assert "forged: NOT PROVEN: the event says" in text
    code, text = told(capsys, *key, at["forged"], at["cut"])
    assert code == 2
    assert "cut: cannot check: it is not a signed note" in text
    code, text = told(capsys, *key, at["two-pasts"], at["growth"])
    assert code == 1
    assert text.endswith("have different roots: the log has two pasts\n")
    other = Signer.generate("example.com/orders").verifier
    code, text = told(capsys, "--key", str(other), at["event"])
    assert code == 1
    assert "NOT PROVEN: it is signed by" in text
    assert told(capsys, "--key", str(other), *key, at["event"])[0] == 0


def test_what_cannot_be_used_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = files(tmp_path)
    code, text = told(capsys, "--key", "nothing", at["event"])
    assert code == 2
    assert text.startswith("cannot check: what --key gives 'nothing' is neither a file nor a public key: ")
    code, text = told(capsys, "--key", LOG.secret_text, at["event"])
    assert code == 2
    assert LOG.secret_text not in text
    (tmp_path / "secret").write_text(LOG.secret_text)
    code, text = told(capsys, "--key", str(tmp_path / "secret"), at["event"])
    assert code == 2
    assert "secret': this is a private key; give the public one" in text
    assert LOG.secret_text not in text
    code, text = told(capsys, "--key", at["key"], str(tmp_path / "none"))
    assert code == 2
    assert "No such file" in text
    (tmp_path / "raw").write_bytes(b"\xff")
    assert "not text in UTF-8" in told(capsys, "--key", at["key"], str(tmp_path / "raw"))[1]
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    code, text = told(capsys, "--key", at["key"], at["event"])
    assert code == 2
    assert "pip install cryptography" in text


def test_text_of_others_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = Leaf(1, "\x1b[31morder", 1, "T\x07", bytes(32) + b"\x1b]0;\xff\x07")
    nodes = TiledNodes(Stored([event]))
    signed = LOG.sign(Checkpoint("example.com/orders", 1, leaf_hash(*event)))
    path = tmp_path / "proof"
    path.write_bytes(inclusion_proof(nodes, event, signed).encode())
    code, text = told(capsys, "--key", str(LOG.verifier), str(path))
    assert code == 0
    assert r"T\x07, version 1 of \x1b[31morder" in text
    assert all(char.isprintable() or char == "\n" for char in text)


def test_cryptography_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys, wfes, wfes.audit.tree, wfes.audit.check, wfes.audit.checkpoint, wfes.audit.proofs\n"
        "assert not any(name.partition('.')[0] == 'cryptography' for name in sys.modules)\n"
        "wfes.audit.checkpoint.Signer.generate('log')\n"
        "assert 'cryptography' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(ImportError, match=r"pip install 'wfes\[audit\]'"):
        Signer.generate("log")
    with pytest.raises(ImportError, match="pip install cryptography"):
        check(INCLUDED, KEYS)
