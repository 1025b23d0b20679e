"""What a step's function must not do in the transaction that it shares with the log.

The commit is the step's: it is what makes the function's rows and the step's completion one. And the log's own tables
are written by the log alone.
"""

from __future__ import annotations

OWN_PREFIX = "wfes_"
"""How the names of the log's own tables begin."""
OUTBOX = "wfes_outbox"
"""The one of them that a function may insert into: commands that are part of its transaction."""


def ending(what: str) -> str:
    """The message for ``COMMIT`` and the like."""
    return (
        f"{what} is not for a function of step.transaction: its rows are committed together with the step's "
        "completion, when it returns, and rolled back when it raises"
    )


def own_table(what: str, table: str) -> str:
    """The message for a statement that changes one of the log's own tables."""
    return f"{what} of {table!r} is not for a function of step.transaction: tables named wfes_... are the log's own"


def not_inside(what: str, why: str = "the connection is the engine's") -> str:
    """The message for what would change the connection, or the transaction, itself."""
    return f"{what} is not for a function of step.transaction: {why}"
