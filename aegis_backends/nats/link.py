"""One established connection to one server, from log-in to its end: a reader, a writer and a keep-alive.

**Writing.** `Link.write` only appends; the first of a scheduling step wakes the writer, which runs in the next step and
sends all that has come together by then in one piece. Where messages come one at a time there is nothing to gather, and
the next step is all that they would wait for: what is written first after at most one message was read leaves at once.
Each piece written has a number, so that when a link ends it is known which pieces the socket was given (`given`): those
may have arrived, all others have not.

**Reading.** Messages go to the callback of their subscription, in the reader's own task; the other operations to the
connection's. The table of callbacks is shared by all links of a connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import trio

from aegis_backends.nats.dialing import Dialed
from aegis_backends.nats.errors import Disconnected, RemoteProtocolError
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Event, Message, Ping, Pong, encode
from aegis_backends.nats.statistics import Counters
from aegis_backends.tcp import TcpStream

__all__ = ["Link"]

_CHUNK: Final = 1 << 18
# Bytes that are given to the socket at once, when more are waiting.
_PIECE: Final = 1 << 18
_PING: Final = encode(Ping())
_PONG: Final = encode(Pong())
# How often in an interval between two PINGs it is looked whether anything was heard.
_LOOKS: Final = 5


class Link:
    """A connection to one server.

    Args:
        dialed: Who let us in.
        options: How often to ask whether it is there.
        receivers: By subscription number, who gets its messages.
        afterwards: Called after each piece that was read, once all of its messages have got there.
        counters: What is counted.
        tell: Gets each INFO and each error.
        relieved: Called whenever bytes have left.
    """

    def __init__(
        self,
        dialed: Dialed,
        options: ConnectOptions,
        *,
        receivers: Mapping[int, Callable[[Message], None]],
        afterwards: Mapping[int, Callable[[], None]],
        counters: Counters,
        tell: Callable[[Link, Event], None],
        relieved: Callable[[], None],
    ) -> None:
        self.address: Final = dialed.address
        self.info = dialed.info
        self.ended: str | None = None
        self.given = 0
        self.waiting_bytes = 0
        self._options: Final = options
        self._stream: Final = dialed.stream
        self._parser: Final = dialed.parser
        self._receivers: Final = receivers
        self._afterwards: Final = afterwards
        self._counters: Final = counters
        self._tell: Final = tell
        self._relieved: Final = relieved
        self._scope: Final = trio.CancelScope()
        self._send_nowait: Final = self._stream.send_nowait if isinstance(self._stream, TcpStream) else None
        self._may_leave = False
        # What did not fit of a message that was to leave at once.
        self._rest = b""
        self._out: list[bytes] = []
        self._writer: trio.lowlevel.Task | None = None
        self._pongs: deque[trio.Event | None] = deque()
        self._reads = 0

    def __repr__(self) -> str:
        state = "up" if self.ended is None else f"ended: {self.ended}"
        return f"<Link to {self.address}, {state}, {self.waiting_bytes} bytes waiting>"

    def write(self, data: bytes) -> int:
        """Send *data* with the next piece; returns its number. A link that has ended takes it and sends nothing."""
        out = self._out
        if self._may_leave and self._writer is not None and self._leave(data):
            return self.given - 1
        out.append(data)
        self.waiting_bytes += len(data)
        if self._writer is not None:
            self._wake_writer()
        return self.given + len(out) - 1

    def _wake_writer(self) -> None:
        assert self._writer is not None
        trio.lowlevel.reschedule(self._writer)
        self._writer = None

    def _leave(self, data: bytes) -> bool:
        """Send *data* at once while the writer has nothing to do, if the socket takes any of it."""
        assert self._send_nowait is not None
        self._may_leave = False
        sent = self._send_nowait(data)
        if not sent:
            return False
        self.given += 1
        if sent < len(data):
            self._rest = data[sent:]
            self.waiting_bytes += len(self._rest)
            self._wake_writer()
        return True

    def retract(self, number: int) -> bool:
        """Take back what was written as *number*; False if it is too late for that."""
        at = number - self.given
        if at < 0:
            return False
        self.waiting_bytes -= len(self._out[at])
        self._out[at] = b""
        return True

    def left_over(self) -> list[bytes]:
        """Published messages that the socket was not given, of a link that has ended."""
        return [data for data in self._out if data.startswith((b"PUB", b"HPUB"))]

    async def flush(self) -> None:
        """Wait until the server has dealt with all that was written before.

        Raises:
            Disconnected: The link ended first.
        """
        answered = trio.Event()
        if self.ended is None:
            self._pongs.append(answered)
            self.write(_PING)
            await answered.wait()
        if self.ended is not None:
            raise Disconnected(self.ended, sent=True)

    def end(self, reason: str) -> None:
        """Give the link up; the first reason counts."""
        if self.ended is None:
            self.ended = reason
            self._scope.cancel()
            while self._pongs:
                answered = self._pongs.popleft()
                if answered is not None:
                    answered.set()

    async def run(self) -> None:
        """Read, write and keep alive until the link ends; the socket is closed then."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_alive)
                    await self._read()
        finally:
            self.end("it was closed")
            await trio.aclose_forcefully(self._stream)  # noqa: ASYNC102 - forcefully is without waiting

    async def _read(self) -> None:
        parser = self._parser
        receivers = self._receivers
        counters = self._counters
        receive_some = self._stream.receive_some
        try:
            while True:
                messages = 0
                size = 0
                for event in parser.events():
                    if type(event) is Message:
                        messages += 1
                        size += len(event.payload) + len(event.head)
                        receive = receivers.get(event.sid)
                        if receive is not None:
                            receive(event)
                    else:
                        self._control(event)
                counters.in_messages += messages
                counters.in_bytes += size
                for settle in self._afterwards.values():
                    settle()
                self._may_leave = messages <= 1 and self._send_nowait is not None
                data = await receive_some(_CHUNK)
                if not data:
                    self.end("the server closed the connection")
                    return
                self._reads += 1
                parser.receive_data(data if type(data) is bytes else bytes(data))
        except RemoteProtocolError as exc:
            self.end(f"the server broke the protocol: {exc}")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.end(f"the connection broke: {exc.__cause__ or exc}")

    def _control(self, event: Event) -> None:
        if isinstance(event, Ping):
            self.write(_PONG)
            if self.waiting_bytes > 2 * self._options.max_pending:
                self.end("the server asks without reading the answers")
        elif isinstance(event, Pong):
            answered = self._pongs.popleft() if self._pongs else None
            if answered is not None:
                answered.set()
        else:
            self._tell(self, event)

    async def _write(self) -> None:
        try:
            while True:
                if not self._out and not self._rest:
                    self._writer = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
                batch = self._out
                self._out = []
                if self.waiting_bytes > _PIECE:
                    batch = self._first_piece(batch)
                self.given += len(batch)
                data = self._rest + b"".join(batch)
                self._rest = b""
                await self._stream.send_all(data)
                self.waiting_bytes -= len(data)
                self._relieved()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.end(f"the connection broke: {exc.__cause__ or exc}")

    def _first_piece(self, batch: list[bytes]) -> list[bytes]:
        """The beginning of a large *batch*; the rest goes back, so that what a dead server was given is little."""
        size = count = 0
        for data in batch:
            size += len(data)
            count += 1
            if size >= _PIECE:
                break
        self._out = batch[count:]
        return batch[:count]

    def _stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _keep_alive(self) -> None:
        # Looked at more often than asked, so that a server that hangs is found out at most a fifth of an interval late.
        looks = silent = 0
        while silent < self._options.max_missed_pings * _LOOKS:
            before = self._reads
            if looks % _LOOKS == 0:
                self._pongs.append(None)
                self.write(_PING)
            looks += 1
            await trio.sleep(self._options.ping_interval / _LOOKS)
            silent = silent + 1 if self._reads == before else 0
        self.end(f"nothing was heard for {self._options.max_missed_pings * self._options.ping_interval:g} s")
