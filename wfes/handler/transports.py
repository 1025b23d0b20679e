"""Transports and servers of a handler: private faces of real ones.

The real loop owns the socket, pipe or process. A `Relay` is the protocol it talks to: each of its calls is put in
the private loop's queue, in order, and there reaches the protocol that the handler's code supplied. A
`PrivateTransport` is what that code holds: its calls go straight to the real transport, in the same thread.

Invariants:

- The handler's protocol is called only inside a drain.
- An open connection, process or server counts as an outside await until its end has been delivered; a drop ends
  those the handler has not closed itself (a closing one may still flush what it was given).
"""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfes.handler.bridge import OutsideLoop


class PrivateTransport(asyncio.Transport, asyncio.DatagramTransport, asyncio.SubprocessTransport):
    """A transport as the handler's code sees it.

    Attributes:
        real: The real loop's transport.
        relay: The protocol the real transport talks to.
    """

    def __init__(self, real: Any, relay: Relay) -> None:
        super().__init__()
        self.real = real
        self.relay = relay

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)  # what is particular to one kind of transport

    def __repr__(self) -> str:
        return f"<PrivateTransport of {self.real!r}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.real.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return bool(self.real.is_closing())

    def close(self) -> None:
        self.real.close()

    def abort(self) -> None:
        self.real.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.relay.use(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self.relay.ends()[1]
        return protocol

    def is_reading(self) -> bool:
        return bool(self.real.is_reading())

    def pause_reading(self) -> None:
        self.real.pause_reading()

    def resume_reading(self) -> None:
        self.real.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.real.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return int(self.real.get_write_buffer_size())

    def get_write_buffer_limits(self) -> tuple[int, int]:
        low, high = self.real.get_write_buffer_limits()
        return low, high

    def write(self, data: Any) -> None:
        self.real.write(data)

    def writelines(self, list_of_data: Any) -> None:
        self.real.writelines(list_of_data)

    def write_eof(self) -> None:
        self.real.write_eof()

    def can_write_eof(self) -> bool:
        return bool(self.real.can_write_eof())

    def sendto(self, data: Any, addr: Any = None) -> None:
        self.real.sendto(data, addr)

    def get_pid(self) -> int:
        return int(self.real.get_pid())

    def get_returncode(self) -> int | None:
        code: int | None = self.real.get_returncode()
        return code

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        pipe = self.real.get_pipe_transport(fd)
        return None if pipe is None else PrivateTransport(pipe, self.relay)

    def send_signal(self, signal: int) -> None:
        self.real.send_signal(signal)

    def terminate(self) -> None:
        self.real.terminate()

    def kill(self) -> None:
        self.real.kill()


class Relay(asyncio.Protocol, asyncio.DatagramProtocol, asyncio.SubprocessProtocol):
    """The protocol a real transport talks to on behalf of the handler's own.

    Args:
        loop: The private loop.
        factory: Makes the handler's protocol; called inside a drain.
        context: Where the handler's protocol runs; default: a copy of the current one.
    """

    def __init__(self, loop: OutsideLoop, factory: Any, context: Context | None = None) -> None:
        self._loop = loop
        self._factory = factory
        self._context = copy_context() if context is None else context
        self._protocol: Any = None
        self._transport: PrivateTransport | None = None
        self._opened = 0
        self._flow_waiting = 0

    # -- the private side ------------------------------------------------------------------------------------

    def ends(self) -> tuple[Any, Any]:
        """The private transport and the handler's protocol."""
        return self._transport, self._protocol

    def use(self, protocol: Any) -> None:
        """Talk to `protocol` from now on."""
        self._protocol = protocol

    def secured(self, real: Any) -> PrivateTransport:
        """The real transport was replaced by `real`, which encrypts."""
        self._transport = PrivateTransport(real, self)
        return self._transport

    def drop_outside(self) -> None:
        if self._transport is not None:
            _end(self._transport.real)

    def _later(self, callback: Any, *args: Any) -> None:
        self._loop.arrive(asyncio.Handle(callback, args, self._loop, self._context))

    def _call(self, method: str, *args: Any) -> None:
        try:
            getattr(self._protocol, method)(*args)
        except Exception:
            self.drop_outside()  # as a real transport does when its protocol fails; the loop reports the error
            raise

    # -- called by the real transport ------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        if self._loop.dropping:
            _end(transport)
            return
        self._transport = PrivateTransport(transport, self)
        self._opened = self._loop.opened(self)
        self._later(self._made)

    def _made(self) -> None:
        if self._protocol is None:
            self._protocol = self._factory()
        self._call("connection_made", self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(self._lost, exc)

    def _lost(self, exc: Exception | None) -> None:
        self._loop.ended(self._opened)
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._later(self._received, data)

    def _received(self, data: bytes) -> None:
        if not isinstance(self._protocol, asyncio.BufferedProtocol):
            self._call("data_received", data)
            return
        view = memoryview(data)
        while view:
            buffer = memoryview(self._protocol.get_buffer(len(view))).cast("B")
            taken = min(len(buffer), len(view))
            if taken == 0:
                raise RuntimeError(f"{self._protocol!r}.get_buffer() returned an empty buffer")
            buffer[:taken] = view[:taken]
            self._protocol.buffer_updated(taken)
            view = view[taken:]

    def eof_received(self) -> bool:
        """Keep the connection open until the handler's protocol has been asked; TLS has no half-closed state."""
        over_tls = self._transport is not None and self._transport.get_extra_info("sslcontext") is not None
        self._later(self._ended, over_tls)
        return not over_tls

    def _ended(self, over_tls: bool) -> None:
        keep_open = self._protocol.eof_received()
        if not keep_open and not over_tls and self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        # Writing too much calls this from within write(), inside a drain: the drain() that the handler awaits
        # next has to know already.
        if self._loop.is_running() and not self._flow_waiting and self._protocol is not None:
            self._protocol.pause_writing()
        else:
            self._flow_waiting += 1
            self._later(self._flow, "pause_writing")

    def resume_writing(self) -> None:
        self._flow_waiting += 1
        self._later(self._flow, "resume_writing")

    def _flow(self, method: str) -> None:
        self._flow_waiting -= 1
        getattr(self._protocol, method)()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._later(self._call, "datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self._later(self._call, "error_received", exc)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._later(self._call, "pipe_data_received", fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._later(self._call, "pipe_connection_lost", fd, exc)

    def process_exited(self) -> None:
        self._later(self._call, "process_exited")


class PrivateServer(asyncio.AbstractServer):
    """A server as the handler's code sees it; the real loop accepts its connections."""

    def __init__(self, loop: OutsideLoop, real: Any) -> None:
        self._loop = loop
        self._real = real
        self._opened = loop.opened(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property
    def sockets(self) -> Any:
        return self._real.sockets

    def get_loop(self) -> OutsideLoop:
        return self._loop

    def is_serving(self) -> bool:
        return bool(self._real.is_serving())

    def close(self) -> None:
        self._loop.ended(self._opened)
        self._real.close()

    def drop_outside(self) -> None:
        self._real.close()

    async def start_serving(self) -> None:
        await self._loop.carry(lambda real: self._real.start_serving())

    async def serve_forever(self) -> None:
        try:
            await self._loop.carry(lambda real: self._real.serve_forever())
        finally:
            self._loop.ended(self._opened)

    async def wait_closed(self) -> None:
        await self._loop.carry(lambda real: self._real.wait_closed())


def _end(transport: Any) -> None:
    if not transport.is_closing():
        (getattr(transport, "abort", None) or transport.close)()
