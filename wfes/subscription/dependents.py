"""What users have built in PostgreSQL on tables that are not theirs: views above all.

There a view leads to a table, whatever that is called by now, and a table that anything leads to cannot be dropped. So
where a table takes another's place its views are made to lead to the new one, and what cannot be led there (a
materialized view, a foreign key, somebody else's view) is named before anything is done. On SQLite a view leads to a
name, and nothing has to be seen to.

Invariants: a view keeps its owner, its grants and its options; nothing of a user's is ever dropped.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from wfes.errors import LogUnavailable, WfesError
from wfes.errors.storage import without_password
from wfes.log.rows import Target
from wfes.subscription.registry import Query
from wfes.subscription.table import Dialect

# Dependencies of the table itself and of its type of rows, but for what belongs to the table.
_LEADS_HERE = """d.deptype = 'n' AND (
        (d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(:name))
        OR (d.refclassid = 'pg_type'::regclass
            AND d.refobjid = (SELECT reltype FROM pg_class WHERE oid = to_regclass(:name))))"""
_VIEWS = f"""SELECT c.oid::regclass::text, pg_get_viewdef(c.oid), array_to_string(c.reloptions, ', ')
    FROM pg_class c WHERE c.relkind = 'v' AND pg_has_role(c.relowner, 'USAGE') AND c.oid IN (
        SELECT r.ev_class FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        WHERE {_LEADS_HERE})
    ORDER BY c.oid"""
_OTHERS = f"""SELECT DISTINCT CASE WHEN c.relkind = 'v' THEN 'view ' || c.oid::regclass::text
        ELSE regexp_replace(pg_describe_object(d.classid, d.objid, d.objsubid), '^rule .* on ', '') END
    FROM pg_depend d LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_class c ON c.oid = r.ev_class
    WHERE {_LEADS_HERE}
        AND (c.relkind IS DISTINCT FROM 'v' OR :views OR NOT pg_has_role(c.relowner, 'USAGE'))
        AND NOT EXISTS (SELECT 1 FROM pg_constraint k
            WHERE d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.conrelid = to_regclass(:name))
    ORDER BY 1"""


class InTheWay(WfesError, ValueError):
    """Something of a user's leads to a table, and would be lost with it."""

    def __init__(self, url: str, table: str, others: Sequence[str], todo: str) -> None:
        super().__init__(
            f"{', '.join(others)} in {without_password(url)} {_needs(others)} the table {table!r}; {todo}"
        )


def _needs(others: Sequence[str]) -> str:
    return "needs" if len(others) == 1 else "need"


@dataclass(frozen=True, slots=True)
class _View:
    name: str
    query: str
    options: str | None

    def create(self) -> str:
        options = f" WITH ({self.options})" if self.options else ""
        return f"CREATE OR REPLACE VIEW {self.name}{options} AS {self.query}"


def has_any(query: Query, dialect: Dialect, table: str) -> bool:
    """Whether anything but what is its own leads to a table."""
    return dialect.name != "sqlite" and bool(query(_OTHERS, {"name": table, "views": True}))


def check_droppable(query: Query, url: str, dialect: Dialect, tables: Sequence[str]) -> None:
    """Looks whether nothing leads to tables that are to be dropped.

    Raises:
        InTheWay: something does.
    """
    _check(query, url, dialect, tables, True, "drop that first: the projection's tables go")


def check_replaceable(query: Query, url: str, dialect: Dialect, tables: Sequence[str]) -> None:
    """Looks whether what leads to tables can be made to lead to those that are to take their place.

    Raises:
        InTheWay: something cannot.
    """
    todo = (
        "new rows take its place, and only views of its owner's can be made to read them: drop that first, build the "
        "projection anew, and make it again"
    )
    _check(query, url, dialect, tables, False, todo)


def _check(query: Query, url: str, dialect: Dialect, tables: Sequence[str], views: bool, todo: str) -> None:
    if dialect.name == "sqlite":
        return
    for table in tables:
        others = [row[0] for row in query(_OTHERS, {"name": table, "views": views})]
        if others:
            raise InTheWay(url, table, others, todo)


@contextmanager
def led_over(target: Target, url: str, dialect: Dialect, tables: Sequence[str]) -> Generator[None]:
    """While tables are renamed in an open transaction: views that read them read what has their names afterwards.

    Raises:
        InTheWay: a view asks for what a new table does not have, or something else leads to an old one.
    """
    check_replaceable(target.query, url, dialect, tables)
    views: dict[str, tuple[str, _View]] = {}
    if dialect.name != "sqlite":
        for table in tables:
            for row in target.query(_VIEWS, {"name": table}):
                views[row[0]] = (table, _View(*row))
    yield
    for table, view in views.values():
        try:
            target.query(view.create())
        except LogUnavailable:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            todo = f"it does not fit the new one ({reason}): drop it, build the projection anew, and make it again"
            raise InTheWay(url, table, [f"view {view.name}"], todo) from error
