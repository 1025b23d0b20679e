"""Which store a projection's own `url` means: SQLite or PostgreSQL, where it is, and whether it is the log's own.

The libraries for PostgreSQL are an extra, and not asked for before somebody names such a database.
"""

from __future__ import annotations

from types import ModuleType

from wfes.errors import LogUnavailable
from wfes.log.port import Log
from wfes.subscription.stores import OwnStore, Store, in_postgres, path_of


def checked_url(url: object) -> None:
    """Refuses what names no database that a projection can have.

    Raises:
        TypeError: it is no text.
        ValueError: it names no such database.
        LogUnavailable: what it needs is not installed.
    """
    if isinstance(url, str) and in_postgres(url):
        _postgres(url).place(url)
    else:
        path_of(url)


def own_store(url: str, log: Log) -> tuple[str, Store | None]:
    """A store that is not opened yet, and what two URLs of the same database share; None: it is the log's own.

    Raises:
        ValueError: the URL names no such database.
        LogUnavailable: what it needs is not installed.
    """
    if not in_postgres(url):
        path = path_of(url)
        key = str(path.absolute())
        return key, None if key == str(getattr(log, "path", None)) else OwnStore(path, url)
    store = _postgres(url).PostgresStore(url)
    key = _spot(store.place.connect, store.place.schema)
    place = getattr(log, "place", None)
    if place is not None and _spot(place.connect, place.schema) == key:
        return key, None
    return key, store


def _spot(connect: dict[str, object], schema: str | None) -> str:
    database = connect.get("dbname") or connect.get("user")
    host = connect.get("host") or connect.get("hostaddr") or ""
    return f"{host}:{connect.get('port') or 5432}/{database}/{schema or ''}"


def _postgres(url: str) -> ModuleType:
    try:
        from wfes.subscription import postgres_store
    except ImportError as error:
        raise LogUnavailable(
            url, f"PostgreSQL needs libraries that are not installed ({error}); pip install 'wfes[postgres]'"
        ) from error
    return postgres_store
