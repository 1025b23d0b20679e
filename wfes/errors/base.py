"""The base of every error, and how their texts are put together."""

from __future__ import annotations

from collections.abc import Iterable


class WfesError(Exception):
    """wfes cannot do this."""

    def __str__(self) -> str:
        if self.args:
            return ", ".join(map(str, self.args))
        return (type(self).__doc__ or type(self).__name__).partition("\n")[0]


def because(reason: object) -> str:
    return "" if reason is None or reason == "" else f": {reason}"


def one_of(names: Iterable[str]) -> str:
    listed = ", ".join(repr(name) for name in names)
    return listed or "none"
