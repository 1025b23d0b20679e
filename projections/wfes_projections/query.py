"""What the queries of these read models share: reading rows, and paging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = tuple[Any, ...]
Read = Callable[[str, Sequence[object] | Mapping[str, object]], list[Row]]
"""Runs one query: ``Log.read``, or ``Tx.query`` inside a transaction."""

LIMIT_MAX = 1000


class Conditions:
    """A ``WHERE`` that grows: each condition with its parameters."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.params: list[object] = []

    def add(self, text: str, *params: object) -> None:
        """Adds a condition, all of which must hold."""
        self._texts.append(text)
        self.params.extend(params)

    def __str__(self) -> str:
        return f"WHERE {' AND '.join(self._texts)}" if self._texts else ""


def check_limit(limit: int) -> int:
    """``limit``, if a page may be that long.

    Raises:
        ValueError: it may not.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit is {limit!r}; it must be 1 to {LIMIT_MAX}, further pages come with cursor=")
    return limit
