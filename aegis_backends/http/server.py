"""A small HTTP/1.1 server for ASGI applications, on Trio and llhttp.

Its clients are hostile until proven otherwise: everything that one can make the server keep or wait for has a limit, who
passes one is cut off and counted, and no client ends anybody's connection but its own. What the application raises ends
its request. See `aegis_backends.http.connection` for what happens on one connection.

It runs no lifespan protocol: whoever opens the server owns what the application needs. There is no HTTP/2 and no WebSocket.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import partial
from typing import Final

import attrs
import trio

from aegis_backends.http.asgi import Application
from aegis_backends.http.connection import Connection
from aegis_backends.http.exchange import Cut
from aegis_backends.http.refusals import full, refusals

__all__ = ["HttpServer", "Limits", "Statistics"]

_log = logging.getLogger("aegis.http")

_LONGEST_TICK: Final = 1.0
_FULL: Final = full("as many connections are open as there may be")
_LOG_EVERY: Final = 60.0
_ADDRESSES: Final = 10_000


@attrs.frozen(kw_only=True)
class Limits:
    """What one client, and all of them together, may make the server do. Times are in seconds.

    Args:
        connections: Open at once; beyond it the one that has been idle longest is closed, and if none is idle the new
            one is answered 503.
        per_address: Of these, from one address; by default three quarters, because a proxy may have the address of many.
        head: Bytes of a request's line and headers together.
        headers: Number of headers.
        body: Bytes of a request's body, unless the application takes it as a stream.
        head_time: From the first byte of a request until its headers are whole; also for the TLS handshake.
        body_time: From then until its body is.
        stream_time: Between two signs of life of a client whose request is a stream.
        send_time: Until a client has taken what was sent to it.
        idle_time: Between two requests of a connection.
        rate: Requests per second of one client address, on the average of `burst` seconds; beyond it: 429.
        burst: Seconds.
        grace: For requests under way, once the server stops.
    """

    connections: int = 1024
    per_address: int = attrs.Factory(lambda self: max(1, self.connections * 3 // 4), takes_self=True)
    head: int = 16 << 10
    headers: int = 100
    body: int = 16 << 20
    head_time: float = 10.0
    body_time: float = 30.0
    stream_time: float = 60.0
    send_time: float = 30.0
    idle_time: float = 75.0
    rate: float = math.inf
    burst: float = 10.0
    grace: float = 5.0

    @property
    def tick(self) -> float:
        """How often the server looks for who has run out of time: no later than a quarter of the shortest limit."""
        shortest = min(self.head_time, self.body_time, self.stream_time, self.send_time, self.idle_time)
        return min(_LONGEST_TICK, shortest / 4)


@attrs.frozen(kw_only=True)
class Statistics:
    """What a server has done so far.

    Args:
        connections: Open now.
        accepted: Connections ever.
        requests: Whose headers were whole.
        cut: How often a client was cut off or refused, by reason (see `aegis_backends.http.exchange.Cut`).
    """

    connections: int
    accepted: int
    requests: int
    cut: dict[str, int]


class HttpServer:
    """Serves *app* on listeners that are given to `serve`.

    Args:
        app: An ASGI application; called once per request.
        limits: See `Limits`.
        tls: Speak TLS by this context, e.g. one that asks for client certificates.
        tell_cut: Called with the reason each time that a client is cut off or refused.
    """

    def __init__(
        self,
        app: Application,
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        tell_cut: Callable[[str], None] | None = None,
    ) -> None:
        self.app: Final = app
        self.limits: Final = limits or Limits()
        self.tick: Final = self.limits.tick
        self.refusals: Final = refusals(self.limits)
        self.requests = 0
        # Read from the clock once per tick, for deadlines that need not be exact.
        self.now = 0.0
        self.date = b""
        self.cut: Counter[str] = Counter()
        self._tell_cut = tell_cut
        self._logged: Counter[str] = Counter()
        self._log_at = -math.inf
        self._tls = tls
        self._accepted = 0
        self._turned_away = 0
        self._connections: dict[Connection, None] = {}
        self._by_address: Counter[str] = Counter()
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._spent: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        state = "stopping" if self.stopping else "serving"
        return f"<HttpServer {state}: {len(self._connections)} connections, {self.requests} requests>"

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return "http" if self._tls is None else "https"

    @property
    def stopping(self) -> bool:
        """Whether it takes no further connections and closes those that are idle."""
        return self._stopping.is_set()

    @property
    def connections(self) -> Sequence[Connection]:
        """Those that are open, oldest first."""
        return tuple(self._connections)

    @property
    def statistics(self) -> Statistics:
        """What it has done so far."""
        return Statistics(
            connections=len(self._connections),
            accepted=self._accepted,
            requests=self.requests,
            cut=dict(self.cut),
        )

    def count_cut(self, cut: Cut) -> None:
        """A client was cut off, or a request of its refused."""
        self.cut[cut] += 1
        if self._tell_cut is not None:
            self._tell_cut(cut.value)

    def stop(self) -> None:
        """End gracefully: `serve` returns once the requests under way are answered, or `Limits.grace` is over."""
        self._stopping.set()

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until `stop`, or until cancelled, which ends them all at once. The listeners are closed then."""
        self._look_at_the_clock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_time)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(
                        partial(trio.serve_listeners, self._serve_one, listeners, handler_nursery=connections)
                    )
                    task_status.started()
                    await self._stopping.wait()
                    accepting.cancel_scope.cancel()
                connections.cancel_scope.deadline = trio.current_time() + self.limits.grace
                for connection in tuple(self._connections):
                    connection.stop()
            nursery.cancel_scope.cancel()
        self._stopped.set()

    async def wait_stopped(self) -> None:
        """Wait until `serve` has ended."""
        await self._stopped.wait()

    def take_turn(self, address: str) -> bool:
        """Whether a client at *address* may make a request now; it is counted."""
        limits = self.limits
        if limits.rate == math.inf:
            return True
        most = limits.rate * limits.burst
        tokens, at = self._spent.pop(address, (most, self.now))
        now = trio.current_time()
        tokens = min(most, tokens + (now - at) * limits.rate)
        if len(self._spent) >= _ADDRESSES:
            del self._spent[next(iter(self._spent))]
        self._spent[address] = (max(tokens - 1.0, 0.0), now)
        return tokens >= 1.0

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        self._accepted += 1
        connection = Connection(self, stream, self._tls)
        refusal = self._refusal(connection.address)
        if refusal is not None:
            self.count_cut(refusal)
            # As many as connections at most: others would hold what those have to have.
            self._turned_away += 1
            try:
                await connection.turn_away(_FULL, lingers=self._turned_away <= self.limits.connections)
            finally:
                self._turned_away -= 1
            return
        self._connections[connection] = None
        self._by_address[connection.address] += 1
        try:
            await connection.run()
        except Exception:  # noqa: BLE001 - a mistake of ours about one client must not end the others
            self.count_cut(Cut.CRASH)
            _log.exception("a connection ended by a mistake of the server's")
        finally:
            del self._connections[connection]
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def _refusal(self, address: str) -> Cut | None:
        """Why one more connection from *address* cannot be; where an idle one can make room, it is closed for that."""
        if self._by_address[address] >= self.limits.per_address:
            return None if self._close_idlest(address) else Cut.ADDRESS
        if len(self._connections) >= self.limits.connections and not self._close_idlest():
            return Cut.CONNECTIONS
        return None

    def _close_idlest(self, address: str | None = None) -> bool:
        idle = [each for each in self._connections if each.is_idle and address in (None, each.address)]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.read_deadline).stop()
        return True

    def _look_at_the_clock(self) -> None:
        self.now = trio.current_time()
        self.date = formatdate(usegmt=True).encode()

    async def _watch_time(self) -> None:
        """For ever: cut off who has run out of time. One task for all, because a deadline of each would cost each request."""
        while True:
            await trio.sleep(self.tick)
            self._look_at_the_clock()
            for connection in tuple(self._connections):
                connection.check_time(self.now)
            self._log_cut()

    def _log_cut(self) -> None:
        """Say who was cut off since it was said last: at once, and then once in a while, however many they are."""
        if self.now >= self._log_at and self.cut != self._logged:
            counts = ", ".join(f"{cut} {number}" for cut, number in (self.cut - self._logged).items())
            _log.warning("clients of the HTTP server were cut off or refused: %s", counts)
            self._logged = self.cut.copy()
            self._log_at = self.now + _LOG_EVERY
