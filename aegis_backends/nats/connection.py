"""A connection to a NATS cluster: publish, request, subscribe, over one server at a time.

This is what users of it see; which server it is, and what happens when that one goes, is the supervisor's business. The
file is long for its docstrings: each operation says what it promises when servers go.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from aegis_backends.nats.background import open_background
from aegis_backends.nats.errors import (
    Disconnected,
    LocalProtocolError,
    NatsError,
    NoResponders,
    PayloadTooLarge,
    PendingFull,
    PermissionDenied,
)
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.interest import Interest
from aegis_backends.nats.link import Link
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Message, Unsubscribe, encode, encode_publish
from aegis_backends.nats.servers import ServerInfo
from aegis_backends.nats.statistics import ConnectionStatistics
from aegis_backends.nats.subjects import check_pattern, check_queue, check_subject
from aegis_backends.nats.subscription import Subscription
from aegis_backends.nats.supervisor import ConnectionState, Supervisor

__all__ = ["Connection", "ConnectionState", "open_connection"]

# A server closes the connection over a control line of more than 4,096 bytes; the numbers and verbs need their part.
_LONGEST_SUBJECTS: Final = 4000
_MOST_ASKED: Final = 10_000


@asynccontextmanager
async def open_connection(servers: Sequence[str], options: ConnectOptions | None = None) -> AsyncIterator[Connection]:
    """Connect to one of *servers*, and stay connected to one of their cluster within the block.

    A block that ends normally first sends what was published, for at most the options' `close_timeout`; one that raises
    or is cancelled does not. What the block raises leaves it as itself. Nothing is left behind in any case.

    Args:
        servers: URLs, ``nats://[user:password@|token@]host[:port]`` or ``tls://...``. They are tried in random order.
        options: How.

    Raises:
        AuthorizationFailed: All servers refuse our credentials; or some do, and the others could not be reached in the
            options' number of rounds.
        ConnectionFailed: No server could be reached in the options' number of rounds.
        ConfigError: A URL, a certificate or a key is none.
    """
    supervisor = Supervisor(servers, options or ConnectOptions())
    async with open_background() as nursery:
        nursery.start_soon(supervisor.requests.alarm.run)
        # Nothing between these two may wait: a cancellation there would leave the socket open.
        first = await supervisor.connect()
        await nursery.start(supervisor.run, first)
        connection = Connection(supervisor)
        try:
            yield connection
            await connection._finish()
        finally:
            supervisor.close("its block was left")


class Connection:
    """What `open_connection` yields."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor: Final = supervisor
        self._options: Final = supervisor.options
        self._requests: Final = supervisor.requests
        self._counters: Final = supervisor.counters
        # Subjects that were found right: the same are asked again and again.
        self._asked: Final[set[str]] = set()

    def __repr__(self) -> str:
        known = self._supervisor
        return f"<Connection {known.state.value}, {known.link or known.closed_because or 'no server'}>"

    # --- State -----------------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """Where it is in its life."""
        return self._supervisor.state

    @property
    def connects(self) -> int:
        """Successful connects. It grows with each server that is connected to, also when none was lost in between."""
        return self._supervisor.connects

    @property
    def server(self) -> ServerInfo:
        """The server in use; while reconnecting, the last one."""
        return self._supervisor.info

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and payload together that the server takes."""
        return self._supervisor.info.max_payload

    def statistics(self) -> ConnectionStatistics:
        """What was done so far."""
        counters = self._counters
        return ConnectionStatistics(
            in_messages=counters.in_messages,
            in_bytes=counters.in_bytes,
            out_messages=counters.out_messages,
            out_bytes=counters.out_bytes,
            dropped=counters.dropped,
            server_errors=counters.server_errors,
            connects=self.connects,
            subscriptions=len(self._supervisor.interests) - 1,  # without the inbox
            requests=len(self._requests),
            pending_bytes=self._supervisor.pending_bytes,
        )

    async def wait_state(self, *states: ConnectionState) -> ConnectionState:
        """Wait until the state is one of *states*, and return it.

        Raises:
            ConnectionClosed: It is CLOSED, which is not among them.
        """
        await trio.lowlevel.checkpoint()
        while self.state not in states:
            await self._supervisor.changed()
        return self.state

    async def wait_connects(self, above: int) -> int:
        """Wait until there were more than *above* successful connects, and return how many.

        Raises:
            ConnectionClosed: There will not be.
        """
        await trio.lowlevel.checkpoint()
        while self.connects <= above:
            await self._supervisor.changed()
        return self.connects

    # --- Publishing ----------------------------------------------------------------------------

    def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Headers | bytes | None = None
    ) -> None:
        """Send a message with the next piece that is sent; while reconnecting, once there is a server.

        *headers* that are bytes are a whole header block, which is sent as it is. Nothing tells whether anybody got it. `flush` tells that the server did.

        Raises:
            LocalProtocolError: A subject cannot be published to.
            PayloadTooLarge: Headers and payload have more than `max_payload` bytes.
            PendingFull: More than the options' `max_pending` bytes would wait; see `ready`.
            ConnectionClosed: The connection is closed.
        """
        check_subject(subject)
        if reply:
            check_subject(reply)
        data = self._message(subject, payload, reply, headers)
        supervisor = self._supervisor
        link = supervisor.link
        if link is None:
            supervisor.check_open()
            waiting = supervisor.unsent_bytes
        else:
            waiting = link.waiting_bytes
        if waiting + len(data) > self._options.max_pending:
            raise PendingFull(size=waiting, limit=self._options.max_pending)
        if link is None:
            supervisor.unsent.append(data)
            supervisor.unsent_bytes += len(data)
        else:
            link.write(data)

    def _message(self, subject: str, payload: bytes, reply: str, headers: Headers | bytes | None) -> bytes:
        if len(subject) + len(reply) > _LONGEST_SUBJECTS:
            raise LocalProtocolError(f"a subject of {len(subject)} characters does not fit into a line")
        head = b"" if headers is None else headers if isinstance(headers, bytes) else headers.encode()
        size = len(payload) + len(head)
        if size > self._supervisor.info.max_payload:
            raise PayloadTooLarge(size=size, limit=self.max_payload)
        counters = self._counters
        counters.out_messages += 1
        counters.out_bytes += size
        return encode_publish(subject, payload, reply, head)

    async def ready(self) -> None:
        """Wait until fewer bytes wait to be sent than the options' `high_water`.

        Raises:
            ConnectionClosed: The connection is closed.
        """
        await trio.lowlevel.checkpoint()
        self._supervisor.check_open()
        while self._supervisor.pending_bytes >= self._options.high_water:
            await self._supervisor.relief()
            # What waited when it was closed waits for ever.
            self._supervisor.check_open()

    async def flush(self, timeout: float = 10.0) -> None:
        """Wait until the server has dealt with all that was published, subscribed and unsubscribed before.

        While reconnecting, it waits for the next server first.

        Args:
            timeout: Seconds.

        Raises:
            trio.TooSlowError: It has not within *timeout* seconds.
            Disconnected: The connection broke; whether it had is not known.
        """
        with trio.fail_after(timeout):
            link = await self._wait_link()
            await link.flush()

    # --- Requests ------------------------------------------------------------------------------

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: Headers | bytes | None = None, timeout: float
    ) -> Message:
        """Publish to *subject* and wait for one answer.

        While reconnecting it waits for the next server, within its time. Cancelled or timed out, an answer that comes
        later is dropped; what was not given to the socket by then is not sent.

        Args:
            subject: Where somebody may listen.
            payload: What to send.
            headers: What to send beside it; bytes are a whole header block, which is sent as it is.
            timeout: Seconds for all of it.

        Raises:
            NoResponders: Nobody listens on *subject*.
            PermissionDenied: The server does not allow us to ask there, or to get an answer.
            trio.TooSlowError: It was sent, and there is no answer within *timeout* seconds.
            Disconnected: The connection that carried it broke (`sent`), or there was none in time (not `sent`).
            LocalProtocolError: *subject* cannot be published to.
            PayloadTooLarge: Headers and payload have more than `max_payload` bytes.
            ValueError: *timeout* is negative.
        """
        if subject not in self._asked:
            check_subject(subject)
            if len(self._asked) >= _MOST_ASKED:
                self._asked.clear()
            self._asked.add(subject)
        if not timeout >= 0:
            raise ValueError(f"timeout must not be negative, got {timeout}")
        deadline = trio.current_time() + timeout
        while True:
            link = self._supervisor.link
            if link is None or link.waiting_bytes >= self._options.high_water:
                link = await self._wait_sendable(deadline)
            denied = self._supervisor.inbox.denied
            if denied is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                raise PermissionDenied(denied.operation, denied.subject)
            exchange = self._requests.begin(subject, link)
            try:
                data = self._message(subject, payload, exchange.inbox, headers)
            except LocalProtocolError:
                await trio.lowlevel.cancel_shielded_checkpoint()
                raise
            exchange.number = link.write(data)
            await self._requests.wait(exchange, deadline)
            answer = exchange.answer
            if answer is not None:
                if answer.head and not answer.payload and answer.status == 503:
                    raise NoResponders(subject)
                return answer
            if exchange.error is not None:
                raise exchange.error
            if exchange.timed_out:
                if exchange.unsent:
                    raise Disconnected(f"the request could not be sent within {timeout:g} s")
                raise trio.TooSlowError(f"no answer from {subject!r} within {timeout:g} s")

    async def _wait_sendable(self, deadline: float) -> Link:
        with trio.move_on_at(deadline):
            await self.ready()
            return await self._wait_link()
        raise Disconnected("there was no server to send the request to in time")

    async def _wait_link(self) -> Link:
        await trio.lowlevel.checkpoint()
        while self._supervisor.link is None:
            await self._supervisor.changed()
        return self._supervisor.link

    # --- Subscribing ---------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self, subject: str, *, queue: str = "", max_messages: int = 65536, max_bytes: int = 64 << 20
    ) -> AsyncIterator[Subscription]:
        """Read what is published to *subject*, which may be a pattern; as a member of *queue*, a part of it.

        Within the block, the server has the subscription, unless it is being reconnected to. It comes back by itself with
        each reconnect; what is published in between is lost.

        Args:
            subject: Tokens joined by dots; ``*`` stands for one, ``>`` for all that follow.
            queue: Members of one group, on whichever servers, share the messages.
            max_messages: Messages that may wait to be read; beyond them the newest are dropped.
            max_bytes: The same in bytes.

        Raises:
            LocalProtocolError: *subject* or *queue* cannot be subscribed to.
            PermissionDenied: The server does not allow it.
            ConnectionClosed: The connection is closed.
        """
        subscription = Subscription(
            subject,
            queue,
            max_messages=max_messages,
            max_bytes=max_bytes,
            counters=self._counters,
            unsubscribe=lambda maximum: self._unsubscribe(interest, maximum),
            flush=self._settle,
        )
        interest = self._new_interest(subject, queue, subscription.offer)
        interest.subscription = subscription
        try:
            await self._establish(interest)
            yield subscription
        finally:
            self._leave(interest)
            subscription.discard()

    @asynccontextmanager
    async def listen(
        self,
        subjects: str | Sequence[str],
        receive: Callable[[Message], None],
        *,
        queue: str = "",
        goodbye: float = 0.0,
        afterwards: Callable[[], None] | None = None,
    ) -> AsyncIterator[None]:
        """Have *receive* called with each message, at once, in the connection's own task: the fast way.

        It must neither wait nor raise: what it raises ends the connection's block. Otherwise as `subscribe`.

        Args:
            subjects: One, as of `subscribe`, or several, which are waited for together.
            receive: Gets the messages.
            queue: See `subscribe`.
            goodbye: How many seconds the end of the block may take, also when cancelled, for *receive* to get what the
                server sent before it knew. With 0 that is dropped.
            afterwards: Called, as *receive* is, once all messages of what was read in one go have got where they belong:
                for work that is done once for many of them. It is called as well when none was for *receive*.

        Raises:
            LocalProtocolError: One of *subjects*, or *queue*, cannot be subscribed to.
            PermissionDenied: The server does not allow it.
            ConnectionClosed: The connection is closed.
        """
        interests: list[Interest] = []
        try:
            for subject in (subjects,) if isinstance(subjects, str) else subjects:
                interests.append(self._new_interest(subject, queue, receive, None if interests else afterwards))
            await self._establish(*interests)
            yield
        finally:
            if goodbye > 0:
                await self._say_goodbye(interests, goodbye)  # noqa: ASYNC102 - it shields itself, in limited time
            for interest in interests:
                self._leave(interest)

    async def _say_goodbye(self, interests: Sequence[Interest], seconds: float) -> None:
        """Unsubscribe, and wait until all has come that was sent before that; where there is no server, nothing comes."""
        if self._supervisor.link is None:
            return
        for interest in interests:
            if self._supervisor.interests.has(interest):
                self._unsubscribe(interest, 0)
        with trio.CancelScope(shield=True), contextlib.suppress(NatsError, trio.TooSlowError):
            await self.flush(seconds)

    def _new_interest(
        self,
        subject: str,
        queue: str,
        receive: Callable[[Message], None],
        afterwards: Callable[[], None] | None = None,
    ) -> Interest:
        check_pattern(subject)
        check_queue(queue)
        if len(subject) + len(queue) > _LONGEST_SUBJECTS:
            raise LocalProtocolError(f"a subject of {len(subject)} characters does not fit into a line")
        self._supervisor.check_open()
        return self._supervisor.interests.add(subject, queue, receive, afterwards)

    async def _establish(self, *interests: Interest) -> None:
        """Have the server take *interests*, all in one round trip."""
        link = self._supervisor.link
        if link is not None:
            link.write(b"".join([interest.subscribing() for interest in interests]))
        await self._settle()
        for interest in interests:
            if interest.denied is not None:
                raise interest.denied

    async def _settle(self) -> None:
        """Wait until the server has dealt with what it was told; one that is gone needs not be waited for."""
        await trio.lowlevel.checkpoint()
        link = self._supervisor.link
        if link is not None:
            try:
                await link.flush()
            except Disconnected:
                self._supervisor.check_open()

    def _unsubscribe(self, interest: Interest, maximum: int) -> None:
        """Tell the server to end after *maximum* messages in all, at once with 0; -1: it knows."""
        if maximum <= 0:
            self._supervisor.interests.withdraw(interest)
        link = self._supervisor.link
        if link is not None and maximum >= 0:
            link.write(encode(Unsubscribe(interest.sid, maximum)))

    def _leave(self, interest: Interest) -> None:
        if self._supervisor.interests.has(interest):
            self._unsubscribe(interest, 0)
        self._supervisor.interests.remove(interest)

    # --- The end -------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Unsubscribe from everything, let what was received be read, send what was published, and close.

        Publishing and requests go on meanwhile, for those who answer what they received. Readers have the options'
        `drain_timeout`; the connection is closed in any case.

        Raises:
            ConnectionClosed: It was closed already.
        """
        await trio.lowlevel.checkpoint()
        supervisor = self._supervisor
        supervisor.check_open()
        supervisor.drain()
        interests = [interest for interest in supervisor.interests.all() if interest is not supervisor.inbox]
        read = [interest.subscription for interest in interests if interest.subscription is not None]
        try:
            with trio.move_on_after(self._options.drain_timeout):
                for interest in interests:
                    self._unsubscribe(interest, 0)
                await self._settle()
                for subscription in read:
                    subscription.end(trio.EndOfChannel())
                for subscription in read:
                    await subscription.wait_read()
                await self._requests.wait_ended()
                await self._settle()
        finally:
            supervisor.close("it was drained")

    async def _finish(self) -> None:
        """Send what was published, as far as that can be done in little time."""
        if self._supervisor.link is not None:
            with trio.move_on_after(self._options.close_timeout):
                await self._settle()
