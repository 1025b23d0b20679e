"""Durable workflows: plain async Python functions whose every action is an event on an append-only log.

The public names, nothing else; the errors are listed in `wfes.errors`.
"""

from __future__ import annotations

from wfes.actor import acting_as
from wfes.audit.findings import AuditReport, Problem
from wfes.core.retry import Retry
from wfes.core.state import ACTIVE, TERMINAL, Outcome, Status, Wait
from wfes.engine import Engine
from wfes.errors import (
    ArchiveUnavailable,
    ChildWorkflowError,
    DuplicateProjection,
    DuplicateSchedule,
    DuplicateWorkflow,
    EngineNotOpen,
    ErrorInfo,
    ForbiddenInTransaction,
    ForkRefused,
    InsideHandler,
    InstanceEnded,
    InstanceExists,
    InstanceNotFound,
    InvalidData,
    InvalidInput,
    KeyInUse,
    LogUnavailable,
    NewerRelease,
    NotSupported,
    OutsideHandler,
    PayloadTooLarge,
    ProjectionInUse,
    ProjectionNotReady,
    ProjectionStopped,
    RedactionUnavailable,
    RequestNotPending,
    StateReadOnly,
    StepError,
    StepInterrupted,
    Suspended,
    UnknownEvent,
    UnknownMoment,
    UnknownProjection,
    UnknownRequest,
    UnknownSchedule,
    UnknownWorkflow,
    UnstorableValue,
    WaitTimeout,
    WfesError,
    WorkflowAborted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTimedOut,
    WrongWorkflow,
)
from wfes.handler.difference import Difference, Place
from wfes.handler.step import Step
from wfes.handover import HandedOver
from wfes.instance import Instance
from wfes.runtime.pruning import Pruned
from wfes.schedules import ScheduleRow
from wfes.subscription.buffer import Rows
from wfes.subscription.event import ProjectionEvent
from wfes.subscription.projection import Projection, on, query
from wfes.subscription.reader import Reader
from wfes.subscription.table import Row
from wfes.timetravel.diff import Change, Diff, Parting, diff
from wfes.timetravel.fork_plan import ForkPart, ForkPlan
from wfes.timetravel.past import InstanceState, StepView
from wfes.timetravel.replay import ReplayReport
from wfes.timetravel.waits import WaitView
from wfes.version import __version__
from wfes.views import (
    Answer,
    DataRequest,
    ForkRow,
    InstanceCounts,
    InstanceRow,
    Page,
    ProjectionStatus,
    RecordedEvent,
)
from wfes.workers import Unserved, WorkerCode, WorkerRow
from wfes.workflow import Concurrency, Event, Request, Schedule, Workflow, workflow

__all__ = [
    "ACTIVE",
    "TERMINAL",
    "Answer",
    "ArchiveUnavailable",
    "AuditReport",
    "Change",
    "ChildWorkflowError",
    "Concurrency",
    "DataRequest",
    "Diff",
    "Difference",
    "DuplicateProjection",
    "DuplicateSchedule",
    "DuplicateWorkflow",
    "Engine",
    "EngineNotOpen",
    "ErrorInfo",
    "Event",
    "ForbiddenInTransaction",
    "ForkPart",
    "ForkPlan",
    "ForkRefused",
    "ForkRow",
    "HandedOver",
    "InsideHandler",
    "Instance",
    "InstanceCounts",
    "InstanceEnded",
    "InstanceExists",
    "InstanceNotFound",
    "InstanceRow",
    "InstanceState",
    "InvalidData",
    "InvalidInput",
    "KeyInUse",
    "LogUnavailable",
    "NewerRelease",
    "NotSupported",
    "Outcome",
    "OutsideHandler",
    "Page",
    "Parting",
    "PayloadTooLarge",
    "Place",
    "Problem",
    "Projection",
    "ProjectionEvent",
    "ProjectionInUse",
    "ProjectionNotReady",
    "ProjectionStatus",
    "ProjectionStopped",
    "Pruned",
    "Reader",
    "RecordedEvent",
    "RedactionUnavailable",
    "ReplayReport",
    "Request",
    "RequestNotPending",
    "Retry",
    "Row",
    "Rows",
    "Schedule",
    "ScheduleRow",
    "StateReadOnly",
    "Status",
    "Step",
    "StepError",
    "StepInterrupted",
    "StepView",
    "Suspended",
    "UnknownEvent",
    "UnknownMoment",
    "UnknownProjection",
    "UnknownRequest",
    "UnknownSchedule",
    "UnknownWorkflow",
    "Unserved",
    "UnstorableValue",
    "Wait",
    "WaitTimeout",
    "WaitView",
    "WfesError",
    "WorkerCode",
    "WorkerRow",
    "Workflow",
    "WorkflowAborted",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowTimedOut",
    "WrongWorkflow",
    "__version__",
    "acting_as",
    "diff",
    "on",
    "query",
    "workflow",
]
