"""A TCP connection with one reader and one writer, which lets others run only where it waits.

Trio's streams give way after each success, too. Where messages come one at a time, that is one turn of the scheduler more
for each, before anybody has seen the message.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

__all__ = ["TcpStream"]


class TcpStream(trio.abc.AsyncResource):
    """Takes *stream* over, which must not be used any more.

    Args:
        stream: A connection over which nobody waits for anything now.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket: Final = socket.socket(fileno=stream.socket.detach())
        self._stream: Final = trio.SocketStream(trio.socket.from_stdlib_socket(self._socket))

    async def receive_some(self, most: int) -> bytes:
        """The next bytes, at most *most*; none at the end.

        Raises:
            trio.BrokenResourceError: The connection broke.
            trio.ClosedResourceError: It was closed here.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            try:
                data = self._socket.recv(most)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                waited = True
            except OSError as exc:
                raise trio.BrokenResourceError from exc
            else:
                if not waited:  # the others have had no turn
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return data

    def send_nowait(self, data: bytes) -> int:
        """Send as much of *data* as can be sent at once, and tell how much; nobody may be sending.

        A connection that is broken takes nothing: `send_all` tells why.
        """
        try:
            return self._socket.send(data)
        except OSError:
            return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send all of *data*; raises as `receive_some` does. Cancelled, it has sent some of it."""
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """Send no more; the other side reads an end. Raises as `send_all` does."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it; who waits for bytes gets `trio.ClosedResourceError`."""
        await self._stream.aclose()
