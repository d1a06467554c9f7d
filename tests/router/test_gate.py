"""The way of clients' transactions into the router's store: judged on fresh evidence, permitted by plug-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aegis_core import codec
from aegis_core.backend import ABSENT, Conflict, Delete, Put, Transaction
from aegis_core.errors import Forbidden, ResourceLimitExceeded, ResourceNotFound
from aegis_core.hookspecs import Principal, Target, hookimpl
from aegis_core.models import Ownership, ServiceInstance, TransferRecord
from aegis_core.names import lease_proof, lease_tag, target_key, transfer_key
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_core.router.gate import Gate

CLIENT = Principal("token", "client")
ADMIN = Principal("token", "admin", is_admin=True)


@attrs.define
class Policy:
    """A plug-in that remembers what it was asked, and has an opinion on registrations."""

    asked: list[str] = attrs.field(factory=list)
    refused: str = ""
    seen: list[str] = attrs.field(factory=list)

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """As the default has it, but for one operation."""
        self.asked.append(f"{principal} {operation} {target}")
        return False if operation == self.refused else None

    @hookimpl
    def aegis_check_registration(self, instance: ServiceInstance) -> None:
        """No strangers."""
        self.seen.append(instance.instance_id)
        if instance.instance_id == "stranger":
            raise Forbidden(operation="register", target="stranger", reason="nobody knows it")


@asynccontextmanager
async def open_gate(policy: Policy, query: str = "") -> AsyncIterator[tuple[Gate, Node]]:
    """A router's gate, and a node beside it; *query* are the router's settings."""
    async with open_node(f"memory://gate{query}", plugins=[policy]) as router, open_node("memory://gate") as node:
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


async def test_what_a_client_acquires_with_its_own_lease_is_a_plug_ins_to_refuse(autojump_clock: MockClock) -> None:
    """Without a word it may; so that a token can be held to what it is for."""
    policy = Policy()
    async with open_gate(policy) as (gate, node):
        proof, _ = await hold(node)
        await gate.commit(CLIENT, claim("one", proof, "a"))
        assert policy.asked == ["token:client claim a"]
        policy.refused = "claim"
        with pytest.raises(Forbidden, match="refuses it to token:client"):
            await gate.commit(CLIENT, claim("one", proof, "b"))
        assert node.owner_of("b") is None


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


def claim(name: str, secret: str, *ids: str) -> Transaction:
    """How the instance claims what is free."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    records = [
        Ownership(target=i, service_name="svc", instance_id=name, lease=lease_tag(secret), registered_at=at)
        for i in ids
    ]
    puts = [Put(target_key(record.target), codec.encode_record(record), ABSENT) for record in records]
    return Transaction("-".join(("t", *ids)), tuple(puts), (secret,))


async def test_nobody_holds_more_than_the_router_lets_it(autojump_clock: MockClock) -> None:
    """Whatever limit the client itself may have; each claim counts from when it was committed, an admin's too."""
    async with open_gate(Policy(), "?max_resources_per_instance=3") as (gate, node):
        proof, _ = await hold(node)
        for name in ("a", "b"):
            await gate.commit(CLIENT, claim("one", proof, name))
        for principal in (CLIENT, ADMIN):
            with pytest.raises(ResourceLimitExceeded) as caught:
                await gate.commit(principal, claim("one", proof, "c"))
        assert (caught.value.limit, caught.value.held, caught.value.asked) == (3, 3, 1)
        assert (await node.registry.query_resources()).total_count == 3


async def test_claims_at_the_same_time_are_counted_together(autojump_clock: MockClock) -> None:
    """Which of them comes in is open, but not both."""
    async with open_gate(Policy(), "?max_resources_per_instance=1") as (gate, node):
        proof = lease_proof("svc", "one", (await node.registry.register("svc", "one")).lease_id)
        outcomes: list[str] = []

        async def try_to(name: str) -> None:
            try:
                await gate.commit(CLIENT, claim("one", proof, name))
            except (Conflict, ResourceLimitExceeded) as exc:
                outcomes.append(type(exc).__name__)
            else:
                outcomes.append("held")

        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(try_to, name)
        assert outcomes.count("held") == 1
        assert (await node.registry.query_resources()).total_count == 1


async def test_claim_that_depends_on_others_under_way_conflicts(autojump_clock: MockClock) -> None:
    """Its client decides again: whether there is room is known when the other is settled."""
    async with open_gate(Policy(), "?max_resources_per_instance=1") as (gate, node):
        proof = lease_proof("svc", "one", (await node.registry.register("svc", "one")).lease_id)
        with gate._runtime.reservations.reserve("svc", "one", ["other"]), pytest.raises(Conflict):
            await gate.commit(CLIENT, claim("one", proof, "a"))
        assert await gate.commit(CLIENT, claim("one", proof, "a"))


@pytest.mark.parametrize(
    ("principal", "told", "kept"),
    [
        (CLIENT, "instance:one", "instance:one"),
        (CLIENT, "token:client", "token:client"),
        (CLIENT, "token:admin", "token:admin (says token:client)"),
        (CLIENT, "instance:two", "instance:two (says token:client)"),
        (CLIENT, "janitor", "janitor (says token:client)"),
        (ADMIN, "token:who asked the node", "token:who asked the node"),
    ],
)
async def test_audit_records_name_whom_the_router_knows(
    principal: Principal, told: str, kept: str, autojump_clock: MockClock
) -> None:
    """Or say whose word it is; and they are kept no longer than the router's own."""
    async with open_gate(Policy(), "?audit_retention=60") as (gate, node):
        proof, release = await hold(node)
        two = (await node.registry.register("svc", "two")).lease_id
        (given,) = claim("two", lease_proof("svc", "two", two), "mine").operations
        assert isinstance(given, Put)
        record = TransferRecord(
            transfer_id="t-1", kind="transfer", resource_ids=("mine",), from_instance_id="one", to_instance_id="two",
            requested_by=told, at=datetime(2026, 1, 1, tzinfo=UTC),
        )  # fmt: skip
        move = (
            attrs.evolve(given, expect=release.operations[0].expect),
            Put(transfer_key("t-1"), codec.encode_record(record), ABSENT, 1e9),
        )
        await gate.commit(principal, Transaction("t-2", move, (proof,)))
        await node.runtime.directory.sync()
        assert [record.requested_by for record in node.runtime.directory.snapshot.transfers()] == [kept]
        await trio.sleep(61)
        assert await node.runtime.store.get(transfer_key("t-1")) is None
