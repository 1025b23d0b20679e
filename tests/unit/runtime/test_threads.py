"""The threads of synchronous steps."""

from __future__ import annotations

import threading

import pytest

from wfes.runtime.threads import StepThreads


def test_results_and_errors_come_back() -> None:
    threads = StepThreads()
    assert threads.submit(divmod, 7, 2).result(5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(divmod, 7, 0).result(5)
    assert threads.submit(lambda: threading.current_thread().name).result(5).startswith("wfes-step-")
    assert threads.submit(lambda: threading.current_thread().daemon).result(5)
    threads.shutdown()


def test_no_more_threads_than_allowed_and_none_that_is_not_needed() -> None:
    threads = StepThreads(max_threads=3)
    gate = threading.Barrier(4)
    names: set[str] = set()

    def work() -> None:
        names.add(threading.current_thread().name)
        gate.wait(5)

    futures = [threads.submit(work) for _ in range(3)]
    waiting = threads.submit(lambda: threading.current_thread().name)
    assert not waiting.done()
    gate.wait(5)
    for future in futures:
        future.result(5)
    assert waiting.result(5) in names
    assert len(names) == 3
    threads.shutdown()


def test_nothing_is_taken_after_the_end() -> None:
    threads = StepThreads(max_threads=1)
    started, gate = threading.Event(), threading.Event()

    def work() -> bool:
        started.set()
        return gate.wait(5)

    running = threads.submit(work)
    assert started.wait(5)
    waiting = threads.submit(lambda: 1)
    threads.shutdown(cancel_futures=True)
    with pytest.raises(RuntimeError, match="has stopped"):
        threads.submit(lambda: 1)
    gate.set()
    assert running.result(5)
    assert waiting.cancelled()
