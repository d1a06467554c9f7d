"""Calls over HTTP, the caller's side: one line to each process that is called, with any number of calls on it.

A line is one connection with one endless request (see `aegis_backends.http.calls`). Its task connects, writes all that has
been added since the last write, and reads answers, which wake their callers. No task, nursery or cancel scope is made for
a call: one alarm for all of them wakes those whose time is over.

A call whose frame was never written failed as NOT_SENT when its line breaks; the others are MAYBE_EXECUTED.
"""

from __future__ import annotations

import heapq
import logging
import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import trio

from aegis_backends.alarm import Alarm
from aegis_backends.http.calls import (
    ANSWERED,
    CALLS,
    MAX_PAYLOAD,
    NOBODY,
    SIGN_OF_LIFE,
    CallServer,
    Frames,
    read_answer,
    request_frame,
)
from aegis_backends.http.server import HttpServer, Limits
from aegis_backends.http.stream import BROKEN, HttpStream, open_stream
from aegis_backends.http.wire import INSTANCES
from aegis_core.backend import Inbound, TransportUnavailable
from aegis_core.models import Outcome

__all__ = ["HttpCaller", "HttpTransport"]

_log = logging.getLogger("aegis.http")

_CONNECT_WITHIN: Final = 10.0
_SIGN_OF_LIFE_EVERY: Final = 15.0


class _Waiting:
    """A call that waits for its answer."""

    __slots__ = ("answer", "failure", "line", "number", "sent", "task", "timed_out")

    def __init__(self, number: int, line: _Line, task: trio.lowlevel.Task) -> None:
        self.number = number
        self.line = line
        self.task = task
        self.sent = False
        self.timed_out = False
        self.answer: bytes | None = None
        self.failure: tuple[str, Outcome] | None = None

    def finish(self) -> None:
        """Take it off its line, and let the caller see how it went."""
        del self.line.waiting[self.number]
        trio.lowlevel.reschedule(self.task)

    def fail(self, reason: str) -> None:
        """Its line broke."""
        self.failure = (reason, Outcome.MAYBE_EXECUTED if self.sent else Outcome.NOT_SENT)
        self.finish()

    def abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """The caller was cancelled."""
        del self.line.waiting[self.number]
        return trio.lowlevel.Abort.SUCCEEDED


class _Line:
    """One connection to one process.

    Args:
        address: Its scheme, host and port.
        headers: What to show there.
        tls: For ``https``.
    """

    def __init__(self, address: str, headers: dict[str, str], tls: ssl.SSLContext | None) -> None:
        self.waiting: dict[int, _Waiting] = {}
        self.broken = False
        self._address = address
        self._headers = {**headers, "Content-Type": "application/msgpack", "Transfer-Encoding": "chunked"}
        self._tls = tls
        self._out = bytearray()
        self._unsent: list[_Waiting] = []
        self._writer = trio.lowlevel.ParkingLot()
        self._frames = Frames()

    def __repr__(self) -> str:
        return f"<_Line to {self._address}: {len(self.waiting)} calls under way>"

    def add(self, waiting: _Waiting, frame: bytes) -> None:
        """Have *frame* sent with the next write."""
        self.waiting[waiting.number] = waiting
        self._unsent.append(waiting)
        self._out += frame
        self._writer.unpark()

    async def run(self) -> None:
        """Connect, write and read until the connection breaks; then every call on it fails."""
        reason = "the node is closing"
        try:
            reason = await self._run()
        finally:
            self.broken = True
            for waiting in tuple(self.waiting.values()):
                waiting.fail(reason)
        _log.debug("the line to %s ended: %s", self._address, reason)

    async def _run(self) -> str:
        """Why it ended."""
        try:
            stream = await open_stream(
                self._address, "POST", CALLS, self._headers, tls=self._tls, timeout=_CONNECT_WITHIN
            )
        except BROKEN as exc:
            return _why(exc)
        reason = "the other side closed the connection"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                nursery.start_soon(self._live)
                await self._read(stream)
                nursery.cancel_scope.cancel()
        except* (*BROKEN, ValueError) as group:
            reason = _why(group.exceptions[0])
        finally:
            await stream.aclose()
        if stream.status not in (0, 200):
            for waiting in self.waiting.values():
                waiting.sent = False  # whatever was sent, nobody has read it
            return f"the other side answered {stream.status}"
        return reason

    async def _write(self, stream: HttpStream) -> None:
        while True:
            while not self._out:
                await self._writer.park()
            data = b"%x\r\n%b\r\n" % (len(self._out), bytes(self._out))
            self._out.clear()
            for waiting in self._unsent:
                waiting.sent = True
            self._unsent.clear()
            await stream.send(data)

    async def _live(self) -> None:
        while True:
            await trio.sleep(_SIGN_OF_LIFE_EVERY)
            self._out += SIGN_OF_LIFE
            self._writer.unpark()

    async def _read(self, stream: HttpStream) -> None:
        while data := await stream.receive():
            if stream.status != 200:
                return
            for frame in self._frames.feed(data):
                self._take(frame)

    def _take(self, frame: bytes) -> None:
        number, kind, payload = read_answer(frame)
        waiting = self.waiting.get(number)
        if waiting is None:
            return
        if kind == ANSWERED:
            waiting.answer = payload
        elif kind == NOBODY:
            waiting.failure = ("nobody listens there", Outcome.NOT_SENT)
        else:
            waiting.failure = ("the instance stopped listening before it answered", Outcome.MAYBE_EXECUTED)
        waiting.finish()


class HttpCaller:
    """Calls instances that listen on ``http`` or ``https``. `run` watches the time of calls.

    Args:
        nursery: Where lines run.
        token: The bearer token of calls; "" for none.
        tls: How instances are called by ``https``.
    """

    def __init__(self, nursery: trio.Nursery, *, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self._nursery = nursery
        self._token = token
        self._client_tls = tls
        self._alarm = Alarm(trio.sleep_until, self._ring)
        self._lines: dict[str, _Line] = {}
        self._endpoints: dict[str, tuple[str, bytes]] = {}
        self._deadlines: list[tuple[float, int, _Waiting]] = []
        self._numbers = count(1)
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self._lines)} lines>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the time of calls until cancelled."""
        task_status.started()
        await self._alarm.run()

    @property
    def max_payload(self) -> int:
        """`aegis_backends.http.calls.MAX_PAYLOAD`."""
        return MAX_PAYLOAD

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Send *payload* to *endpoint* and wait for its answer.

        Raises:
            TransportUnavailable: NOT_SENT: no connection, or nobody listens there. MAYBE_EXECUTED: the connection
                broke, or the listener left without an answer.
            trio.TooSlowError: No answer within *timeout* seconds.
            ValueError: *payload* is too large, *timeout* negative, or *endpoint* not of HTTP.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a request has at most {MAX_PAYLOAD} bytes, this one {len(payload)}")
        if not timeout >= 0:
            raise ValueError(f"timeout must not be negative, got {timeout}")
        address, path = self._endpoints.get(endpoint) or self._read_endpoint(endpoint)
        await trio.lowlevel.checkpoint_if_cancelled()
        line = self._lines.get(address)
        if line is None or line.broken:
            line = self._open_line(address)
        number = next(self._numbers)
        waiting = _Waiting(number, line, trio.lowlevel.current_task())
        line.add(waiting, request_frame(number, path, payload))
        if timeout != math.inf:
            self._time_out_at(trio.current_time() + timeout, waiting)
        self._under_way += 1
        try:
            await trio.lowlevel.wait_task_rescheduled(waiting.abandon)
        finally:
            self._under_way -= 1
        if waiting.answer is not None:
            return waiting.answer
        if waiting.timed_out:
            raise trio.TooSlowError(f"no answer from {endpoint} within {timeout:g} s")
        assert waiting.failure is not None
        reason, outcome = waiting.failure
        raise TransportUnavailable(reason=reason, endpoint=endpoint, outcome=outcome)

    def _read_endpoint(self, endpoint: str) -> tuple[str, bytes]:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.startswith(f"{INSTANCES}/"):
            raise ValueError(f"{endpoint!r} is no HTTP endpoint")
        found = f"{parts.scheme}://{parts.netloc}", unquote(parts.path[len(INSTANCES) + 1 :]).encode()
        if len(self._endpoints) >= 10_000:
            self._endpoints.clear()
        self._endpoints[endpoint] = found
        return found

    def _open_line(self, address: str) -> _Line:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        line = self._lines[address] = _Line(address, headers, self._client_tls)
        self._nursery.start_soon(self._run_line, address, line)
        return line

    async def _run_line(self, address: str, line: _Line) -> None:
        try:
            await line.run()
        finally:
            if self._lines.get(address) is line:
                del self._lines[address]

    def _time_out_at(self, deadline: float, waiting: _Waiting) -> None:
        if len(self._deadlines) > 2 * self._under_way + 64:
            self._deadlines = [entry for entry in self._deadlines if _is_waiting(entry[2])]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline, waiting.number, waiting))
        self._alarm.set(deadline)

    def _ring(self) -> float:
        now, deadlines = trio.current_time(), self._deadlines
        while deadlines and (deadlines[0][0] <= now or not _is_waiting(deadlines[0][2])):
            waiting = heapq.heappop(deadlines)[2]
            if _is_waiting(waiting):
                waiting.timed_out = True
                waiting.finish()
        return deadlines[0][0] if deadlines else math.inf


class HttpTransport(HttpCaller):
    """See `aegis_core.backend.Transport`. `run` serves this node's own instances.

    Args:
        listener: Where instances of this node are served.
        nursery: Where lines run.
        base: The URL under which others reach *listener*, e.g. ``http://node:40123``.
        token: The bearer token of calls, shown and asked for; "" for none.
        server_tls: How instances of this node are served, for a *base* of ``https``.
        client_tls: How others are called by ``https``.
        limits: What callers may make the server do.
    """

    def __init__(
        self,
        listener: trio.SocketListener,
        nursery: trio.Nursery,
        *,
        base: str,
        token: str = "",
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(nursery, token=token, tls=client_tls)
        self._base = base
        parts = urlsplit(base)
        self._scheme = parts.scheme
        self._listener = listener
        self._calls = CallServer(token, names=() if parts.hostname is None else (parts.hostname,))
        self._server = HttpServer(self._calls, limits=limits, tls=server_tls)

    def __repr__(self) -> str:
        return f"<HttpTransport {self._base}: {self._calls!r}, {len(self._lines)} lines>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, and watch the time of calls, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(super().run)
            await nursery.start(self._server.serve, [self._listener])
            task_status.started()

    @property
    def scheme(self) -> str:
        """``"http"`` or ``"https"``."""
        return self._scheme

    @property
    def server(self) -> HttpServer:
        """What serves the instances of this node."""
        return self._server

    def endpoint(self, instance_id: str, tag: str) -> str:
        """The URL of an instance *of this node*: another's address is known from its record alone."""
        return f"{self._base}{INSTANCES}/{quote(instance_id, safe='')}/{quote(tag, safe='')}"

    @asynccontextmanager
    async def listen(self, instance_id: str, tag: str, receive: Callable[[Inbound], None]) -> AsyncIterator[str]:
        """Serve an instance of this node while the block runs.

        Raises:
            ValueError: Somebody listens there already.
        """
        async with self._calls.listen(f"{instance_id}/{tag}".encode(), receive):
            yield self.endpoint(instance_id, tag)


def _is_waiting(waiting: _Waiting) -> bool:
    return waiting.line.waiting.get(waiting.number) is waiting


def _why(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return str(exc.__cause__ or exc) or type(exc).__name__
