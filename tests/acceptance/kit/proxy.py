"""A TCP proxy before a PostgreSQL server that cuts connections: all of them, one of them, or in mid-commit.

It reads what clients say just far enough to know a COMMIT when it sees one, in a simple query or as a prepared
statement, and that of a transaction which only reads from the others. It knows for each commit that it cuts what became
of it: that is the truth a client has to find out.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from urllib.parse import urlsplit

_STARTUP_VERSION = 196_608
_CHUNK = 1 << 16
LATE_SECONDS_MAX = 0.15


class Cut(StrEnum):
    """When a connection is cut that commits."""

    BEFORE = "before"
    """The server never hears of the commit: it did not happen."""
    SENT = "sent"
    """It is on its way to the server: it happens, perhaps after the client has come back."""
    LATE = "late"
    """The same, and it is on its way for long."""
    ANSWERED = "answered"
    """It happened, and the server's answer is lost."""

    @property
    def commits(self) -> bool:
        """Whether the transaction is committed."""
        return self is not Cut.BEFORE


class Talk:
    """What a client has said: whole messages, and which of them commit something."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._commits: dict[bytes, bool] = {}
        self._committing = False
        self._only_reads = False

    def hear(self, data: bytes) -> list[tuple[bytes, bool]]:
        """Takes what came in; gives stretches of whole messages in order, and whether each is a commit."""
        self._rest += data
        found: list[tuple[bytes, bool]] = []
        plain = bytearray()
        while (message := self._next()) is not None:
            kind = self._kind(message)
            if kind == "plain" and not self._committing:
                plain += message
                continue
            if plain:
                found.append((bytes(plain), False))
                plain.clear()
            # A prepared commit is several messages, up to the one that asks for an answer.
            if self._committing:
                found[-1:] = [(found[-1][0] + message, True)] if found else [(message, True)]
            else:
                found.append((message, True))
            self._committing = kind != "query" and message[:1] != b"S"
        if plain:
            found.append((bytes(plain), False))
        return found

    def _next(self) -> bytes | None:
        header = 1 if self._begun else 0
        if len(self._rest) < header + 4:
            return None
        size: int = struct.unpack_from("!I", self._rest, header)[0] + header
        if len(self._rest) < size:
            return None
        message, self._rest = self._rest[:size], self._rest[size:]
        return message

    def _kind(self, message: bytes) -> str:
        if not self._begun:
            self._begun = struct.unpack_from("!I", message, 4)[0] == _STARTUP_VERSION
            return "plain"
        body = message[5:]
        match message[:1]:
            case b"Q":
                return "query" if self._commits_by(body.upper()) else "plain"
            case b"P":
                name, query, *_ = body.split(b"\0")
                self._commits[name] = query.upper().startswith(b"COMMIT")
            case b"B":
                _, name, *_ = body.split(b"\0")
                return "bound" if self._commits.get(name) else "plain"
            case _:
                pass
        return "plain"

    def _commits_by(self, query: bytes) -> bool:
        if query.startswith(b"BEGIN"):
            self._only_reads = b"READ ONLY" in query.partition(b";")[0]
        return query.startswith(b"COMMIT") and not self._only_reads


@dataclass(eq=False)
class _Link:
    """A client's connection and the one to the server for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dropping: bool = False
    """What the server says is not passed on."""
    heard: bool = True
    """The server has said something since the client did."""
    answered: asyncio.Event | None = None

    def cut(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)


class Proxy:
    """The proxy; a context that runs it in a thread.

    Attributes:
        port: where it listens on 127.0.0.1.
        refusing: new connections are cut at once, as by a server that is away.
        chance: how probable it is that a commit is cut.
        refusing_after_cut: when a commit is cut, new connections are refused from that moment on.
        cuts: how many connections it cut at commits, by kind.
        turns: how often a client has said something after it heard the server: the round trips, connecting included.
    """

    def __init__(self, server: str, seed: int = 0) -> None:
        """Makes it for a server, named by its URL."""
        parts = urlsplit(server)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self.port = 0
        self.refusing = False
        self.chance = 0.0
        self.refusing_after_cut = False
        self.cuts = dict.fromkeys(Cut, 0)
        self.turns = 0
        self._random = random.Random(seed)
        self._armed: Cut | None = None
        self._to_pass = 0
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def url(self, url: str) -> str:
        """A URL of the server's, by way of the proxy."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{self.port}").geturl()

    def arm(self, cut: Cut | None, after: int = 0) -> None:
        """The next commit is cut so, once so many have passed; None: none is."""
        self._to_pass = after
        self._armed = cut

    @property
    def armed(self) -> bool:
        """No commit has come since `arm`."""
        return self._armed is not None

    def cut_all(self) -> None:
        """Cuts every connection there is."""
        self._loop.call_soon_threadsafe(self._cut, 0)

    def cut_now(self) -> None:
        """Cuts every connection there is, before it returns."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._cut, 0)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(10)

    def cut_some(self, count: int = 1) -> None:
        """Cuts so many connections, whichever."""
        self._loop.call_soon_threadsafe(self._cut, count)

    # ----------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listening = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, family=socket.AF_INET)
        )
        self.port = listening.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            listening.close()
            self._cut(0)
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(
                asyncio.gather(*asyncio.all_tasks(self._loop), return_exceptions=True)
            )
            self._loop.close()

    def _cut(self, count: int) -> None:
        links = list(self._links)
        for link in self._random.sample(links, min(count, len(links))) if count else links:
            link.cut()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.refusing:
            _reset(client)
            return
        try:
            from_server, server = await asyncio.open_connection(*self._server)
        except OSError:
            _reset(client)
            return
        link = _Link(client, server)
        self._links.add(link)
        answers = asyncio.ensure_future(self._answers(from_server, link))
        try:
            await self._requests(reader, link)
        except (OSError, asyncio.CancelledError):
            link.cut()  # Cancelled: the proxy is being stopped.
        finally:
            with suppress(OSError):
                server.close()
            await answers
            self._links.discard(link)

    async def _requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        talk = Talk()
        while data := await reader.read(_CHUNK):
            self.turns += link.heard
            link.heard = False
            for stretch, commits in talk.hear(data):
                cut = self._due() if commits else None
                if cut is None:
                    link.server.write(stretch)
                else:
                    self.cuts[cut] += 1
                    await self._cut_commit(link, stretch, cut)
                    return
            await link.server.drain()

    def _due(self) -> Cut | None:
        if self._armed is not None and self._to_pass:
            self._to_pass -= 1
            return None
        cut, self._armed = self._armed, None
        if cut is None and self.chance and self._random.random() < self.chance:
            cut = self._random.choice(list(Cut))
        return cut

    async def _cut_commit(self, link: _Link, commit: bytes, cut: Cut) -> None:
        link.dropping = True
        self.refusing = self.refusing or self.refusing_after_cut
        match cut:
            case Cut.BEFORE:
                link.cut()
                return
            case Cut.ANSWERED:
                link.answered = asyncio.Event()
                link.server.write(commit)
                await link.answered.wait()
                _reset(link.client)
            case Cut.SENT:
                link.server.write(commit)
                _reset(link.client)
            case Cut.LATE:
                _reset(link.client)
                await asyncio.sleep(self._random.uniform(0.2, 1.0) * LATE_SECONDS_MAX)
                link.server.write(commit)
        # An orderly end: the server reads what was sent before it.
        link.server.write_eof()

    async def _answers(self, reader: asyncio.StreamReader, link: _Link) -> None:
        try:
            while data := await reader.read(_CHUNK):
                link.heard = True
                if link.answered is not None:
                    link.answered.set()
                if not link.dropping:
                    link.client.write(data)
                    await link.client.drain()
        except OSError:
            pass
        finally:
            if link.answered is not None:
                link.answered.set()
            with suppress(OSError):
                link.client.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a broken network does: at once, with a reset."""
    with suppress(OSError):
        connection: socket.socket | None = writer.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
