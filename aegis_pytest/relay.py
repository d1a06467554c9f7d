"""A relay of TCP connections, which can be cut like a cable, be slow, and break connections off."""

from __future__ import annotations

import socket
import struct
from typing import Final

import trio

__all__ = ["Relay"]

_HOST: Final = "127.0.0.1"
_CHUNK: Final = 1 << 16
_UNDER_WAY: Final = 64

# Closing such a socket sends a reset, and not the end of the stream.
_AT_ONCE: Final = struct.pack("ii", 1, 0)


class Relay:
    """Listens on a port of its own and passes everything on to *target*, a port of this machine.

    Cut, it takes connections and holds back what comes; connections that were there when it was cut stay silent for ever
    and end when it is healed, as they do when a machine comes back that everybody has given up.

    Attributes:
        port: Where it listens, once it runs.
        delay: Seconds that all that passes takes, in either direction.
        refuses: Whether new connections are reset at once.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.delay = 0.0
        self.refuses = False
        self._target = target
        self._whole = trio.Event()
        self._whole.set()
        self._connections: dict[trio.CancelScope, list[trio.SocketStream]] = {}

    def __repr__(self) -> str:
        state = "cut" if self.is_cut else "refusing" if self.refuses else "whole"
        late = f", {self.delay:g} s late" if self.delay else ""
        return f"<Relay from {self.port} to {self._target}, {state}{late}>"

    @property
    def is_cut(self) -> bool:
        """Whether nothing passes."""
        return not self._whole.is_set()

    def cut(self) -> None:
        """Let nothing pass."""
        if not self.is_cut:
            self._whole = trio.Event()

    def heal(self) -> None:
        """Let new connections pass, and end the old ones; nothing, if it is not cut."""
        if self.is_cut:
            for scope in self._connections:
                scope.cancel()
            self._whole.set()

    def reset(self) -> None:
        """Reset every connection: both ends are told at once that it broke."""
        for scope, streams in self._connections.items():
            for stream in streams:
                _reset_when_closed(stream)
            scope.cancel()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Relay until cancelled; started once the port is known."""
        (listener,) = await trio.open_tcp_listeners(0, host=_HOST)
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: trio.SocketStream) -> None:
        if self.refuses:
            _reset_when_closed(near)
            return
        await self._whole.wait()
        with trio.CancelScope() as scope:
            streams = self._connections[scope] = [near]
            try:
                async with await trio.open_tcp_stream(_HOST, self._target) as far, trio.open_nursery() as nursery:
                    streams.append(far)
                    for source, sink in ((near, far), (far, near)):
                        sender, receiver = trio.open_memory_channel[tuple[float, bytes]](_UNDER_WAY)
                        nursery.start_soon(self._take, source, sender)
                        nursery.start_soon(self._deliver, receiver, sink, scope)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                del self._connections[scope]

    async def _take(self, source: trio.SocketStream, sender: trio.MemorySendChannel[tuple[float, bytes]]) -> None:
        """Take what comes from *source*, up to its end, with the time at which it is to arrive."""
        async with sender:
            chunk = b"?"
            while chunk:
                chunk = await source.receive_some(_CHUNK)
                await sender.send((trio.current_time() + self.delay, chunk))

    async def _deliver(
        self, receiver: trio.MemoryReceiveChannel[tuple[float, bytes]], sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        """Hand on what was taken, in order; the end of it ends the connection."""
        async for arrives_at, chunk in receiver:
            if arrives_at > trio.current_time():
                await trio.sleep_until(arrives_at)
            await self._whole.wait()
            if not chunk:
                scope.cancel()
                return
            await sink.send_all(chunk)


def _reset_when_closed(stream: trio.SocketStream) -> None:
    if stream.socket.fileno() < 0:
        return  # It is closed: a connection that ends closes one side first.
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
