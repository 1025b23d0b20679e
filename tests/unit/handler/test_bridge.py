"""Outside awaits: what a handler on the private loop may await of the real one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from wfes.handler.bridge import BridgedFuture
from wfes.handler.loop import Drained, PrivateLoop
from wfes.handler.transports import Relay

Handler = Callable[[], Coroutine[Any, Any, Any]]
LIMIT = 10.0
"""Seconds after which a test has failed."""


class Host:
    """Hosts one handler on the running loop as an execution does: drains from callbacks, arms its timers."""

    def __init__(self, handler: Handler) -> None:
        self.real = asyncio.get_running_loop()
        self.loop = PrivateLoop(self.real, wake=self.turn)
        self.ended: asyncio.Future[Any] = self.real.create_future()
        self.settled = asyncio.Event()
        self.failure: BaseException | None = None
        self.open_at_end = -1
        self.real.call_soon(self._begin, handler)

    def _begin(self, handler: Handler) -> None:
        self.task = self.loop.create_task(handler())
        self.turn()

    def turn(self) -> None:
        self.loop.now = self.real.time()
        if self.loop.drain() is Drained.EXHAUSTED:
            self.real.call_soon(self.turn)
        for timer in self.loop.new_timers():
            self.real.call_later(timer.delay / 1e6, self._fire, timer.delay, timer.number)
        self.settled.set()
        if self.task.done() and not self.ended.done():
            self.open_at_end = self.loop.outside_open
            self.loop.drop()
            if self.task.cancelled():
                self.ended.cancel()
            elif (error := self.task.exception()) is not None:
                self.ended.set_exception(error)
            else:
                self.ended.set_result(self.task.result())

    def _fire(self, delay: int, number: int) -> None:
        if self.loop.fire(delay, number):
            self.turn()

    async def when_open(self, count: int = 1) -> None:
        """Wait until so many outside awaits are open."""
        async with asyncio.timeout(LIMIT):
            while self.loop.outside_open < count:
                self.settled.clear()
                await self.settled.wait()

    async def drop(self) -> None:
        dropped = asyncio.Event()

        def drop() -> None:
            self.loop.drop()
            dropped.set()

        self.real.call_soon(drop)
        await dropped.wait()
        self.ended.cancel()


async def hosted(handler: Handler) -> Any:
    host = Host(handler)
    async with asyncio.timeout(LIMIT):
        return await host.ended


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, LIMIT))


# -- futures -------------------------------------------------------------------------------------------------


def test_futures_and_tasks_of_the_application() -> None:
    async def main() -> None:
        real = asyncio.get_running_loop()
        future: asyncio.Future[str] = real.create_future()
        failing: asyncio.Future[str] = real.create_future()

        async def application() -> str:
            await asyncio.sleep(0)
            return "task"

        task = asyncio.create_task(application())

        async def handler() -> list[str]:
            assert asyncio.get_running_loop() is not real
            seen = [await task, await task]
            seen.append(await future)
            with pytest.raises(ValueError, match="outside"):
                await failing
            return seen

        host = Host(handler)
        await host.when_open()
        real.call_later(0.001, future.set_result, "future")
        real.call_later(0.002, failing.set_exception, ValueError("outside"))
        assert await host.ended == ["task", "task", "future"]
        assert host.open_at_end == 0

    run(main())


def test_threads() -> None:
    variable = contextvars.ContextVar[str]("variable")

    async def handler() -> Any:
        variable.set("seen")
        loop = asyncio.get_running_loop()
        in_executor = loop.run_in_executor(None, threading.get_ident)
        assert in_executor.get_loop() is loop
        both = await asyncio.gather(in_executor, asyncio.to_thread(variable.get))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return both

    async def main() -> None:
        ident, value = await hosted(handler)
        assert ident != threading.get_ident()
        assert value == "seen"

    run(main())


def test_wrap_future() -> None:
    async def main() -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:

            async def handler() -> int:
                loop = asyncio.get_running_loop()
                assert await loop.run_in_executor(pool, max, 1, 2) == 2
                return await asyncio.wrap_future(pool.submit(max, 3, 4), loop=outside)

            outside = asyncio.get_running_loop()
            assert await hosted(handler) == 4

    run(main())


def test_a_future_of_a_loop_in_another_thread() -> None:
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()

    async def main() -> None:
        future: asyncio.Future[str] = other.create_future()
        never: asyncio.Future[str] = other.create_future()

        async def handler() -> str:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await never
            return await future

        host = Host(handler)
        await host.when_open()
        other.call_soon_threadsafe(future.set_result, "other")
        assert await host.ended == "other"
        assert never.cancelled()

    try:
        run(main())
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()
        other.close()


def test_cancelling_the_waiting_task_cancels_the_outside_future() -> None:
    async def main() -> None:
        real = asyncio.get_running_loop()
        future: asyncio.Future[None] = real.create_future()
        asking = asyncio.create_task(asyncio.sleep(3600))
        stubborn_ended = asyncio.Event()

        async def stubborn() -> str:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                stubborn_ended.set()
            return "refused"

        refusing = asyncio.create_task(stubborn())

        async def handler() -> str:
            waiting = asyncio.create_task(wait(future))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait(asking), 0.001)
            refused = asyncio.create_task(wait(refusing))
            await asyncio.sleep(0.001)
            refused.cancel()
            return str(await refused)

        assert await hosted(handler) == "refused"
        assert future.cancelled()
        assert asking.cancelled()
        assert stubborn_ended.is_set()

    async def wait(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    run(main())


def test_a_cancelled_outside_future_cancels_the_await() -> None:
    async def main() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def handler() -> str:
            try:
                await future
            except asyncio.CancelledError as error:
                return type(error).__name__
            return "went on"

        host = Host(handler)
        await host.when_open()
        future.cancel()
        assert await host.ended == "CancelledError"

    run(main())


def test_what_is_no_future_is_refused_as_usual() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def handler() -> None:
        await Odd()

    with pytest.raises(RuntimeError, match="bad yield"):
        run(hosted(handler))


def test_two_handlers_may_await_each_other() -> None:
    async def main() -> None:
        first = Host(lambda: asyncio.sleep(0.005, "first"))
        await asyncio.sleep(0)

        async def handler() -> str:
            return str(await first.task)

        assert await hosted(handler) == "first"

    run(main())


# -- without a real loop -------------------------------------------------------------------------------------


def test_without_a_real_loop_outside_awaits_are_counted_and_touch_nothing() -> None:
    other = asyncio.new_event_loop()
    future: asyncio.Future[None] = other.create_future()
    called: list[int] = []

    async def handler() -> None:
        await asyncio.gather(asyncio.to_thread(called.append, 1), asyncio.open_connection("host", 1), wait())

    async def wait() -> None:
        await future

    loop = PrivateLoop(None, wake=lambda: None)
    task = loop.create_task(handler())
    assert loop.drain() is Drained.SETTLED
    assert loop.outside_open == 3
    assert not task.done()
    loop.drop()
    assert loop.outside_open == 0
    assert called == []
    assert not future.cancelled()
    other.close()


# -- streams, servers, processes -----------------------------------------------------------------------------


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_streams_to_a_server_of_the_application() -> None:
    async def main() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            async def talk(word: str) -> str:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"{word}\n".encode())
                await writer.drain()
                answer = (await reader.readline()).decode().strip()
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
                return answer

            async def handler() -> list[str]:
                return await asyncio.gather(*(talk(word) for word in ("one", "two", "three")))

            host = Host(handler)
            assert await host.ended == ["ONE", "TWO", "THREE"]
            assert host.open_at_end == 0

    run(main())


def test_backpressure() -> None:
    """A writer that is not read from waits, and the whole amount arrives."""
    size = 48_000_000  # more than the kernel buffers for a connection to itself

    async def main() -> None:
        received: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waited = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await waited.wait()
            received.set_result(len(await reader.read(-1)))
            writer.close()

        async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            async def handler() -> bool:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"x" * size)
                draining = asyncio.create_task(writer.drain())
                await asyncio.sleep(0)
                had_to_wait = not draining.done()
                waited.set()
                await draining
                writer.close()
                await writer.wait_closed()
                return had_to_wait

            assert await hosted(handler)
            assert await received == size

    run(main())


def test_a_refused_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def handler() -> None:
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)

        run(hosted(handler))


def test_a_server_in_the_handler() -> None:
    async def handler() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"self\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return answer

    assert run(hosted(handler)) == b"SELF\n"


CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg5YQ+XqmZBr9VPkIW
N+h/fJDuLTqhm/jZG2qy6hcUvvmhRANCAARGyE2R/RjPjV8Z+QT+fy3j2cG0BTa+
Hua7vvXfqbJM5dmzpZ2YP9d+NW8F6uECC6Pf3HqYgB9xhoePmCDQwxDo
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBlTCCATugAwIBAgIUIUAtEJEfRGW/bSjtdWmDNrBv4QkwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjEzMDIzNFoYDzIxMjYxMDI5
MTMwMjM0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARGyE2R/RjPjV8Z+QT+fy3j2cG0BTa+Hua7vvXfqbJM5dmzpZ2YP9d+
NW8F6uECC6Pf3HqYgB9xhoePmCDQwxDoo2kwZzAdBgNVHQ4EFgQUFgJ+++DZ+CD2
8/W76/tPE7uT3eYwHwYDVR0jBBgwFoAUFgJ+++DZ+CD28/W76/tPE7uT3eYwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SAAwRQIgLTZgN2jt8J2hXjoHuqed476JAonVOP1j7wFgo/2kGJUCIQDEETlsXVro
m8KqvG4vO6VrKFtde29ndTz1APT/K2L1Zg==
-----END CERTIFICATE-----
"""
"""A key and a self-signed certificate for nothing but these tests."""


@pytest.fixture
def server_context(tmp_path: Path) -> ssl.SSLContext:
    file = tmp_path / "certificate.pem"
    file.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("upgrade", [False, True])
def test_tls(server_context: ssl.SSLContext, upgrade: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if upgrade:
            await reader.readline()
            await writer.start_tls(server_context)
        await echo(reader, writer)

    async def main() -> None:
        encrypted = None if upgrade else server_context
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=encrypted) as server:
            port = server.sockets[0].getsockname()[1]

            async def handler() -> bytes:
                context = None if upgrade else trusting()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                if upgrade:
                    writer.write(b"upgrade\n")
                    await writer.start_tls(trusting())
                assert writer.get_extra_info("cipher")
                writer.write(b"secret\n")
                answer = await reader.readline()
                writer.close()
                await writer.wait_closed()
                return answer

            host = Host(handler)
            assert await host.ended == b"SECRET\n"
            assert host.open_at_end == 0

    run(main())


def test_a_certificate_that_is_not_trusted_is_an_error(server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context) as server:
            port = server.sockets[0].getsockname()[1]

            async def handler() -> None:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())

            await hosted(handler)

    run(main())


def test_datagrams() -> None:
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.received.set_result(data)

    async def handler() -> bytes:
        loop = asyncio.get_running_loop()
        transport, receiver = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
        transport.sendto(b"hello", transport.get_extra_info("sockname"))
        data = await receiver.received
        transport.close()
        return data

    assert run(hosted(handler)) == b"hello"


def test_raw_sockets_and_file_descriptors() -> None:
    async def handler() -> list[bytes]:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            await loop.sock_sendall(left, b"one")
            seen = [await loop.sock_recv(right, 10)]
            readable: asyncio.Future[None] = loop.create_future()

            def ready() -> None:
                if not readable.done():
                    readable.set_result(None)

            loop.add_reader(right, ready)
            await asyncio.sleep(0)
            left.send(b"two")
            await readable
            assert loop.remove_reader(right)
            assert not loop.remove_reader(right)
            seen.append(right.recv(10))
        return seen

    assert run(hosted(handler)) == [b"one", b"two"]


def test_a_subprocess() -> None:
    async def handler() -> tuple[bytes, int | None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys; print(sys.stdin.read()[::-1])",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(b"abc")
        return output.strip(), process.returncode

    assert run(hosted(handler)) == (b"cba", 0)


def test_an_http_client() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = head.split(b" ")[1]
            if body == b"/slow":
                await reader.read()  # until the client gives up
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    async def main() -> None:
        async with await asyncio.start_server(quiet, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

            async def handler() -> list[str]:
                async with httpx.AsyncClient(trust_env=False) as client:
                    answers = await asyncio.gather(*(client.get(f"{url}/{i}") for i in range(5)))
                    with pytest.raises(httpx.ReadTimeout):
                        await client.get(f"{url}/slow", timeout=0.02)
                    answers.append(await client.get(f"{url}/again"))
                return [answer.text for answer in answers]

            host = Host(handler)
            assert await host.ended == ["/0", "/1", "/2", "/3", "/4", "/again"]
            await host.drop()

    run(main())


# -- dropping ------------------------------------------------------------------------------------------------


def test_dropping_ends_everything_outside() -> None:
    async def main() -> None:
        real = asyncio.get_running_loop()
        future: asyncio.Future[None] = real.create_future()
        closed = asyncio.Event()
        seen: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            closed.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            async def wait_outside() -> None:
                await future

            async def handler() -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.start_server(echo, "127.0.0.1", 0)
                left, right = socket.socketpair()
                asyncio.get_running_loop().add_reader(right, int)
                try:
                    await asyncio.gather(wait_outside(), reader.read())
                except BaseException as error:
                    seen.append(type(error).__name__)
                    raise
                finally:
                    left.close()
                    right.close()
                    writer.write(b"never read")

            host = Host(handler)
            await host.when_open(4)
            await host.drop()
            assert host.loop.outside_open == 0
            assert seen == ["Suspended"]
            assert future.cancelled()
            await closed.wait()

    run(main())


def test_a_connection_made_after_the_drop_is_ended() -> None:
    class Made(asyncio.Transport):
        aborted = False

        def is_closing(self) -> bool:
            return False

        def abort(self) -> None:
            self.aborted = True

    loop = PrivateLoop(None, wake=lambda: None)
    relay = Relay(loop, asyncio.Protocol)
    loop.drop()
    transport = Made()
    relay.connection_made(transport)
    assert transport.aborted
    assert loop.outside_open == 0


def test_a_result_arriving_after_the_drop_is_ignored() -> None:
    async def main() -> None:
        release = threading.Event()

        def work() -> None:
            release.wait(LIMIT)
            raise ValueError("nobody is left to tell")

        host = Host(lambda: asyncio.to_thread(work))
        await host.when_open()
        await host.drop()
        release.set()
        assert await asyncio.to_thread(int) == 0
        assert host.loop.drain() is Drained.SETTLED

    run(main())


def test_the_outside_budget_lets_the_real_loop_work() -> None:
    async def handler() -> Any:
        waiting = asyncio.get_running_loop().run_in_executor(None, sum, [1, 2])
        while not waiting.done():
            await asyncio.sleep(0)
        assert isinstance(waiting, BridgedFuture)
        return await waiting

    assert run(hosted(handler)) == 3
