"""Every error wfes raises.

Invariants:
- One base class, `WfesError`; beside it `ValueError`, `LookupError` or `TimeoutError` where a Python user
  expects one. `Suspended` alone is none of these: it is an `asyncio.CancelledError`, so that
  `except Exception` lets it pass.
- Fields are kept as attributes, the text is built in `__str__`; a class's docstring is its default message.
- All of them are importable from here, and this is the module they name as theirs: errors are recorded, and matched,
  by their qualified names, which must stay what they are.
"""

from wfes.core.error_info import ErrorInfo as ErrorInfo
from wfes.core.error_info import RecordedError as RecordedError
from wfes.core.error_info import qualified_name as qualified_name
from wfes.errors.base import WfesError as WfesError
from wfes.errors.caller import DuplicateProjection as DuplicateProjection
from wfes.errors.caller import DuplicateSchedule as DuplicateSchedule
from wfes.errors.caller import DuplicateWorkflow as DuplicateWorkflow
from wfes.errors.caller import EngineNotOpen as EngineNotOpen
from wfes.errors.caller import ForbiddenInTransaction as ForbiddenInTransaction
from wfes.errors.caller import ForkRefused as ForkRefused
from wfes.errors.caller import InsideHandler as InsideHandler
from wfes.errors.caller import InstanceEnded as InstanceEnded
from wfes.errors.caller import InstanceExists as InstanceExists
from wfes.errors.caller import InstanceNotFound as InstanceNotFound
from wfes.errors.caller import InvalidData as InvalidData
from wfes.errors.caller import InvalidInput as InvalidInput
from wfes.errors.caller import KeyInUse as KeyInUse
from wfes.errors.caller import NotSupported as NotSupported
from wfes.errors.caller import OutsideHandler as OutsideHandler
from wfes.errors.caller import PayloadTooLarge as PayloadTooLarge
from wfes.errors.caller import ProjectionInUse as ProjectionInUse
from wfes.errors.caller import ProjectionNotReady as ProjectionNotReady
from wfes.errors.caller import ProjectionStopped as ProjectionStopped
from wfes.errors.caller import RequestNotPending as RequestNotPending
from wfes.errors.caller import StateReadOnly as StateReadOnly
from wfes.errors.caller import UnknownMoment as UnknownMoment
from wfes.errors.caller import UnknownProjection as UnknownProjection
from wfes.errors.caller import UnknownRequest as UnknownRequest
from wfes.errors.caller import UnknownSchedule as UnknownSchedule
from wfes.errors.caller import UnknownWorkflow as UnknownWorkflow
from wfes.errors.caller import UnstorableValue as UnstorableValue
from wfes.errors.caller import WrongWorkflow as WrongWorkflow
from wfes.errors.caller import _Unknown as _Unknown
from wfes.errors.inside import ChildWorkflowError as ChildWorkflowError
from wfes.errors.inside import StepError as StepError
from wfes.errors.inside import StepInterrupted as StepInterrupted
from wfes.errors.inside import Suspended as Suspended
from wfes.errors.inside import WaitTimeout as WaitTimeout
from wfes.errors.outcomes import WorkflowAborted as WorkflowAborted
from wfes.errors.outcomes import WorkflowCancelled as WorkflowCancelled
from wfes.errors.outcomes import WorkflowFailed as WorkflowFailed
from wfes.errors.outcomes import WorkflowTimedOut as WorkflowTimedOut
from wfes.errors.outcomes import _Outcome as _Outcome
from wfes.errors.storage import ArchiveUnavailable as ArchiveUnavailable
from wfes.errors.storage import LogUnavailable as LogUnavailable
from wfes.errors.storage import NewerRelease as NewerRelease
from wfes.errors.storage import RedactionUnavailable as RedactionUnavailable
from wfes.errors.storage import UnknownEvent as UnknownEvent

for _error in list(globals().values()):
    if isinstance(_error, type) and _error.__module__.startswith("wfes.errors."):
        _error.__module__ = "wfes.errors"
