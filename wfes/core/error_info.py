"""`ErrorInfo`, the form in which an exception is recorded, and `RecordedError`, what is made of it again.

Invariants: an exception is recorded as bounded text and names only. It is compared by name, its module is
never imported, and the object a handler sees is the same live and on replay, because both are built from what was
recorded. Recording never raises, whatever the exception's own methods do.
"""

from __future__ import annotations

import traceback as _traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

MESSAGE_BYTES_MAX = 64 * 1024
TRACEBACK_BYTES_MAX = 8 * 1024
TRACEBACK_FRAMES_MAX = 40
CAUSES_MAX = 5

ExceptionClass = type[BaseException]


def qualified_name(kind: type) -> str:
    """The name under which an exception class is recorded: `module.QualName`, built-ins without their module.

    The errors of wfes itself go by their public name (`wfes.StepError`), wherever their code lies.
    """
    module = kind.__module__
    if module == "builtins":
        return kind.__qualname__
    if module in ("wfes.errors", __name__):
        module = "wfes"
    return f"{module}.{kind.__qualname__}"


def _bounded(text: str, bytes_max: int, *, keep_end: bool = False) -> str:
    """`text` as valid Unicode of at most about `bytes_max` bytes, its start (or start and end) kept."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > bytes_max:
        left_out = f" … [{len(data) - bytes_max} bytes left out] … ".encode()
        head = bytes_max // 4 if keep_end else bytes_max
        tail = data[len(data) - (bytes_max - head) :] if keep_end else b""
        data = data[:head] + left_out + tail
    return data.decode("utf-8", "ignore")


def _message_of(exc: BaseException) -> str:
    try:
        text = str(exc)
        for note in cast("Iterable[object]", getattr(exc, "__notes__", ())):
            text += f"\n{note}"
    except Exception as problem:
        return f"<the text of this exception cannot be made: str() raised {type(problem).__name__}>"
    return text


def _traceback_of(exc: BaseException) -> str:
    try:
        report = _traceback.TracebackException(
            type(exc), exc, exc.__traceback__, limit=-TRACEBACK_FRAMES_MAX, compact=True
        )
        return "".join(report.format(chain=False))
    except Exception as problem:
        return f"<the traceback cannot be made: {type(problem).__name__}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """An exception as it is recorded: names and text, no object.

    Attributes:
        type: Qualified name of its class (`ValueError`, `shop.CardDeclined`).
        message: Its text, notes included, at most 64 KiB.
        traceback: Its formatted traceback without its causes, at most 8 KiB.
        cause: The exception it was raised from, or in the handling of; at most 5 deep.
        bases: Qualified names of the class's bases, nearest first, down to but without `BaseException`.
    """

    type: str
    message: str = ""
    traceback: str = ""
    cause: ErrorInfo | None = None
    bases: tuple[str, ...] = ()

    @classmethod
    def of(cls, exc: BaseException) -> ErrorInfo:
        """Records `exc`; a reconstruction gives what it was built from. Never raises."""
        chain: list[BaseException] = []
        recorded: ErrorInfo | None = None
        current: BaseException | None = exc
        while current is not None and len(chain) <= CAUSES_MAX:
            if isinstance(current, RecordedError):
                recorded = current.info
                break
            chain.append(current)
            following = current.__cause__
            if following is None and not current.__suppress_context__:
                following = current.__context__
            current = following
        info = recorded
        for link in reversed(chain):
            names = [qualified_name(base) for base in type(link).__mro__[1:]]
            info = cls(
                type=qualified_name(type(link)),
                message=_bounded(_message_of(link), MESSAGE_BYTES_MAX),
                traceback=_bounded(_traceback_of(link), TRACEBACK_BYTES_MAX, keep_end=True),
                cause=info,
                bases=tuple(name for name in names if name not in ("BaseException", "object")),
            )
        assert info is not None
        return info._with_causes_max(CAUSES_MAX)

    def _with_causes_max(self, causes_max: int) -> ErrorInfo:
        links: list[ErrorInfo] = []
        current: ErrorInfo | None = self
        while current is not None and len(links) <= causes_max:
            links.append(current)
            current = current.cause
        if current is None:
            return self
        cut: ErrorInfo | None = None
        for link in reversed(links):
            cut = ErrorInfo(
                type=link.type, message=link.message, traceback=link.traceback, cause=cut, bases=link.bases
            )
        assert cut is not None
        return cut

    def matches(self, *kinds: ExceptionClass) -> bool:
        """Whether the recorded exception was of one of these classes or of a subclass, judged by name.

        A program's main module is `__main__` when it is run and goes by its own name when it is imported, so
        against a `__main__` class only the name inside the module counts.
        """
        return any(_is_named(kind, (self.type, *self.bases)) for kind in kinds)

    def to_json(self) -> dict[str, Any]:
        """A plain JSON dict with short keys; what is empty is left out."""
        tree: dict[str, Any] = {"t": self.type, "m": self.message}
        if self.traceback:
            tree["tb"] = self.traceback
        if self.bases:
            tree["b"] = list(self.bases)
        if self.cause is not None:
            tree["c"] = self.cause.to_json()
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ErrorInfo:
        """The inverse of `to_json`."""
        cause = tree.get("c")
        return cls(
            type=tree["t"],
            message=tree.get("m", ""),
            traceback=tree.get("tb", ""),
            cause=None if cause is None else cls.from_json(cause),
            bases=tuple(tree.get("b", ())),
        )

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


def _is_named(kind: ExceptionClass, names: Iterable[str]) -> bool:
    if kind is BaseException:
        return True
    wanted = qualified_name(kind)
    if wanted.startswith("__main__."):
        return any(name == kind.__qualname__ or name.endswith("." + kind.__qualname__) for name in names)
    return any(name == wanted or name == f"__main__.{kind.__qualname__}" for name in names)


class RecordedError(Exception):
    """A reconstruction of a recorded exception: its text, never the original object.

    Attributes:
        info: What was recorded.
        traceback: The recorded traceback's text.
    """

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info)
        self.info = info
        self.traceback = info.traceback
        self.__cause__ = None if info.cause is None else RecordedError(info.cause)

    def __str__(self) -> str:
        return str(self.info)
