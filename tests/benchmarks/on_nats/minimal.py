"""The least that a client on Trio needs for requests: no reconnect, no limits, no checks, no errors, no state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio

__all__ = ["Minimal", "open_minimal"]


class Minimal:
    """Requests over one stream. What is written in one step of the scheduler is sent together."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unsent: list[bytes] = []
        self._something_unsent = trio.Event()
        self._waiting: dict[bytes, trio.Event] = {}
        self._answers: dict[bytes, bytes] = {}
        self._count = 0

    async def write(self) -> None:
        """Send what is there to send, for ever."""
        while True:
            await self._something_unsent.wait()
            self._something_unsent = trio.Event()
            unsent, self._unsent = self._unsent, []
            await self._stream.send_all(b"".join(unsent))

    async def read(self) -> None:
        """Hand answers to who waits for them, until the stream ends."""
        data = b""
        async for chunk in self._stream:
            data += chunk
            at = 0
            while (end := data.find(b"\r\n", at)) >= 0:
                line = data[at:end]
                at = end + 2
                if line.startswith(b"MSG "):
                    fields = line.split(b" ")
                    size = int(fields[-1])
                    if len(data) < at + size + 2:
                        at = end - len(line)
                        break
                    waiting = self._waiting.pop(fields[1], None)
                    if waiting is not None:
                        self._answers[fields[1]] = data[at : at + size]
                        waiting.set()
                    at += size + 2
                elif line == b"PING":
                    self._send(b"PONG\r\n")
            data = data[at:]

    def _send(self, message: bytes) -> None:
        self._unsent.append(message)
        self._something_unsent.set()

    async def request(self, subject: bytes, payload: bytes) -> bytes:
        """Publish *payload* to *subject* and wait for the answer."""
        self._count += 1
        inbox = b"_INBOX.minimal.%d" % self._count
        answered = self._waiting[inbox] = trio.Event()
        self._send(b"PUB %b %b %d\r\n%b\r\n" % (subject, inbox, len(payload), payload))
        await answered.wait()
        return self._answers.pop(inbox)

    async def request_within(self, subject: bytes, payload: bytes, timeout: float) -> bytes:
        """The same, for *timeout* seconds at most."""
        with trio.fail_after(timeout):
            return await self.request(subject, payload)


@asynccontextmanager
async def open_minimal(url: str) -> AsyncIterator[Minimal]:
    """Connect to the first server of *url*."""
    parts = urlsplit(url.partition(",")[0])
    stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 4222)
    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(b'CONNECT {"verbose":false,"protocol":1}\r\nSUB _INBOX.minimal.* 1\r\n')
        minimal = Minimal(stream)
        nursery.start_soon(minimal.read)
        nursery.start_soon(minimal.write)
        yield minimal
        nursery.cancel_scope.cancel()
