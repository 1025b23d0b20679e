"""Which adapter a URL means.

A wrapper set by ``wrapping`` is put around every log that is made: that is how the fault kit reaches the log of an
engine that it does not build itself. None is set unless code asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from wfes.errors import LogUnavailable
from wfes.errors.storage import without_password
from wfes.log.memory import MemoryLog
from wfes.log.port import Log
from wfes.log.sqlite import SQLiteLog

_ACCEPTED = (
    "'sqlite:///file.db' (a path relative to the working directory), 'sqlite:////absolute/path.db', "
    "'sqlite://' (in memory), or 'postgresql://user@host/database'"
)
_wrappers: list[Callable[[Log], Log]] = []


def open_log(url: str) -> Log:
    """The log a URL means, not opened yet (``Log.open`` does that).

    Raises:
        TypeError: it is no text.
        ValueError: it is none of the URLs that are accepted.
        LogUnavailable: what it needs is not installed.
    """
    log = _adapter(url)
    for wrap in _wrappers:
        log = wrap(log)
    return log


@contextmanager
def wrapping(wrap: Callable[[Log], Log]) -> Generator[None]:
    """Within the block, every log that ``open_log`` makes is wrapped."""
    _wrappers.append(wrap)
    try:
        yield
    finally:
        _wrappers.remove(wrap)


def _adapter(url: str) -> Log:
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a log's url is text such as {_ACCEPTED}; not {url!r}")
    scheme, separator, rest = url.partition("://")
    shown = without_password(url)
    match scheme if separator else "":
        case "sqlite":
            if not rest:
                return MemoryLog(url)
            if rest in ("/", "/:memory:"):
                raise ValueError(f"{shown!r} names no file; accepted are {_ACCEPTED}")
            if not rest.startswith("/"):
                raise ValueError(f"{shown!r} names a host, which SQLite has not; accepted are {_ACCEPTED}")
            path = unquote(rest[1:])
            if "\0" in path:
                raise ValueError(f"{shown!r} has a NUL character in its path")
            return SQLiteLog(Path(path), url)
        case "postgresql" | "postgres":
            return _postgres(url)
        case _:
            raise ValueError(f"{shown!r} is no log's url; accepted are {_ACCEPTED}")


def _postgres(url: str) -> Log:
    try:
        # Not before it is asked for: these libraries are an extra.
        from wfes.log.postgres import PostgresLog
    except ImportError as error:
        raise LogUnavailable(
            url, f"PostgreSQL needs libraries that are not installed ({error}); pip install 'wfes[postgres]'"
        ) from error
    return PostgresLog(url)
