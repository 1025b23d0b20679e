"""Proof files: what somebody gets who shall believe something of the log without seeing the rest of it.

Owns how proofs are made from the stored tree and written; ``check`` owns their form and how they are checked. A proof
is for a signed checkpoint, which stands in the file: with the public key, the file is all that is needed.

Invariant: what is handed out verifies. Each proof is checked against the checkpoint before it is returned, so that a
log that was changed behind its tree is noticed here and not by the one who gets the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from wfes.audit import tree
from wfes.audit.check import (
    CONSISTENCY,
    INCLUSION,
    Checkpoint,
    Leaf,
    Note,
    NotProven,
    _encoded,
    leaf_bytes,
    verify_consistency,
    verify_inclusion,
)
from wfes.audit.check import Proven as Proven
from wfes.audit.check import check as check
from wfes.audit.check import check_together as check_together
from wfes.audit.tree import Nodes


def inclusion_proof(nodes: Nodes, event: Leaf, signed: str) -> str:
    """The file that proves that an event was in the log, at its place and with these bytes.

    It holds the stored event, and with it every value the event holds in clear.

    Args:
        nodes: The log's tree.
        event: The event, as it stands in the log.
        signed: The signed checkpoint that it is proven for.

    Raises:
        ValueError: the checkpoint is older than the event.
        LookupError: the stored tree does not reach the checkpoint, or the event.
        NotProven: the event is not what was sealed, or the checkpoint is not this log's.
        Malformed: ``signed`` is not a signed checkpoint.
    """
    checkpoint = Checkpoint.parse(Note.parse(signed).text)
    index = event.position - 1
    if not 0 <= index < checkpoint.size:
        raise ValueError(
            f"the event has the position {event.position}, the checkpoint {checkpoint.size} events: "
            "seal the log again, then prove it for the newer checkpoint"
        )
    path = tree.inclusion(nodes, index, checkpoint.size)
    verify_inclusion(index, checkpoint.size, tree.leaf_hash(*event), path, checkpoint.root)
    extra = f"extra {_encoded(leaf_bytes(*event))}"
    return _file((INCLUSION, extra, f"index {index}", *_lines(path)), signed)


def consistency_proof(nodes: Nodes, old_signed: str, new_signed: str) -> str:
    """The file that proves that the log still holds everything it held at an older checkpoint.

    Args:
        nodes: The log's tree.
        old_signed: The older signed checkpoint.
        new_signed: The newer one.

    Raises:
        LookupError: the stored tree does not reach the newer checkpoint.
        NotProven: the log does not hold it any more, or one of the checkpoints is not this log's.
        Malformed: one of them is not a signed checkpoint.
    """
    old, new = (Checkpoint.parse(Note.parse(signed).text) for signed in (old_signed, new_signed))
    if old.origin != new.origin:
        raise NotProven(f"the checkpoints are of two logs, {old.origin!r} and {new.origin!r}")
    if old.size > new.size:
        raise NotProven(
            f"the older checkpoint has {old.size} events, the newer one {new.size}: they were given the wrong way "
            "round, or the end of the log was cut off"
        )
    path = tree.consistency(nodes, old.size, new.size)
    verify_consistency(old.size, new.size, path, old.root, new.root)
    return _file((CONSISTENCY, *_lines(path)), old_signed, new_signed)


def _lines(path: Sequence[bytes]) -> list[str]:
    return [_encoded(each) for each in path]


def _file(head: Sequence[str], *signed: str) -> str:
    return "\n".join(["\n".join(head) + "\n", *signed])
