"""Several tasks of one instance that want the same resource: the instance stands in the line once."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from aegis_core.backend import Delete, Transaction
from aegis_core.errors import ResourceConflict
from aegis_core.models import Role
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key


def ends_a_place(transaction: Transaction) -> bool:
    """Whether somebody leaves a line by it."""
    return any(isinstance(op, Delete) and op.key.startswith("standbys") for op in transaction.operations)


async def wait_in_vain(instance: Instance, start: float, end: float, priority: int = 0) -> None:
    """Wait for "a" from *start* to *end*, when it is free no more than it was."""
    await trio.sleep_until(start)
    with pytest.raises(ResourceConflict):
        async with instance.own("a", role=Role.STANDBY, wait=end - start, priority=priority):
            pytest.fail("it was not free")


async def line_at(seconds: float, node: Node) -> list[str]:
    """Who waits for "a" then, first first."""
    await trio.sleep_until(seconds)
    return [place.instance_id for place in node.runtime.directory.snapshot.line("a")]


async def test_what_one_task_has_the_others_do_not_write_again(autojump_clock: MockClock) -> None:
    """They are told whose it is; and no write of theirs crosses its release."""
    faults, owners = Faults(), list[str]()
    faults.slow(0.05, names_key("resources"), times=100)
    async with open_node("memory://test") as node, faults.node() as other:
        async with node.serve(Service("svc")) as one, other.serve(Service("svc")) as two:

            async def wait_in_line() -> None:
                try:
                    async with two.own("a", role=Role.STANDBY) as claim:
                        await trio.sleep(1)
                        assert len(owners) == 5
                        assert claim.record.revision == claim.epoch
                except ResourceConflict as exc:
                    owners.append(exc.owner)

            async with trio.open_nursery() as nursery:
                async with one.own("a"):
                    for _ in range(6):
                        nursery.start_soon(wait_in_line)
                    await trio.sleep(1)
    assert owners == [two.instance_id] * 5


async def test_who_waits_no_more_leaves_its_place_to_the_next_task(autojump_clock: MockClock) -> None:
    """Which is where the instance was, before who came later; the last one leaves the line."""
    async with open_node("memory://test") as node, open_node("memory://test") as other:
        async with node.serve(Service("svc")) as one, other.serve(Service("svc")) as two:
            async with node.serve(Service("svc")) as three, one.own("a"), trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain, two, 0, 2)
                nursery.start_soon(wait_in_vain, two, 0.1, 4)
                nursery.start_soon(wait_in_vain, three, 1, 5)
                both = [two.instance_id, three.instance_id]
                assert await line_at(1.5, node) == both
                assert await line_at(3, node) == both
                assert await line_at(4.5, node) == both[1:]
                assert await line_at(6, node) == []


async def test_the_place_moves_by_the_priority_of_the_task_that_takes_it_over(autojump_clock: MockClock) -> None:
    """Before those of a lower one; and among its like it is as old as before."""
    async with open_node("memory://test") as node, open_node("memory://test") as other:
        async with node.serve(Service("svc")) as one, other.serve(Service("svc")) as two:
            async with node.serve(Service("svc")) as three, one.own("a"), trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain, three, 0, 9)
                nursery.start_soon(wait_in_vain, two, 0.1, 2)
                nursery.start_soon(wait_in_vain, two, 0.2, 4, 5)
                nursery.start_soon(wait_in_vain, two, 0.3, 6)
                ids = [three.instance_id, two.instance_id]
                assert await line_at(1, node) == ids
                assert await line_at(3, node) == ids[::-1]
                assert await line_at(5, node) == ids
                assert await line_at(7, node) == ids[:1]


@pytest.mark.parametrize("ends", ["together", "one by one at once"])
async def test_tasks_that_are_cancelled_leave_no_place_behind(ends: str, autojump_clock: MockClock) -> None:
    """Neither all by one scope, nor each by its own, in either order."""
    async with open_node("memory://test") as node, open_node("memory://test") as other:
        async with node.serve(Service("svc")) as one, other.serve(Service("svc")) as two, one.own("a"):
            for order in (1, -1):
                scopes = [trio.CancelScope() for _ in range(3)]

                async def wait_in_line(scope: trio.CancelScope) -> None:
                    with scope:
                        async with two.own("a", role=Role.STANDBY):
                            pytest.fail("it was not free")

                async with trio.open_nursery() as nursery:
                    for scope in scopes:
                        nursery.start_soon(wait_in_line, scope)
                        await trio.sleep(0.1)
                    if ends == "together":
                        nursery.cancel_scope.cancel()
                    for scope in scopes[::order]:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                assert await line_at(trio.current_time() + 1, node) == []
                assert other.runtime.directory.snapshot.places_of(two.lease_tag) == ()


async def test_who_cannot_use_the_place_that_was_left_to_it_leaves_it_too(autojump_clock: MockClock) -> None:
    """The instance has claimed the resource by another task, while the first one's promotion was under way."""
    faults = Faults()
    async with open_node("memory://test") as node, faults.node() as other:
        async with node.serve(Service("svc")) as one, other.serve(Service("svc")) as two:
            await one.claim("a")
            async with trio.open_nursery() as nursery:
                first = trio.CancelScope()

                async def stand_in_line() -> None:
                    with first:
                        async with two.own("a", role=Role.STANDBY):
                            pytest.fail("it was cancelled")

                nursery.start_soon(stand_in_line)
                await trio.sleep(0.1)
                nursery.start_soon(wait_in_vain, two, 0.1, 50)
                assert await line_at(1, node) == [two.instance_id]
                promotion = faults.hold(trio.Event(), names_key("resources"))
                await one.release("a")
                await promotion.met.wait()
                await two.claim("a")
                first.cancel()
            assert trio.current_time() < 2
            assert other.runtime.directory.snapshot.places_of(two.lease_tag) == ()


async def test_who_takes_over_a_place_that_is_deleted_late_takes_it_anew(autojump_clock: MockClock) -> None:
    """The task before it had left the line, but nobody could tell whether that was carried out."""
    faults = Faults()
    faults.late(3, ends_a_place, times=1000)
    async with open_node("memory://test") as node, faults.node() as other:
        async with node.serve(Service("svc")) as one, other.serve(Service("svc")) as two:
            async with one.own("a"), trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain, two, 0, 1)
                nursery.start_soon(wait_in_vain, two, 1.5, 20)
                assert await line_at(2.5, node) == [two.instance_id]
                faults.heal_commits()
                places = other.runtime.directory.snapshot.places_of(two.lease_tag)
                assert await line_at(10, node) == [two.instance_id]
                anew = other.runtime.directory.snapshot.places_of(two.lease_tag)
                assert anew[0].joined > places[0].joined
                assert await line_at(21, node) == []


async def test_what_is_given_while_the_place_passes_on_is_the_next_ones(autojump_clock: MockClock) -> None:
    """It is no stray: somebody waits for it all the time."""
    faults, held = Faults(), trio.Event()
    faults.hold(held, ends_a_place, times=1)
    async with open_node("memory://test") as node, faults.node() as other:
        async with node.serve(Service("svc")) as one, other.serve(Service("svc")) as two:
            await one.claim("a")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain, two, 0, 1)
                await trio.sleep(1.1)

                async def give() -> None:
                    await trio.sleep(0.1)
                    await one.transfer("a", to=two.instance_id)

                nursery.start_soon(give)
                async with two.own("a", role=Role.STANDBY, wait=5) as claim:
                    assert claim.record.reason == "transferred"
                    assert trio.current_time() < 3
