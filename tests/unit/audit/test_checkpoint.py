"""Keys, signed notes and checkpoints: the published example, strict reading, and files with safe permissions."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfes.audit.check import EMPTY_ROOT, SIGNATURES_MAX, Malformed, NotProven, key_id
from wfes.audit.checkpoint import (
    Checkpoint,
    Note,
    Signer,
    Verifier,
    open_checkpoint,
    read_key,
    read_verifier,
    write_key,
)

# The key and the note that implementations of signed notes are tested with.
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = (
    "\N{EM DASH} PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

LOG = Signer.generate("example.com/orders")
CHECKPOINT = Checkpoint("example.com/orders", 20_852_163, bytes(range(32)))
SIGNED = LOG.sign(CHECKPOINT)


# -- The published example --------------------------------------------------------------------------


def test_the_published_note_is_signed_and_verified() -> None:
    signer, verifier = Signer.parse(PRIVATE), Verifier.parse(PUBLIC)
    assert signer.verifier == verifier
    assert (signer.secret_text, str(verifier)) == (PRIVATE, PUBLIC)
    assert signer.note(TEXT) == f"{TEXT}\n{SIGNATURE}"
    note = Note.parse(f"{TEXT}\n{SIGNATURE}")
    assert note.text == TEXT
    assert note.verify([LOG.verifier, verifier]) == verifier


def test_no_part_and_no_change_of_a_public_key_is_one() -> None:
    for start in range(len(PUBLIC)):
        for end in range(start + 1, len(PUBLIC) + 1):
            if end - start < len(PUBLIC):
                with pytest.raises(Malformed):
                    Verifier.parse(PUBLIC[start:end])
    for at, char in enumerate(PUBLIC):
        with pytest.raises(Malformed):
            Verifier.parse(PUBLIC[:at] + chr(ord(char) + 1) + PUBLIC[at + 1 :])


def test_no_change_of_a_private_key_is_one() -> None:
    for at, char in enumerate(PRIVATE[:-1]):  # a change of the secret itself is seen by the key's id
        with pytest.raises(Malformed):
            Signer.parse(PRIVATE[:at] + chr(ord(char) + 1) + PRIVATE[at + 1 :])


def key(name: str, data: bytes) -> str:
    """A public key's text with an id that fits, whatever else is wrong with it."""
    return f"{name}+{key_id(name, data[1:]).hex()}+{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (key("n", b"\x01" + bytes(31)), "'n' has 31 bytes; an Ed25519 key has 32"),
        (key("n", b"\x02" + bytes(32)), "type 2; only Ed25519, type 1"),
        (key("a b", b"\x01" + bytes(32)), "key name 'a b' must not"),
        (key("", b"\x01" + bytes(32)), "key name '' must not be empty"),
        (key("a+b", b"\x01" + bytes(32)), "it has the form"),
        (PUBLIC + "\n\n", "it has the form"),
        (PUBLIC + "=", "base64"),
        (PRIVATE, "this is a private key"),
        ("", "it has the form"),
    ],
)
def test_what_is_wrong_with_a_public_key_is_told(text: str, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        Verifier.parse(text)


def test_what_is_wrong_with_a_private_key_is_told() -> None:
    with pytest.raises(Malformed, match="this is a public key"):
        Signer.parse(PUBLIC)
    with pytest.raises(Malformed, match="not a private key"):
        Signer.parse("secret")
    with pytest.raises(Malformed, match="'Someone' does not have the id"):
        Signer.parse(PRIVATE.replace("PeterNeumann", "Someone"))
    with pytest.raises(Malformed, match="key name 'a b'"):
        Signer.generate("a b")


def test_a_private_key_is_not_shown() -> None:
    assert Signer.parse(PRIVATE).secret_text[-20:] not in repr(Signer.parse(PRIVATE))
    assert "PeterNeumann" in repr(Signer.parse(PRIVATE))


def test_a_key_may_hold_what_looks_like_an_id() -> None:
    data = base64.b64decode("AQAA+00000000+" + "A" * 30)
    assert str(Verifier.parse(key("name", data))) == key("name", data)


# -- Checkpoints ------------------------------------------------------------------------------------


def test_a_checkpoint_is_written_as_others_read_it() -> None:
    text, empty_line, signature = SIGNED.partition("\n\n")
    assert text.split("\n") == [
        "example.com/orders",
        "20852163",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ]
    assert empty_line
    assert signature.startswith("\N{EM DASH} example.com/orders ")
    assert open_checkpoint(SIGNED, [LOG.verifier]) == CHECKPOINT


lines = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10)


@settings(max_examples=50)
@given(st.integers(1, 10**17), st.binary(min_size=32, max_size=32), st.lists(lines, max_size=3))
def test_what_was_signed_is_read_back(size: int, root: bytes, more: list[str]) -> None:
    checkpoint = Checkpoint("example.com/orders", size, root, tuple(more))
    assert open_checkpoint(LOG.sign(checkpoint), [LOG.verifier]) == checkpoint


def test_an_empty_log_has_a_checkpoint() -> None:
    empty = Checkpoint("example.com/orders", 0, EMPTY_ROOT)
    assert open_checkpoint(LOG.sign(empty), [LOG.verifier]) == empty
    with pytest.raises(Malformed, match="empty log"):
        Checkpoint("example.com/orders", 0, bytes(32))


def test_every_changed_bit_is_seen() -> None:
    data = SIGNED.encode()
    for at in range(len(data) * 8):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        try:
            text = changed.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises((Malformed, NotProven)):
            open_checkpoint(text, [LOG.verifier])


def test_every_cut_is_seen() -> None:
    for end in range(len(SIGNED)):
        with pytest.raises(Malformed):
            open_checkpoint(SIGNED[:end], [LOG.verifier])
    for more in "\n", " ", "x", "\n\n":
        with pytest.raises(Malformed):
            open_checkpoint(SIGNED + more, [LOG.verifier])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("example.com/orders\n5\n", "three lines"),
        ("example.com/orders\n05\n{root}\n", "size is '05'"),
        ("example.com/orders\n-5\n{root}\n", "size is '-5'"),
        ("example.com/orders\n+5\n{root}\n", "size is '.5'"),
        ("example.com/orders\n\N{ARABIC-INDIC DIGIT FIVE}\n{root}\n", "size is"),
        (f"example.com/orders\n{'9' * 5000}\n{{root}}\n", "size is '9999"),
        ("example.com/orders\n5\nAAAA\n", "root has 3 bytes"),
        ("example.com/orders\n5\nnot base64!\n", "root is not base64"),
        ("example.com/orders\n5\n{root}\n\nmore\n", "'' *; it must have text"),
        ("example.com/orders\n5\n{loose}\n", "root is not base64 in its one form"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_told(text: str, told: str) -> None:
    root = base64.b64encode(bytes(32)).decode()
    signed = LOG.note(text.format(root=root, loose=f"{root[:-2]}B="))
    with pytest.raises(Malformed, match=told):
        open_checkpoint(signed, [LOG.verifier])


def test_a_checkpoint_of_another_log_is_refused() -> None:
    other = Signer.generate("example.com/other")
    with pytest.raises(NotProven, match=r"of the log 'example.com/orders', the key of 'example.com/other'"):
        open_checkpoint(SIGNED, [other.verifier])
    with pytest.raises(Malformed, match=r"of the log 'example.com/orders', the key of 'example.com/other'"):
        other.sign(CHECKPOINT)
    # Signed by a key that is trusted, but for another log.
    with pytest.raises(NotProven, match=r"signed by example.com/other"):
        open_checkpoint(other.note(CHECKPOINT.text), [LOG.verifier, other.verifier])


def test_a_signature_by_somebody_without_the_key_is_refused() -> None:
    thief = Signer.generate("example.com/orders")
    with pytest.raises(NotProven, match=r"it is signed by example.com/orders\+[0-9a-f]{8}, not by"):
        open_checkpoint(thief.sign(CHECKPOINT), [LOG.verifier])
    forged = base64.b64encode(
        LOG.verifier.key_id + base64.b64decode(thief.sign(CHECKPOINT).split(" ")[-1])[4:]
    )
    with pytest.raises(NotProven, match="does not hold"):
        open_checkpoint(
            f"{CHECKPOINT.text}\n\N{EM DASH} example.com/orders {forged.decode()}\n", [LOG.verifier]
        )
    with pytest.raises(NotProven, match="no log"):
        open_checkpoint(SIGNED, [])


def test_an_old_and_a_new_key_can_both_be_trusted() -> None:
    newer = Signer.generate("example.com/orders")
    for signer in LOG, newer:
        assert open_checkpoint(signer.sign(CHECKPOINT), [LOG.verifier, newer.verifier]) == CHECKPOINT


def test_signatures_of_others_are_not_looked_at() -> None:
    witness = Signer.generate("witness.example").note(CHECKPOINT.text).rpartition("\n\n")[2]
    assert open_checkpoint(SIGNED + witness, [LOG.verifier]) == CHECKPOINT
    assert open_checkpoint(SIGNED + witness * (SIGNATURES_MAX - 1), [LOG.verifier]) == CHECKPOINT
    with pytest.raises(Malformed, match="it has 101 signatures"):
        open_checkpoint(SIGNED + witness * SIGNATURES_MAX, [LOG.verifier])


@pytest.mark.parametrize(
    ("note", "told"),
    [
        ("", "no empty line"),
        ("text\n", "no empty line"),
        ("text\n\n", "cut off, or has no signature"),
        ("text\r\n\r\n", r"control character '\\r'"),
        (f"text\n\n{SIGNATURE[2:]}", "is not '"),
        ("text\n\n\N{EM DASH} name\n", "is not '"),
        ("text\n\n\N{EM DASH} name AAAA\n", "has 3 bytes; it was cut off"),
        ("text\n\n\N{EM DASH} a+b AAAAAAAA\n", "key name 'a.b' must not"),
        ("text\n\n\N{EM DASH} name AA AA\n", "not base64"),
    ],
)
def test_what_is_wrong_with_a_note_is_told(note: str, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        Note.parse(note)


def test_a_text_that_cannot_be_signed_is_refused() -> None:
    with pytest.raises(Malformed, match="end with a newline"):
        LOG.note("text")
    with pytest.raises(Malformed, match="control character"):
        LOG.note("te\txt\n")


@pytest.mark.parametrize(
    ("origin", "size", "root", "told"),
    [
        ("", 1, bytes(32), "''"),
        ("a\nb", 1, bytes(32), r"'a\\nb'"),
        ("a", -1, bytes(32), "size is -1"),
        ("a", 1, bytes(31), "31 bytes"),
    ],
)
def test_an_impossible_checkpoint_is_refused(origin: str, size: int, root: bytes, told: str) -> None:
    with pytest.raises(Malformed, match=told):
        Checkpoint(origin, size, root)


# -- Files ------------------------------------------------------------------------------------------


def test_a_key_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public = write_key(tmp_path / "seal.key", LOG)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "seal.key").stat().st_mode) == 0o600
    assert public == tmp_path / "seal.key.pub"
    assert read_key(tmp_path / "seal.key") == LOG
    assert read_verifier(public) == LOG.verifier
    assert LOG.secret_text not in public.read_text()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    write_key(path, LOG)
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_key(path, Signer.generate("other"))
    (tmp_path / "seal.key.pub").unlink()
    with pytest.raises(FileExistsError, match=r"seal.key exists; a key is never overwritten"):
        write_key(path, Signer.generate("other"))
    assert read_key(path) == LOG
    assert not (tmp_path / "seal.key.pub").exists()
    path.rename(tmp_path / "seal.key.pub")
    with pytest.raises(FileExistsError, match=r"seal.key.pub exists; a key is never overwritten"):
        write_key(path, Signer.generate("other"))
    assert not path.exists()


@pytest.mark.parametrize(
    ("mode", "fits"),
    [
        (0o400, True),
        (0o600, True),
        (0o440, True),
        (0o640, True),
        (0o660, False),
        (0o604, False),
        (0o644, False),
    ],
)
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int, fits: bool) -> None:
    path = tmp_path / "seal.key"
    write_key(path, LOG)
    path.chmod(mode)
    if fits:
        assert read_key(path) == LOG
    else:
        with pytest.raises(PermissionError, match=rf"permissions {mode:04o}.*chmod 600"):
            read_key(path)


def test_a_file_without_a_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    path.write_bytes(b"\xff")
    path.chmod(0o600)
    with pytest.raises(Malformed, match=r"seal.key: it is not text in UTF-8"):
        read_key(path)
    with pytest.raises(Malformed, match=r"seal.key: it is not text in UTF-8"):
        read_verifier(path)
    path.write_text(PUBLIC)
    with pytest.raises(Malformed, match=r"seal.key: this is a public key"):
        read_key(path)
    path.write_text(PRIVATE)
    with pytest.raises(Malformed, match=r"seal.key: this is a private key"):
        read_verifier(path)
    with pytest.raises(FileNotFoundError):
        read_key(tmp_path / "none")
