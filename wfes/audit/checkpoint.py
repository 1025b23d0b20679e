"""Keys that sign a log's checkpoints, and the signed checkpoints.

Owns the private side of what ``check`` verifies: making an Ed25519 key, its file, and signing a checkpoint as a
`c2sp.org/tlog-checkpoint` note. Keys have the text forms of `c2sp.org/signed-note`, so that other tools for
transparency logs read them: a public key is ``name+key id+base64``, a private one ``PRIVATE+KEY+name+key id+base64``.

Invariants:
- The key's name is the log's origin: a signature never stands under the checkpoint of another log.
- A private key is shown by nothing here but ``secret_text``, and its file is readable for its owner only; one that
  others may read, or that somebody else may write, is refused.
- ``cryptography`` is imported when a key is made or used, never before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wfes.audit.check import Checkpoint as Checkpoint
from wfes.audit.check import Malformed, _encoded, parse_key
from wfes.audit.check import Note as Note
from wfes.audit.check import Verifier as Verifier
from wfes.audit.check import open_checkpoint as open_checkpoint

_PRIVATE = "PRIVATE+KEY+"
_SEED_BYTES = 32
_TYPE = b"\x01"
_FORBIDDEN = stat.S_IWGRP | stat.S_IRWXO
"""What a key file must not allow. Its group may read it: that is how secrets are mounted into containers."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key.

    Attributes:
        verifier: Its public half, with its name.
    """

    verifier: Verifier
    _seed: bytes = field(repr=False)
    _sign: Callable[[bytes], bytes] = field(repr=False, compare=False)

    @classmethod
    def generate(cls, name: str) -> Signer:
        """A new key.

        Args:
            name: The log's origin, such as ``example.com/orders``: without spaces and ``+``.

        Raises:
            Malformed: the name cannot be a key's.
            ImportError: the library ``cryptography`` is missing.
        """
        return cls._of(name, os.urandom(_SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> Signer:
        """The key of its text form; a newline at the end is allowed.

        Raises:
            Malformed: it is not the text of a private Ed25519 key, or one of its parts was changed.
            ImportError: the library ``cryptography`` is missing.
        """
        text = text.removesuffix("\n")
        if not text.startswith(_PRIVATE):
            public = text.count("+") >= 2
            raise Malformed(
                "this is a public key; signing needs the private one, which begins with PRIVATE+KEY+"
                if public
                else "this is not a private key: it has the form PRIVATE+KEY+name+key id+base64"
            )
        name, seed = parse_key(text.removeprefix(_PRIVATE), _SEED_BYTES, "a private key")
        signer = cls._of(name, seed)
        if signer.secret_text != text:
            raise Malformed(
                f"the private key {name!r} does not have the id that it says it has: its name or the key was changed"
            )
        return signer

    @classmethod
    def _of(cls, name: str, seed: bytes) -> Signer:
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError as error:
            raise ImportError(
                f"signatures need a library that is not installed ({error}): pip install 'wfes[audit]'"
            ) from None
        key = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(Verifier(name, key.public_key().public_bytes_raw()), seed, key.sign)

    @property
    def secret_text(self) -> str:
        """The key's text form. Whoever has it can sign in the log's name."""
        public = self.verifier
        return f"{_PRIVATE}{public.name}+{public.key_id.hex()}+{_encoded(_TYPE + self._seed)}"

    def note(self, text: str) -> str:
        """A signed note of any text, which must end with a newline."""
        if not text.endswith("\n"):
            raise Malformed("the text of a note must end with a newline")
        signature = _encoded(self.verifier.key_id + self._sign(text.encode()))
        signed = f"{text}\n\N{EM DASH} {self.verifier.name} {signature}\n"
        if Note.parse(signed).text != text:
            raise Malformed("the text cannot be told from the signatures of its note")
        return signed

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed checkpoint, as text.

        Raises:
            Malformed: it is another log's: its origin is not the key's name.
        """
        if checkpoint.origin != self.verifier.name:
            raise Malformed(
                f"the checkpoint is of the log {checkpoint.origin!r}, the key of {self.verifier.name!r}; "
                "a key signs for the log that it is named for"
            )
        return self.note(checkpoint.text)


def write_key(path: Path, signer: Signer) -> Path:
    """Writes a private key to a new file that its owner alone can read, and the public one beside it.

    Args:
        path: The private key's file; the public one's has ``.pub`` behind its name.
        signer: The key.

    Returns:
        The public key's file.

    Raises:
        FileExistsError: one of the two is there; no key is ever overwritten.
    """
    public = path.with_name(f"{path.name}.pub")
    if public.exists():
        raise FileExistsError(f"{public} exists; a key is never overwritten: choose another name")
    try:
        _write_new(path, f"{signer.secret_text}\n", 0o600)
    except FileExistsError:
        raise FileExistsError(f"{path} exists; a key is never overwritten: choose another name") from None
    _write_new(public, f"{signer.verifier}\n", 0o644)
    return public


def read_key(path: Path) -> Signer:
    """The private key in a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        PermissionError: others may read it, or somebody else than its owner may write it.
        Malformed: it holds no private key.
        ImportError: the library ``cryptography`` is missing.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_mode & _FORBIDDEN:
            raise PermissionError(
                f"the private key {path} has the permissions {stat.S_IMODE(status.st_mode):04o}: others than its "
                f"owner can read or change it; make it yours alone (chmod 600 {path}), or make a new key if "
                "somebody may have read it"
            )
        data = file.read()
    try:
        return Signer.parse(data.decode())
    except ValueError as error:  # UnicodeDecodeError included
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise Malformed(f"the private key {path}: {reason}") from None


def read_verifier(path: Path) -> Verifier:
    """The public key in a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        Malformed: it holds no public key.
    """
    try:
        return Verifier.parse(path.read_bytes().decode())
    except ValueError as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise Malformed(f"the public key {path}: {reason}") from None


def _write_new(path: Path, text: str, mode: int) -> None:
    """Writes a file that must not be there yet, with its permissions from the start."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
