"""What the pieces of one node share: its settings, plug-ins, clock, transports, view and nursery."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import trio

from aegis_core import names
from aegis_core.backend import Bus, Clock, Store, Transport
from aegis_core.engine.decision import Audit
from aegis_core.errors import StoreUnavailable
from aegis_core.events import Event
from aegis_core.models import Outcome, Ownership, Shown
from aegis_core.node.asking import asker_for
from aegis_core.node.directory import Directory
from aegis_core.node.proofs import Proofs
from aegis_core.node.reservations import Reservations
from aegis_core.node.sleepers import Sleepers
from aegis_core.node.subscription import Subscriptions
from aegis_core.principals import Principal, Target
from aegis_core.served import Served

if TYPE_CHECKING:
    from aegis_core.config import Settings
    from aegis_core.observe.instruments import Instruments
    from aegis_core.plugins import Plugins

__all__ = ["InboxWay", "Runtime", "Way"]

R = TypeVar("R")


class Way(Protocol):
    """How requests get to instances: the part of a `Transport` that sends."""

    @property
    def max_payload(self) -> int:
        """Most bytes of a request or an answer."""
        ...

    async def request(self, endpoint: str, payload: bytes, *, timeout: float) -> bytes:
        """Send *payload* to *endpoint* and return the answer; see `Transport.request`."""
        ...


class InboxWay(Way, Protocol):
    """A way to instances that have no endpoint in their record, at the subjects of old."""

    def endpoint(self, instance_id: str, tag: str) -> str:
        """The URL of *instance_id* with *tag*."""
        ...


@attrs.define(eq=False, repr=False)
class Runtime(Shown):
    """One per node, made by `open_node`, closed with it.

    Args:
        settings: As configured.
        plugins: Loaded and resolved.
        clock: All deciding time of this node.
        random: All jitter and all ids of this node.
        nursery: Where the node's background tasks run.
        store: Where decisions are committed.
        transports: By URL scheme.
        callers: By URL scheme: ways to instances that listen on none of *transports*, as a router has them.
        directory: The view of the store.
        reservations: What is about to be acquired.
        subscriptions: Readers of this node's events.
        bus: Subjects, for routers; None where the backend has none.
        open_messages: The store of messages that routers share; None where the backend has none.
        inboxes: The way to instances that listen nowhere but at their inbox subject; None on nodes that are no routers.
        announce: Lets the tools of the backend's own kind see what is served; None where it has none.
        reconnects: How often the backend has made a lost connection anew.
        instruments: What is told of operations, calls and commits; None where nothing is.
        touched: What hears every key that changed in the view, and None when the view was made anew.
    """

    settings: Settings
    plugins: Plugins
    clock: Clock
    random: random.Random
    nursery: trio.Nursery
    store: Store
    transports: Mapping[str, Transport]
    directory: Directory = attrs.field(init=False)
    reservations: Reservations = attrs.field(init=False)
    proofs: Proofs = attrs.field(init=False)
    sleepers: Sleepers = attrs.field(init=False)
    announce: Callable[[Served], AbstractContextManager[None]] | None = None
    reconnects: Callable[[], int] = int
    instruments: Instruments | None = None
    bus: Bus | None = None
    open_messages: Callable[[], AbstractAsyncContextManager[Store]] | None = None
    inboxes: InboxWay | None = None
    callers: dict[str, Way] = attrs.field(factory=dict)
    subscriptions: Subscriptions = attrs.field(factory=Subscriptions)
    touched: list[Callable[[names.Key | None], None]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.directory = Directory(self.store, self.clock, wall=self.wall, emit=self.emit, touched=self._touch)
        self.reservations = Reservations(self.directory.snapshot)
        self.proofs = Proofs(self.directory.snapshot)
        self.sleepers = Sleepers(self.clock)

    def _touch(self, key: names.Key | None) -> None:
        for listener in self.touched:
            listener(key)

    @property
    def closed(self) -> bool:
        """Whether the node closes or has closed: nothing that it knows will change any more."""
        return self.nursery.cancel_scope.cancel_called

    def emit(self, event: Event) -> None:
        """Hand *event* to observers and to readers of `node.events`; never blocks, never raises."""
        self.plugins.notify(event)
        self.subscriptions.publish(event)

    def wall(self) -> datetime:
        """The time of day, aware UTC, for fields that people read."""
        return datetime.now(UTC)

    def request_deadline(self) -> float:
        """When an operation that begins now has to be over, on the node's clock."""
        return self.clock.now() + self.settings.request_timeout

    def left(self, until: float) -> float:
        """Seconds left until *until* of the node's clock; never negative."""
        return max(0.0, until - self.clock.now())

    def new_id(self, nbytes: int = 8) -> str:
        """A new random id of *nbytes* bytes in hex, from the node's own generator."""
        return self.random.randbytes(nbytes).hex()

    def measure(
        self,
        name: str,
        work: Callable[..., Awaitable[R]],
        *args: object,
        service_name: str = "",
        instance_id: str = "",
        resource_ids: Sequence[str] = (),
        traceparent: str = "",
        asked: bool = False,
    ) -> Awaitable[R]:
        """``work(*args)`` to be awaited, which is the operation *name*; see `aegis_core.observe.instruments.Operation`.

        No coroutine itself, but the maker of one: where nothing is measured, there is nothing around the work.
        """
        if self.instruments is None:
            return work(*args)
        from aegis_core.observe.instruments import Operation  # noqa: PLC0415 - loaded where there are any

        operation = Operation(name, service_name, instance_id, resource_ids, traceparent, asked)
        return self.instruments.measure(operation, work, *args)

    def audit(self, *, reason: str, requested_by: Principal | str) -> Audit:
        """How a move that begins now is recorded."""
        return Audit(
            transfer_id=f"transfer_{self.new_id(8)}",
            reason=reason,
            requested_by=str(requested_by),
            ttl=self.settings.audit_retention,
            traceparent=self.traceparent(),
        )

    def require_own(self, instance_id: str, operation: str, service_name: str, *resource_ids: str) -> None:
        """Refuse what is asked in an instance's own name, by this program or by whom a router asks for, and is not allowed.

        Raises:
            Forbidden: See `aegis_core.hookspecs.aegis_authorize`.
        """
        target = Target(service_name=service_name, instance_id=instance_id, resource_ids=resource_ids)
        self.plugins.authorize(asker_for(instance_id), operation, target)

    def trace_of(self, record: Ownership) -> str:
        """W3C trace context of the transfer that brought *record*, for who takes it over; "" where nobody traces."""
        if self.instruments is None or record.reason != "transferred":
            return ""
        return self.directory.snapshot.trace_of(record.target, record.instance_id)

    def traceparent(self) -> str:
        """W3C trace context of what is going on, for others who do a part of it; "" where nobody traces."""
        return "" if self.instruments is None else self.instruments.traceparent()

    async def shelter(self, work: Callable[..., Awaitable[R]], *args: object) -> R:
        """Run ``work(*args)`` in the node's nursery and wait for it: cancelling the caller leaves it running.

        Raises:
            StoreUnavailable: The node was closed before (NOT_SENT), or closed meanwhile (MAYBE_EXECUTED).
            Exception: As *work* raised it.
        """
        if self.closed:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable(reason="the node is closed", outcome=Outcome.NOT_SENT)
        done = trio.Event()
        results: list[R] = []
        errors: list[Exception] = []

        async def run() -> None:
            try:
                results.append(await work(*args))
            except Exception as exc:  # noqa: BLE001 - the waiting caller gets it
                errors.append(exc)
            finally:
                done.set()

        self.nursery.start_soon(run)
        await done.wait()
        if errors:
            raise errors[0]
        if not results:
            raise StoreUnavailable(reason="the node is closing", outcome=Outcome.MAYBE_EXECUTED)
        return results[0]

    def jitter(self, seconds: float) -> float:
        """*seconds* shortened by up to a half, so that many nodes do not act at once."""
        return seconds * (1.0 - self.random.random() / 2)
