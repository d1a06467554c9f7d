"""One registration of an instance, from its first listener to the last answer of a handler.

The lease id is a secret of this process; the store and everybody else know its tag. Endpoints end in the tag, so that
two incarnations of one instance id never hear each other's calls.

It is one long file because what `Incarnation.begin` sets up, and what hangs on the lease, each way to end must take down.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import attrs
import trio

from aegis_core import names
from aegis_core.engine import instances
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InstanceConflict,
    InstanceNotFound,
    LeaseLost,
    NotOwner,
    Unavailable,
)
from aegis_core.models import ClaimReply, EndReason, Health, Outcome, ResourceMetadata, Role, ServiceInstance
from aegis_core.node.claiming import Acquisition, check_stays, commit_claim
from aegis_core.node.claims import Claim
from aegis_core.node.holdings import Holdings
from aegis_core.node.lease import Lease
from aegis_core.node.line import Place, wait_turn
from aegis_core.node.server import Server
from aegis_core.observe.outages import Repeats

if TYPE_CHECKING:
    from aegis_core.node.instance import Instance
    from aegis_core.node.node import Node

__all__ = ["Incarnation"]

_log = logging.getLogger("aegis.instance")

_LAST_WORDS: Final = 0.1
_WITHDRAWAL: Final = 1.0


class Incarnation:
    """One registration. Made by `begin`, run by `live`, ended by its lease, buried by `retire`."""

    def __init__(
        self,
        node: Node,
        instance: Instance,
        record: ServiceInstance,
        lease_id: str,
        sent: float,
        server: Server,
        listening: AsyncExitStack,
    ) -> None:
        self.lease = Lease(
            node.runtime,
            node.committer,
            record,
            lease_id,
            sent=sent,
            describe=instance.describe,
            suspend=self._suspend,
            resume=self._resume,
            closed=self._lease_ended,
        )
        self.server = server
        self.holdings = Holdings(
            node.runtime,
            node.committer,
            instance,
            self.lease,
            claimed=node.claimed,
            watch_limit=node.janitor.watch_limit,
        )
        self._node = node
        self._runtime = node.runtime
        self._instance = instance
        self._listening = listening
        self._bound: dict[trio.CancelScope, None] = {}
        self._kept: list[Claim] = []
        self._wanted: dict[str, ResourceMetadata] = {}
        self._leaving = False

    @classmethod
    async def begin(cls, node: Node, instance: Instance, *, role: Role | None, lease_id: str) -> Incarnation:
        """Listen, then register; the lease runs from here on.

        Cancelled, or without an answer from the store, the registration may stand: begin again with the same lease
        id, or `withdraw` it.

        Raises:
            InstanceConflict: The id is in use by a live instance.
            RoleConflict: *role* is ACTIVE and somebody else is.
            AegisError: As the registration was refused, or the store did not answer.
        """
        runtime, options = node.runtime, instance.options
        tag = runtime.proofs.keep(lease_id)
        async with AsyncExitStack() as stack:
            server = Server(runtime, instance, tag)
            listened = instance.instance_id, tag if options.register else ""
            try:
                endpoints = [
                    await stack.enter_async_context(transport.listen(*listened, server.receive))
                    for transport in runtime.transports.values()
                ]
            except ValueError:  # without a lease the id alone tells instances apart
                raise InstanceConflict(owner=instance.instance_id, service_name=instance.service.name) from None
            at = runtime.wall()
            record = ServiceInstance(
                service_name=instance.service.name,
                instance_id=instance.instance_id,
                version=instance.service.version,
                lease=tag,
                ttl=options.ttl,
                heartbeat_interval=options.heartbeat_interval,
                endpoints=tuple(endpoints),
                priority=options.priority,
                sticky_active_group=options.group,
                metadata=options.metadata,
                adopts=instance.service.acquire_hook is not None,
                on_demand=instance.service.on_demand,
                idempotent=instance.service.idempotent,
                registered_at=at,
                last_heartbeat=at,
            )
            record = instance.describe(record)
            sent = runtime.clock.now()
            target = None
            if options.group is not None:
                target = names.role_target(record.service_name, options.group)
            if options.register:
                runtime.plugins.check_registration(record)
                candidate = record
                try:
                    registered = await node.committer.decide(
                        lambda view: instances.register(
                            view, candidate, role=role, target=target, now=runtime.clock.now(), at=at
                        ),
                        timeout=runtime.settings.request_timeout,
                        what=f"the registration of {instance.instance_id}",
                        asked_by=instance.instance_id,
                    )
                except InstanceConflict as exc:
                    if node.hosted.get((record.service_name, record.instance_id), instance) is instance:
                        raise
                    raise attrs.evolve(exc, is_local=True) from None
                record = registered.instance
            stack.enter_context(server.announced(record))
            incarnation = cls(node, instance, record, lease_id, sent, server, stack.pop_all())
        if options.register:
            node.hosted[record.service_name, record.instance_id] = instance
        else:
            incarnation.lease.deadline = math.inf  # nobody else could have its name in the registry
        node.leases[tag] = incarnation.holdings
        if target is not None and role is Role.ACTIVE:
            for claim in incarnation.holdings.take((target,), keep=False):
                claim.set_ready()
        return incarnation

    @staticmethod
    async def withdraw(node: Node, instance: Instance, lease_id: str) -> None:
        """Delete a registration of which nobody knows whether it stands, in at most a second; else it expires."""

        def decide(view: Snapshot) -> Decision[tuple[str, ...]]:
            tag = names.lease_tag(lease_id)
            return instances.deregister(view, instance.service.name, instance.instance_id, lease=tag)

        with trio.move_on_after(_WITHDRAWAL, shield=True):
            try:
                await node.committer.decide(decide, timeout=_WITHDRAWAL, what="the withdrawal of a registration")
            except AegisError as exc:
                _log.debug("nothing to withdraw, or no way to: %s", exc, extra=instance.log_fields())

    async def bury(self) -> None:
        """Delete the record of this lease, which has ended, where a renewal that came too late to count keeps it alive.

        Not while anything still runs under it: then it is left to expire.
        """
        if self.holdings.is_unwound:
            await self.withdraw(self._node, self._instance, self.lease.lease_id)

    @property
    def tag(self) -> str:
        """The tag of its lease."""
        return self.lease.tag

    def kept(self) -> dict[str, ResourceMetadata]:
        """What `Instance.claim` held when the lease ended, or had lost before that, to be claimed again."""
        return self._wanted | {claim.resource_id: claim.metadata for claim in self._kept}

    @contextmanager
    def while_eligible(self) -> Iterator[None]:
        """Cancel the block when the lease ends or the instance drains; it then ends silently."""
        with trio.CancelScope() as scope:
            self._bound[scope] = None
            if self.lease.ended is not None or self._instance.draining:
                scope.cancel()
            try:
                yield
            finally:
                del self._bound[scope]

    def leave_lines(self) -> None:
        """The instance drains, or the lease ended: it waits for nothing any more."""
        for scope in self._bound:
            scope.cancel()

    async def live(self, again: Mapping[str, ResourceMetadata]) -> None:
        """Renew the lease and do what hangs on it until the lease ends.

        Args:
            again: What an earlier incarnation held and this one claims again, where it is still free.
        """
        options, service = self._instance.options, self._instance.service
        if not options.register:
            await self.lease.wait_ended()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.lease.run)
            nursery.start_soon(self.holdings.settle_suspects)
            for target in tuple(self._runtime.directory.snapshot.held_by(self.tag)):
                self.holdings.touched(target)
            if options.group is not None:
                target = names.role_target(service.name, options.group)
                nursery.start_soon(self._campaign, target)
            if service.health_hook is not None:
                nursery.start_soon(self._ask_health)
            if service.idle_release is not None:
                nursery.start_soon(self._release_idle, service.idle_release)
            if again:
                nursery.start_soon(self._claim_again, again)
            await self.lease.wait_ended()
            nursery.cancel_scope.cancel()

    async def retire(self) -> None:
        """Answer what still runs, within the drain time, then stop listening."""
        self.server.stop_accepting()
        try:
            with trio.move_on_after(self._runtime.settings.drain):
                await self.server.drained()
        finally:
            await self.stop()  # noqa: ASYNC102 - it cannot be cancelled, and waits for nobody

    async def stop(self) -> None:
        """Interrupt every handler, let them answer so, and leave the transports; not cancellable. Idempotent."""
        self.server.stop_accepting()
        self.server.cancel_all()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_LAST_WORDS):
                await self.server.drained()
            await self._listening.aclose()

    async def deregister(self, seconds: float) -> None:
        """Interrupt what runs, run ``on_release``, delete the record: everything is free at once. At most *seconds* each.

        Called again, it waits for the first one.
        """
        if self._leaving:
            await self.lease.wait_ended()
            return
        self._leaving = True
        try:
            if self.lease.ended is None and self._instance.options.register:
                await self._deregister(seconds)
        finally:
            self.lease.end(EndReason.CLOSED)

    async def _deregister(self, seconds: float) -> None:
        until = self._runtime.clock.now()
        moving = [claim for claim in self.holdings.table.values() if claim.moving]
        for claim in moving:  # a drain that is cut short: who moves it runs on_release once its work has unwound
            claim.interrupt(EndReason.CLOSED)
        claims = self.holdings.begin(list(self.holdings.table.values()))
        with trio.move_on_after(seconds):
            await self.holdings.wind_down(claims, until=until, reason=EndReason.CLOSED)
            for claim in moving:
                await claim.wait_moved()
            # Who moved them was cancelled with the whole program, perhaps, and let them be.
            await self.holdings.wind_down(self.holdings.begin(moving), until=until, reason=EndReason.CLOSED)
        for claim in self.holdings.table.values():
            claim.leave()  # what there was no time for, too
            claim.relinquish(EndReason.CLOSED)
        record = self.lease.record

        def decide(view: Snapshot) -> Decision[tuple[str, ...]]:
            return instances.deregister(view, record.service_name, record.instance_id, lease=self.tag)

        try:
            await self._runtime.measure(
                "deregister",
                functools.partial(self._node.committer.decide, decide, timeout=seconds, what="the deregistration"),
                service_name=record.service_name,
                instance_id=record.instance_id,
            )
        except AegisError as exc:
            _log.warning("%s was not deregistered, its lease expires: %s", record.instance_id, exc)

    # -- what hangs on the lease --------------------------------------------------------------------------------

    def _suspend(self) -> None:
        """The lease is about to end: cancel what runs under it, so that it has unwound by then."""
        self._instance.membership.suspend()
        for claim in self.holdings.table.values():
            claim.interrupt(EndReason.EXPIRED)

    def _resume(self) -> None:
        """The lease was renewed after all: what was not ended by that goes on."""
        self._instance.membership.resume()
        for claim in self.holdings.table.values():
            claim.resume()

    def _lease_ended(self, reason: EndReason) -> None:
        self._node.leases.pop(self.tag, None)
        self._kept = self.holdings.lose(reason)
        self.leave_lines()

    async def _campaign(self, target: str) -> None:
        """Be active for *target*, or wait in line to be."""
        holdings = self.holdings
        while True:
            claim = holdings.table.get(target)
            if claim is None:
                with self.while_eligible():
                    async with holdings.place(target) as place:
                        await self.wait_turn(place, priority=self._instance.options.priority, metadata=None)
                        holdings.take((target,), keep=False)
                if self._instance.draining:
                    await trio.sleep_forever()
                await trio.lowlevel.checkpoint()
                continue
            claim.set_ready()
            self._instance.role_moved()
            reason = await claim.wait_ended()
            self._instance.role_moved()
            if reason is EndReason.TRANSFERRED:
                await self._let_others_first(target)

    async def _let_others_first(self, target: str) -> None:
        """Having stepped down, stand in line only once somebody else had the role."""
        while True:
            changed = self._runtime.directory.watch_target(target)
            if self._runtime.directory.snapshot.owner(target) is not None:
                return
            await changed.wait()

    async def wait_turn(self, place: Place, *, priority: int, metadata: ResourceMetadata | None) -> None:
        """Wait in line for what *place* is for until this registration has it; see `aegis_core.node.line`."""
        await wait_turn(self._runtime, self._node.committer, self.holdings, place, priority=priority, metadata=metadata)

    async def commit_claim(self, targets: Sequence[str], wanted: Acquisition) -> ClaimReply:
        """Claim *targets* under this lease, by the commit alone; see `aegis_core.node.claiming.commit_claim`.

        Raises:
            LeaseLost: The lease ended before the store could be asked; nothing was claimed (REJECTED).
            AegisError: As the claim was refused.
        """
        check_stays(self._instance)
        runtime, record = self._runtime, self.lease.record
        try:
            return await commit_claim(
                runtime,
                self._node.committer,
                record.service_name,
                record.instance_id,
                targets,
                wanted,
                lease=self.tag,
                until=runtime.request_deadline(),
                is_own=True,
            )
        except (InstanceNotFound, NotOwner) as exc:
            ended = self.lease.ended
            if ended is None:
                raise
            raise LeaseLost(resource_id=targets[0], reason=ended, outcome=Outcome.REJECTED) from exc

    async def _claim_again(self, again: Mapping[str, ResourceMetadata]) -> None:
        """Claim what was lost with the old lease, as far as nobody else has it."""
        instance, runtime = self._instance, self._runtime
        self._wanted, repeats = dict(again), Repeats()
        while self._wanted and not instance.draining:
            some = dict(itertools.islice(self._wanted.items(), runtime.store.capabilities.max_transaction))
            try:
                with self.holdings.attempt(some):
                    wanted = Acquisition(metadata=some, partial=True)
                    reply = await runtime.measure(
                        "claim",
                        functools.partial(self.commit_claim, tuple(some), wanted),
                        service_name=instance.service.name,
                        instance_id=instance.instance_id,
                        resource_ids=tuple(some),
                    )
                    fresh = self.holdings.take(reply.registered, keep=True)
            except (Forbidden, Unavailable) as exc:  # it is UNHEALTHY, or the store is away: that may pass
                level = repeats.level(exc)
                _log.log(level, "what was lost is claimed again later: %s", exc, extra=instance.log_fields())
                await self._node.committer.pause(1.0)
                continue
            except AegisError as exc:
                _log.warning("could not claim again what was lost: %s", exc, extra=instance.log_fields())
                fresh = []
            else:
                for target, owner in reply.conflicts.items():
                    _log.warning("%s is now held by %s", target, owner, extra=instance.log_fields(resource_id=target))
            if self.lease.ended is not None:
                return  # `kept` tells all of it to the next incarnation: nothing that came too late is held.
            for target in some:
                del self._wanted[target]
            self.holdings.prepare_in_background(fresh)

    async def _ask_health(self) -> None:
        hook = self._instance.service.health_hook
        assert hook is not None
        clock, interval = self._runtime.clock, self._instance.options.heartbeat_interval
        repeats = Repeats()
        while True:
            health, reason = Health.UNHEALTHY, f"the health check took longer than {interval:g} s"
            with trio.CancelScope(deadline=clock.trio_time(clock.now() + interval)):
                try:
                    health, reason = await hook(), "as the health check says"
                except Exception as exc:  # noqa: BLE001 - user code: an instance that cannot tell is not healthy
                    _log.exception("the health check failed", extra=self._instance.log_fields())
                    health, reason = Health.UNHEALTHY, f"the health check raised {type(exc).__name__}"
            if health is not Health.ONLINE and health is not Health.UNHEALTHY:
                health, reason = Health.UNHEALTHY, f"the health check said {health!r}"
            try:
                await self._instance.set_health(health, reason)
            except AegisError as exc:
                level = repeats.level(exc)
                _log.log(level, "the health of %s is told later: %s", self._instance.instance_id, exc)
            else:
                repeats.over()
            await clock.sleep_until(clock.now() + interval)

    async def _release_idle(self, seconds: float) -> None:
        clock = self._runtime.clock
        while True:
            now = clock.now()
            idle, soonest = [], now + seconds
            for claim in self.holdings.table.values():
                if claim.record.reason != "activated" or claim.keep or claim.running or claim.moving:
                    continue
                if claim.last_used + seconds <= now:
                    idle.append(claim)
                else:
                    soonest = min(soonest, claim.last_used + seconds)
            if idle:
                await self._instance.give_up_slowly(idle)
            await clock.sleep_until(soonest)
