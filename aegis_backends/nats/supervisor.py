"""Which server a connection uses: connects, reconnects, and moves from servers that are about to stop.

**Theory of operation.** What lives long is kept here and in what is given: subscriptions, requests, what is published
while there is no server. What lives as long as one socket is a `Link`. The supervisor makes links: the first one, a new
one when the current has ended, and a second beside it when its server is a lame duck. Every step on the state is
synchronous, so that no task sees half of one.

**What is lost when a server dies.** Messages on the way, in both directions: NATS delivers at most once, and this client
sends nothing twice. What was published and not yet given to the socket is kept and sent to the next server. A request
that the socket was given fails at once as `Disconnected` with `sent`; one that it was not goes to the next server.

**Moving from a lame duck.** The new server gets the inbox and the members of queue groups first, and the old one keeps
them until the new one has confirmed, so no request finds nobody. A plain subscription would get each message twice while
both have it, so the old server gives it up before the new one gets it: messages of that round trip are lost, as they are
when a server dies. Requests under way are answered through either.
"""

from __future__ import annotations

import enum
import logging
import random
import re
from collections.abc import Iterable
from typing import Final

import trio

from aegis_backends.nats.dialing import Dialed, Dialer, is_refusal
from aegis_backends.nats.errors import (
    AuthorizationFailed,
    ConnectionClosed,
    ConnectionFailed,
    Disconnected,
    PermissionDenied,
    RemoteProtocolError,
)
from aegis_backends.nats.interest import Interest, Interests
from aegis_backends.nats.link import Link
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Error, Event, Info, Unsubscribe, encode
from aegis_backends.nats.requests import Requests
from aegis_backends.nats.servers import ServerInfo, ServerPool
from aegis_backends.nats.statistics import Counters

__all__ = ["ConnectionState", "Supervisor"]

_log: Final = logging.getLogger("aegis.nats")

_PERMISSIONS: Final = re.compile(
    r'permissions violation for (publish|subscription) to "(.*?)"(?: using queue "(.*)")?', re.IGNORECASE
)
# After these a server keeps the connection open; after any other it closes it.
_HARMLESS: Final = ("permissions violation", "invalid subject", "invalid publish subject")


class ConnectionState(enum.Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    DRAINING = "draining"
    CLOSED = "closed"


class Supervisor:
    """The state of one connection, and the task that keeps it connected.

    Attributes:
        state: Where the connection is in its life.
        link: The current server; None while there is none.
        info: What the current server, or the last one, said of itself.
        connects: Successful connects.
        unsent: What was published while there was no server.
        closed_because: Why it is closed.
    """

    def __init__(self, servers: Iterable[str], options: ConnectOptions) -> None:
        self.state = ConnectionState.CONNECTING
        self.link: Link | None = None
        self.info = ServerInfo()
        self.connects = 0
        self.unsent: list[bytes] = []
        self.unsent_bytes = 0
        self.closed_because = ""
        self.options: Final = options
        self.counters: Final = Counters()
        self.interests: Final = Interests()
        self.requests: Final = Requests(options.inbox_prefix)
        self.inbox: Final = self.interests.add(self.requests.pattern, "", self.requests.receive)
        self._pool: Final = ServerPool(servers)
        self._dialer: Final = Dialer(options)
        self._changed = trio.Event()
        self._relieved = trio.Event()
        # Set while there is a reason to connect to another server.
        self._wanted = trio.Event()
        self._scope: Final = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Supervisor {self.state.value}, {self.link or self.closed_because or 'no server'}>"

    # --- What others wait for --------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self.unsent_bytes if self.link is None else self.link.waiting_bytes

    def check_open(self) -> None:
        """Refuse to go on with a connection that is closed.

        Raises:
            ConnectionClosed: It is.
        """
        if self.state is ConnectionState.CLOSED:
            raise ConnectionClosed(self.closed_because)

    async def changed(self) -> None:
        """Wait until the state, or the server, is another.

        Raises:
            ConnectionClosed: It will not change any more.
        """
        self.check_open()
        await self._changed.wait()

    async def relief(self) -> None:
        """Wait until bytes have left, and few wait; or until the connection is closed."""
        await self._relieved.wait()

    def _set_state(self, state: ConnectionState) -> None:
        self.state = state
        self._changed.set()
        self._changed = trio.Event()

    def _relieve(self) -> None:
        if self.pending_bytes < self.options.high_water or self.state is ConnectionState.CLOSED:
            self._relieved.set()
            self._relieved = trio.Event()

    # --- Connecting ------------------------------------------------------------------------------

    async def connect(self) -> Dialed:
        """Connect for the first time; what it returns is for `run`.

        Where all servers refuse our credentials, another round would be as wrong. Where only some do, another server may
        still be starting, and let us in.

        Raises:
            AuthorizationFailed: All servers refuse our credentials; or some do, and the others could not be reached in the
                options' number of rounds.
            ConnectionFailed: No server could be reached in the options' number of rounds.
        """
        completed = 0
        refusals: dict[str, str] = {}
        while True:
            dialed = await self._round()
            if isinstance(dialed, Dialed):
                return dialed
            completed += 1
            if isinstance(dialed, AuthorizationFailed):
                refusals |= {address: dialed.reasons[address] for address in dialed.refused_by}
            if completed == self.options.connect_attempts or refusals.keys() >= dialed.reasons.keys():
                # What a server has refused tells more than that it could not be reached the last time.
                raise AuthorizationFailed({**dialed.reasons, **refusals}, frozenset(refusals)) if refusals else dialed
            await trio.sleep(self.options.delay(completed, random.random()))

    async def _round(self) -> Dialed | ConnectionFailed:
        """Try every server once; the first that lets us in, or why none does."""
        reasons: dict[str, str] = {}
        refused_by: frozenset[str] = frozenset()
        for address in self._pool.order():
            try:
                return await self._dialer.dial(address)
            except ConnectionFailed as exc:
                reasons.update(exc.reasons)
                if isinstance(exc, AuthorizationFailed):
                    refused_by |= exc.refused_by
        return AuthorizationFailed(reasons, refused_by) if refused_by else ConnectionFailed(reasons)

    async def _reconnect(self) -> Dialed | ConnectionFailed:
        """A server that lets us in, however long it takes; or why we give up, after the options' number of rounds.

        A refusal is a failure like any other: a server may be told of a new user later than we come, and a file of
        credentials may be renewed. As it may also be for somebody to mend, it is logged whenever it is another one.
        """
        completed = 0
        refusal: AuthorizationFailed | None = None
        while True:
            dialed = await self._round()
            if isinstance(dialed, Dialed):
                return dialed
            completed += 1
            if completed == self.options.reconnect_attempts:
                return dialed
            if isinstance(dialed, AuthorizationFailed) and (refusal is None or dialed.reasons != refusal.reasons):
                _log.error("not connected, trying on: %s", dialed)
                refusal = dialed
            _log.debug("round %d: %s", completed, dialed)
            await trio.sleep(self.options.delay(completed, random.random()))

    async def run(self, first: Dialed, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep connected, from *first* on, until `close`."""
        with self._scope:
            async with trio.open_nursery() as links:
                self._adopt(first, links)
                task_status.started()
                short_lives = 0
                while True:
                    begun = trio.current_time()
                    await self._wanted.wait()
                    short_lives = short_lives + 1 if trio.current_time() - begun < self.options.max_backoff else 0
                    if short_lives > 1:
                        # A server that lets us in and throws us out again is no better than one that does not let us in.
                        await trio.sleep(self.options.delay(short_lives - 1, random.random()))
                    dialed = await self._reconnect()
                    if isinstance(dialed, ConnectionFailed):
                        _log.error("the connection is given up: %s", dialed)
                        self.close(f"it was given up: {dialed}")
                    else:
                        self._adopt(dialed, links)

    def _adopt(self, dialed: Dialed, links: trio.Nursery) -> None:
        """Use a server from now on."""
        old = self.link
        link = Link(
            dialed,
            self.options,
            receivers=self.interests.receivers,
            afterwards=self.interests.afterwards,
            counters=self.counters,
            tell=self._told,
            relieved=self._relieve,
        )
        self.link = link
        self._wanted = trio.Event()
        self.inbox.denied = None
        self._note(link, dialed.info)
        moving = [] if old is None else [i for i in self.interests.all() if i is not self.inbox and not i.queue]
        for interest in self.interests.all():
            if interest not in moving:
                link.write(interest.subscribing())
        for data in self.unsent:
            if len(data) > self.info.max_payload and _published_size(data) > self.info.max_payload:
                # The server before took as much; this one would hang up.
                self.counters.dropped += 1
                _log.warning("dropped a message that is larger than %s takes", link.address)
            else:
                link.write(data)
        self.unsent.clear()
        self.unsent_bytes = 0
        self.connects += 1
        _log.info("connected to %s", link.address)
        self._set_state(self.state if self.state is ConnectionState.DRAINING else ConnectionState.CONNECTED)
        links.start_soon(self._serve, link)
        if old is not None:
            links.start_soon(self._retire, old, link, moving)

    async def _serve(self, link: Link) -> None:
        try:
            await link.run()
        finally:
            self._lost(link)

    def _lost(self, link: Link) -> None:
        """Deal with the end of *link*."""
        reason = link.ended or "it was closed"
        self.requests.link_ended(link, reason)
        if self.state is ConnectionState.CLOSED:
            return
        kept = link.left_over()
        if self.link is link:
            _log.warning("lost %s: %s", link.address, reason)
            self.link = None
            self.unsent += kept
            self.unsent_bytes += sum(map(len, kept))
            self._set_state(self.state if self.state is ConnectionState.DRAINING else ConnectionState.RECONNECTING)
            self._wanted.set()
        elif self.link is not None:
            for data in kept:
                self.link.write(data)

    async def _retire(self, old: Link, new: Link, moving: Iterable[Interest]) -> None:
        """Give up *old*, whose server is about to stop, once nothing depends on it."""
        for interest in moving:
            old.write(encode(Unsubscribe(interest.sid)))
        await _settle(old)
        for interest in moving:
            if self.interests.has(interest):
                new.write(interest.subscribing())
        await _settle(new)
        for interest in self.interests.all():
            if interest.queue:
                old.write(encode(Unsubscribe(interest.sid)))
        await _settle(old)
        if new.ended is None and not old.ended:
            # The old server has passed on all that it was asked, so the answers can come through the new one, too.
            under_way = self.requests.of(old)
            for exchange in under_way:
                exchange.carried_by(new)
            with trio.move_on_after(self.options.drain_timeout):
                await self.requests.wait_ended(under_way)
        old.end("its server is about to stop")

    # --- What servers tell -----------------------------------------------------------------------

    def _told(self, link: Link, event: Event) -> None:
        if isinstance(event, Info):
            try:
                info = ServerInfo.from_fields(event.fields)
            except RemoteProtocolError as exc:
                link.end(f"the server broke the protocol: {exc}")
            else:
                self._note(link, info)
        elif isinstance(event, Error):
            self._complained(link, event.text)

    def _note(self, link: Link, info: ServerInfo) -> None:
        link.info = info
        if info.connect_urls:
            self._pool.discover(info.connect_urls, link.address)
        if link is self.link:
            self.info = info
            self._pool.use(link.address)
            if info.lame_duck:
                _log.info("%s is about to stop", link.address)
                self._wanted.set()

    def _complained(self, link: Link, text: str) -> None:
        if not text.lower().startswith(_HARMLESS):
            link.end(f"the server refuses our credentials: {text}" if is_refusal(text) else f"the server said: {text}")
            return
        self.counters.server_errors += 1
        found = _PERMISSIONS.match(text)
        if found is None:
            _log.warning("%s said: %s", link.address, text)
        elif found[1].lower() == "publish":
            denied = PermissionDenied("publish", found[2])
            if not self.requests.fail_first(found[2], link, denied):
                _log.warning("%s said: %s", link.address, text)
        else:
            for interest in self.interests.to(found[2], found[3]):
                interest.deny()
                _log.warning("%s said: %s", link.address, text)
                if interest is self.inbox:
                    self.requests.fail_all(link, PermissionDenied("subscribe", found[2]))

    # --- The end ---------------------------------------------------------------------------------

    def drain(self) -> None:
        """Note that the connection is about to be closed."""
        self._set_state(ConnectionState.DRAINING)

    def close(self, reason: str) -> None:
        """Close for good: whoever waits, and whoever comes, gets `ConnectionClosed`. The first reason counts."""
        if self.state is ConnectionState.CLOSED:
            return
        self.closed_because = reason
        link, self.link = self.link, None
        self._set_state(ConnectionState.CLOSED)
        self.requests.close(reason)
        if link is not None:
            link.end(reason)
        for interest in self.interests.all():
            if interest.subscription is not None:
                interest.subscription.end(ConnectionClosed(reason))
        self._relieve()
        self._scope.cancel()


def _published_size(data: bytes) -> int:
    """Bytes of headers and payload of what was written by `encode_publish`: the last number of its line."""
    return int(data[: data.index(b"\r\n")].rpartition(b" ")[2])


async def _settle(link: Link) -> None:
    """Wait until the server has dealt with all it was told, or is gone."""
    try:
        await link.flush()
    except Disconnected:
        await trio.lowlevel.checkpoint()
