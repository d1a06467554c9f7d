"""An instance's limit holds for all that one node brings to it: claims, bulk claims, promotions and transfers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from aegis_core.errors import AegisError, ResourceLimitExceeded
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key

RESOURCES = names_key("resources")


def make_service() -> Service:
    """A service that adopts what it is given, and works as long as it is told."""
    service = Service("svc")

    @service.on_acquire
    async def load(claim: Claim) -> str:
        return claim.resource_id

    @service.method
    async def work(call: Call, seconds: float) -> str:
        await trio.sleep(seconds)
        assert call.resource_id is not None
        return call.resource_id

    return service


async def busy(node: Node, target: str, seconds: float, nursery: trio.Nursery) -> None:
    """A call for *target* runs, and goes on for *seconds*."""

    async def call() -> None:
        assert await node.call("svc", "work", {"seconds": seconds}, resource_id=target, timeout=60) == target

    nursery.start_soon(call)
    await trio.testing.wait_all_tasks_blocked()


async def test_transfers_at_once_never_exceed_the_limit_of_their_target(autojump_clock: MockClock) -> None:
    """The first that asks has the room; the other is refused before anything of it has ended."""
    faults = Faults(latency=0.01)
    async with (
        faults.node(max_resources_per_instance=2) as node,
        node.serve(make_service(), instance_id="one") as one,
        node.serve(make_service(), instance_id="two") as two,
        node.serve(make_service(), instance_id="three") as three,
    ):
        await one.claim("a", "b")
        (other,) = await two.claim("c")
        answers: list[object] = []

        async def move(source: Instance, *ids: str) -> None:
            try:
                answers.append((await source.transfer(*ids, to="three")).transferred)
            except ResourceLimitExceeded as exc:
                answers.append((exc.limit, exc.held, exc.asked))

        async with trio.open_nursery() as nursery:
            await busy(node, "a", 3, nursery)
            nursery.start_soon(move, one, "a", "b")
            await trio.sleep(1)
            nursery.start_soon(move, two, "c")
        assert answers == [(2, 2, 1), ("a", "b")]
        assert (other.held, other.leaving) == (True, False)
        await trio.sleep(1)
        assert sorted(three.claims) == ["a", "b"]


async def test_what_a_transfer_was_promised_no_claim_takes_meanwhile(autojump_clock: MockClock) -> None:
    """It is refused at once, not when the calls have ended for which the transfer waits."""
    async with (
        open_node("memory://", config={"max_resources_per_instance": 2}) as node,
        node.serve(make_service(), instance_id="one") as one,
        node.serve(make_service(), instance_id="two") as two,
    ):
        await one.claim("a")
        await two.claim("b")
        async with trio.open_nursery() as nursery:
            await busy(node, "a", 3, nursery)
            nursery.start_soon(lambda: one.transfer("a", to="two"))
            await trio.sleep(1)
            began = trio.current_time()
            with pytest.raises(ResourceLimitExceeded) as caught:
                await two.claim("c")
            assert (caught.value.limit, caught.value.held, caught.value.asked) == (2, 2, 1)
            reply = await two.bulk_claim(["c"], continue_on_error=True)
            assert [failure.error_code for failure in reply.failed] == ["RESOURCE_LIMIT_EXCEEDED"]
            assert (await node.registry.claim("svc", "two", "a")).conflicts == {"a": "one"}
            assert trio.current_time() - began < 1
        await trio.sleep(1)
        assert sorted(two.claims) == ["a", "b"]


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "given up"])
async def test_a_transfer_waits_for_claims_that_are_under_way(*, claimed: bool, autojump_clock: MockClock) -> None:
    """Whether there is room is known when they are settled."""
    faults = Faults()
    async with (
        faults.node(max_resources_per_instance=1) as node,
        node.serve(make_service(), instance_id="one") as one,
        node.serve(make_service(), instance_id="two") as two,
    ):
        (mine,) = await one.claim("a")
        settled, ended = trio.Event(), trio.Event()
        rule = faults.hold(settled, RESOURCES)
        answers: list[object] = []

        async def move() -> None:
            try:
                answers.append((await one.transfer("a", to="two")).transferred)
            except ResourceLimitExceeded as exc:
                answers.append((exc.held, exc.asked))
            ended.set()

        async with trio.open_nursery() as nursery, trio.open_nursery() as claiming:
            claiming.start_soon(two.claim, "b")
            await rule.met.wait()
            nursery.start_soon(move)
            await trio.sleep(1)
            assert (mine.leaving, answers) == (False, [])
            if claimed:
                settled.set()
            else:
                claiming.cancel_scope.cancel()
        await ended.wait()
        assert answers == [(1, 1) if claimed else ("a",)]
        await trio.sleep(1)
        assert sorted(two.claims) == (["b"] if claimed else ["a"])


async def test_the_room_of_a_transfer_that_fails_is_free_again(autojump_clock: MockClock) -> None:
    """And of one that was refused, or whose asker was cancelled while it was checked."""
    faults = Faults()
    async with (
        faults.node(max_resources_per_instance=2) as node,
        node.serve(make_service(), instance_id="one") as one,
        node.serve(make_service(), instance_id="two") as two,
    ):
        await one.claim("a")
        with pytest.raises(AegisError):
            await one.transfer("b", to="two")
        faults.latency = 1
        with trio.move_on_after(0.5) as scope:
            await one.transfer("a", to="two")
        assert scope.cancelled_caught
        faults.latency = 0
        faults.break_down(ResourceLimitExceeded(limit=1, asked=1, held=1, instance_id="two"), names_key("transfers"))
        assert [f.resource_id for f in (await one.transfer("a", to="two")).failed] == ["a"]
        await two.claim("c", "d")


async def test_forced_transfers_and_those_between_registered_instances_reserve_room(autojump_clock: MockClock) -> None:
    """Several at once fill the target up to its limit."""
    faults = Faults(latency=0.01)
    async with faults.node(max_resources_per_instance=3) as node:
        registry = node.registry
        for name in ("one", "two", "three"):
            await registry.register("svc", name, ttl=60)
        await registry.claim("svc", "one", "a", "b")
        await registry.claim("svc", "two", "c", "d")
        codes: Counter[str] = Counter()

        async def move(source: str, target: str) -> None:
            try:
                reply = await registry.transfer("svc", [target], source, "three")
            except ResourceLimitExceeded as exc:
                codes[exc.code] += 1
            else:
                codes.update(reply.transferred)

        async with trio.open_nursery() as nursery:
            for source, target in (("one", "a"), ("two", "c"), ("one", "b"), ("two", "d")):
                nursery.start_soon(move, source, target)
        assert codes.pop(ResourceLimitExceeded.code) == 1
        held = [r.resource_id for r in (await registry.query_resources(instance_id="three")).resources]
        assert sorted(codes) == sorted(held)
        assert len(held) == 3


Step = tuple[float, str, int, int]


async def carry_out(steps: Sequence[Step], limit: int) -> None:
    """Move and claim as *steps* say, with calls under way, and look at every commit whether a limit is exceeded."""
    faults = Faults(latency=0.01)
    most = 0

    async with faults.node(max_resources_per_instance=limit, drain=5) as node, trio.open_nursery() as nursery:
        served: list[Instance] = []

        def look(*_: object) -> None:
            nonlocal most
            view = node.runtime.directory.snapshot
            most = max([most, *(view.count(instance.lease_tag) for instance in served)])

        node.runtime.touched.append(look)

        async def step(after: float, kind: str, number: int, to: int) -> None:
            await trio.sleep(after)
            target = f"r:{number}"
            owned = node.runtime.directory.snapshot.owner(target)
            try:
                if owned is None or kind == "claim":
                    await served[to].claim(target)
                elif kind == "call":
                    await node.call("svc", "work", {"seconds": 1}, resource_id=target, timeout=20)
                else:
                    source = next(i for i in served if i.instance_id == owned[1].instance_id)
                    reply = await source.transfer(target, to=served[to].instance_id)
                    assert not any("at most" in f.reason for f in reply.failed), "it ended work for nothing"
            except AegisError:
                return

        for number in range(3):
            instance = await nursery.start(serve_for_ever, node, f"i{number}")
            served.append(instance)
        for number in range(2 * limit):
            await served[number % 2].claim(f"r:{number}")
        async with trio.open_nursery() as running:
            for each in steps:
                running.start_soon(step, *each)
        look()
        nursery.cancel_scope.cancel()
    assert 0 < most <= limit


async def serve_for_ever(
    node: Node, instance_id: str, task_status: trio.TaskStatus[Instance] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled."""
    async with node.serve(make_service(), instance_id=instance_id) as instance:
        task_status.started(instance)
        await trio.sleep_forever()


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.005, 0.5, 1.0]),
            st.sampled_from(["claim", "transfer", "call"]),
            st.integers(0, 7),
            st.sampled_from([2, 2, 0, 1]),
        ),
        min_size=5,
        max_size=30,
    ),
    limit=st.integers(1, 3),
)
def test_whatever_is_moved_and_claimed_at_once_no_limit_is_exceeded(steps: list[Step], limit: int) -> None:
    """And no work ends for a transfer that is refused for want of room afterwards."""
    trio.run(carry_out, steps, limit, clock=MockClock(autojump_threshold=0))
