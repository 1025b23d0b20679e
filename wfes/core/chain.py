"""The hash chain over stored events.

Every stored event begins with 32 raw bytes, the digest of its predecessor in the same stream (zeros for the first),
and goes on with its body as JSON. The digest covers everything that is stored, its place included, so an event
that was changed, removed, inserted, moved or given to another instance breaks the chain behind it.
"""

from __future__ import annotations

from hashlib import sha256

GENESIS = bytes(32)
"""What stands before the first event of a stream."""

SIZE = 32


def digest(stream: str, version: int, topic: str, state: bytes) -> bytes:
    """SHA-256 over stream, version, topic and stored bytes: what the next event of the stream carries."""
    return sha256(f"{stream}\n{version}\n{topic}\n".encode() + state).digest()
