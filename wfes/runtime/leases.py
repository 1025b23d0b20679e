"""Who runs instances on this log, and who of them is dead.

Owns the table ``wfes_workers``: an operational table, which is not made from the log and on which nothing rests but
*when* somebody else may try; who is right is decided by the log alone.

A worker holds a lock for as long as its process lives (`wfes.log.presence`). On the machine where it is held a free
lock means dead: at once where the operating system says so, on the second look where a connection to a server stands
between. Everybody else is judged by the heartbeat: a counter that did not change for one lease, by the observer's own
monotonic clock and counting only time in which it could look: while the database is away nobody can write a heartbeat,
and nobody must be taken for dead for that. A heartbeat is written only while somebody is registered who needs it, so
an idle engine on its own disk writes nothing.

Invariants: a worker's row is written after it holds its lock and before it claims anything; an id is used once.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from wfes.core import durations
from wfes.core.durations import SECOND
from wfes.log.presence import Presence

LEASE_MICROS = 30 * SECOND
"""How long a heartbeat may stay unchanged before its worker is taken for dead."""
LEASE_VARIABLE = "WFES_LEASE"
"""The environment variable that gives this process's workers another lease, as a duration."""
LEASE_MIN_MICROS = SECOND
BEATS_A_LEASE = 3
"""How often a heartbeat is written within one lease, while somebody needs it."""
SURE_NANOS = 100_000_000
"""How long after the first look a lock that a connection stands for must still be free."""
STEP_NANOS = 2_000_000_000
"""The most that one look adds to the time in which a heartbeat has not changed."""

CREATE: tuple[str, ...] = (
    """CREATE TABLE IF NOT EXISTS wfes_workers (
        id TEXT PRIMARY KEY,
        name TEXT,
        host TEXT NOT NULL,
        boot TEXT NOT NULL,
        pid INTEGER NOT NULL,
        started_at BIGINT NOT NULL,
        beat BIGINT NOT NULL,
        locked BIGINT NOT NULL,
        code TEXT NOT NULL,
        beat_at BIGINT,
        lease BIGINT NOT NULL DEFAULT 30000000,
        draining BIGINT NOT NULL DEFAULT 0
    )""",
)
"""Statements for ``Log.open``."""

SELECT = "SELECT id, host, boot, beat, locked, lease, draining, code FROM wfes_workers"
SELECT_WHOLE = """SELECT id, host, boot, beat, locked, lease, draining, code, name, pid, started_at, beat_at
    FROM wfes_workers ORDER BY started_at, id"""
INSERT = """INSERT INTO wfes_workers (id, name, host, boot, pid, started_at, beat, locked, code, lease)
    VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?) ON CONFLICT (id) DO NOTHING"""
BEAT = "UPDATE wfes_workers SET beat = beat + 1, beat_at = ?, locked = ? WHERE id = ?"
DRAIN = "UPDATE wfes_workers SET draining = 1 WHERE id = ?"
DELETE = "DELETE FROM wfes_workers WHERE id = ?"


def new_worker_id() -> str:
    """An id that was never used before, readable by whoever asks which process that was."""
    host = "".join(c if c.isalnum() else "-" for c in platform.node().partition(".")[0])[:20] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def lease_micros() -> int:
    """The lease of this process's workers.

    Raises:
        ValueError: the environment variable holds no duration, or one that is too short.
    """
    given = os.environ.get(LEASE_VARIABLE)
    if not given:
        return LEASE_MICROS
    seconds = float(given) if given.isdecimal() else given  # in an environment every number is text
    micros = durations.micros(seconds, f"${LEASE_VARIABLE}")
    if micros < LEASE_MIN_MICROS:
        raise ValueError(f"${LEASE_VARIABLE} is {given!r}; it must be at least 1s")
    return micros


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a process runs: the host's name, and what is the same for all processes since it was switched on."""

    host: str
    boot: str

    @classmethod
    def here(cls) -> Machine:
        """This machine, as running now."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            boot = f"{uuid.getnode():012x}"
        return cls(platform.node(), boot)

    def sees_locks_of(self, other: Machine) -> bool:
        """Whether it is the same machine (containers too), or the one of before its last restart."""
        return self.boot == other.boot or self.host == other.host


@dataclass(frozen=True, slots=True)
class Registered:
    """One row of ``wfes_workers``.

    Attributes:
        id: the worker.
        machine: where it runs.
        beat: its heartbeat counter.
        locked: the era of its lock; 0: it holds none that others could see.
        lease_micros: how long its heartbeat may stay unchanged.
        draining: it claims nothing more.
        code: what it runs, by workflow, as JSON text.
    """

    id: str
    machine: Machine
    beat: int
    locked: int
    lease_micros: int
    draining: bool
    code: str = "{}"

    @classmethod
    def of(cls, row: Sequence[object]) -> Registered:
        """From the first columns of what ``SELECT`` gave."""
        id, host, boot, beat, locked, lease, draining, code = row[:8]
        assert isinstance(beat, int)
        assert isinstance(locked, int)
        assert isinstance(lease, int)
        return cls(str(id), Machine(str(host), str(boot)), beat, locked, lease, bool(draining), str(code))

    @property
    def workflows(self) -> frozenset[str]:
        """What it runs."""
        return frozenset(orjson.loads(self.code))


@dataclass(slots=True)
class Census:
    """What one look at the other workers found.

    Attributes:
        dead: ids of workers that will do nothing any more.
        alive: ids of the others.
        peers: ids of those of them that still claim, and know one of the observer's workflows.
        needs_beat: somebody is registered who judges this worker by its heartbeat.
        unsure: a lock is free that has to be looked at again soon.
        locks: somebody's lock can be seen from here: looking often pays.
        patience_nanos: after how long, in nanoseconds, the first of the living that only heartbeats tell of would be
            dead; None: there are none.
    """

    dead: list[str] = field(default_factory=list[str])
    alive: list[str] = field(default_factory=list[str])
    peers: list[str] = field(default_factory=list[str])
    needs_beat: bool = False
    unsure: bool = False
    locks: bool = False
    patience_nanos: int | None = field(default=None, compare=False)


@dataclass(slots=True)
class _Seen:
    """What is known of another worker.

    Attributes:
        beat: its last heartbeat.
        is_peer: it runs what the observer's worker runs.
        unchanged: for how long the heartbeat is the same.
        free_since: since when its lock is free.
    """

    beat: int
    is_peer: bool
    unchanged: int = 0
    free_since: int | None = None


class Observer:
    """Judges other workers by their locks and heartbeats. Used by one thread at a time."""

    def __init__(
        self,
        worker: str,
        machine: Machine,
        presence: Presence | None,
        *,
        workflows: Iterable[str] = (),
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Makes an observer.

        Args:
            worker: whose observer it is; empty: nobody's.
            machine: where it looks from.
            presence: what shows locks; None: there are none to see.
            workflows: what its worker runs: those who run any of it are its peers.
            monotonic: its clock, in nanoseconds.
        """
        self._worker = worker
        self._machine = machine
        self._presence = presence
        self._workflows = frozenset(workflows)
        self._certain = presence is None or presence.certain
        self._monotonic = monotonic
        self._looked_at: int | None = None
        self._seen: dict[str, _Seen] = {}

    def look(self, rows: Sequence[Sequence[object]]) -> Census:
        """Judges all workers but this one.

        Args:
            rows: what ``SELECT`` gave.

        Raises:
            LogUnavailable: the locks cannot be looked at now.
        """
        others = [found for found in map(Registered.of, rows) if found.id != self._worker]
        free = visible_locks(others, self._machine, self._presence)
        # Where a connection stands between, whoever is to come may have to judge by the heartbeat.
        census = Census(needs_beat=not self._certain, locks=bool(free))
        now = self._monotonic()
        passed = 0 if self._looked_at is None else min(now - self._looked_at, STEP_NANOS)
        self._looked_at = now
        seen: dict[str, _Seen] = {}
        for other in others:
            census.needs_beat |= not (self._certain and self._machine.sees_locks_of(other.machine))
            known = self._seen.get(other.id)
            if known is None:
                known = _Seen(other.beat, not self._workflows.isdisjoint(other.workflows))
            elif known.beat != other.beat:
                known = _Seen(other.beat, known.is_peer, 0, known.free_since)
            else:
                known.unchanged += passed
            seen[other.id] = known
            if self._is_dead(other, known, free.get(other.id), now, census):
                census.dead.append(other.id)
                continue
            census.alive.append(other.id)
            if not self._certain or other.id not in free:
                left = other.lease_micros * 1_000 - known.unchanged
                census.patience_nanos = min(left, census.patience_nanos or left)
            if known.is_peer and not other.draining:
                census.peers.append(other.id)
        self._seen = seen
        return census

    def _is_dead(self, other: Registered, known: _Seen, free: bool | None, now: int, census: Census) -> bool:
        if free is not None and self._certain:
            return free
        if not free:
            known.free_since = None
        elif known.free_since is None:
            known.free_since = now
            census.unsure = True
        elif now - known.free_since >= SURE_NANOS:
            return True
        else:
            census.unsure = True
        return known.unchanged >= other.lease_micros * 1_000


def visible_locks(
    others: Sequence[Registered], machine: Machine, presence: Presence | None
) -> Mapping[str, bool]:
    """Which of the workers of this machine have a free lock; left out where nothing is to be seen.

    Raises:
        LogUnavailable: it cannot be looked at now.
    """
    wanted = {
        other.id: other.locked for other in others if other.locked and machine.sees_locks_of(other.machine)
    }
    return presence.look(wanted) if presence is not None and wanted else {}
