"""Outside awaits: what a handler awaits that another event loop carries out.

Owns the count of open outside awaits and the ways across: a future of another loop (`bridge`), a call delegated
to the real loop (`carry`), transports and servers (`wfes.handler.transports`), file descriptors.

Invariants:

- Every outside await is counted from its beginning until its end has been seen inside a drain; dropping ends all.
- What comes back enters through `arrive`, in the real loop's thread: nothing from outside runs private code itself.
- Cancelling the private side cancels the other one. A plain future is then cancelled on both sides at once; a
  task may take its time to end, or refuse, as with plain asyncio.
- Without a real loop (replay, simulation) an outside await is counted and never completes, and nothing outside
  is touched: no call made, nothing cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Protocol

from wfes.handler.tasks import PrivateFuture
from wfes.handler.transports import PrivateServer, PrivateTransport, Relay

_log = logging.getLogger("wfes")

Real = asyncio.AbstractEventLoop


class OutsideAwait(Protocol):
    """Something open on the other side."""

    def drop_outside(self) -> None:
        """End it now: the handler is being dropped."""
        ...


class BridgedFuture(PrivateFuture[Any]):
    """The private stand-in for a future of another loop; without one it never completes by itself."""

    def __init__(self, loop: OutsideLoop, foreign: asyncio.Future[Any] | None) -> None:
        super().__init__(loop=loop)
        self._home = loop
        self._foreign = foreign
        self._opened = loop.opened(self)
        if foreign is None:
            return
        owner = foreign.get_loop()
        try:
            if loop.same_thread(owner):
                foreign.add_done_callback(self._foreign_done)
            else:
                owner.call_soon_threadsafe(foreign.add_done_callback, self._foreign_done)
        except BaseException:
            loop.ended(self._opened)
            raise

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the other side too; True if both are or will be over by it."""
        if self.done():
            return False
        foreign = self._foreign
        if foreign is None:
            return self._cancelled_now(msg)
        owner = foreign.get_loop()
        if not self._home.same_thread(owner):
            if not owner.is_closed():
                owner.call_soon_threadsafe(foreign.cancel, msg)
            return self._cancelled_now(msg) if self._home.dropping else True
        accepted = foreign.cancel(msg)
        if self._home.dropping or foreign.cancelled():
            return self._cancelled_now(msg)
        return accepted

    def drop_outside(self) -> None:
        self.cancel()

    def _cancelled_now(self, msg: Any) -> bool:
        self._home.ended(self._opened)
        return super().cancel(msg)

    def _foreign_done(self, foreign: asyncio.Future[Any]) -> None:
        """In the thread of the other loop."""
        home = self._home
        if home.dropping or self.done():
            if not foreign.cancelled():
                foreign.exception()  # retrieved: nobody is left to tell
            return
        handle = asyncio.Handle(self._settle, (foreign,), home)
        if foreign.get_loop() is home.outside:
            home.arrive(handle)
        elif home.outside is not None and not home.outside.is_closed():
            home.outside.call_soon_threadsafe(home.arrive, handle)

    def _settle(self, foreign: asyncio.Future[Any]) -> None:
        self._home.ended(self._opened)
        if self.done():
            return
        if foreign.cancelled():
            super().cancel()
        elif (error := foreign.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(foreign.result())


class WatchedDescriptor:
    """A callback for a file descriptor that the real loop watches: at most one call of it waits at a time."""

    def __init__(self, loop: OutsideLoop, stop: Callable[[], object], call: Callable[[], object]) -> None:
        self._loop = loop
        self._stop = stop
        self._call = call
        self._context = copy_context()
        self._waiting = False
        self.opened = loop.opened(self)

    def ready(self) -> None:
        """The descriptor is ready: in the real loop, again and again until somebody reads it."""
        if not self._waiting and not self._loop.dropping:
            self._waiting = True
            self._loop.arrive(asyncio.Handle(self._run, (), self._loop, self._context))

    def drop_outside(self) -> None:
        self._stop()

    def _run(self) -> None:
        self._waiting = False
        if self._loop.is_open(self.opened):
            self._call()


class OutsideLoop(asyncio.AbstractEventLoop):
    """The half of the private loop that hands calls to the real one.

    Args:
        outside: The real loop, or None: outside awaits then never complete.
    """

    def __init__(self, outside: Real | None) -> None:
        self.outside = outside
        self._open: dict[int, OutsideAwait] = {}
        self._open_numbers = itertools.count(1)
        self._watched: dict[tuple[str, int], WatchedDescriptor] = {}

    @abstractmethod
    def arrive(self, handle: asyncio.Handle) -> None:
        """Take in work from outside."""

    @property
    @abstractmethod
    def dropping(self) -> bool:
        """Whether the handler is being dropped or has been."""

    # -- counting --------------------------------------------------------------------------------------------

    @property
    def outside_open(self) -> int:
        """How many outside awaits are open."""
        return len(self._open)

    def opened(self, outside_await: OutsideAwait) -> int:
        """Count an outside await; gives the number to end it by."""
        number = next(self._open_numbers)
        self._open[number] = outside_await
        return number

    def is_open(self, number: int) -> bool:
        """Whether that outside await still counts."""
        return number in self._open

    def ended(self, number: int) -> None:
        """That outside await is over."""
        self._open.pop(number, None)

    def drop_outside(self) -> None:
        """End all outside awaits."""
        for outside_await in list(self._open.values()):
            try:
                outside_await.drop_outside()
            except Exception as error:
                _log.debug("ending %r: %r", outside_await, error)
        self._open.clear()

    # -- crossing --------------------------------------------------------------------------------------------

    def same_thread(self, loop: Real) -> bool:
        """Whether `loop` runs in the thread of the real loop, so that its futures may be touched from here."""
        return loop is self.outside or (isinstance(loop, OutsideLoop) and loop.outside is self.outside)

    def bridge(self, foreign: Any) -> BridgedFuture:
        """A private future that completes as `foreign`, of another loop, does."""
        return BridgedFuture(self, None if self.outside is None else foreign)

    def carry(self, call: Callable[[Real], Coroutine[Any, Any, Any]]) -> BridgedFuture:
        """Run a coroutine on the real loop."""
        if self.outside is None:
            return BridgedFuture(self, None)
        return BridgedFuture(self, self.outside.create_task(call(self.outside)))

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> BridgedFuture:  # type: ignore[override]
        """Run `func(*args)` in the real loop's threads, or in `executor`."""
        if self.outside is None:
            return BridgedFuture(self, None)
        return BridgedFuture(self, self.outside.run_in_executor(executor, func, *args))

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.getaddrinfo(*args, **kwargs))

    async def getnameinfo(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.getnameinfo(*args, **kwargs))

    # -- connections and servers -----------------------------------------------------------------------------

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("create_connection", protocol_factory, args, kwargs)

    async def create_unix_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("create_unix_connection", protocol_factory, args, kwargs)

    async def create_datagram_endpoint(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("create_datagram_endpoint", protocol_factory, args, kwargs)

    async def connect_accepted_socket(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("connect_accepted_socket", protocol_factory, args, kwargs)

    async def connect_read_pipe(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("connect_read_pipe", protocol_factory, args, kwargs)

    async def connect_write_pipe(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("connect_write_pipe", protocol_factory, args, kwargs)

    async def subprocess_exec(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("subprocess_exec", protocol_factory, args, kwargs)

    async def subprocess_shell(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._connect("subprocess_shell", protocol_factory, args, kwargs)

    async def _connect(self, method: str, factory: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        relay = Relay(self, factory)
        await self.carry(lambda real: getattr(real, method)(lambda: relay, *args, **kwargs))
        return relay.ends()

    async def start_tls(self, transport: Any, protocol: Any, sslcontext: Any, **kwargs: Any) -> Any:
        if not isinstance(transport, PrivateTransport):
            raise TypeError(
                f"transport {transport!r} was not made by the event loop of this workflow handler"
            )
        relay = transport.relay
        relay.use(protocol)
        secured = await self.carry(lambda real: real.start_tls(transport.real, relay, sslcontext, **kwargs))
        return relay.secured(secured)

    async def sendfile(self, transport: Any, *args: Any, **kwargs: Any) -> Any:
        real_transport = transport.real if isinstance(transport, PrivateTransport) else transport
        return await self.carry(lambda real: real.sendfile(real_transport, *args, **kwargs))

    async def create_server(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._serve("create_server", protocol_factory, args, kwargs)

    async def create_unix_server(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._serve("create_unix_server", protocol_factory, args, kwargs)

    async def _serve(self, method: str, factory: Any, args: Any, kwargs: Any) -> PrivateServer:
        context = copy_context()
        server = await self.carry(
            lambda real: getattr(real, method)(lambda: Relay(self, factory, context.copy()), *args, **kwargs)
        )
        return PrivateServer(self, server)

    # -- sockets and file descriptors ------------------------------------------------------------------------

    async def sock_recv(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_recv(*args, **kwargs))

    async def sock_recv_into(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_recv_into(*args, **kwargs))

    async def sock_recvfrom(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_recvfrom(*args, **kwargs))

    async def sock_recvfrom_into(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_recvfrom_into(*args, **kwargs))

    async def sock_sendto(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_sendto(*args, **kwargs))

    async def sock_sendall(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_sendall(*args, **kwargs))

    async def sock_connect(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_connect(*args, **kwargs))

    async def sock_accept(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_accept(*args, **kwargs))

    async def sock_sendfile(self, *args: Any, **kwargs: Any) -> Any:
        return await self.carry(lambda real: real.sock_sendfile(*args, **kwargs))

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        self._watch("reader", fd, callback, args)

    def remove_reader(self, fd: Any) -> bool:
        return self._unwatch("reader", fd)

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        self._watch("writer", fd, callback, args)

    def remove_writer(self, fd: Any) -> bool:
        return self._unwatch("writer", fd)

    def _watch(self, kind: str, fd: Any, callback: Any, args: tuple[Any, ...]) -> None:
        self._unwatch(kind, fd)
        number = _fileno(fd)
        watched = WatchedDescriptor(self, lambda: self._unwatch(kind, number), lambda: callback(*args))
        self._watched[kind, number] = watched
        if self.outside is not None:
            getattr(self.outside, f"add_{kind}")(number, watched.ready)

    def _unwatch(self, kind: str, fd: Any) -> bool:
        number = _fileno(fd)
        watched = self._watched.pop((kind, number), None)
        if watched is None:
            return False
        self.ended(watched.opened)
        if self.outside is not None and not self.outside.is_closed():
            getattr(self.outside, f"remove_{kind}")(number)
        return True


def _fileno(fd: Any) -> int:
    return fd if isinstance(fd, int) else int(fd.fileno())
