"""The public API as a typed program uses it. Read by mypy and pyright, never run.

An ignore comment here marks a mistake that a user's type checker must find: mypy fails when it finds none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import assert_type

import attrs

from aegis_core import (
    Call,
    Claim,
    Event,
    Health,
    Instance,
    LeaseLost,
    Node,
    Outcome,
    Resource,
    ResourceConflict,
    ResourceMetadata,
    Resync,
    Role,
    RoleChanged,
    Service,
    open_node,
)
from aegis_core.errors import CallTimeout


@attrs.frozen
class Balance:
    """What a typed method answers."""

    cents: int
    currency: str


accounts = Service("account-service", version="1.0.0", on_demand=("account:",), idle_release=60.0)


@accounts.method
async def balance(call: Call, currency: str, *, at: float = math.inf) -> Balance:
    """A method stays the function that it was."""
    assert_type(call.resource_id, str | None)
    assert_type(call.epoch, int)
    assert_type(call.claim, Claim | None)
    return Balance(cents=round(min(at, 0.0)), currency=currency)


@accounts.method(name="close", idempotent=True)
async def close_account(call: Call) -> None:
    """Decorated with options, it does, too."""


@accounts.on_acquire
async def load(claim: Claim) -> Balance:
    """What this returns becomes the claim's state."""
    return Balance(cents=claim.epoch, currency="EUR")


@accounts.on_release
async def store(claim: Claim) -> None:
    """Runs while the lease still holds."""
    claim.check()


@accounts.health
async def health() -> Health:
    """Asked before each heartbeat."""
    return Health.ONLINE


async def called_by_hand() -> None:
    """A test calls a handler with a call of its own making."""
    assert_type(await balance(Call(resource_id="account:42", epoch=3), "EUR", at=1.0), Balance)
    assert_type(await close_account(Call()), None)


async def served(node: Node) -> None:
    """Instances, claims and scopes."""
    async with node.serve(accounts, role=Role.STANDBY, group="default", ttl=30.0, priority=5) as instance:
        assert_type(instance, Instance)
        assert_type(instance.role, Role)
        assert_type(instance.claims, Mapping[str, Claim])
        claims = await instance.claim("account:1", "account:2", metadata=ResourceMetadata())
        assert_type(claims, tuple[Claim, ...])
        async with instance.own("matching-engine", role=Role.STANDBY, priority=10, wait=5.0, grace=1.0) as claim:
            assert_type(claim, Claim)
            assert_type(claim.epoch, int)
            assert_type(claim.remaining, float)
        await instance.transfer("account:1", to="account-service-2", reason="rebalancing")
        await instance.release("account:2")
        await instance.wait_role(Role.ACTIVE)
        await instance.drain(10.0)


async def called(node: Node) -> None:
    """Calls, bound methods, and what a failure says."""
    await node.call("account-service", "balance", {"currency": "EUR"}, resource_id="account:42", timeout=1.0)
    bound = node.bind(balance, resource_id="account:42", timeout=2.0)
    assert_type(await bound(currency="EUR"), Balance)
    await bound(currency=7)  # type: ignore[arg-type]
    await bound(amount=7)  # type: ignore[call-arg]
    try:
        await bound(currency="EUR")
    except CallTimeout as failure:
        assert_type(failure.outcome, Outcome)
    except ResourceConflict as conflict:
        assert_type(conflict.details, Mapping[str, object])
    except LeaseLost as lost:
        assert_type(lost.epoch, int)


async def watched(node: Node) -> None:
    """Events, and where a resource is."""
    assert_type(node.owner_of("account:42"), Resource | None)
    async with node.events(RoleChanged, service="account-service") as events:
        async for event in events:
            assert_type(event, RoleChanged | Resync)
            if not isinstance(event, Resync):
                assert_type(event.new, Role | None)
    async with node.events(resource_id="account:42") as everything:
        assert_type(await everything.receive(), Event | Resync)


async def main() -> None:
    """A node is opened for the length of a block."""
    async with open_node("memory://") as node:
        assert_type(node, Node)
    async with open_node(config="aegis.toml", plugins=[object()]) as node:
        await served(node)
    await node.serve(accounts)  # type: ignore[misc]


@accounts.method  # type: ignore[type-var]
def synchronous(call: Call) -> int:
    """A method is an async function."""
    return call.epoch


wrong = Service("wrong", versoin="1.0.0")  # type: ignore[call-arg]
