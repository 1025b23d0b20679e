"""What the writer keeps in memory: how heavy a state is, and what is forgotten first."""

from __future__ import annotations

from typing import Any, cast

from wfes.core import events as e
from wfes.core.evolve import evolve
from wfes.log import cache as cache_module
from wfes.log.cache import Cache, Entry
from wfes.log.weight import LARGE, Weight

X = "x" * 50_000


class NoLog:
    """A log in which no stream exists yet."""

    reads = 0

    def history(self, stream: str) -> list[Any]:
        self.reads += 1
        return []

    def last(self, stream: str) -> None:
        self.reads += 1


def got(cache: Cache, stream: str) -> Entry:
    return cache.get(stream, cast("Any", NoLog()))


def owned(cache: Cache, stream: str, worker: str = "mine") -> Entry:
    entry = got(cache, stream)
    state = entry.state
    assert state is not None
    evolve(state, e.WorkflowStarted(at=1, workflow="wf"), 1)
    evolve(state, e.RunClaimed(at=1, worker=worker, epoch=1), 2)
    return entry


# ---------------------------------------------------------------------------------------- the weight


def test_what_a_state_does_not_keep_weighs_nothing() -> None:
    weight = Weight()
    weight.count(e.StepStarted(at=1, path="s"), 90)
    for n in range(100):
        weight.count(e.StepCompleted(at=1, path=f"s#{n}", result=X), 50_000)
        weight.count(e.EventReceived(at=1, event="n", payload=X), 50_000)
        weight.count(e.CallRecorded(at=1, path="c", call="now", result=X), 50_000)
    assert weight.total == 0


def test_what_is_replaced_counts_no_longer() -> None:
    weight = Weight()
    weight.count(e.WorkflowStarted(at=1, workflow="wf", input=X), 50_100)
    for _ in range(10):
        weight.count(e.ProgressRecorded(at=1, path="p", message="m", data=X), 50_010)
        weight.count(e.StateChanged(at=1, changes={"a": X}), 50_001)
    assert weight.total == 50_100 + 50_010 + 50_001
    assert weight.count(e.ProgressRecorded(at=1, path="p", message="m"), 60) == -50_010
    assert weight.count(e.StateChanged(at=1, changes={"a": 1}), 60) == -50_001
    assert weight.total == 50_100


def test_fields_of_one_event_weigh_what_each_of_them_does() -> None:
    weight = Weight()
    weight.count(e.StateChanged(at=1, changes={"a": X, "b": 1, "c": X}), 100_100)
    assert weight.total == 2 * (len(X) + 2)
    weight.count(e.StateChanged(at=1, changes={"b": 2, "c": None}), 60)
    assert weight.total == len(X) + 2


def test_what_is_open_weighs_until_it_is_over() -> None:
    weight = Weight()
    weight.count(e.RequestIssued(at=1, path="r", id="1", name="n", message=X), 50_000)
    weight.count(e.StepAttemptFailed(at=1, path="s", attempt=1, error=X, retry_at=2), 50_001)
    assert weight.total == 100_001
    assert weight.count(e.RequestEnded(at=1, path="r", provided=3), 60) == -50_000
    weight.count(e.WorkflowCompleted(at=1, output=X), 50_002)
    assert weight.total == 50_002, "an end closes what is open"
    weight.count(e.WorkflowRetried(at=1, void_from=3), 60)
    assert weight.total == 0


def test_small_events_are_not_looked_at() -> None:
    weight = Weight()
    assert weight.count(e.WorkflowStarted(at=1, workflow="wf", input="i"), LARGE) == 0


# ----------------------------------------------------------------------------------------- the cache


def test_what_was_used_longest_ago_is_forgotten() -> None:
    cache = Cache(3, 1 << 20, {"mine"})
    for n in range(5):
        got(cache, f"i{n}")
    got(cache, "i0")
    cache.trim()
    assert [f"i{n}" in cache for n in range(5)] == [True, False, False, True, True]


def test_light_entries_are_not_forgotten_for_heavy_ones() -> None:
    cache = Cache(100, 100_000, {"mine"})
    for n in range(10):
        got(cache, f"light{n}")
    for n in range(3):
        cache.weigh(got(cache, f"heavy{n}"), e.WorkflowStarted(at=1, workflow="wf", input=X), 50_000)
    cache.trim()
    assert "heavy0" not in cache
    assert cache.weight == 100_000
    assert len(cache) == 12
    cache.clear()
    assert cache.weight == 0


def test_owned_entries_stay_and_cost_little() -> None:
    workers = {"mine"}
    cache = Cache(10, 1 << 20, workers)
    many = 10 * cache_module.KEPT_MAX
    for n in range(many):
        owned(cache, f"o{n}")
    cache.trim()
    looked_at: list[str] = []

    class Spying(set[str]):
        def __contains__(self, worker: object) -> bool:
            looked_at.append(str(worker))
            return super().__contains__(worker)

    cache._workers = Spying(workers)  # pyright: ignore[reportPrivateUsage]
    for n in range(20):
        got(cache, f"other{n}")
        cache.trim()
    assert len(looked_at) <= 20 * (cache_module.KEPT_MAX + 20)
    assert all(f"o{n}" in cache for n in range(many))
    assert len(cache) <= many + 20, "what nobody owns is forgotten in turn"
    workers.clear()
    cache._workers = workers  # pyright: ignore[reportPrivateUsage]
    cache.trim()
    assert len(cache) == 10


def test_others_are_forgotten_however_many_are_owned() -> None:
    cache = Cache(10, 1 << 20, {"mine"})
    many = 4 * cache_module.KEPT_MAX
    for n in range(many):
        owned(cache, f"o{n}")
    for batch in range(60):
        for n in range(400):
            got(cache, f"b{batch}-{n}")
        cache.trim()
    assert len(cache) <= 2 * many
