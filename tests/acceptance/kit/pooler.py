"""Transaction poolers before a PostgreSQL server: one made for tests, and the real PgBouncer where it is installed.

The one for tests gives every transaction of a client the server connection that has rested longest, as a rule another
one than before, and has that connection forget everything between two transactions. So whatever rests on a session
fails at once and always: prepared statements, settings, advisory locks, LISTEN, temporary tables.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import psycopg

_STARTUP = 196_608
_NOT_TAKEN = (80_877_103, 80_877_104)
"""Encryption, asked for before anything else."""
_CANCEL = 80_877_102
_TAKEN = {"user", "database", "application_name", "client_encoding"}
"""Parameters at the start that a pooler lets a client give; others would belong to the session."""


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _error(code: str, text: str) -> bytes:
    fields = {b"S": "FATAL", b"V": "FATAL", b"C": code, b"M": text}
    body = b"".join(name + value.encode() + b"\0" for name, value in fields.items())
    return _message(b"E", body + b"\0")


class _Server:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = b""

    async def read(self) -> tuple[bytes, bytes]:
        """The next message: its kind, and all of it."""
        head = await self.reader.readexactly(5)
        body = await self.reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
        return head[:1], head + body

    async def answered(self) -> list[bytes]:
        """Every message up to that the server is ready for more."""
        found: list[bytes] = []
        while True:
            kind, message = await self.read()
            found.append(message)
            if kind == b"E" and b"FATAL" in message:
                raise ConnectionError(message.decode(errors="replace"))
            if kind == b"Z":
                return found


class Pooler:
    """A transaction pooler on a port of its own, in a thread; to be used in a `with` block.

    Args:
        url: the server's.
        size: connections to the server that each database gets.

    Attributes:
        transactions: how many it has passed on.
    """

    def __init__(self, url: str, size: int = 4) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "", parts.port or 5432)
        self._size = size
        self._pools: dict[bytes, asyncio.Queue[_Server | None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pooler", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = count(1_000_000_000)
        self.transactions = 0
        self.port = 0

    def url(self, url: str) -> str:
        """The URL of a database of the server, through this."""
        return _through(url, self.port)

    def __enter__(self) -> Pooler:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._listening = await asyncio.start_server(self._come, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in self._pools.values():
            while not pool.empty():
                server = pool.get_nowait()
                if server is not None:
                    server.writer.close()

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            startup = await self._begun(reader, writer)
            if startup is not None:
                await self._serve(startup, reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _begun(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """What a client says at the start; None: nothing that could be gone on with."""
        while True:
            size, code = struct.unpack("!ii", await reader.readexactly(8))
            body = await reader.readexactly(size - 8)
            if code in _NOT_TAKEN:
                writer.write(b"N")
            elif code == _STARTUP:
                break
            else:
                assert code == _CANCEL
                return None
        names = body.rstrip(b"\0").split(b"\0")[::2]
        for name in names:
            if name.decode() not in _TAKEN:
                writer.write(_error("08P01", f"unsupported startup parameter: {name.decode()}"))
                await writer.drain()
                return None
        return struct.pack("!ii", size, code) + body

    # ---------------------------------------------------------------------------- connections to the server

    async def _taken(self, startup: bytes) -> _Server:
        """The connection that has rested longest, or a new one."""
        pool = self._pools.get(startup)
        if pool is None:
            pool = self._pools[startup] = asyncio.Queue()
            for _ in range(self._size):
                pool.put_nowait(None)
        server = await pool.get()
        if server is not None:
            return server
        try:
            reader, writer = await asyncio.open_connection(*self._server)
            server = _Server(reader, writer)
            writer.write(startup)
            # Which process of the server's it is changes with each transaction, so that is not passed on.
            server.greeting = b"".join(each for each in await server.answered() if each[:1] != b"K")
        except BaseException:
            pool.put_nowait(None)
            raise
        return server

    async def _given_back(self, startup: bytes, server: _Server) -> None:
        try:
            server.writer.write(_message(b"Q", b"DISCARD ALL\0"))
            await server.answered()
        except BaseException:
            self._dropped(startup, server)
            raise
        self._pools[startup].put_nowait(server)

    def _dropped(self, startup: bytes, server: _Server) -> None:
        server.writer.close()
        self._pools[startup].put_nowait(None)

    # ------------------------------------------------------------------------------------------- a client

    async def _serve(
        self, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            server = await self._taken(startup)
        except ConnectionError as error:
            writer.write(_error("08006", str(error)[:200]))
            await writer.drain()
            raise
        parameters, ready = server.greeting[:-6], server.greeting[-6:]
        await self._given_back(startup, server)
        writer.write(parameters + _message(b"K", struct.pack("!ii", next(self._numbers), 0)) + ready)
        await writer.drain()
        while True:
            first = await _said(reader)
            if first[:1] == b"X":
                return
            server = await self._taken(startup)
            try:
                await self._transact(first, server, reader, writer)
            except BaseException:
                self._dropped(startup, server)
                raise
            self.transactions += 1
            await self._given_back(startup, server)

    async def _transact(
        self, first: bytes, server: _Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Passes everything on until the server says that the transaction is over."""
        message: bytes | None = first
        asked = 0
        listening = asyncio.ensure_future(_said(reader))
        answering = asyncio.ensure_future(server.read())
        try:
            while True:
                if message is not None:
                    if message[:1] == b"X":
                        raise ConnectionError("the client left in a transaction")
                    asked += message[:1] in b"QSF"
                    server.writer.write(message)
                    message = None
                await asyncio.wait((listening, answering), return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    kind, answer = answering.result()
                    writer.write(answer)
                    if kind == b"Z":
                        asked -= 1
                        if asked == 0 and answer[5:] == b"I" and not listening.done():
                            await writer.drain()
                            return
                    answering = asyncio.ensure_future(server.read())
                if listening.done():
                    message = listening.result()
                    listening = asyncio.ensure_future(_said(reader))
        finally:
            for waiting in (listening, answering):
                waiting.cancel()
                with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
                    await waiting


async def _said(reader: asyncio.StreamReader) -> bytes:
    """A client's next message."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=f"{user}127.0.0.1:{port}").geturl()


# --------------------------------------------------------------------------------------------- PgBouncer


def pgbouncer() -> str | None:
    """The program, where it is installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """The real one, in transaction mode; to be used in a `with` block.

    Args:
        url: the server's.
        size: connections to the server that each database gets.
        lenient: it ignores what is asked for a session at the start, instead of refusing that.
    """

    def __init__(self, url: str, size: int = 4, *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._url = url
        self._size = size
        self.port = 0

    def url(self, url: str) -> str:
        """The URL of a database of the server, through this."""
        return _through(url, self.port)

    def __enter__(self) -> PgBouncer:
        program = pgbouncer()
        assert program is not None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="wfes-pgbouncer-"))
        parts = urlsplit(self._url)
        (self._folder / "users").write_text(f'"{parts.username}" ""\n')
        (self._folder / "ini").write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port or 5432}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\npool_mode = transaction\n"
            f"auth_type = trust\nauth_file = {self._folder}/users\ndefault_pool_size = {self._size}\n"
            "max_client_conn = 200\nserver_round_robin = 1\n"
            + ("ignore_startup_parameters = options\n" if self._lenient else "")
        )
        user = "nobody" if os.geteuid() == 0 else None
        if user:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, user)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, str(self._folder / "ini")], stdout=log, stderr=log, user=user
            )
        until = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url(self._url).partition("?")[0], connect_timeout=2).close()
                return self
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self._folder / "log").read_text()[-2000:]) from error
                time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


POOLERS = ("kit", "pgbouncer", "lenient pgbouncer") if pgbouncer() else ("kit",)
"""What tests go through; ``.ci/run`` installs PgBouncer."""


@contextmanager
def pooled(url: str, kind: str) -> Generator[str]:
    """The URL of a database through a pooler of one of these kinds."""
    pooler = Pooler(url) if kind == "kit" else PgBouncer(url, lenient=kind.startswith("lenient"))
    with pooler:
        yield pooler.url(url)
