"""The handle of an instance that this node serves: it is registered (`aegis_core.node.membership`), and holds claims.

An instance lives through *incarnations* (`aegis_core.node.incarnation`): each has a lease, endpoints tagged with it, and
a claim table. When the lease is lost, every claim ends, and the instance registers anew under another lease id and
claims again what `Instance.claim` held. ``own`` blocks end; they never come back by themselves.

The file is just past 400 lines because the handle is what users see: a third of it says what its methods promise.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from signal import Signals
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, Unpack

import attrs
import trio

from aegis_core import names
from aegis_core.engine.decision import Audit
from aegis_core.engine.requests import Problems, check_spread
from aegis_core.errors import (
    InvalidRequest,
    LeaseLost,
    ResourceConflict,
    StoreUnavailable,
)
from aegis_core.models import (
    BulkReply,
    ClaimReply,
    EndReason,
    Health,
    Outcome,
    ResourceMetadata,
    Role,
    ServiceInstance,
    TransferReply,
)
from aegis_core.node.block import block
from aegis_core.node.claiming import Acquisition, acquire
from aegis_core.node.claims import Claim
from aegis_core.node.incarnation import Incarnation
from aegis_core.node.membership import Membership
from aegis_core.node.options import InstanceOptions
from aegis_core.node.service import Service
from aegis_core.node.signals import wait_signals
from aegis_core.node.tenure import own
from aegis_core.principals import Principal

if TYPE_CHECKING:
    from aegis_core.node.bulk import BulkOptions, Claimable
    from aegis_core.node.node import Node

__all__ = ["Instance"]

_log = logging.getLogger("aegis.instance")

R = TypeVar("R")


class Instance:
    """One copy of a service, served by this node. Made by `Node.serve`; usable until that block is left."""

    def __init__(self, node: Node, service: Service, options: InstanceOptions) -> None:
        self._node = node
        self._runtime = node.runtime
        self._service = service
        self._options = options
        self._role_changed = trio.Event()
        self._health = Health.ONLINE
        self.membership = Membership(node, self)

    def __repr__(self) -> str:
        state = "closed" if self.membership.closing else "ready" if self.ready else "registering"
        return f"<Instance {self.instance_id} {self.role.value} {self.health.value} {state}>"

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def instance_id(self) -> str:
        """Unique among the live instances of the service."""
        return self._options.instance_id

    @property
    def service(self) -> Service:
        """What it serves."""
        return self._service

    @property
    def options(self) -> InstanceOptions:
        """As it was served."""
        return self._options

    @property
    def role(self) -> Role:
        """ACTIVE while it holds its role group or runs an ``own`` body, else STANDBY."""
        for target, claim in self.claims_table.items():
            if (claim.body is not None or names.is_role(target)) and not claim.leaving:
                return Role.ACTIVE
        return Role.STANDBY

    @property
    def health(self) -> Health:
        """ONLINE or UNHEALTHY as it says itself; OFFLINE once it is closed."""
        return Health.OFFLINE if self.membership.closing else self._health

    @property
    def draining(self) -> bool:
        """Whether it hands its work over and takes no more."""
        return self.membership.draining

    @property
    def ready(self) -> bool:
        """Whether it is registered and believes in its lease now."""
        return not self.membership.closing and self.incarnation is not None and self.incarnation.lease.believed

    @property
    def deadline(self) -> float:
        """When belief in its lease ends unless renewed, on Trio's clock; -inf while it is not registered."""
        if self.incarnation is None:
            return -math.inf
        return self._runtime.clock.trio_time(self.incarnation.lease.deadline)

    @property
    def ttl(self) -> float:
        """Seconds that its registration lives in the store without a renewal."""
        return self._options.ttl

    @property
    def lease_tag(self) -> str:
        """Public tag of the current lease, "" while there is none."""
        return "" if self.incarnation is None else self.incarnation.lease.tag

    @property
    def incarnation(self) -> Incarnation | None:
        """The current registration, or the last one while the next is being made; for the node's own parts."""
        return self.membership.incarnation

    @property
    def claims(self) -> Mapping[str, Claim]:
        """What it holds now, by resource id; read-only."""
        return MappingProxyType({t: c for t, c in self.claims_table.items() if not names.is_role(t)})

    @property
    def claims_table(self) -> dict[str, Claim]:
        """Every claim by target, role groups included; for the node's own parts."""
        return {} if self.incarnation is None else self.incarnation.holdings.table

    # -- claims -------------------------------------------------------------------------------------------------

    async def claim(
        self,
        *ids: str,
        metadata: ResourceMetadata | Mapping[str, ResourceMetadata] | None = None,
        force: bool = False,
    ) -> tuple[Claim, ...]:
        """Own every one of *ids*, or none: returns when ``on_acquire`` has run for each. What is owned already is returned too.

        The claims last until they are released, moved, or the lease is lost; then the instance claims them anew.

        Args:
            ids: Resource ids, at least one.
            metadata: For all of them, or by id. A change of known metadata must carry its current version.
            force: Take them from whoever holds them (needs the permission ``force``; see `aegis_authorize`).

        Raises:
            ResourceConflict: Somebody holds one of them; names all conflicts. Nothing was claimed.
            ResourceLimitExceeded, Forbidden, InvalidRequest, VersionConflict: As they say.
            StoreUnavailable: No answer in time; with MAYBE_EXECUTED a claim that still comes to be is released again.
            LeaseLost: One of them was lost again before it was ready, or the lease before it was claimed (REJECTED).
            Exception: As ``on_acquire`` raised it; what this call acquired has been released.

        Cancelled, what it acquired so far is released in the background.
        """
        wanted = Acquisition(metadata=metadata, force=force)
        reply = await self._measure("claim", ids, self.acquire, ids, wanted)
        return tuple(self.claims_table[target] for target in reply.registered)

    async def acquire(self, ids: Sequence[str], wanted: Acquisition) -> ClaimReply:
        """`claim` with all its variants; see `aegis_core.node.claiming`."""
        return await acquire(self._runtime, self, ids, wanted)

    @block
    @asynccontextmanager
    async def own(
        self,
        resource_id: str,
        *,
        role: Role = Role.ACTIVE,
        priority: int = 0,
        wait: float = math.inf,
        grace: float = 0.0,
        ready: bool = True,
        metadata: ResourceMetadata | None = None,
    ) -> AsyncIterator[Claim]:
        """Run the block while this instance owns *resource_id*; the block is cancelled before anybody else may own it.

        Leaving the block releases the resource. A block that is interrupted because the claim ended raises
        `LeaseLost`, unless this program released the claim or closed the node itself; one that had finished ends silently.

        Args:
            resource_id: What to own.
            role: ACTIVE wants it now; STANDBY waits in line and is promoted when it is free (at once if it is).
            priority: Place in the line: higher first, then earlier.
            wait: Most seconds in the line, for STANDBY.
            grace: Seconds that the body may go on when the resource is handed over, from `Claim.leaving` on; at most the
                drain time.
            ready: Let calls in as soon as ``on_acquire`` has run; with False they wait for `Claim.set_ready`.
            metadata: Of the resource.

        Raises:
            InvalidRequest: An argument cannot be; names each, before anything is written.
            ResourceConflict: Somebody holds it (for STANDBY: still, after *wait* seconds), or another task of this
                instance does: however many of them wait, the instance stands in the line once.
            LeaseLost: The body was interrupted: EXPIRED, ERASED, FORCED, TRANSFERRED or RESOURCE_TTL.
        """
        async with own(
            self._runtime,
            self,
            resource_id,
            role=role,
            priority=priority,
            wait=wait,
            grace=grace,
            ready=ready,
            metadata=metadata,
        ) as claim:
            yield claim

    async def release(self, *ids: str) -> None:
        """Give *ids* up: calls finish within the drain time, ``on_release`` runs, then they are free.

        What this instance is releasing already is released once: whoever asks meanwhile returns when it is free, too. Who
        asks afterwards is told that nobody owns it.

        Raises:
            ResourceNotFound: Nobody owns one of them.
            NotOwner: Another instance does.
            AegisError: See `Registry.release`.
        """
        check_spread("release", ids)
        await self._node.registry.release(self._service.name, self.instance_id, *ids)

    async def give_up(self, claim: Claim) -> None:
        """`Claim.release`."""
        await self._measure("release", (claim.resource_id,), self._give_up, claim)

    async def _give_up(self, claim: Claim) -> None:
        if claim.ended is not None:
            await trio.lowlevel.checkpoint()
            return
        if claim.body is not None:
            claim.interrupted = EndReason.RELEASED
            claim.body.cancel()
        self._runtime.nursery.start_soon(self.give_up_slowly, (claim,))
        if claim.is_mine:
            await trio.lowlevel.checkpoint()
        else:
            await claim.wait_ended()

    async def give_up_all(self, claims: Sequence[Claim]) -> None:
        """Release *claims* of one incarnation; cancelled, or asked by a handler under one, that goes on in the background."""
        if any(claim.is_mine for claim in claims):
            self._runtime.nursery.start_soon(self.give_up_slowly, claims)
            await trio.lowlevel.checkpoint()
        else:
            await self._runtime.shelter(self.give_up_slowly, claims)

    async def give_up_slowly(self, claims: Sequence[Claim]) -> None:
        """Release *claims* of one incarnation, letting calls finish within the drain time."""
        if claims:
            until = self._runtime.clock.now() + self._runtime.settings.drain
            await claims[0].holdings.give_up(claims, until=until)

    async def give_up_now(self, claims: Sequence[Claim]) -> None:
        """Release *claims* of one incarnation, cancelling what runs under them."""
        if claims:
            holdings = claims[0].holdings
            try:
                await holdings.give_up(claims, until=self._runtime.clock.now())
            finally:
                holdings.abandon(claims)

    async def transfer(self, *ids: str, to: str, reason: str = "") -> TransferReply:
        """Move *ids* to instance *to* of the same service, so that nobody's work overlaps.

        The target is checked before anything ends. Then calls finish (within the drain time), ``on_release`` runs while
        the lease still holds, and one transaction moves all of them and writes the audit record. If that fails they are
        released, and listed in `TransferReply.failed`; a role goes on to who is in line for it, this instance first. What
        was moved or lost otherwise meanwhile, or does not end its work, is listed there too; see `Registry.transfer`.

        Raises:
            InstanceNotFound, Forbidden, NotOwner, ResourceNotFound: Before anything was ended.
            ResourceConflict: The target has neither ``on_acquire`` nor a place in the line for one of them.
            ResourceLimitExceeded: The target would hold too many; while work ends, its room is kept.

        Cancelled, the transfer goes on in the background.
        """
        asking = Principal("instance", self.instance_id)
        move = functools.partial(self._node.moves.transfer, to=to, reason=reason, requested_by=asking)
        return await self._measure("transfer", ids, move, self, ids)

    async def bulk_claim(self, items: Iterable[Claimable], **options: Unpack[BulkOptions]) -> BulkReply:
        """Claim many resources (ids, or pairs of id and metadata); reports failures and never raises for an id.

        See `aegis_core.node.bulk`. What was claimed is ready when this returns.
        """
        return await self._node.registry.bulk_register(self._service.name, self.instance_id, items, **options)

    async def bulk_release(self, items: Iterable[str], **options: Unpack[BulkOptions]) -> BulkReply:
        """Release many resources; reports failures and never raises for an id. See `aegis_core.node.bulk`."""
        return await self._node.registry.bulk_release(self._service.name, self.instance_id, items, **options)

    # -- state --------------------------------------------------------------------------------------------------

    async def set_health(self, health: Health, reason: str = "") -> None:
        """Say that this instance is ONLINE or UNHEALTHY (out of the rotation; owners stay addressable).

        Raises:
            InvalidRequest: OFFLINE is said by leaving, not by this.
            StoreUnavailable: It could not be stored in time (MAYBE_EXECUTED): a later renewal will.
        """
        if health is Health.OFFLINE:
            raise InvalidRequest.at(
                "$.health", "OFFLINE is what an instance is that left; use drain or leave the block"
            )
        if health is self._health:
            await trio.lowlevel.checkpoint()
            return
        self._health = health
        # That it changed, everybody is told when the record is written; only this program knows why.
        _log.debug("%s says that it is %s: %s", self.instance_id, health.value, reason, extra=self.log_fields())
        if not self._options.register:
            await trio.lowlevel.checkpoint()
            return
        incarnation, timeout = await self.membership.wait_registered(), self._runtime.settings.request_timeout
        with trio.move_on_after(timeout):
            await incarnation.lease.refresh()
            return
        late = f"the health of {self.instance_id} was not stored within {timeout:g} s; the next renewal tells it"
        raise StoreUnavailable(reason=late, outcome=Outcome.MAYBE_EXECUTED)

    async def wait_role(self, role: Role) -> None:
        """Wait until `role` is *role*.

        Raises:
            InvalidRequest: *role* is none.
            Forbidden: It never will be: the instance is closed, drains (ACTIVE), or was served with ``register=False``.
        """
        problems = Problems()
        problems.role("$.role", role)
        problems.check()
        while self.role is not role:
            if self.membership.closing:
                raise self.membership.refusal("it is closed", operation="wait_role")
            if role is Role.ACTIVE and self.membership.draining:
                raise self.membership.refusal("it is draining", operation="wait_role")
            if not self._options.register:
                raise self.membership.refusal("it was served with register=False", operation="wait_role")
            await self._role_changed.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def drain(self, deadline: float | None = None) -> None:
        """Hand everything over: no new claims or calls, running calls finish, then all resources and roles are released.

        Args:
            deadline: When what still runs is cancelled, on Trio's clock; the configured drain time from now by default.

        Cancelled, the hand-over goes on in the background. The instance stays registered, and out of the rotation.
        """
        left = self._runtime.settings.drain if deadline is None else max(0.0, deadline - trio.current_time())
        await self.membership.drain(left)

    async def run_until_signal(self, *signals: Signals) -> None:
        """Wait for one of *signals* (SIGINT and SIGTERM by default); leaving the block then drains, a second one cuts that short.

        The second signal cuts short whatever drains on this node. Only from the main thread, as Python's signals are.

        Raises:
            InvalidRequest: One of *signals* cannot be caught (SIGKILL, SIGSTOP).
            ValueError: It is not the main thread.
        """

        def insist() -> None:
            for instance in (self, *self._node.hosted.values()):
                instance.membership.hurry()

        await wait_signals(self._runtime.nursery, signals, insist)

    # -- for the node's own parts -------------------------------------------------------------------------------

    def describe(self, record: ServiceInstance) -> ServiceInstance:
        """*record* with what this instance says of itself now; what the next renewal writes."""
        return attrs.evolve(record, role=self.role, health=self._health, draining=self.membership.draining)

    def _measure(self, name: str, ids: Sequence[str], work: Callable[..., Awaitable[R]], *args: object) -> Awaitable[R]:
        check_spread(name, ids)
        service_name, instance_id = self._service.name, self.instance_id
        return self._runtime.measure(
            name, work, *args, service_name=service_name, instance_id=instance_id, resource_ids=ids
        )

    def audit(self, *, reason: str) -> Audit:
        """How a change of ownership that this instance begins now is recorded."""
        return self._runtime.audit(reason=reason, requested_by=Principal("instance", self.instance_id))

    async def reserved(self, method: str, params: Mapping[str, object], principal: Principal) -> object:
        """Answer a reserved call; see `aegis_core.node.errands`."""
        return await self._node.errands.answer(self, method, params, principal)

    def role_moved(self) -> None:
        """The role may have changed: wake who waits for it, and write it down."""
        self.tell_role()
        incarnation = self.incarnation
        if incarnation is not None and incarnation.lease.record.role is not self.role:
            incarnation.lease.renew_soon()

    def tell_role(self) -> None:
        """Wake who waits for a role: it may have changed, or never will."""
        self._role_changed.set()
        self._role_changed = trio.Event()

    async def activate(self, resource_id: str) -> Claim:
        """Claim *resource_id* on demand, for a call that is on its way; it is given up when idle.

        Raises:
            ResourceConflict: Another instance was quicker, or this one lost it again before it was ready.
        """
        try:
            ids, wanted = (resource_id,), Acquisition(reason="activated", keep=False)
            await self._measure("claim", ids, self.acquire, ids, wanted)
        except LeaseLost as exc:  # nothing was executed under it, so the caller may look elsewhere
            raise ResourceConflict(resource_id=resource_id, owner="", reason=exc.message) from exc
        return self.claims_table[resource_id]

    def log_fields(self, **more: object) -> dict[str, object]:
        """Structured fields for log records about this instance."""
        return {"service_name": self._service.name, "instance_id": self.instance_id, **more}
