"""The way of clients' transactions into the router's store: judged on fresh evidence, permitted by plug-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core.backend import ABSENT, Conflict, Delete, Transaction
from aegis_core.errors import Forbidden, ResourceNotFound
from aegis_core.hookspecs import Principal, Target, hookimpl
from aegis_core.models import ServiceInstance
from aegis_core.names import lease_proof, target_key
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_core.router.gate import Gate

CLIENT = Principal("token", "client")
ADMIN = Principal("token", "admin", is_admin=True)


@attrs.define
class Policy:
    """A plug-in that remembers what it was asked, and has an opinion on registrations."""

    asked: list[str] = attrs.field(factory=list)
    seen: list[str] = attrs.field(factory=list)

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """As the default has it."""
        self.asked.append(f"{principal} {operation} {target}")
        return None

    @hookimpl
    def aegis_check_registration(self, instance: ServiceInstance) -> None:
        """No strangers."""
        self.seen.append(instance.instance_id)
        if instance.instance_id == "stranger":
            raise Forbidden(operation="register", target="stranger", reason="nobody knows it")


@asynccontextmanager
async def open_gate(policy: Policy) -> AsyncIterator[tuple[Gate, Node]]:
    """A router's gate, and a node beside it."""
    async with open_node("memory://gate", plugins=[policy]) as router, open_node("memory://gate") as node:
        yield Gate(router), node


async def hold(node: Node) -> tuple[str, Transaction]:
    """Register an instance that holds a resource; the proof of its lease, and how it would give that up."""
    lease_id = (await node.registry.register("svc", "one")).lease_id
    epoch = (await node.registry.claim("svc", "one", "mine")).epochs["mine"]
    return lease_proof("svc", "one", lease_id), Transaction("t-1", (Delete(target_key("mine"), epoch),))


async def test_transaction_with_its_proof_is_committed(autojump_clock: MockClock) -> None:
    """Nobody is asked; a repeat finds what was done."""
    policy = Policy()
    async with open_gate(policy) as (gate, node):
        assert "Gate to" in repr(gate)
        proof, release = await hold(node)
        proven = attrs.evolve(release, proofs=(proof,))
        assert await gate.commit(CLIENT, proven) == await gate.commit(CLIENT, proven)
        assert policy.asked == []
        with pytest.raises(ResourceNotFound):
            await node.registry.get_owner("mine")


async def test_what_is_not_proven_is_for_the_policy(autojump_clock: MockClock) -> None:
    """An admin may, a client may not; and then the store is as it was."""
    policy = Policy()
    async with open_gate(policy) as (gate, node):
        _, release = await hold(node)
        with pytest.raises(Forbidden, match="token:client may only act for itself"):
            await gate.commit(CLIENT, release)
        assert node.owner_of("mine") is not None
        assert await gate.commit(ADMIN, release)
        assert policy.asked == ["token:client release mine", "token:admin release mine"]


async def test_revision_that_there_never_was_is_a_conflict(autojump_clock: MockClock) -> None:
    """Guessing the next one leads nowhere."""
    async with open_gate(Policy()) as (gate, node):
        with pytest.raises(Conflict):
            await gate.commit(ADMIN, Transaction("t-1", (Delete(target_key("x"), 2**60),)))
        assert await gate.commit(ADMIN, Transaction("t-2", (Delete(target_key("x"), ABSENT),))) == (ABSENT,)
        assert node.owner_of("x") is None


async def test_registrations_are_shown_to_the_routers_plug_ins(autojump_clock: MockClock) -> None:
    """Which may refuse them."""
    policy = Policy()
    async with open_gate(policy) as (gate, node):
        wanted: list[Transaction] = []
        service = Service("svc", version="1.0.0")

        async def record(transaction: Transaction) -> tuple[int, ...]:
            wanted.append(transaction)
            return await trio.sleep_forever()  # type: ignore[return-value]

        node.committer._commit_once = record
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def serve() -> None:
                async with node.serve(service, instance_id="stranger"):
                    raise AssertionError("it was never registered")

            await wait_all_tasks_blocked()
            with pytest.raises(Forbidden, match="nobody knows it"):
                await gate.commit(ADMIN, wanted[0])
            nursery.cancel_scope.cancel()
        assert policy.seen == ["stranger"]
