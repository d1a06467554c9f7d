"""The registry operations of a node: the same names here, over the wire, and over HTTP.

Each operation is decided by the engine on this node's view and committed to the store. What concerns an instance that
knows scopes (it was served by a node) is carried out by that instance's node, which alone can end its work in time: for
instances of this node directly, for others by a reserved call. For instances that were merely registered here the
commit is all there is. Operations act in the name of the instance that they name; ``force`` needs a permission.

It is long because it is the one list of all operations; most of it says what they take, answer and raise.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, Unpack

import attrs

from aegis_core import codec, names
from aegis_core.engine import instances, queries, roles
from aegis_core.engine.decision import Decision, answered
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError
from aegis_core.models import (
    BulkReply,
    ClaimReply,
    Explanation,
    Health,
    HeartbeatReply,
    QueryReply,
    Registration,
    ReleaseReply,
    Resource,
    ResourceMetadata,
    Role,
    RoleTable,
    ServiceInstance,
    ServiceView,
    TransferReply,
)
from aegis_core.node.claiming import Acquisition, commit_claim
from aegis_core.node.errands import OwnersWord, has_scopes

if TYPE_CHECKING:
    from aegis_core.node.bulk import BulkOptions, Claimable
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Registry"]

_log = logging.getLogger("aegis.registry")

A = TypeVar("A")

_OWNERS_WORD: Final = 1.0
"""Seconds that `Registry.explain` waits for what the owner says of its calls."""


class _Options(TypedDict, total=False):
    until: float  # on the node's clock; the request timeout from now by default
    asked_by: str  # see `Committer.decide`


class Registry:
    """The registry operations of one node. Mutations and reads are linearizable, and answer or raise within the request timeout."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime

    def __repr__(self) -> str:
        return f"<Registry of {self._node!r}>"

    # -- instances ----------------------------------------------------------------------------------------------

    async def register(
        self,
        service_name: str,
        instance_id: str,
        metadata: Mapping[str, object] | None = None,
        *,
        role: Role | None = None,
        ttl: float | None = None,
        heartbeat_interval: float | None = None,
        version: str = "0.0.0",
        endpoints: Iterable[str] = (),
        priority: int = 0,
        lease_id: str | None = None,
    ) -> Registration:
        """Register an instance that is not served by a node: it renews its lease by `heartbeat`.

        Args:
            service_name: The service.
            instance_id: Unique among the live instances of the service.
            metadata: The user's own. ``resource_id`` in it names the resource that *role* is about.
            role: ACTIVE to hold that resource, STANDBY to wait for it; without a resource it is only shown.
            ttl: Seconds until the registration ends unless renewed.
            heartbeat_interval: Seconds between renewals that it promises; a third of the TTL by default.
            version: Of its program.
            endpoints: URLs that it listens on.
            priority: Place in the line.
            lease_id: A secret of the registrant's own, by which it may register again, e.g. when it does not know what
                became of the first time; a new one by default. Instances may share one: each has a lease of its own.

        Raises:
            InvalidRequest: Each bad field with its path.
            InstanceConflict: A live instance has that id.
            RoleConflict: ACTIVE was asked for, and somebody else is. Nothing was registered.
            Forbidden: A plug-in refuses it.
            StoreUnavailable: No answer in time; with MAYBE_EXECUTED it may stand until its TTL ends.
        """
        runtime = self._runtime
        lease_id = runtime.new_id(16) if lease_id is None else lease_id
        ttl = runtime.settings.ttl if ttl is None else ttl
        if heartbeat_interval is None:
            heartbeat_interval = ttl / 3 if 0 < ttl < math.inf else 1.0
        at = runtime.wall()
        candidate = ServiceInstance(
            service_name=service_name,
            instance_id=instance_id,
            version=version,
            role=role or Role.STANDBY,
            lease=self._tag(service_name, instance_id, lease_id) if lease_id else "",
            ttl=ttl,
            heartbeat_interval=heartbeat_interval,
            endpoints=tuple(endpoints),
            priority=priority,
            metadata=metadata or {},
            registered_at=at,
            last_heartbeat=at,
        )
        resource_id = candidate.metadata.get("resource_id")
        min_ttl = runtime.store.capabilities.min_ttl
        runtime.plugins.check_registration(candidate)
        registered = await self._decide(
            lambda view: instances.register(
                view, candidate, role=role, resource_id=resource_id, min_ttl=min_ttl, now=runtime.clock.now(), at=at
            ),
            f"the registration of {instance_id}",
            asked_by=instance_id,
        )
        return Registration(
            service_name=service_name,
            instance_id=instance_id,
            role=registered.role,
            registered_at=registered.instance.registered_at,
            message="registered" if registered.new else "already registered",
            lease_id=lease_id,
            ttl=candidate.ttl,
            heartbeat_interval=candidate.heartbeat_interval,
            epoch=registered.epoch,
        )

    async def heartbeat(
        self,
        service_name: str,
        instance_id: str,
        *,
        status: str = "healthy",
        metadata: Mapping[str, object] | None = None,
        lease_id: str | None = None,
    ) -> HeartbeatReply:
        """Renew the lease of an instance that was registered by `register`.

        Args:
            service_name: The service.
            instance_id: The instance.
            status: ``healthy``, ``unhealthy`` or ``degraded`` (which counts as UNHEALTHY).
            metadata: Entries to set in the record's metadata.
            lease_id: Shown to prove that it is the registrant; None is believed by name.

        Raises:
            InstanceNotFound: Its lease has ended: register anew.
            NotOwner: It lives by another lease.
        """
        tag = self._shown(service_name, instance_id, lease_id)
        return await self._decide(
            lambda view: instances.heartbeat(
                view, service_name, instance_id, lease=tag, status=status, metadata=metadata, at=self._runtime.wall()
            ),
            f"the heartbeat of {instance_id}",
            asked_by=instance_id,
        )

    async def deregister(self, service_name: str, instance_id: str, *, lease_id: str | None = None) -> tuple[str, ...]:
        """End an instance's registration; everything it held is free at once. Answers the resource ids that it held.

        Raises:
            InstanceNotFound: No such instance lives.
            NotOwner: It lives by another lease than that of *lease_id*.
        """
        tag = self._shown(service_name, instance_id, lease_id)
        until = self._runtime.request_deadline()
        await self._node.committer.sync_within(self._runtime.left(until))  # to name all that it held
        held = await self._decide(
            lambda view: instances.deregister(view, service_name, instance_id, lease=tag),
            f"the deregistration of {instance_id}",
            until=until,
        )
        return tuple(target for target in held if not names.is_role(target))

    async def disconnect(self, service_name: str, instance_id: str) -> tuple[str, ...]:
        """End an instance's lease from outside. What it held is free at once; one that a node serves registers anew.

        Its work is not waited for: it is cancelled when its node learns of it, and only epochs keep it from overlapping.

        Raises:
            InstanceNotFound: No such instance lives.
            Forbidden: A plug-in refuses it.
        """
        self._runtime.require_own(instance_id, "disconnect", service_name)
        return await self.deregister(service_name, instance_id)

    async def set_health(self, service_name: str, instance_id: str, health: Health, reason: str = "") -> None:
        """Say that an instance is ONLINE or UNHEALTHY.

        Raises:
            InvalidRequest: OFFLINE cannot be said.
            InstanceNotFound: No such instance lives.
        """
        until = self._runtime.request_deadline()
        hosted = self._hosted(service_name, instance_id)
        if hosted is not None:
            await hosted.set_health(health, reason)
            return
        record = await self._node.moves.find(service_name, instance_id, until=until)
        if has_scopes(record):
            params = {"health": health.value, "reason": reason}
            await self._node.errands.ask(record, "set_health", params, until=until)
            return
        await self._decide(
            lambda view: instances.set_health(view, service_name, instance_id, health, at=self._runtime.wall()),
            f"the health of {instance_id}",
            until=until,
        )

    async def drain(self, service_name: str, instance_id: str) -> None:
        """Let an instance hand over everything it holds and take no more: within the request timeout and the drain time.

        One that was merely registered is only told of (`ServiceInstance.draining`), and keeps what it holds.

        Raises:
            InstanceNotFound: No such instance lives.
        """
        until = self._runtime.request_deadline()
        hosted = self._hosted(service_name, instance_id)
        if hosted is not None:
            await hosted.drain()
            return
        record = await self._node.moves.find(service_name, instance_id, until=until)
        if has_scopes(record):
            await self._node.errands.ask(record, "drain", {}, until=until + self._runtime.settings.drain)
            return
        await self._decide(
            lambda view: instances.set_draining(
                view, service_name, instance_id, draining=True, at=self._runtime.wall()
            ),
            f"draining {instance_id}",
            until=until,
        )

    async def list_services(self) -> tuple[ServiceView, ...]:
        """Every service with its live instances: health as seen from here, role as the ownership records say."""
        return await self._ask(
            lambda view: instances.list_services(view, now=self._runtime.clock.now()), "the list of services"
        )

    async def get_service(self, service_name: str) -> ServiceView:
        """One service with its live instances.

        Raises:
            ServiceNotFound: None of its instances lives.
        """
        return await self._ask(
            lambda view: instances.get_service(view, service_name, now=self._runtime.clock.now()),
            f"service {service_name}",
        )

    # -- roles --------------------------------------------------------------------------------------------------

    async def list_roles(self, service_name: str) -> RoleTable:
        """Who is ACTIVE and who waits, in order: per role group, and per resource with a line.

        Raises:
            ServiceNotFound: None of its instances lives.
        """
        return await self._ask(lambda view: roles.list_roles(view, service_name), "the list of roles")

    async def set_role(
        self, service_name: str, role: Role, *instance_ids: str, group: str | None = None, reason: str = ""
    ) -> tuple[str, ...]:
        """Make instances ACTIVE or STANDBY in their role group; who held it waits in line from then on.

        Stepping down hands the role to the next in line. The node of who holds a role carries the change out: roles
        with holders of one node change in one transaction, those of several nodes one after the other.

        Args:
            service_name: The service.
            role: The role to have.
            instance_ids: One or more.
            group: The role group; by default the one that each was served with.
            reason: For the audit record.

        Returns:
            The instances whose role changed.

        Raises:
            InvalidRequest: No role, no instance, no group, or two that are to be ACTIVE in one.
            InstanceNotFound: One does not live.
            Forbidden: One that should become ACTIVE is UNHEALTHY or draining, or a plug-in refuses it.
            StoreUnavailable, TransportUnavailable, CallTimeout: With MAYBE_EXECUTED some roles may have changed.

        All else is raised before anything has changed.
        """
        return await self._node.roles.set_role(service_name, role, instance_ids, group=group, reason=reason)

    # -- resources ----------------------------------------------------------------------------------------------

    async def claim(
        self,
        service_name: str,
        instance_id: str,
        *resource_ids: str,
        metadata: ResourceMetadata | Mapping[str, ResourceMetadata] | None = None,
        force: bool = False,
        lease_id: str | None = None,
    ) -> ClaimReply:
        """Make an instance the owner of those of *resource_ids* that are free; the others are in `ClaimReply.conflicts`.

        Raises:
            InvalidRequest, InstanceNotFound, ResourceLimitExceeded, VersionConflict: Nothing was claimed.
            NotOwner: The instance lives by another lease than that of *lease_id*; so for all that take one.
            Forbidden: The instance is UNHEALTHY or draining, or *force* is not permitted.
        """
        tag = self._shown(service_name, instance_id, lease_id)
        hosted = self._node.hosted_by(service_name, instance_id, tag)
        wanted = Acquisition(metadata=metadata, force=force, partial=True)
        if hosted is not None:
            return await hosted.acquire(resource_ids, wanted)
        until = self._runtime.request_deadline()
        return await commit_claim(
            self._runtime, self._node.committer, service_name, instance_id, resource_ids, wanted, lease=tag, until=until
        )

    async def release(
        self, service_name: str, instance_id: str, *resource_ids: str, lease_id: str | None = None
    ) -> ReleaseReply:
        """Free *resource_ids*, all of them or none. Of an instance that a node serves, running calls finish first.

        That takes at most the drain time, on top of the request timeout. Asked by a call that runs under one of the claims, it
        returns at once, and the release follows the call's end. What an instance of this node is releasing already is
        released once: whoever asks meanwhile returns when it is free, too.

        Raises:
            ResourceNotFound: Nobody owns one of them; also where somebody else, not through this node, was quicker.
            NotOwner: Another instance does, perhaps since a moment ago; names it. Others may have been released then.
            ResourceConflict: Other tasks of the instance keep claiming one of them.
            InstanceNotFound, InvalidRequest: As they say.
            StoreUnavailable: With MAYBE_EXECUTED work has ended, and is freed when the store answers, or has been.

        Cancelled, what it has begun to end goes on in the background where a node serves the instance; the rest stays.
        """
        lease = self._shown(service_name, instance_id, lease_id)
        return await self._node.releases.release(service_name, instance_id, resource_ids, lease=lease)

    async def bulk_register(
        self,
        service_name: str,
        instance_id: str,
        resources: Iterable[Claimable],
        *,
        lease_id: str | None = None,
        **options: Unpack[BulkOptions],
    ) -> BulkReply:
        """Claim many resources (ids, or pairs of id and metadata) for an instance; see `aegis_core.node.bulk`.

        No failure of a resource or a batch is raised, unless what had been claimed cannot be undone: the report, which
        would say that it was, is not to be had then. An instance of this node gives up what it claimed all the same, and
        it is free when the store answers; what another node's instance was assigned, or the store of one that no node
        serves, may stand until it is released.

        Raises:
            InvalidRequest: The request itself cannot be, or (without *continue_on_error*) bad ids.
            InstanceNotFound, Forbidden, ResourceLimitExceeded: Nothing was claimed.
            StoreUnavailable: No answer while it was planned (NOT_SENT: nothing was claimed), or while it was undone.
            TransportUnavailable, CallTimeout: The node of the instance could not be asked to undo it, or did not answer.
            Exception: As *on_progress* raised it.

        Cancelled, or ended by *on_progress*, what had been claimed is undone in the background; with *continue_on_error*,
        only the batches under way are.
        """
        from aegis_core.node.bulk import BulkRequest, bulk_claim  # noqa: PLC0415 - with the first that is asked for

        lease = self._shown(service_name, instance_id, lease_id)
        return await bulk_claim(self._node, service_name, instance_id, resources, BulkRequest(**options), lease=lease)

    async def bulk_release(
        self,
        service_name: str,
        instance_id: str,
        resource_ids: Iterable[str],
        *,
        lease_id: str | None = None,
        **options: Unpack[BulkOptions],
    ) -> BulkReply:
        """Release many resources of an instance; see `aegis_core.node.bulk`.

        No failure of a resource or a batch is raised, unless what had been released cannot be taken back: the report, which
        would say that it was, is not to be had then.

        Raises:
            InvalidRequest: The request itself cannot be, or (without *continue_on_error*) bad ids, or it was asked for by a
                call that runs under one of the claims.
            InstanceNotFound: No such instance lives.
            StoreUnavailable: No answer while it was planned (NOT_SENT: nothing was released), or while it was undone.
            Forbidden: The instance, of this node, left before what it had released could be taken back.
            Exception: As *on_progress* raised it.

        Cancelled, or ended by *on_progress*, what had been released stays so; the batch under way is released, too, where
        a node serves the instance.
        """
        from aegis_core.node.bulk import BulkRequest, bulk_release  # noqa: PLC0415 - with the first that is asked for

        lease = self._shown(service_name, instance_id, lease_id)
        return await bulk_release(
            self._node, service_name, instance_id, resource_ids, BulkRequest(**options), lease=lease
        )

    async def transfer(
        self,
        service_name: str,
        resource_ids: Sequence[str],
        from_instance_id: str,
        to_instance_id: str,
        *,
        verify_ownership: bool = True,
        reason: str = "",
        lease_id: str | None = None,
    ) -> TransferReply:
        """Move resources between instances of a service; the owner carries it out, so that nobody's work overlaps.

        Calls that run may finish first, which takes at most the drain time, on top of the request timeout.

        Args:
            service_name: The service.
            resource_ids: One or more.
            from_instance_id: The owner, in whose name this is asked.
            to_instance_id: The new owner.
            verify_ownership: With False the resources are taken from whoever owns them, without consent: fencing still
                holds, but work may overlap for a moment. Needs the permission ``force``.
            reason: For the audit record.
            lease_id: Of the owner.

        Raises:
            InvalidRequest, InstanceNotFound, ResourceNotFound, NotOwner, Forbidden: Nothing was ended.
            ResourceConflict: The target cannot take one of them over.
            ResourceLimitExceeded: The target would hold too many.
            StoreUnavailable, TransportUnavailable, CallTimeout: With MAYBE_EXECUTED it goes on, or may have moved them.

        Whatever can be known before anything ends is raised. What goes wrong later is in `TransferReply.failed`, each with the code of an error:

        - it was released (`NotOwner`) or is being moved by somebody else (`ResourceConflict`), or its lease ended meanwhile
          (`LeaseLost`): this transfer did nothing to it;
        - work under its claim did not end (`CallTimeout`), or the commit was refused or not answered (as it says): it has
          been released, and is free; a role goes on to who is in line for it. A commit that was not answered may still come
          to be: then the target has it.

        The others have moved. What is taken without consent, or from an instance that no node serves, moves as a whole or is
        raised. Cancelled, the transfer goes on.
        """
        return await self._node.moves.transfer_between(
            service_name,
            resource_ids,
            from_instance_id,
            to_instance_id,
            forced=not verify_ownership,
            reason=reason,
            lease=self._shown(service_name, from_instance_id, lease_id),
        )

    async def rebalance(self, service_name: str, max_moves: int = 100) -> tuple[TransferReply, ...]:
        """Even out how many resources the instances of a service hold, by at most *max_moves* transfers.

        The plan is that of the hook `aegis_plan_rebalance`, else even counts, with resources of high priority moved last.
        Answers a reply for each transfer, one after the other; one that was refused lists all of its resources as failed.

        Raises:
            InvalidRequest: *max_moves* is less than 1.
            ServiceNotFound: None of its instances lives.
            Forbidden: A plug-in refuses it, or failed.
        """
        return await self._node.moves.rebalance(service_name, max_moves)

    async def query_resources(
        self,
        *,
        service_name: str | None = None,
        instance_id: str | None = None,
        resource_ids: Sequence[str] | None = None,
        resource_type: str | None = None,
        tags: Sequence[str] | None = None,
        containing: str | None = None,
        include_metadata: bool = True,
        limit: int = 100,
        offset: int = 0,
    ) -> QueryReply:
        """The owned resources that match everything given, oldest change first, one page of them.

        Args:
            service_name: Of the owner.
            instance_id: The owner.
            resource_ids: Among these.
            resource_type: As their metadata says.
            tags: All of them must be there.
            containing: Ids with this in them, as it is written.
            include_metadata: With False the metadata are left out.
            limit: 1 to 1000.
            offset: How many to leave out first.

        Raises:
            InvalidRequest: A bad limit or offset.
        """
        return await self._ask(
            lambda view: queries.query_resources(
                view,
                service_name=service_name,
                instance_id=instance_id,
                resource_ids=resource_ids,
                resource_type=resource_type,
                tags=tags,
                containing=containing,
                include_metadata=include_metadata,
                limit=limit,
                offset=offset,
                now=self._runtime.clock.now(),
            ),
            "the query",
        )

    async def get_owner(self, resource_id: str) -> Resource:
        """Who owns *resource_id*.

        Raises:
            ResourceNotFound: Nobody.
        """
        now = self._runtime.clock.now
        return await self._ask(
            lambda view: queries.get_owner(view, resource_id, now=now()), f"the owner of {resource_id}", asked_by=""
        )

    async def explain(self, resource_id: str) -> Explanation:
        """Everything known about *resource_id*; the owner is asked for its calls, and left out if it does not answer soon."""
        now, until = self._runtime.clock.now, self._runtime.request_deadline()
        known = await self._ask(
            lambda view: queries.explain(view, resource_id, now=now()), f"explaining {resource_id}", until=until
        )
        if known.owner is None or not has_scopes(known.owner):
            return known
        params, patience = {"resource_ids": [resource_id]}, now() + _OWNERS_WORD
        try:
            answer = await self._node.errands.ask(known.owner, "explain", params, until=min(patience, until))
            told = codec.structure_result(answer, OwnersWord)
        except AegisError as exc:
            _log.debug("the owner of %s does not say more: %s", resource_id, exc)
            return known
        assert isinstance(told, OwnersWord)
        last = None if told.idle is None else self._runtime.wall() - timedelta(seconds=told.idle)
        return attrs.evolve(known, calls=told.calls, last_call_at=last)

    # -- for all of them ----------------------------------------------------------------------------------------

    def _shown(self, service_name: str, instance_id: str, lease_id: str | None) -> str | None:
        """The tag of the lease that an instance proves by *lease_id*."""
        return None if lease_id is None else self._tag(service_name, instance_id, lease_id)

    def _tag(self, service_name: str, instance_id: str, lease_id: str) -> str:
        """The tag of an instance's lease under *lease_id*, which may be shown to the store, too."""
        return self._runtime.proofs.keep(names.lease_proof(service_name, instance_id, lease_id))

    def _hosted(self, service_name: str, instance_id: str) -> Instance | None:
        return self._node.hosted.get((service_name, instance_id))

    async def _ask(self, ask: Callable[[Snapshot], A], what: str, **options: Unpack[_Options]) -> A:
        """The answer of *ask* to a view that is level with the store."""
        return await self._decide(lambda view: answered(ask(view)), what, writes=False, **options)

    async def _decide(
        self, decide: Callable[[Snapshot], Decision[A]], what: str, *, writes: bool = True, **options: Unpack[_Options]
    ) -> A:
        """Decide and commit."""
        until, asked_by = options.get("until"), options.get("asked_by")
        timeout = self._runtime.settings.request_timeout if until is None else self._runtime.left(until)
        decided = self._node.committer.decide
        return await decided(decide, timeout=timeout, what=what, writes=writes, asked_by=asked_by)
