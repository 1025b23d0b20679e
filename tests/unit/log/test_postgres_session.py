"""The lasting connection: locks that live with it, hints of commits, and what becomes of both when it is gone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from wfes import Engine, Step, workflow
from wfes.log import postgres_session
from wfes.log.postgres import PostgresLog
from wfes.log.postgres_session import Session
from wfes.log.postgres_url import place


def until(true: Callable[[], object], seconds: float = 10.0) -> float:
    """Polls until true, with a limit; how long it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, "it did not become true in time"
        time.sleep(0.002)
    return time.monotonic() - begun


@contextmanager
def opened(url: str) -> Generator[PostgresLog]:
    log = PostgresLog(url)
    log.open(())
    try:
        yield log
    finally:
        log.close()


def cut_all(url: str) -> None:
    """Ends every other connection to the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


class Proxy:
    """Stands before a server: can pass everything on, or nothing more without a word, or act as a pooler does."""

    def __init__(self, url: str, *, pools: bool = False) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)
        self._pools = pools
        self.stalls = threading.Event()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        port = self._server.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(self._to)
                self._sockets += [client, server]
                for source, sink, changes in ((client, server, False), (server, client, self._pools)):
                    threading.Thread(target=self._pass, args=(source, sink, changes), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, changes: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self.stalls.is_set():
                    continue
                if changes and (at := data.find(b"K\0\0\0\x0c")) >= 0:
                    # Poolers give identities of their own.
                    data = data[: at + 5] + b"\0\0\0\1" + data[at + 9 :]
                    changes = False
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in (self._server, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def proxied(url: str, *, pools: bool = False) -> Generator[Proxy]:
    proxy = Proxy(url, pools=pools)
    try:
        yield proxy
    finally:
        proxy.close()


def test_a_lock_is_seen_by_others_until_it_is_freed(postgres_url: str) -> None:
    with opened(postgres_url) as mine, opened(postgres_url) as other:
        hold = mine.presence().hold("w-1")
        assert hold.era
        assert other.presence().look({"w-1": hold.era, "w-2": hold.era}) == {"w-1": False, "w-2": True}
        assert other.presence().look({"w-1": hold.era - 1}) == {}, "of before the server's restart"
        hold.release()
        hold.release()
        assert not hold.is_held
        assert other.presence().look({"w-1": mine.presence().hold("w-3").era}) == {"w-1": True}


def test_a_lock_ends_with_the_log(postgres_url: str) -> None:
    with opened(postgres_url) as other:
        with opened(postgres_url) as mine:
            era = mine.presence().hold("w-1").era
        until(lambda: other.presence().look({"w-1": era}) == {"w-1": True})


def test_a_lock_whose_connection_was_cut_is_taken_again_at_once(postgres_url: str) -> None:
    with opened(postgres_url) as mine:
        hold = mine.presence().hold("w-1")
        era = hold.era
        cut_all(postgres_url)
        until(lambda: not hold.is_held)
        assert until(lambda: hold.is_held) < 2
        assert hold.era == era
        with opened(postgres_url) as other:
            assert other.presence().look({"w-1": era}) == {"w-1": False}


def test_whoever_was_cut_off_takes_nobody_for_dead_for_a_while(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cut him off may have cut off the others, who are as alive as he is and will have their locks again."""
    monkeypatch.setattr(postgres_session, "DOUBT_SECONDS", 0.3)
    with opened(postgres_url) as mine:
        presence = mine.presence()
        hold = presence.hold("w-1")
        era = hold.era
        assert presence.look({"w-dead": era}) == {"w-dead": True}
        cut_all(postgres_url)
        until(lambda: not hold.is_held)
        assert presence.look({"w-dead": era}) == {}
        until(lambda: hold.is_held)
        assert presence.look({"w-dead": era}) == {}
        until(lambda: presence.look({"w-dead": era}) == {"w-dead": True})


def listening(log: PostgresLog) -> tuple[threading.Event, Any]:
    woken = threading.Event()
    hints = log.hints(woken.set)
    assert woken.wait(5), "what was committed before is not missed"
    woken.clear()
    return woken, hints


def test_others_hear_a_hint_and_whoever_sends_it_does_not(postgres_url: str) -> None:
    with opened(postgres_url) as mine, opened(postgres_url) as other:
        (here, hints), (there, _) = listening(mine), listening(other)
        for _ in range(100):
            hints.send()
        assert there.wait(5)
        assert not here.is_set()


def test_a_listener_that_was_cut_listens_again(postgres_url: str) -> None:
    with opened(postgres_url) as mine, opened(postgres_url) as other:
        (_, hints), (there, heard) = listening(mine), listening(other)
        cut_all(postgres_url)
        until(lambda: not (heard.heard and hints.heard))
        until(lambda: heard.heard and hints.heard)
        assert there.wait(5), "what came meanwhile is not missed"
        there.clear()
        until(lambda: (hints.send(), there.wait(0.05))[1])


def test_a_connection_that_died_without_a_word_is_noticed_within_5_seconds(postgres_url: str) -> None:
    with proxied(postgres_url) as proxy, opened(proxy.url) as log:
        _, hints = listening(log)
        hold = log.presence().hold("w-1")
        proxy.stalls.set()
        assert until(lambda: not hints.heard) < 5
        assert not hold.is_held


def test_a_worker_that_hears_nothing_any_more_polls(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that listens dies without a word: starts elsewhere are seen all the same, and it is made anew."""

    async def main(proxy: Proxy) -> None:
        def session(log: PostgresLog) -> Session:
            if log._session is None:
                through = place(proxy.url if log.url.endswith("worker") else postgres_url)
                log._session = Session(log.url, {**through.connect, "connect_timeout": 2}, "")
            return log._session

        monkeypatch.setattr(PostgresLog, "_own_session", session)
        here = Engine(f"{postgres_url}?application_name=worker", workflows=[double])
        async with here, Engine(postgres_url, workflows=[double], worker=False) as other:
            writer = here._parts._writer
            assert writer is not None
            assert writer._hints is not None
            heard = writer._hints
            await asyncio.to_thread(until, lambda: heard.heard)
            proxy.stalls.set()
            begun = time.monotonic()
            while heard.heard:
                assert time.monotonic() - begun < 5, "it is not noticed"
                assert await (await other.start(double, 4)).result(timeout=5) == 8
                await asyncio.sleep(0.1)
            proxy.stalls.clear()
            await asyncio.to_thread(until, lambda: heard.heard)
            assert await (await other.start(double, 5)).result(timeout=5) == 10

    with proxied(postgres_url) as proxy:
        asyncio.run(main(proxy))


def test_behind_a_pooler_nothing_rests_on_a_session(postgres_url: str) -> None:
    with proxied(postgres_url, pools=True) as proxy, opened(proxy.url) as log:
        hold = log.presence().hold("w-1")
        hints = log.hints(lambda: None)
        assert (hold.is_held, hold.era, hints.heard) == (False, 0, False)
        hints.send()
        hold.release()


@workflow
async def double(n: int, step: Step) -> int:
    return await step("double", lambda: 2 * n)


def test_behind_a_pooler_workers_beat_and_poll(postgres_url: str) -> None:
    async def main() -> None:
        with proxied(postgres_url, pools=True) as proxy:
            async with (
                Engine(proxy.url, workflows=[double]),
                Engine(postgres_url, workflows=[double], worker=False) as other,
            ):
                run = await other.start(double, 4)
                assert await run.result(10) == 8
                (worker,) = await other.workers()
                assert worker.status == "running"
                assert worker.last_beat is not None

    asyncio.run(main())


def test_a_session_is_closed_whether_it_was_used_or_not(postgres_url: str) -> None:
    for used in (False, True):
        session = Session(postgres_url, {"conninfo": postgres_url}, "")
        if used:
            session.lock("w")
        session.close()
        session.close()


def test_where_no_server_is_nobody_waits_for_a_lock() -> None:
    session = Session("x", {"host": "127.0.0.1", "port": 1, "connect_timeout": 1}, "")
    try:
        session.lock("w")
        assert not session.holds("w")
    finally:
        session.close()


@pytest.fixture(autouse=True)
def _no_threads_left() -> Generator[None]:
    yield
    until(lambda: not [each for each in threading.enumerate() if each.name == "wfes-session"])
