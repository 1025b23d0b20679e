"""What a PostgreSQL URL says: how to connect, in which schema the tables are, where archives go.

Everything that libpq knows may stand in it (``sslmode``, several hosts, ``connect_timeout``, …); ``schema``,
``archive`` and ``pooler=transaction`` are the log's own. The last says that what answers is a pooler that gives each
transaction another connection: then nothing is asked for that would belong to a session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from wfes.errors.storage import without_password

_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}\Z")
_PORT_MAX = 65_535
_OWN = ("schema", "archive", "pooler")
_DEFAULTS: dict[str, Any] = {
    "application_name": "wfes",
    # Whatever the database says: text is stored as it is.
    "client_encoding": "utf8",
    "connect_timeout": 5,
    # A server whose machine is gone is noticed within 15 s, while it is waited for or written to.
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a log is.

    Attributes:
        connect: what `psycopg.connect` is given.
        schema: where its tables are; None: where the database's own search path leads.
        archive: the folder of its archives.
        pooled: whether each transaction may be on another connection.
    """

    connect: dict[str, Any]
    schema: str | None
    archive: Path
    pooled: bool = False


def place(url: str) -> Place:
    """What a URL says.

    Raises:
        ValueError: it cannot be read, naming it without its password.
    """
    hidden = without_password(url)
    _check_quoting(url, hidden)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{hidden!r} is no PostgreSQL URL: {error}") from None
    own: dict[str, str] = {}
    rest: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _OWN:
            own[name] = value
        else:
            rest.append((name, value))
    schema = own.get("schema")
    if schema is not None and not _SCHEMA.match(schema):
        raise ValueError(
            f"{hidden!r}: schema is {schema!r}; it must be lower-case letters, digits and underscores, at most 63, "
            "and not begin with pg_, which is PostgreSQL's own"
        )
    pooler = own.get("pooler")
    if pooler not in (None, "transaction"):
        raise ValueError(f"{hidden!r}: pooler is {pooler!r}; it can only be 'transaction'")
    if pooler and schema is not None:
        raise ValueError(
            f"{hidden!r}: a schema is chosen for a session, which a pooler does not keep; "
            f"leave schema out, and ALTER ROLE … SET search_path = {schema}"
        )
    try:
        connect: dict[str, Any] = dict(conninfo_to_dict(parts._replace(query=urlencode(rest)).geturl()))
    except (psycopg.Error, ValueError) as error:
        raise ValueError(f"{hidden!r} is no PostgreSQL URL: {_harmless(str(error).strip(), url)}") from None
    _check_ports(connect, hidden)
    if schema is not None:
        given = connect.get("options")
        connect["options"] = f"{given} -csearch_path={schema}" if given else f"-csearch_path={schema}"
    if pooler:
        connect["prepare_threshold"] = None
    name = connect.get("dbname") or connect.get("user") or "wfes"
    archive = own.get("archive") or f"{name}{f'.{schema}' if schema else ''}.archive"
    return Place(_DEFAULTS | connect, schema, Path(archive).absolute(), pooler is not None)


def _check_quoting(url: str, hidden: str) -> None:
    """Refuses a user or a password with characters that mean something else in a URL: part of it would be a host."""
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest.partition("?")
    if path.count("@") > 1 or (
        "@" not in authority and "@" in path + re.split(r"[&=]", query, maxsplit=1)[0]
    ):
        raise ValueError(
            f"{hidden!r} has an @, / or ? in its user or password; in a URL they are written %40, %2F and %3F"
        )


def _check_ports(connect: dict[str, Any], hidden: str) -> None:
    for port in filter(None, str(connect.get("port") or "").split(",")):
        if not (port.isascii() and port.isdigit() and 0 < int(port) <= _PORT_MAX):
            raise ValueError(f"{hidden!r}: the port is {port!r}; it must be a number from 1 to {_PORT_MAX}")


def _harmless(text: str, url: str) -> str:
    """What libpq says, without what it quotes of a user and password."""
    secret = url.rpartition("@")[0]
    hint = "; a % is written %25" if "percent-encoded token" in text else ""
    return re.sub(r'"([^"]+)"', lambda found: '"***"' if found[1] in secret else found[0], text) + hint
