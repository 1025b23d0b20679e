"""Errors of the log and of what it keeps: away, unreadable, of another release."""

from __future__ import annotations

import re

from wfes.errors.base import WfesError, because


class RedactionUnavailable(WfesError):
    """Redaction needs Engine(keys=...) from the time the values were written, and an ended instance."""

    def __init__(self, id: str | None = None, reason: str | None = None) -> None:
        super().__init__()
        self.id = id
        self.reason = reason

    def __str__(self) -> str:
        owner = f"values of instance {self.id!r} cannot be redacted: " if self.id else ""
        return f"{owner}{self.reason or super().__str__()}"


class UnknownEvent(WfesError):
    """The log holds an event this release does not know: use the release that wrote it, or a newer one.

    Attributes:
        type: The event's type.
        version: The version of that type.
        position: Where in the log it stands, where that is known.
    """

    def __init__(
        self,
        type: str,
        reason: str | None = None,
        *,
        version: int | None = None,
        instance: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__()
        self.type = type
        self.version = version
        self.instance = instance
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        owner = f" of instance {self.instance!r}" if self.instance else ""
        place = "" if self.position is None else f" at position {self.position}"
        return (
            f"this release of wfes does not know the event {self.type!r}{version}{owner}{place}"
            f"{because(self.reason)}; nothing is skipped: use the release that wrote it, or a newer one"
        )


_SCHEME = r"[A-Za-z][\w+.-]*:/{1,2}"
_PASSWORD = re.compile(rf"^({_SCHEME}[^/@:]*|(?!{_SCHEME})[^/@:]*):.*(?=@)", re.DOTALL)
"""Also where somebody has mistyped what stands before it."""
_PASSWORD_OPTION = re.compile(r"(?i)([?&][a-z]*password=)[^&]*")


def without_password(url: str) -> str:
    """A URL as it may be shown and logged."""
    return _PASSWORD_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***", url))


class LogUnavailable(WfesError):
    """The log's database cannot be opened or written.

    Attributes:
        url: The log's URL, a password in it replaced.
        reason: Why not, and what would help.
        retryable: Whether waiting may help: the disk is full, another process holds the lock, …
        read_only: Whether it can be read, but not be written by this process.
    """

    def __init__(self, url: str, reason: str, *, retryable: bool = False, read_only: bool = False) -> None:
        super().__init__()
        self.url = without_password(url)
        self.reason = reason
        self.retryable = retryable
        self.read_only = read_only

    def __str__(self) -> str:
        return f"the log {self.url} is unavailable: {self.reason}"


class NewerRelease(LogUnavailable):
    """Another release of wfes has taken the log over while this process ran.

    Attributes:
        projection: The engine's own projection whose rows it made anew.
        version: Of these rows.
        known: The version that this process has.
    """

    def __init__(self, url: str, projection: str, version: int, known: int) -> None:
        which = "a newer" if version > known else "an older"
        super().__init__(
            url,
            f"the rows of projection {projection!r} are version {version} there, and this process has version {known}: "
            f"{which} release of wfes has taken it over; restart this process with that release",
        )
        self.projection = projection
        self.version = version
        self.known = known


class ArchiveUnavailable(WfesError, LookupError):
    """An archived history cannot be read or written.

    Attributes:
        place: The archive's file or folder.
        reason: Why not.
        instance: The instance whose history is wanted, where it is one's.
    """

    def __init__(self, place: str, reason: str, instance: str | None = None) -> None:
        super().__init__()
        self.place = place
        self.reason = reason
        self.instance = instance

    def __str__(self) -> str:
        owner = "" if self.instance is None else f" with the history of instance {self.instance!r}"
        return f"the archive {self.place}{owner} is unavailable: {self.reason}"
