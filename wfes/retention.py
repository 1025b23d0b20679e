"""An engine's call that moves the histories of ended instances to the archive.

What it does to the log says `wfes.runtime.pruning`; by itself an engine does so as `wfes.runtime.retention` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wfes.actor import asked_by
from wfes.core import durations
from wfes.core.durations import Duration
from wfes.definition import Workflow
from wfes.log.port import Log
from wfes.parts import Parts
from wfes.runtime.pruning import Pruned
from wfes.runtime.streams import workflow_stream
from wfes.validation import shown


class Pruning:
    """An engine's retention."""

    _log: Log
    _parts: Parts

    async def prune(
        self,
        workflow: Workflow[Any, Any] | str | None = None,
        older_than: Duration | None = None,
        *,
        dry_run: bool = False,
        actor: str | None = None,
        progress: Callable[[Pruned], object] | None = None,
    ) -> Pruned:
        """Moves histories of ended instances from the log to its archive, where they stay readable.

        In small batches, between which others write; it may take a while. What something waits for stays.

        Args:
            workflow: Only instances of this workflow or name.
            older_than: Duration since their end; default: each workflow's `retention=`.
            dry_run: Only count what would be moved.
            actor: Who asks.
            progress: Called after each batch with what was moved so far.

        Returns:
            What was moved: how many instances and events, how many bytes they took in the log, and the archive's
            files that they are in.

        Raises:
            ValueError: The log has no workflow of this name, it has no retention and `older_than` is not given, or that
                is no duration.
            ArchiveUnavailable: The archive cannot be written; nothing of that batch left the log.
            LogUnavailable: The log cannot be written.
        """
        self._parts.check_open()
        asked = asked_by(actor)
        ended_upto = self._ended_upto(
            _name(workflow), None if older_than is None else durations.micros(older_than, "older_than")
        )
        pruned = self._parts.archivist.prune(ended_upto, dry_run=dry_run, actor=asked, progress=progress)
        return await self._parts.here(pruned)

    def _ended_upto(self, workflow: str | None, age: int | None) -> dict[str, int]:
        archivist = self._parts.archivist
        now = self._parts.now()
        if workflow is not None and not self._log.select_events(workflow_stream(workflow), limit=1):
            raise ValueError(f"workflow is {workflow!r}; the log has no workflow of that name")
        if age is not None:
            names = archivist.with_ended() if workflow is None else [workflow]
            return dict.fromkeys(names, now - age)
        kept = archivist.retentions()
        if workflow is None:
            return {name: now - retention for name, retention in kept.items()}
        if workflow not in kept:
            raise ValueError(
                f"workflow {workflow!r} has no retention; say older_than=, such as older_than='90d', or give it one "
                "with @workflow(retention='90d')"
            )
        return {workflow: now - kept[workflow]}


def _name(workflow: object) -> str | None:
    if workflow is None or isinstance(workflow, str):
        return workflow
    if isinstance(workflow, Workflow):
        return str(workflow.name)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    raise TypeError(f"workflow is {shown(workflow)}; it must be a workflow or the name of one")
