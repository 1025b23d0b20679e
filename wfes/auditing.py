"""What an engine lets its handles prove: that nothing in the log was changed since it was written.

Nothing here changes the log or runs user code. What is checked, and what cannot be seen without a checkpoint, says
`wfes.audit.verify`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from wfes.errors import InstanceNotFound
from wfes.log.port import Log
from wfes.parts import Parts

if TYPE_CHECKING:
    from wfes.audit.findings import AuditReport


class Auditing:
    """An engine's calls that verify its log."""

    _log: Log
    _parts: Parts

    async def verify(
        self, instance: str | None = None, *, progress: Callable[[int], object] | None = None
    ) -> AuditReport:
        """Computes the hash chains of all histories again, from the stored bytes, and follows versions and positions.

        In a thread, page by page; archived histories and the engine's own streams are verified as well. A change to
        the last event of a history that leaves it readable, and a chain that was computed anew, cannot be seen so.

        Args:
            instance: Only the history of the instance with this id.
            progress: Called from a thread after each page, with how many events were checked so far.

        Returns:
            A report, true in a condition if nothing is wrong.

        Raises:
            InstanceNotFound: Nothing in the log has this id.
            LogUnavailable: The log cannot be read.
        """
        from wfes.audit.verify import verify_history, verify_log  # not before it is asked for

        self._parts.check_open()
        if instance is None:
            return await self._parts.here(asyncio.to_thread(verify_log, self._log, progress))
        report = await self._parts.here(asyncio.to_thread(verify_history, self._log, instance))
        if not report.events and report.ok:
            raise InstanceNotFound(instance)
        return report
