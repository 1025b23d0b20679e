"""The independent verifier: what it takes to check a checkpoint or a proof, and nothing else.

Owns the formats and the mathematics of verification: the bytes of a leaf, signed notes, checkpoints, proof files, and
the two verification algorithms of RFC 9162. ``tree``, ``checkpoint`` and ``proofs`` make what is checked here and use
these same definitions.

Invariants:
- It imports nothing of wfes: this file alone, copied anywhere, is the whole verifier. Beside Python it needs the
  library ``cryptography``, for Ed25519. It opens no database and no connection.
- Reading is strict: what is not exactly the one way to write something is refused, so that nothing can be hidden in
  a file that still verifies.
- `Malformed` is for what cannot be read, `NotProven` for what can be read and is not true.

The formats are the published ones: `c2sp.org/signed-note`, `c2sp.org/tlog-checkpoint`, `c2sp.org/tlog-proof@v1` (the
leaf's bytes stand in its `extra` line), and for two checkpoints ``wfes/consistency-proof@v1``: that line, the hashes
of RFC 9162's consistency proof in base64, one a line, then the older and the newer checkpoint, each as it was signed,
behind an empty line.

From the command line: ``python -m wfes.audit.check --key KEY FILE…``, or ``python check.py`` on the copied file. It
ends with 0 if everything is proven, 1 if something is not, 2 if a file, a key or the library cannot be used.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves."""
INCLUSION = "c2sp.org/tlog-proof@v1"
CONSISTENCY = "wfes/consistency-proof@v1"
SIGNATURES_MAX = 100
"""In one note: a limit on the work that somebody else's file can ask for."""

_ED25519 = b"\x01"
"""The signature type of Ed25519 in signed notes."""
_PUBLIC_BYTES = 32
_SIGNATURE_BYTES = 64
_KEY_ID_BYTES = 4
_SIGNED_BY = "\N{EM DASH} "
_DECIMAL = re.compile("0|[1-9][0-9]{0,17}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY = re.compile("([^+]*)[+]([0-9a-f]{8})[+]([A-Za-z0-9+/]+=*)")
_LEAF = struct.Struct(">QQII")
_NOT_A_NOTE = "it is not a signed note"


class Malformed(ValueError):
    """This is not in the form it should have."""


class NotProven(ValueError):
    """This is in the right form, but it is not true."""


# -- Leaves -----------------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """An event of the log as the tree covers it: its place and its stored bytes.

    Attributes:
        position: Its place in the whole log, from 1. The leaf's index in the tree is one less.
        stream: The id of its instance, or of a stream of the engine's own.
        version: Its place in that stream, from 1.
        topic: The event's type.
        state: The stored bytes: the digest of its predecessor in the stream (32 bytes), then its body as JSON.
    """

    position: int
    stream: str
    version: int
    topic: str
    state: bytes


def leaf_bytes(position: int, stream: str, version: int, topic: str, state: bytes) -> bytes:
    """What the tree covers of an event: no two events have the same bytes.

    Position and version (8 bytes each), the lengths of stream and topic in bytes (4 each), all unsigned and
    big-endian; stream and topic in UTF-8; the stored bytes.
    """
    name, kind = stream.encode(), topic.encode()
    return _LEAF.pack(position, version, len(name), len(kind)) + name + kind + state


def leaf_hash(position: int, stream: str, version: int, topic: str, state: bytes) -> bytes:
    """RFC 6962's hash of the leaf of this event: SHA-256 of a zero byte and ``leaf_bytes``."""
    name, kind = stream.encode(), topic.encode()
    head = _LEAF.pack(position, version, len(name), len(kind))
    return sha256(b"".join((b"\x00", head, name, kind, state))).digest()


def parse_leaf(data: bytes) -> Leaf:
    """The event of ``leaf_bytes``.

    Raises:
        Malformed: these are not the bytes of a leaf.
    """
    if len(data) < _LEAF.size:
        raise Malformed(f"the event has {len(data)} bytes; its place alone takes {_LEAF.size}")
    position, version, name, kind = _LEAF.unpack_from(data)
    stream_end = _LEAF.size + name
    topic_end = stream_end + kind
    if topic_end > len(data):
        raise Malformed(f"the event has {len(data)} bytes; its stream and type alone end at {topic_end}")
    try:
        stream, topic = data[_LEAF.size : stream_end].decode(), data[stream_end:topic_end].decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"the event's stream and type are not UTF-8: {error}") from None
    return Leaf(position, stream, version, topic, data[topic_end:])


# -- Trees ------------------------------------------------------------------------------------------


def parent_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962's hash of an inner node: SHA-256 of a one byte and the hashes of its two children."""
    return sha256(b"\x01" + left + right).digest()


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Checks that a leaf is the one at ``index`` in the tree with this size and root.

    Args:
        index: From 0.
        size: How many leaves the tree has.
        leaf: The leaf's hash.
        path: The proof: the hashes beside the way from the leaf to the root.
        root: The tree's.

    Raises:
        NotProven: it is not, or the proof is another's.
    """
    if not 0 <= index < size:
        raise NotProven(f"the event's index is {index}, but the tree has {size} leaves")
    at, last, found = index, size - 1, leaf
    for beside in path:
        if last == 0:
            raise NotProven(f"the inclusion proof has {len(path)} hashes: too many for a tree of {size}")
        if at & 1 or at == last:
            found = parent_hash(beside, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = parent_hash(found, beside)
        at, last = at >> 1, last >> 1
    if last:
        raise NotProven(f"the inclusion proof has {len(path)} hashes: too few for a tree of {size}")
    if found != root:
        raise NotProven(
            f"the event at index {index} and its proof lead to another root than that of the tree of {size}: "
            "the event, its place, the proof or the log was changed"
        )


def verify_consistency(
    old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Checks that the newer tree begins with exactly the leaves of the older one.

    Args:
        old_size: How many leaves the older tree has.
        new_size: How many the newer one has.
        path: The proof; empty for trees of the same size, and where the older one is empty.
        old_root: The root of the older tree.
        new_root: The root of the newer tree.

    Raises:
        NotProven: it does not, or the proof is another's.
    """
    if not 0 <= old_size <= new_size:
        raise NotProven(f"the older tree has {old_size} leaves, more than the newer one with {new_size}")
    if old_size in (0, new_size):
        if path:
            raise NotProven(f"trees of {old_size} and {new_size} leaves need no proof, but one was given")
        if old_size == new_size and old_root != new_root:
            raise NotProven(f"two trees of {old_size} leaves have different roots: the log has two pasts")
        return
    _climb(old_size, new_size, path, old_root, new_root)


def _climb(old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    hashes = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if not path:
        raise NotProven(f"the consistency proof of trees of {old_size} and {new_size} leaves is empty")
    old = new = hashes[0]
    for beside in hashes[1:]:
        if last == 0:
            raise NotProven(f"the consistency proof has {len(path)} hashes: too many")
        if at & 1 or at == last:
            old, new = parent_hash(beside, old), parent_hash(beside, new)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            new = parent_hash(new, beside)
        at, last = at >> 1, last >> 1
    if last:
        raise NotProven(f"the consistency proof has {len(path)} hashes: too few")
    for what, found, root, size in ("older", old, old_root, old_size), ("newer", new, new_root, new_size):
        if found != root:
            raise NotProven(
                f"the consistency proof leads to another root than that of the {what} tree, of {size} leaves: "
                "the proof or the log was changed"
            )


# -- Signed notes -----------------------------------------------------------------------------------


def check_key_name(name: str) -> str:
    """``name``, if it can be a key's: not empty, without white space, control characters and ``+``.

    Raises:
        Malformed: it cannot.
    """
    if not name or "+" in name or any(char.isspace() or not char.isprintable() for char in name):
        raise Malformed(
            f"the key name {name!r} must not be empty, nor hold spaces, control characters or '+'"
        )
    return name


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes by which a note's signature names its key, together with the key's name."""
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key: who may have signed. Its text form is ``name+key id+key``.

    Attributes:
        name: The key's name, which is also the origin of the logs it signs.
        public: The Ed25519 public key, 32 bytes.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.public) != _PUBLIC_BYTES:
            raise Malformed(f"an Ed25519 public key has {_PUBLIC_BYTES} bytes, this one {len(self.public)}")

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_encoded(_ED25519 + self.public)}"

    @property
    def key_id(self) -> bytes:
        """Four bytes that name it in signatures."""
        return key_id(self.name, self.public)

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """The key of its text form; a newline at the end is allowed.

        Raises:
            Malformed: it is not the text of a public Ed25519 key, or one of its parts was changed.
        """
        if text.startswith("PRIVATE+KEY+"):
            raise Malformed("this is a private key; give the public one, and keep this one secret")
        verifier = cls(*parse_key(text.removesuffix("\n"), _PUBLIC_BYTES, "a public key"))
        named = text.removesuffix("\n").removeprefix(f"{verifier.name}+").partition("+")[0]
        if verifier.key_id.hex() != named:
            raise Malformed(
                f"the public key {verifier.name!r} says that its id is {named}, but it is "
                f"{verifier.key_id.hex()}: its name or the key was changed"
            )
        return verifier


def parse_key(text: str, size: int, what: str) -> tuple[str, bytes]:
    """Name and bytes of a key in text form, its id not checked yet."""
    match = _KEY.fullmatch(text)
    if match is None:
        raise Malformed(f"this is not {what}: it has the form name+key id (8 hexadecimal digits)+base64")
    name, data = check_key_name(match[1]), _decoded(match[3], what)
    if data[:1] != _ED25519:
        raise Malformed(f"{what} of type {data[0] if data else 'none'}; only Ed25519, type 1, is known")
    if len(data) != 1 + size:
        raise Malformed(f"{what} {name!r} has {len(data) - 1} bytes; an Ed25519 key has {size}")
    return name, data[1:]


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note, nothing of it checked yet.

    Attributes:
        text: What was signed, with the newline it ends with.
        signatures: Key name, key id and signature of each.
        signed: The whole note as it was written.
    """

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]
    signed: str

    @classmethod
    def parse(cls, signed: str) -> Note:
        """Takes a note apart.

        Raises:
            Malformed: it is not a signed note.
        """
        control = _CONTROL.search(signed)
        if control is not None:
            raise Malformed(f"{_NOT_A_NOTE}: it holds the control character {control[0]!r}")
        body, empty_line, rest = signed.rpartition("\n\n")
        if not empty_line or not body:
            raise Malformed(f"{_NOT_A_NOTE}: no empty line stands between a text and its signatures")
        if not rest.endswith("\n"):
            raise Malformed(f"{_NOT_A_NOTE}: it was cut off, or has no signature")
        lines = rest[:-1].split("\n")
        if len(lines) > SIGNATURES_MAX:
            raise Malformed(
                f"{_NOT_A_NOTE}: it has {len(lines)} signatures; at most {SIGNATURES_MAX} are read"
            )
        return cls(f"{body}\n", tuple(_signature(line) for line in lines), signed)

    def verify(self, verifiers: Sequence[Verifier]) -> Verifier:
        """Checks the signatures by these keys; those by others are not looked at.

        Returns:
            The first of the keys that signed it.

        Raises:
            NotProven: none of the keys signed it, or a signature that names one of them is wrong.
            ImportError: the library ``cryptography`` is missing.
        """
        signer = None
        for verifier in verifiers:
            for name, identity, signature in self.signatures:
                if name != verifier.name or identity != verifier.key_id:
                    continue
                if not _signature_holds(verifier.public, signature, self.text.encode()):
                    raise NotProven(
                        f"the signature of {name!r} does not hold: what it signed was changed, or somebody "
                        "without the key signed it"
                    )
                signer = signer or verifier
        if signer is None:
            by = ", ".join(f"{name}+{identity.hex()}" for name, identity, _ in self.signatures)
            known = ", ".join(f"{key.name}+{key.key_id.hex()}" for key in verifiers)
            raise NotProven(f"it is signed by {by}, not by {known or 'a key that was given'}")
        return signer


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, space, encoded = line.removeprefix(_SIGNED_BY).partition(" ")
    if not line.startswith(_SIGNED_BY) or not space:
        raise Malformed(f"{_NOT_A_NOTE}: the line {line[:80]!r} is not '\N{EM DASH} name signature'")
    data = _decoded(encoded, f"the signature of {name!r}")
    if len(data) <= _KEY_ID_BYTES:
        raise Malformed(f"the signature of {name!r} has {len(data)} bytes; it was cut off")
    return check_key_name(name), data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:]


def _signature_holds(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise ImportError(
            f"signatures need a library that is not installed ({error}): pip install cryptography"
        ) from None
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


# -- Checkpoints ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself at one moment: so many events, and this root over all of them.

    Attributes:
        origin: The log's name, which is the name of the key that signs it.
        size: How many events it has.
        root: The root of the Merkle tree over them, 32 bytes.
        extensions: Further lines, which mean nothing to wfes; they are signed too.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not line or "\n" in line or _CONTROL.search(line):
                raise Malformed(
                    f"a line of a checkpoint is {line!r}; it must have text, no control characters"
                )
        if self.size < 0:
            raise Malformed(f"a checkpoint's size is {self.size}; it must not be negative")
        if len(self.root) != HASH_BYTES:
            raise Malformed(f"a checkpoint's root has {len(self.root)} bytes; it must have {HASH_BYTES}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise Malformed("a checkpoint of an empty log has the root of another one")

    @property
    def text(self) -> str:
        """What is signed."""
        return "".join(
            f"{line}\n" for line in (self.origin, self.size, _encoded(self.root), *self.extensions)
        )

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint of a note's text.

        Raises:
            Malformed: it is not one.
        """
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3 or not text.endswith("\n"):
            raise Malformed("it is not a checkpoint: that has three lines, with origin, size and root")
        origin, size, root, *more = lines
        return cls(
            origin, _decimal(size, "a checkpoint's size"), _decoded(root, "a checkpoint's root"), tuple(more)
        )


def open_checkpoint(signed: str, verifiers: Sequence[Verifier]) -> Checkpoint:
    """The checkpoint of a signed note, after its signature was checked.

    Args:
        signed: The note, as text.
        verifiers: The public keys that are trusted: one, or also those before and after a change of keys.

    Raises:
        Malformed: it is not a signed checkpoint.
        NotProven: it is of another log, not signed by one of the keys, or it was changed.
        ImportError: the library ``cryptography`` is missing.
    """
    note = Note.parse(signed)
    checkpoint = Checkpoint.parse(note.text)
    own = [verifier for verifier in verifiers if verifier.name == checkpoint.origin]
    if not own:
        known = " or ".join(repr(verifier.name) for verifier in verifiers)
        raise NotProven(f"the checkpoint is of the log {checkpoint.origin!r}, the key of {known or 'no log'}")
    note.verify(own)
    return checkpoint


# -- Proof files ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proven:
    """What a file proves, once it was checked.

    Attributes:
        checkpoints: The signed checkpoints in it, the newest last.
        leaf: The event, for an inclusion proof.
    """

    checkpoints: tuple[Checkpoint, ...]
    leaf: Leaf | None = None


def check(text: str, verifiers: Sequence[Verifier]) -> Proven:
    """Checks a checkpoint, an inclusion proof or a consistency proof; its first line says which it is.

    Args:
        text: The file's content.
        verifiers: The public keys that are trusted.

    Raises:
        Malformed: it is none of the three.
        NotProven: it does not prove what it says.
        ImportError: the library ``cryptography`` is missing.
    """
    kind = text.partition("\n")[0]
    if kind == INCLUSION:
        return _check_inclusion(text, verifiers)
    if kind == CONSISTENCY:
        return _check_consistency(text, verifiers)
    return Proven((open_checkpoint(text, verifiers),))


def _check_inclusion(text: str, verifiers: Sequence[Verifier]) -> Proven:
    head, empty_line, signed = text.partition("\n\n")
    lines = head.split("\n")[1:]
    if not empty_line:
        raise Malformed("the inclusion proof was cut off: no checkpoint stands behind an empty line")
    if len(lines) < 2 or not lines[0].startswith("extra ") or not lines[1].startswith("index "):
        raise Malformed("the inclusion proof must begin with the lines 'extra …' (the event) and 'index …'")
    event = _decoded(lines[0].removeprefix("extra "), "the event")
    leaf = parse_leaf(event)
    index = _decimal(lines[1].removeprefix("index "), "the event's index")
    if leaf.position != index + 1:
        raise NotProven(f"the event says that its position is {leaf.position}, the proof {index + 1}")
    path = _hashes(lines[2:])
    checkpoint = open_checkpoint(signed, verifiers)
    verify_inclusion(index, checkpoint.size, leaf_hash(*leaf), path, checkpoint.root)
    return Proven((checkpoint,), leaf)


def _check_consistency(text: str, verifiers: Sequence[Verifier]) -> Proven:
    parts = text.split("\n\n")
    if len(parts) != 5:
        raise Malformed(
            f"the consistency proof has {len(parts)} parts; the hashes and two checkpoints make 5"
        )
    head, old_text, old_signed, new_text, new_signed = parts
    path = _hashes(head.split("\n")[1:])
    old = open_checkpoint(f"{old_text}\n\n{old_signed}\n", verifiers)
    new = open_checkpoint(f"{new_text}\n\n{new_signed}", verifiers)
    if old.origin != new.origin:
        raise NotProven(f"the checkpoints are of two logs, {old.origin!r} and {new.origin!r}")
    verify_consistency(old.size, new.size, path, old.root, new.root)
    return Proven((old, new))


def check_together(proven: Sequence[Proven]) -> None:
    """Checks that what was proven one by one does not show two pasts of one log.

    Raises:
        NotProven: two checkpoints of one log and size have different roots.
    """
    roots: dict[tuple[str, int], bytes] = {}
    for checkpoint in (each for one in proven for each in one.checkpoints):
        if roots.setdefault((checkpoint.origin, checkpoint.size), checkpoint.root) != checkpoint.root:
            raise NotProven(
                f"two checkpoints of {checkpoint.origin!r} with {checkpoint.size} events have different roots: "
                "the log has two pasts"
            )


# -- Text -------------------------------------------------------------------------------------------


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"{what} is not base64: {error}") from None
    if _encoded(data) != text:  # bits behind the end, that decoding does not look at
        raise Malformed(f"{what} is not base64 in its one form")
    return data


def _decimal(text: str, what: str) -> int:
    if not _DECIMAL.fullmatch(text):
        raise Malformed(f"{what} is {text[:40]!r}; it must be a decimal number without leading zeros")
    return int(text)


def _hashes(lines: Sequence[str]) -> list[bytes]:
    hashes = [_decoded(line, "a hash of the proof") for line in lines]
    for data in hashes:
        if len(data) != HASH_BYTES:
            raise Malformed(f"a hash of the proof has {len(data)} bytes; it must have {HASH_BYTES}")
    return hashes


# -- The command line -------------------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode()
    except UnicodeDecodeError:
        raise Malformed("it is not text in UTF-8") from None


def _key(given: str) -> Verifier:
    """The key in a file, or the key itself."""
    if Path(given).is_file():
        try:
            return Verifier.parse(_read(given))
        except (Malformed, OSError) as error:
            raise Malformed(f"the key file {given!r}: {error}") from None
    try:
        return Verifier.parse(given)
    except Malformed as error:
        shown = "" if "PRIVATE" in given else f" {given!r}"
        raise Malformed(f"what --key gives{shown} is neither a file nor a public key: {error}") from None


def _shown(text: str) -> str:
    """Text of somebody else, harmless for a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _told(proven: Proven) -> list[str]:
    *older, checkpoint = proven.checkpoints
    lines = [f"signed: {_shown(checkpoint.origin)}, {checkpoint.size} events, root {checkpoint.root.hex()}"]
    if older:
        lines.append(f"holds everything, unchanged, that it held with {older[0].size} events")
    if proven.leaf is not None:
        position, stream, version, topic, state = proven.leaf
        body = state[HASH_BYTES:].decode(errors="backslashreplace")  # as it is: parsing could hide some of it
        lines += [
            f"holds at position {position}: {_shown(topic)}, version {version} of {_shown(stream)}",
            f"  behind an event with the digest {state[:HASH_BYTES].hex()}",
            f"  {_shown(body)}",
        ]
    return lines


def _tell(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: checks files, tells what they prove.

    Returns:
        0: all proven. 1: something is not. 2: a file, a key or the library cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="check", description="Checks checkpoints and proofs of a wfes log with its public key alone."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a checkpoint or a proof")
    parser.add_argument(
        "--key",
        action="append",
        required=True,
        help="the log's public key, or a file with it; can be repeated",
    )
    given = parser.parse_args(arguments)
    worst, proven, seen = 0, list[Proven](), list[str]()
    try:
        verifiers = [_key(key) for key in given.key]
    except Malformed as error:
        _tell(f"cannot check: {error}\n")
        return 2
    for file in given.files:
        try:
            one = check(_read(file), verifiers)
        except NotProven as error:
            worst, lines = max(worst, 1), [f"NOT PROVEN: {error}"]
        except (Malformed, OSError, ImportError) as error:
            worst, lines = 2, [f"cannot check: {error}"]
        else:
            proven.append(one)
            lines = ["proven", *_told(one)]
        seen.append(f"{file}: " + "\n  ".join(lines) + "\n")
    try:
        check_together(proven)
    except NotProven as error:
        worst = max(worst, 1)
        seen.append(f"NOT PROVEN: {error}\n")
    _tell("".join(seen))
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
