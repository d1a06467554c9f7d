"""A relay of TCP connections that can be cut like a cable: nothing passes, and nobody is told."""

from __future__ import annotations

from typing import Final

import trio

__all__ = ["Relay"]

_HOST: Final = "127.0.0.1"
_CHUNK: Final = 1 << 16


class Relay:
    """Listens on a port of its own and passes everything on to *target*, a port of this machine.

    Cut, it takes connections and holds back what comes; connections that were there when it was cut stay silent for ever
    and end when it is healed, as they do when a machine comes back that everybody has given up.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._whole = trio.Event()
        self._whole.set()
        self._connections: set[trio.CancelScope] = set()

    def __repr__(self) -> str:
        state = "whole" if self._whole.is_set() else "cut"
        return f"<Relay from {self.port} to {self._target}, {state}>"

    def cut(self) -> None:
        """Let nothing pass."""
        if self._whole.is_set():
            self._whole = trio.Event()

    def heal(self) -> None:
        """Let new connections pass, and end the old ones."""
        for scope in self._connections:
            scope.cancel()
        self._whole.set()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Relay until cancelled; started once the port is known."""
        (listener,) = await trio.open_tcp_listeners(0, host=_HOST)
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await self._whole.wait()
                async with await trio.open_tcp_stream(_HOST, self._target) as far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, far, near, scope)
                    await self._pass_on(near, far, scope)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._connections.discard(scope)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        while True:
            chunk = await source.receive_some(_CHUNK)
            await self._whole.wait()
            if not chunk:
                scope.cancel()
                return
            await sink.send_all(chunk)
