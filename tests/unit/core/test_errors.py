"""Errors: their bases and texts; `ErrorInfo`: recording survives everything and matching goes by name."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from wfes import errors
from wfes.core.error_info import CAUSES_MAX, MESSAGE_BYTES_MAX, TRACEBACK_BYTES_MAX
from wfes.errors import ErrorInfo, RecordedError, StepError, WfesError


class Declined(ValueError):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


INFO = ErrorInfo.of(Declined("card"))
NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)

SAMPLES: list[tuple[BaseException, type[BaseException] | None, str]] = [
    (
        errors.InvalidInput(workflow="checkout", detail="items: missing"),
        ValueError,
        "'checkout'.*items: missing",
    ),
    (errors.InvalidData(name="approval", detail="not a bool"), ValueError, "request 'approval'.*not a bool"),
    (errors.UnknownMoment("i", 9, 7, NOON), LookupError, "'i' has no version 9: its versions are 1 to 7"),
    (errors.UnknownMoment("i", NOON, 7, NOON), LookupError, "'i' was not there at 2030-01-31T12:00:00"),
    (errors.InstanceNotFound(id="i-1"), LookupError, "'i-1'"),
    (errors.InstanceExists(id="i-1", workflow="checkout"), ValueError, "'i-1' is taken.*'checkout'"),
    (
        errors.ForkRefused("i-1", 9, "its history has 5"),
        ValueError,
        "'i-1' cannot be forked at 9: its history",
    ),
    (
        errors.WrongWorkflow("i-1", expected="a", actual="b"),
        LookupError,
        "'i-1' belongs to workflow 'b', not to 'a'",
    ),
    (errors.UnknownWorkflow("a", known=["c", "b"]), LookupError, "'a'; it knows 'b', 'c'"),
    (errors.UnknownWorkflow("a"), LookupError, "it knows none"),
    (errors.DuplicateWorkflow("a", first="m.f", second="m.g"), ValueError, "'a' .m.f and m.g."),
    (errors.UnknownSchedule("a", known=["c", "b"]), LookupError, "named 'a'; there are 'b', 'c';"),
    (
        errors.DuplicateSchedule("a:b", first="a", second="a:b"),
        ValueError,
        "'a' and 'a:b' are both named 'a:b'",
    ),
    (
        errors.UnknownRequest("a", workflow="w", declared=["b"]),
        LookupError,
        "'w' declares no request named 'a'",
    ),
    (
        errors.RequestNotPending("a", instance="i", reason="answered"),
        None,
        "'a' of instance 'i' is not open: answered",
    ),
    (errors.InstanceEnded("i", status="failed", action="send"), None, "'i' is over .failed., so send is not"),
    (errors.NotSupported("keys= is not"), NotImplementedError, "keys= is not"),
    (errors.KeyInUse("k", workflow="w", id="i"), None, "'k' of workflow 'w' is in use by instance 'i'"),
    (errors.EngineNotOpen(), None, "No engine is open"),
    (errors.OutsideHandler("complete()"), None, r"complete\(\) works only inside"),
    (errors.InsideHandler("connection="), None, r"connection= does not work inside"),
    (
        errors.UnknownProjection("sales", ["days"]),
        LookupError,
        "no projection 'sales'; it has 'days'; give it",
    ),
    (
        errors.DuplicateProjection("days", "a.Days", "b.Days"),
        ValueError,
        "named 'days': a.Days and b.Days; rename",
    ),
    (errors.ProjectionStopped("days", 7, "KeyError: 'x'"), None, "'days' is stopped at position 7.*KeyError"),
    (
        errors.ProjectionStopped("days", None, "no table"),
        None,
        "'days' is stopped.*no table.*retry_projection",
    ),
    (errors.ProjectionInUse("days", "an engine follows it"), None, "'days' cannot be dropped: an engine"),
    (
        errors.ProjectionNotReady("days", "it is being built"),
        None,
        "'days' cannot answer this yet: it is being",
    ),
    (errors.StateReadOnly("total", step="a/b"), None, r"state.total cannot be changed in step 'a/b'"),
    (errors.ForbiddenInTransaction("commit() is not for a function"), None, r"commit\(\) is not for a"),
    (
        errors.UnstorableValue("result", type_name="x.Y", hint="do z"),
        ValueError,
        "result cannot be stored: x.Y.*do z",
    ),
    (errors.PayloadTooLarge("result", size=2000, limit=1000), ValueError, "2,000 bytes.*1,000"),
    (errors.RedactionUnavailable("i", reason="no keys"), None, "'i'.*no keys"),
    (errors.UnknownEvent("Foo", version=3, position=9), None, "'Foo' version 3 at position 9"),
    (
        errors.LogUnavailable("postgresql://u:p@x@h/db", "refused"),
        None,
        r"postgresql://u:\*\*\*@h/db.*refused",
    ),
    (
        errors.NewerRelease("sqlite:///x.db", "work", 3, 2),
        errors.LogUnavailable,
        "'work' are version 3 there, and this process has version 2: a newer release.*restart this process",
    ),
    (
        errors.ArchiveUnavailable("x.archive/d.gz", "no file", "i"),
        LookupError,
        "x.archive/d.gz.*'i'.*no file",
    ),
    (
        errors.StepError("a/b", attempts=3, error=INFO),
        None,
        "'a/b' failed after 3 attempts: .*Declined: card",
    ),
    (errors.StepInterrupted("a", attempt=2), None, "attempt 2 of step 'a'"),
    (errors.WaitTimeout("a", timeout=5_400_000_000), TimeoutError, "'a'.*within 1h30m"),
    (errors.ChildWorkflowError("failed", "c", INFO), None, "'c' ended as failed: .*Declined: card"),
    (errors.WorkflowFailed("i", INFO, workflow="w"), None, "'i' of workflow 'w' failed: .*Declined: card"),
    (errors.WorkflowFailed("i", reason="not approved"), None, "'i' failed: not approved"),
    (errors.WorkflowCancelled("i", reason="r"), None, "was cancelled: r"),
    (errors.WorkflowAborted("i"), None, "'i' was aborted$"),
    (errors.WorkflowTimedOut("i"), None, "timed out"),
]


@pytest.mark.parametrize(("error", "base", "words"), SAMPLES, ids=lambda value: type(value).__name__)
def test_bases_and_texts(error: BaseException, base: type[BaseException] | None, words: str) -> None:
    assert isinstance(error, WfesError)
    assert base is None or isinstance(error, base)
    with pytest.raises(type(error), match=words):
        raise error


def test_every_error_is_sampled_and_documented() -> None:
    found = {
        kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, WfesError) and not name.startswith("_")
    }
    assert found - {type(error) for error, _, _ in SAMPLES} == {WfesError}
    for kind in found:
        assert kind.__doc__
        assert "__str__" in vars(kind) or issubclass(kind, (errors._Outcome, errors.NewerRelease))
    assert str(WfesError()) == "wfes cannot do this."
    assert str(WfesError("text")) == "text"


def test_a_workflow_that_timed_out_is_no_timeout_of_the_waiting() -> None:
    assert not issubclass(errors.WorkflowTimedOut, TimeoutError)


def test_suspended_passes_except_exception() -> None:
    assert issubclass(errors.Suspended, asyncio.CancelledError)
    assert not issubclass(errors.Suspended, Exception)


# -- ErrorInfo --------------------------------------------------------------------------------------


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        if cause is None:
            raise error
        raise error from cause
    except BaseException as caught:
        return caught


def test_recording() -> None:
    error = raised(Declined("card"), raised(KeyError("k")))
    error.add_note("try another")
    info = ErrorInfo.of(error)
    assert info.type == f"{__name__}.Declined"
    assert info.message == "card\ntry another"
    assert info.bases == ("ValueError", "Exception")
    assert "raise error from cause" in info.traceback
    assert info.cause is not None
    assert (info.cause.type, info.cause.message) == ("KeyError", "'k'")
    assert "KeyError" not in info.traceback
    assert ErrorInfo.from_json(orjson.loads(orjson.dumps(info.to_json()))) == info


def test_context_counts_as_cause_unless_suppressed() -> None:
    try:
        try:
            raise KeyError("k")
        except KeyError:
            raise Declined("card")  # noqa: B904
    except Declined as error:
        info = ErrorInfo.of(error)
        error.__suppress_context__ = True
        alone = ErrorInfo.of(error)
    assert info.cause is not None
    assert info.cause.type == "KeyError"
    assert alone.cause is None


@pytest.mark.parametrize(
    "error",
    [
        Unprintable(),
        Exception("\ud800"),
        Exception("x" * 10**6),
        Exception("é" * 10**6),
        ExceptionGroup("g", [KeyError()]),
    ],
)
def test_recording_survives(error: Exception) -> None:
    info = ErrorInfo.of(raised(error))
    tree = info.to_json()
    assert ErrorInfo.from_json(orjson.loads(orjson.dumps(tree))) == info
    assert len(info.message.encode()) <= MESSAGE_BYTES_MAX + 100
    assert len(info.traceback.encode()) <= TRACEBACK_BYTES_MAX + 100


def test_deep_recursion_and_long_chains_are_bounded() -> None:
    def fall() -> None:
        fall()

    with pytest.raises(RecursionError) as caught:
        fall()
    assert len(ErrorInfo.of(caught.value).traceback.encode()) <= TRACEBACK_BYTES_MAX + 100

    error: BaseException = KeyError(0)
    for number in range(1, 50):
        error = raised(KeyError(number), error)
    cyclic = KeyError("a")
    cyclic.__cause__ = KeyError("b")
    cyclic.__cause__.__cause__ = cyclic
    for endless in (error, cyclic):
        depth, info = 0, ErrorInfo.of(endless).cause
        while info is not None:
            depth, info = depth + 1, info.cause
        assert depth == CAUSES_MAX


def test_matching_by_name() -> None:
    assert INFO.matches(Declined)
    assert INFO.matches(ValueError)
    assert INFO.matches(BaseException)
    assert INFO.matches(KeyError, ValueError)
    assert not INFO.matches(KeyError)
    assert not INFO.matches()
    assert ErrorInfo.of(errors.InstanceNotFound("i")).type == "wfes.InstanceNotFound"
    assert ErrorInfo.of(errors.InstanceNotFound("i")).matches(LookupError, WfesError)


def test_a_main_modules_class_matches_under_both_its_names() -> None:
    in_main: Any = type("Declined", (ValueError,), {"__module__": "__main__"})
    assert INFO.matches(in_main)
    assert ErrorInfo.of(in_main()).matches(Declined)
    other: Any = type("Declined", (ValueError,), {"__module__": "elsewhere"})
    assert not INFO.matches(other)


def test_the_cause_of_a_step_error_is_a_reconstruction() -> None:
    info = ErrorInfo.of(raised(Declined("card"), raised(KeyError("k"))))
    error = StepError("a", 1, info)
    again = StepError("a", 1, ErrorInfo.from_json(info.to_json()))
    for made in (error, again):
        assert made.matches(Declined)
        assert isinstance(made.__cause__, RecordedError)
        assert str(made.__cause__) == f"{__name__}.Declined: card"
        assert made.__cause__.traceback == info.traceback
        assert str(made.__cause__.__cause__) == "KeyError: 'k'"
    assert str(error) == str(again)
    outer = ErrorInfo.of(raised(error))
    assert outer.type == "wfes.StepError"
    assert outer.cause == info
    assert ErrorInfo.of(error.__cause__ or error) is info
