"""`Retry`: when a failed attempt is made again, and when no more.

Pure: the random number that spreads the delays is passed in, so a decision can be repeated and tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from wfes.core import durations
from wfes.core.durations import Duration
from wfes.core.error_info import ErrorInfo


@dataclass(frozen=True, slots=True)
class Retry:
    """How a failing step is retried: exponential backoff with full jitter.

    Attributes:
        max_attempts: How many times the function is executed at most, the first time included.
        initial: Duration of the first delay.
        factor: What each delay is multiplied by to give the next, at least 1.
        max: Duration no delay exceeds.
        jitter: Whether a delay is drawn evenly between zero and its full length; else it is the full length.
        give_up_on: Exception classes that are not retried, subclasses included; compared by name.

    Raises:
        TypeError: A field is of the wrong type.
        ValueError: A field's value cannot be meant.

    >>> Retry(max_attempts=3, initial="1s", jitter=False).delay_micros(2, 0.0)
    2000000
    """

    max_attempts: int = 5
    initial: Duration = "250ms"
    factor: float = 2.0
    max: Duration = "30s"
    jitter: bool = True
    give_up_on: tuple[type[BaseException], ...] = ()
    _initial_micros: int = field(init=False, repr=False, compare=False, default=0)
    _max_micros: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        _check_attempts(self.max_attempts)
        _check_factor(self.factor)
        if not isinstance(self.jitter, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"jitter is {self.jitter!r}; it must be True or False")
        object.__setattr__(self, "give_up_on", _exception_classes(self.give_up_on))
        object.__setattr__(self, "_initial_micros", durations.micros(self.initial, "initial"))
        object.__setattr__(self, "_max_micros", durations.micros(self.max, "max"))

    def delay_micros(self, attempt: int, random: float) -> int:
        """How long to wait after a failed attempt, in microseconds.

        Args:
            attempt: The number of the attempt that failed: 1, 2, …
            random: A number in [0, 1), which places the delay where `jitter` is set.
        """
        full = self._full_delay(attempt)
        return int(full * random) if self.jitter else full

    def _full_delay(self, attempt: int) -> int:
        initial, limit = self._initial_micros, self._max_micros
        if initial == 0 or initial >= limit:
            return min(initial, limit)
        # In logarithms: the power itself overflows a float after some thousand attempts.
        growth = (attempt - 1) * math.log(self.factor)
        if growth >= math.log(limit / initial):
            return limit
        return min(limit, round(initial * math.exp(growth)))

    def gives_up(self, error: ErrorInfo | BaseException) -> bool:
        """Whether this error is not retried because `give_up_on` names its class or a base of it."""
        if not self.give_up_on:
            return False
        info = error if isinstance(error, ErrorInfo) else ErrorInfo.of(error)
        return info.matches(*self.give_up_on)

    def with_max_attempts(self, max_attempts: int | None) -> Retry:
        """The same with another `max_attempts`; None: itself."""
        if max_attempts is None or (max_attempts == self.max_attempts and type(max_attempts) is int):
            return self
        return replace(self, max_attempts=max_attempts)


def _check_attempts(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_attempts is {value!r}; it must be a whole number, at least 1")
    if value < 1:
        raise ValueError(f"max_attempts is {value!r}; it must be at least 1, the first execution included")


def _check_factor(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"factor is {value!r}; it must be a number, at least 1")
    if not (math.isfinite(value) and value >= 1):
        raise ValueError(f"factor is {value!r}; it must be a finite number, at least 1")


def _exception_classes(value: Any) -> tuple[type[BaseException], ...]:
    try:
        kinds: tuple[Any, ...] = (value,) if isinstance(value, type) else tuple(value)
    except TypeError:
        kinds = (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(
                f"give_up_on holds {kind!r}; it must hold exception classes, such as (ValueError,)"
            )
    return kinds
