"""A router: a node, and what it takes to do things for clients that are none.

Each router serves an instance of the service `SERVICE`, so that the others know which of them live: by its lease a message
is known to be in good hands, or not.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final

import trio

from aegis_core import __version__, codec
from aegis_core.backend import Bus, TransportUnavailable
from aegis_core.engine.decision import answered
from aegis_core.engine.requests import authentic
from aegis_core.names import escape, lease_proof, lease_tag
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node
from aegis_core.node.service import Service
from aegis_core.principals import Principal, Target
from aegis_core.router.broadcast import Broadcast
from aegis_core.router.inboxes import Inboxes, open_inboxes
from aegis_core.router.messages import Messages
from aegis_core.router.replies import Acknowledgement
from aegis_core.router.reserved import SERVICE, refuse_reserved
from aegis_core.router.silence import Silence
from aegis_core.router.wards import Wards

__all__ = ["Router", "open_router", "shown_lease"]


class Router:
    """Does things in the name of clients. It keeps nothing that the store lacks, so any number may run side by side.

    Args:
        node: Its view, its registry operations and its calls are the router's.
        instance: By which the other routers know it; None where it is the only one.
        messages: Where it remembers messages; None where the backend has no place for them.
        inboxes: Where it calls instances of other programs; None where the backend has no subjects.
    """

    log: Final = logging.getLogger("aegis.router")

    def __init__(
        self,
        node: Node,
        *,
        instance: Instance | None = None,
        messages: Messages | None = None,
        inboxes: Inboxes | None = None,
    ) -> None:
        self.node: Final = node
        self.inboxes: Final = inboxes
        self.instance: Final = instance
        self.messages: Final = messages
        self.silence: Final = Silence(node)

    def __repr__(self) -> str:
        return f"<Router on {self.node!r}>"

    @property
    def bus(self) -> Bus | None:
        """The subjects that clients speak on; None where the backend has none."""
        return self.node.runtime.bus

    @property
    def tag(self) -> str:
        """The tag of the lease that says that this router lives; "" while it has none."""
        return "" if self.instance is None else self.instance.lease_tag

    @property
    def token(self) -> str:
        """By which other routers know whether this one listens; "" where it does not."""
        return "" if self.inboxes is None else self.inboxes.token

    async def lives(self, tag: str, token: str) -> bool:
        """Whether the router with that lease, and that token, is there: on fresh evidence where it seems not to be.

        A router that is cut off from its clients, and from the others, counts as dead.

        Raises:
            StoreUnavailable, TransportUnavailable: That cannot be known now.
        """
        directory = self.node.runtime.directory
        if directory.snapshot.by_lease(tag) is None:
            await directory.sync()
            if directory.snapshot.by_lease(tag) is None:
                return False
        return self.inboxes is None or not token or await self.inboxes.hears(token)

    def shown_now(self) -> datetime:
        """The time of day, at the offset at which other programs are shown times."""
        return self.shown(self.node.runtime.wall())

    def shown(self, at: datetime) -> datetime:
        """*at*, at the offset at which other programs are shown times."""
        return at.astimezone(self.node.runtime.settings.time_offset)

    def acknowledge(self, told: Acknowledgement) -> None:
        """Publish *told* to whoever listens for its message; without a bus, or a connection, nobody does."""
        if self.bus is None:
            return
        try:
            self.bus.publish(f"ipc.ack.{escape(told.message_id)}", codec.encode_plain(told))
        except (TransportUnavailable, ValueError) as exc:
            self.log.warning("the end of message %s is not told: %s", told.message_id, exc)

    def permit(self, principal: Principal | None, operation: str, target: Target) -> None:
        """Let *principal* do *operation*; None may do what concerns one instance alone.

        Raises:
            Forbidden: It may not.
        """
        if principal is not None:
            self.node.runtime.plugins.authorize(principal, operation, target)

    async def admit(
        self, principal: Principal | None, operation: str, target: Target, *, lease_id: str | None = None
    ) -> None:
        """`permit` what concerns the instance that *target* names; one that shows its lease may, unless a plug-in refuses.

        Raises:
            Forbidden: *principal* may not, or nobody may: the instance is a router, or a resource is a router's.
            NotOwner: The instance lives by another lease than that of *lease_id*.
            InstanceNotFound: It shows a lease, and does not live.
        """
        refuse_reserved(operation, target.service_name, target.instance_id, target.resource_ids)
        if lease_id is None:
            self.permit(principal, operation, target)
            return
        service, name = target.service_name, target.instance_id
        tag, runtime = shown_lease(service, name, lease_id), self.node.runtime
        known = runtime.directory.snapshot.instance(service, name)
        if known is None or known.lease != tag:
            await self.node.committer.decide(
                lambda view: answered(authentic(view, service, name, tag, operation)),
                timeout=runtime.settings.request_timeout,
                what=f"the lease of {name}",
                writes=False,
            )
        if principal is not None:
            runtime.plugins.authorize(principal, operation, target, own=True)


def shown_lease(service_name: str, instance_id: str, lease_id: str | None) -> str | None:
    """The tag of the lease that an instance proves by *lease_id*; None where it proves none."""
    return None if lease_id is None else lease_tag(lease_proof(service_name, instance_id, lease_id))


@asynccontextmanager
async def open_router(node: Node) -> AsyncIterator[Router]:
    """Make a router of *node* while the block runs: one that the other routers know, with all that the backend offers.

    Raises:
        StoreUnavailable, TransportUnavailable: The backend does not answer.
    """
    runtime = node.runtime
    async with AsyncExitStack() as stack:
        messages = inboxes = None
        if runtime.open_messages is not None:
            messages = Messages(runtime, await stack.enter_async_context(runtime.open_messages()))
        if runtime.bus is not None:
            inboxes = await stack.enter_async_context(open_inboxes(runtime.bus, runtime.new_id(8)))
            runtime.inboxes = inboxes
        instance = await stack.enter_async_context(node.serve(Service(SERVICE, version=__version__)))
        chores: list[Callable[[], Awaitable[None]]] = [Wards(node, SERVICE).run]
        if runtime.bus is not None:
            chores.append(Broadcast(node, instance, runtime.bus).run)
        scope, ended = trio.CancelScope(), trio.Event()
        runtime.nursery.start_soon(_do, chores, scope, ended)
        try:
            yield Router(node, instance=instance, messages=messages, inboxes=inboxes)
        finally:
            runtime.inboxes = None
            scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()  # Whoever is cancelled gives up what it owns in limited time.


async def _do(chores: Sequence[Callable[[], Awaitable[None]]], scope: trio.CancelScope, ended: trio.Event) -> None:
    try:
        with scope:
            async with trio.open_nursery() as nursery:
                for chore in chores:
                    nursery.start_soon(chore)
    finally:
        ended.set()
