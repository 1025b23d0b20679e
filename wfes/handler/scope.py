"""Where running user code stands: in which execution, under which path, in which attempt.

A scope is what gives steps their paths: the path of whoever calls, a slash, the name, and ``#k`` for the k-th use of
one name there. It travels in a context variable, so that code called by a handler or a step function, in whatever
task or thread, still knows where it belongs.
"""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from wfes.core.ids import check_name, derived_id
from wfes.errors import NotSupported

if TYPE_CHECKING:
    from wfes.handler.changes import Was
    from wfes.handler.execution import Execution


class Scope:
    """One place that asks for steps: the handler itself (an empty path), or one run of one step's function.

    Attributes:
        execution: the execution it belongs to.
        path: the step's path, or ``""`` in the handler.
        attempt: the step's attempt, 1, 2, …; 0 in the handler.
        index: the item's number inside ``map``, ``for_each`` and ``batch``; else None.
        transaction: whether this is the function of a transaction, which records nothing by itself.
    """

    __slots__ = ("_draws", "_names", "attempt", "execution", "index", "path", "transaction")

    def __init__(
        self,
        execution: Execution,
        path: str,
        attempt: int = 0,
        index: int | None = None,
        *,
        transaction: bool = False,
    ) -> None:
        self.execution = execution
        self.path = path
        self.attempt = attempt
        self.index = index
        self.transaction = transaction
        self._names: dict[str, int] = {}
        self._draws = 0

    @property
    def in_handler(self) -> bool:
        """Whether this is the handler itself, and not a step's function."""
        return not self.path

    def claim(self, name: str, was: Was | None = None) -> str:
        """The path of the next use of ``name`` here, which ``was`` known by other names before.

        Raises:
            ValueError: the name is empty, longer than 200 characters, or has a ``/`` or ``#``.
            NotSupported: this is the function of a transaction.
        """
        self.check_records(f"step {name!r}")
        if was is not None:
            name = self.execution.changes.name_of(self, check_name(name, "step name"), was)
        count = self._names.get(name)
        if count is None:
            check_name(name, "step name")
            self._names[name] = 1
            return f"{self.path}/{name}" if self.path else name
        self._names[name] = count + 1
        name = f"{name}#{count + 1}"
        return f"{self.path}/{name}" if self.path else name

    def next_path(self, name: str) -> str:
        """The path that the next use of ``name`` here would have."""
        count = self._names.get(name)
        if count is not None:
            name = f"{name}#{count + 1}"
        return f"{self.path}/{name}" if self.path else name

    def has_claimed(self, part: str) -> bool:
        """Whether this has asked for what lies here under ``part``, a name with its ``#k``."""
        name, use = use_of(part)
        return self.uses(name) >= use

    def uses(self, name: str) -> int:
        """How often ``name`` was used here."""
        return self._names.get(name, 0)

    def claim_call(self, call: str) -> str:
        """The path of the next unnamed call here, such as ``#start``; no step can have that name."""
        if call != "id":
            self.check_records(call)
        name = f"#{call}"
        count = self._names.get(name, 0) + 1
        self._names[name] = count
        if count > 1:
            name = f"{name}#{count}"
        return f"{self.path}/{name}" if self.path else name

    def check_records(self, what: str) -> None:
        """Raises ``NotSupported`` in the function of a transaction."""
        if self.transaction:
            raise NotSupported(
                f"{what} is asked for inside the function of transaction {self.path!r}, whose own completion is all "
                "that its transaction records; ask for it before or after"
            )

    def derive_id(self) -> str:
        """An instance id made of this step's path and how many were made here: the same for every attempt."""
        return derived_id(self.execution.id, self.claim_call("id"))

    def draw(self, purpose: str) -> Random:
        """A generator seeded by the instance's seed and the place of this call."""
        self._draws += 1
        place = f"{self.execution.seed}\n{self.path}\n{self._draws}\n{purpose}"
        return Random(int.from_bytes(hashlib.sha256(place.encode()).digest(), "big"))

    def uuid(self) -> UUID:
        """A repeatable version 4 UUID."""
        return UUID(int=self.draw("uuid").getrandbits(128), version=4)

    async def call(self, name: str, command: Any) -> Any:
        """Performs a command as a recorded call of the handler: its effect and its record are one transaction.

        Args:
            name: what is called, such as ``start``.
            command: an object with ``run(tx) -> JSON tree``, which may refuse with a ``WfesError``.

        Returns:
            What ``run`` returned, on every replay the same.

        Raises:
            WfesError: what ``run`` refused with, on every replay the same.
        """
        return await self.execution.call(self, self.claim_call(name), name, command)

    def complete(self, output: object) -> None:
        """Ends the instance as completed; never returns.

        Raises:
            OutsideHandler: in a step's function of another execution, or nowhere.
        """
        self.execution.complete(output)


def use_of(part: str) -> tuple[str, int]:
    """The name that a part of a path is made of, and which use of it this is."""
    name, mark, use = part.rpartition("#")
    return (name, int(use)) if mark and name and use.isdigit() else (part, 1)


_scope: ContextVar[Scope | None] = ContextVar("wfes_scope", default=None)


def current() -> Scope | None:
    """The scope of the code that runs now, or None outside of handlers and steps."""
    return _scope.get()


def enter(scope: Scope) -> None:
    """Makes ``scope`` the current one of this context."""
    _scope.set(scope)
