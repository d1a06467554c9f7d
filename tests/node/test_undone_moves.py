"""Moves that fail, are undone, or cannot be: who believes what afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import Delete, Transaction
from aegis_core.errors import InvalidRequest, StoreUnavailable
from aegis_core.models import Outcome, ResourceMetadata, Role
from aegis_core.names import target_key
from aegis_core.node.call import Call
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key


def is_move(transaction: Transaction) -> bool:
    """A change of role, with its audit record; renewals and places in the line are smaller."""
    return len(transaction.operations) > 2


def deletes(target: str) -> Callable[[Transaction], bool]:
    """The deletion of the record of *target*."""
    key = target_key(target)
    return lambda transaction: any(isinstance(op, Delete) and op.key == key for op in transaction.operations)


async def test_a_role_is_not_believed_in_while_a_change_of_it_may_still_arrive(autojump_clock: MockClock) -> None:
    """The change is written after its caller was told that its fate is open, and the watch does not tell of it yet."""
    faults, service = Faults(), Service("svc", version="1")
    async with (
        faults.node() as first,
        open_node("memory://test") as second,
        first.serve(service, role=Role.ACTIVE) as a,
        second.serve(service, role=Role.STANDBY) as b,
    ):
        await trio.sleep(1)
        (target,) = a.claims_table
        faults.late(8, is_move)
        faults.lose(is_move, times=10**6)
        with pytest.raises(StoreUnavailable) as caught:
            await first.registry.set_role("svc", Role.STANDBY, a.instance_id)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert target not in a.claims_table
        faults.deaf = True
        believers = []
        for _ in range(60):
            await trio.sleep(0.1)
            holders = [i for i in (a, b) if (claim := i.claims_table.get(target)) is not None and claim.held]
            believers.append(len(holders))
        assert set(believers) <= {0, 1}
        assert believers[-1] == 1


async def test_a_role_whose_transfer_failed_is_taken_again_for_good(autojump_clock: MockClock) -> None:
    """What was given up for the transfer is deleted late, and must not delete what its instance has again since."""
    faults, service, go_on = Faults(), Service("svc", version="1"), trio.Event()
    async with (
        faults.node() as first,
        open_node("memory://test") as second,
        first.serve(service, role=Role.ACTIVE) as a,
        second.serve(service, role=Role.STANDBY) as b,
    ):
        await trio.sleep(1)
        (target,) = a.claims_table
        faults.break_down(InvalidRequest.at("$", "by the test"), names_key("transfers"))
        faults.hold(go_on, deletes(target), times=2)

        async def transfer() -> None:
            reply = await a.transfer(target, to=b.instance_id)
            assert [(f.resource_id, f.error_code) for f in reply.failed] == [(target, StoreUnavailable.code)]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(transfer)
            await trio.sleep(2)
            claim = a.claims_table[target]
            go_on.set()
        await trio.sleep(2)
        assert claim.held
        assert (a.role, b.role) == (Role.ACTIVE, Role.STANDBY)


async def test_a_bulk_claim_that_is_undone_keeps_what_was_held_before(autojump_clock: MockClock) -> None:
    """What was only confirmed stays, under the same epoch and with the metadata of before."""
    service = Service("svc", version="1")
    async with (
        open_node("memory://", config={"max_resources_per_instance": 5000}) as node,
        node.serve(service) as a,
        node.serve(service) as b,
    ):
        before = ResourceMetadata(tags=("old",))
        (claim,) = await a.claim("kept", metadata=before)
        await b.claim("taken")
        changed = ResourceMetadata(tags=("new",), version=claim.metadata.version)
        reply = await a.bulk_claim([("kept", changed), *(f"r{i}" for i in range(1100)), "taken"], batch_size=500)
        assert reply.rollback_performed
        assert claim.held
        assert list(a.claims_table) == ["kept"]
        assert claim.metadata.tags == ("old",)


async def test_limits_of_claims_that_ended_are_forgotten(autojump_clock: MockClock) -> None:
    """What is remembered stays in proportion to what is held, and what is held still ends in time."""
    async with open_node("memory://") as node, node.serve(Service("svc", version="1")) as instance:
        (kept,) = await instance.claim("kept", metadata=ResourceMetadata(ttl_seconds=3600))
        for _ in range(300):
            (claim,) = await instance.claim("a", metadata=ResourceMetadata(ttl_seconds=86400))
            await claim.release()
        assert node.janitor.watched <= 70
        await trio.sleep(3590)
        assert kept.held
        await trio.sleep(20)
        assert not kept.held


@pytest.mark.parametrize("operation", ["transfer", "bulk_release"])
async def test_a_handler_cannot_move_what_it_runs_under(operation: str, autojump_clock: MockClock) -> None:
    """It would wait for its own end: it is refused at once, and nothing has ended."""
    service = Service("svc", version="1")

    @service.method
    async def go(call: Call, to: str) -> str:
        instance = call.instance
        assert instance is not None
        move: Callable[[], Awaitable[object]] = partial(instance.transfer, "a", to=to)
        if operation == "bulk_release":
            move = partial(instance.bulk_release, ["b", "a"])
        with pytest.raises(InvalidRequest, match=f"call {operation} after it has ended"):
            await move()
        return "refused"

    @service.on_acquire
    async def load(_claim: object) -> None:
        await trio.lowlevel.checkpoint()

    async with open_node("memory://") as node, node.serve(service) as a, node.serve(service) as b:
        claims = await a.claim("a", "b")
        assert await node.call("svc", "go", {"to": b.instance_id}, resource_id="a") == "refused"
        assert trio.current_time() == 0
        assert all(claim.held for claim in claims)
