"""User values on their way into the log and out of it.

Owns where a value's bytes lie: in the event itself up to 1 MiB, beyond that beside the log, by the SHA-256 of its
content, with a reference in the event. Equal large values are stored once.

Invariants: a sealed value's blobs travel with the member that appends the reference, so both commit together; what
`open` gives is always made of fresh containers; the cache of large values is bounded in bytes. Safe to use from any
thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from wfes.core import codec
from wfes.core.codec import ABSENT, Json
from wfes.errors import PayloadTooLarge, WfesError

INLINE_BYTES_MAX = 1024 * 1024
MAX_PAYLOAD = 64 * 1024 * 1024
CACHE_BYTES_MAX = 64 * 1024 * 1024

Blobs = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value ready to be recorded.

    Attributes:
        tree: What stands in the event: the value's tree, or a reference.
        blobs: The (SHA-256 in hex, content) to store with the event.
        whole: The value's tree itself; what `codec.decode` takes before the blobs are committed.
    """

    tree: Json
    blobs: Blobs
    whole: Json


class Values:
    """Seals values for the log and opens what the log gives back."""

    def __init__(self, get_blob: Callable[[str], bytes | None], max_payload: int = MAX_PAYLOAD) -> None:
        """Makes one for a log.

        Args:
            get_blob: Reads a large value by its SHA-256 in hex.
            max_payload: The largest value accepted, in bytes.
        """
        self.max_payload = max_payload
        self._get_blob = get_blob
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, tuple[Json, int]] = OrderedDict()
        self._cached_bytes = 0

    def seal(self, value: object, where: str, type_: object = ABSENT) -> Sealed:
        """The value as a tree, its bytes beside it where it is large.

        Args:
            value: What to store.
            where: What it is for, such as "result of step 'charge'"; for errors.
            type_: Its declared type.

        Raises:
            UnstorableValue: It would not come back as it is.
            PayloadTooLarge: It takes more than `max_payload` bytes.
        """
        tree = codec.encode(value, where=where, type_=type_)
        bound = codec.size_bound(tree)
        if bound <= INLINE_BYTES_MAX and bound <= self.max_payload:
            return Sealed(tree, (), tree)
        content = codec.dumps(tree)
        size = len(content)
        if size > self.max_payload:
            raise PayloadTooLarge(where, size, self.max_payload)
        if size <= INLINE_BYTES_MAX:
            return Sealed(tree, (), tree)
        digest = sha256(content).hexdigest()
        return Sealed(codec.blob_ref(digest, size), ((digest, content),), tree)

    def open(self, tree: Json, type_: object = ABSENT) -> Any:
        """The value of a tree from the log.

        Args:
            tree: What an event holds.
            type_: The value's declared type; without it a model comes as its plain data.

        Raises:
            ValueError: The declared type does not take the data any more.
        """
        return codec.decode(self.tree(tree), type_)

    def tree(self, tree: Json) -> Json:
        """The value's whole tree: a reference is replaced by what it refers to. Not to be changed."""
        ref = codec.as_blob(tree)
        if ref is None:
            return tree
        digest, size = ref
        with self._lock:
            found = self._cache.get(digest)
            if found is not None:
                self._cache.move_to_end(digest)
                return found[0]
        content = self._get_blob(digest)
        if content is None:
            raise WfesError(
                f"a value of {size:,} bytes stored beside the log is missing (SHA-256 {digest}); "
                "the log was copied without it, or somebody removed it"
            )
        whole = codec.loads(content)
        with self._lock:
            self._remember(digest, whole, size)
        return whole

    def keep(self, sealed: Sealed) -> None:
        """Makes a large value readable before its bytes are committed, in this process."""
        with self._lock:
            for digest, content in sealed.blobs:
                self._remember(digest, sealed.whole, len(content))

    def _remember(self, digest: str, whole: Json, size: int) -> None:
        if digest in self._cache:
            return
        self._cache[digest] = (whole, size)
        self._cached_bytes += size
        while self._cached_bytes > CACHE_BYTES_MAX and len(self._cache) > 1:
            _, (_, old) = self._cache.popitem(last=False)
            self._cached_bytes -= old
