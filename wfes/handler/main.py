"""Beginning a handler: its task on the private loop."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any

from wfes.handler.scope import enter
from wfes.handler.state import RecordedState
from wfes.handler.step import Step

if TYPE_CHECKING:
    from wfes.handler.execution import Execution


def make_main(execution: Execution) -> asyncio.Task[Any]:
    """The task of the handler, in a fresh context, its input and state as the history says.

    Raises:
        Exception: the input does not fit the workflow any more.
    """
    workflow = execution.workflow
    tree = execution.started.input
    value = execution.host.values.open(tree, workflow.input_type) if workflow.has_input else None
    if workflow.has_input:
        value = workflow.validate_input(value)
    if workflow.state_type is not None:
        execution.state = RecordedState(execution, workflow.state_type)
    context = Context()
    context.run(enter, execution.root)
    context.run(execution.host.engine.enter_context)
    coro = workflow.bind(
        value,
        step=Step(execution),
        state=None if execution.state is None else execution.state.value,
        workflow=execution.host.engine.running_instance(execution) if workflow.wants("workflow") else None,
    )
    return execution.loop.create_task(coro, name=execution.id, context=context)
