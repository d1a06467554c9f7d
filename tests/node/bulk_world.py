"""Two nodes for tests of bulk operations; the store of the first takes few operations at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Unpack

import attrs
import trio

from aegis_core.backend import Capabilities
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.models import BulkReply
from aegis_core.names import target_key
from aegis_core.node.bulk import BulkOptions, Claimable
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, Wanted

__all__ = ["FITS", "KINDS", "THIN", "BulkWorld", "ForceAllowed", "bulk_world", "ids", "writes"]

FITS: Final = 10
"""Operations of one transaction."""

THIN: Final = "old-client"
"""The id of an instance that was merely registered."""

KINDS: Final = ("a", "b", THIN)
"""An instance of the node that is asked, one of another node, and one that no node serves."""


def ids(count: int, prefix: str = "r") -> list[str]:
    """*count* resource ids."""
    return [f"{prefix}:{number}" for number in range(count)]


def writes(*resource_ids: str) -> Wanted:
    """Transactions that concern one of *resource_ids*."""
    keys = {target_key(resource_id) for resource_id in resource_ids}
    return lambda transaction: any(op.key in keys for op in transaction.operations)


class ForceAllowed:
    """A plug-in that lets everybody use force."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str) -> bool | None:
        """Allow it."""
        return True if operation == "force" else None


@attrs.define(eq=False)
class Hooks:
    """A service that notes what its hooks are told, and takes as long or fails as a test says."""

    acquired: list[str] = attrs.field(factory=list)
    released: list[str] = attrs.field(factory=list)
    seconds: float = 0.0
    failing: dict[str, Exception] = attrs.field(factory=dict)
    running: int = 0
    most: int = 0

    def service(self) -> Service:
        """The service ``svc``."""
        service = Service("svc", version="1")

        @service.on_acquire
        async def load(claim: Claim) -> str:
            self.acquired.append(claim.resource_id)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await trio.sleep(self.seconds)
            finally:
                self.running -= 1
            if claim.resource_id in self.failing:
                raise self.failing[claim.resource_id]
            return f"state of {claim.resource_id}"

        @service.on_release
        async def unload(claim: Claim) -> None:
            claim.check()
            self.released.append(claim.resource_id)
            await trio.lowlevel.checkpoint()

        @service.method
        async def work(call: Call, seconds: float, unwinding: float = 0.0) -> str:
            try:
                await trio.sleep(seconds)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(unwinding)
            return "done"

        return service


@attrs.define(eq=False)
class BulkWorld:
    """The nodes, their instances ``a`` (here) and ``b`` (there), and what goes wrong on the way to the store from here."""

    faults: Faults
    here: Node
    there: Node
    a: Instance
    b: Instance
    hooks: Hooks

    async def claim(self, kind: str, items: Sequence[Claimable], **options: Unpack[BulkOptions]) -> BulkReply:
        """Ask the node here for a bulk claim."""
        return await self.here.registry.bulk_register("svc", kind, items, **options)

    async def release(self, kind: str, items: Sequence[str], **options: Unpack[BulkOptions]) -> BulkReply:
        """Ask the node here for a bulk release."""
        return await self.here.registry.bulk_release("svc", kind, items, **options)

    async def owners(self, resource_ids: list[str]) -> dict[str, str]:
        """Who owns what of *resource_ids* is owned at all, as both nodes see it."""
        seen = []
        for node in (self.here, self.there):
            await node.runtime.directory.sync()
            owned = {i: node.owner_of(i) for i in resource_ids}
            seen.append({i: resource.owner_instance_id for i, resource in owned.items() if resource is not None})
        assert seen[0] == seen[1]
        return seen[0]

    def check_tables(self) -> None:
        """What an instance has in its claim table, ready, is what the store says that it owns."""
        for instance in (self.a, self.b):
            held = self.there.runtime.directory.snapshot.held_by(instance.lease_tag)
            table = {target: claim.epoch for target, claim in instance.claims_table.items()}
            assert table == {target: record.epoch for target, record in held.items()}
            assert all(claim.held and claim.is_ready and not claim.moving for claim in instance.claims_table.values())

    def transactions(self, wanted: Wanted) -> list[int]:
        """How many operations each transaction had that was sent from here and is *wanted*."""
        return [len(transaction.operations) for _, transaction in self.faults.commits if wanted(transaction)]


@asynccontextmanager
async def bulk_world(*plugins: object, **config: object) -> AsyncIterator[BulkWorld]:
    """The instances ``a`` (here), ``b`` (there), and `THIN`, registered through there."""
    faults, hooks = Faults(capabilities=Capabilities(min_ttl=0.001, max_transaction=FITS)), Hooks()
    service = hooks.service()
    async with (
        open_node("faulty://test", plugins=[faults, *plugins], config=config) as here,
        open_node("memory://test", plugins=plugins, config=config) as there,
        here.serve(service, instance_id="a") as a,
        there.serve(service, instance_id="b") as b,
    ):
        await there.registry.register("svc", THIN, ttl=10_000)
        await here.runtime.directory.sync()
        yield BulkWorld(faults, here, there, a, b, hooks)
