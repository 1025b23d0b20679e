"""What a changed value of a fork has to be, and its stored form.

The types are those that today's handler declares at the calls: it is run against the history, reading only
(`wfes.timetravel.rerun`), and what it asks for is looked at. What the handler never comes to, what lies inside a step's
function, and everything where this engine does not know the workflow, has no known type: any storable value will do,
and keeps the form that the recorded one has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from wfes.core import events as e
from wfes.core.codec import ABSENT, TYPED, Json
from wfes.errors import InvalidData
from wfes.handler import functions
from wfes.handler.asks import Ask, ChildAsk, ListenAsk, RequestAsk
from wfes.handler.attempts import StepAsk
from wfes.runtime.values import Blobs, Values
from wfes.timetravel.rerun import Rerun
from wfes.validation import explained, fitted

if TYPE_CHECKING:
    from wfes.definition import Workflow

Refuse = Callable[[str], Exception]


class Declared:
    """What the handler declares at each path that it comes to: an `Observer` of a run."""

    def __init__(self) -> None:
        self._run: Rerun | None = None
        self._types: dict[str, Any] = {}
        self._fits: dict[str, Callable[[Any], Any]] = {}

    def asked(self, path: str, kind: str) -> None:
        assert self._run is not None
        ask = self._run.execution.asks.get(path)
        if isinstance(ask, ListenAsk):
            if ask.validate is not None:
                self._fits[path] = ask.validate
        elif ask is not None:
            self._types[path] = _declared(ask)

    def applying(self, version: int, event: e.Event) -> None: ...

    def resumed(self, path: str, version: int) -> None: ...

    def at(self, version: int) -> None: ...

    def type_at(self, path: str) -> Any:
        """The type of a path's result, or ``ABSENT``."""
        return self._types.get(path, ABSENT)

    def fitted(self, path: str, value: Any) -> Any:
        """The value as the path has it.

        Raises:
            ValidationError, InvalidData: It does not fit.
        """
        if path in self._fits:
            return self._fits[path](value)
        type_ = self.type_at(path)
        return value if type_ is ABSENT or type_ is Any else fitted(type_, value)

    @classmethod
    def by(
        cls,
        workflow: Workflow[Any, Any] | None,
        history: Sequence[e.Recorded],
        values: Values,
        workflows: Mapping[str, Workflow[Any, Any]],
        url: str | None,
    ) -> Declared:
        """What a workflow's handler declares on its way along a history. Outside of any event loop's tasks."""
        declared = cls()
        if workflow is not None:
            run = Rerun(
                workflow,
                history[0].originator_id,
                history,
                values,
                observer=declared,
                workflows=workflows,
                url=url,
            )
            declared._run = run
            run.run()
        return declared


def _declared(ask: Ask) -> Any:
    match ask:
        case StepAsk():
            return functions.return_type(ask.fn) if ask.returns is ABSENT else ask.returns
        case RequestAsk():
            return ask.type_
        case ChildAsk():
            return ask.output_type
        case _:
            return ABSENT


class Sealer:
    """Makes changed values what stands in the fork's history, and keeps the large ones among them."""

    def __init__(self, values: Values, declared: Declared, refuse: Refuse) -> None:
        """Makes one.

        Args:
            values: seals.
            declared: what is known of the types.
            refuse: makes the error of a reason.
        """
        self._values = values
        self._declared = declared
        self._refuse = refuse
        self.blobs: Blobs = ()

    def at(self, path: str | None, value: Any, recorded: Json, what: str) -> Json:
        """The stored form of a value for a path.

        Args:
            path: whose result it is; None: nobody's yet.
            value: the value.
            recorded: the form of what it replaces.
            what: what it is, for errors.

        Raises:
            ForkRefused: it is not of the declared type.
            UnstorableValue, PayloadTooLarge: it cannot be stored.
        """
        type_ = ABSENT
        if path is not None:
            try:
                value = self._declared.fitted(path, value)
            except ValidationError as error:
                raise self._refuse(
                    f"{what} does not fit the type declared there: {explained(error)}"
                ) from error
            except InvalidData as error:
                raise self._refuse(f"{what} does not fit: {error.detail}") from error
            type_ = self._declared.type_at(path)
        return self.sealed(value, recorded, what, type_)

    def sealed(self, value: Any, recorded: Json, what: str, type_: Any = ABSENT) -> Json:
        """The stored form of a value that fits."""
        is_plain = isinstance(value, (dict, list, str, int, float, bool))
        if type_ is ABSENT and is_plain and isinstance(recorded, dict) and TYPED in recorded:
            # What the recorded one was made of is not known here; whoever reads it has the type.
            return {TYPED: self._values.seal(cast(object, value), what).whole}
        if type_ is ABSENT:
            made_of: Any = type(cast(object, value))
            type_ = made_of if hasattr(made_of, "__pydantic_serializer__") else ABSENT
        sealed = self._values.seal(cast(object, value), what, type_)
        self.blobs = (*self.blobs, *sealed.blobs)
        return sealed.tree
