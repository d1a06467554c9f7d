"""Two things that end at once: what a block, a drain or a lease leaves behind when another gets in its way."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from aegis_core import Call, Claim, Forbidden, LeaseLost, Role, Service, open_node
from aegis_core.backend import Delete, Put, Store, Transaction
from aegis_core.models import EndReason
from tests.node.faulty import Faults, names_key


def deletes(transaction: Transaction) -> bool:
    """Whether *transaction* deletes anything."""
    return any(isinstance(operation, Delete) for operation in transaction.operations)


def registers(transaction: Transaction) -> bool:
    """Whether *transaction* writes an instance record."""
    first = transaction.operations[0]
    return isinstance(first, Put) and first.key.startswith("service-instances.")


async def test_a_drain_that_is_cut_short_unwinds_what_it_was_moving(autojump_clock: MockClock) -> None:
    """The body is cancelled and ``on_release`` has run before a standby's body begins."""
    faults, plain, told = Faults(), Service("s"), []
    service = Service("s")

    @service.on_release
    async def release(claim: Claim) -> None:
        told.append("on_release")

    async def first(instance: object) -> None:
        async with instance.own("x", grace=8):  # type: ignore[attr-defined]
            try:
                await trio.sleep_forever()
            finally:
                told.append("cancelled")

    async with (
        faults.node("test") as here,
        open_node("memory://test") as there,
        there.serve(plain) as other,
        trio.open_nursery() as nursery,
    ):

        async def second() -> None:
            async with other.own("x", role=Role.STANDBY):
                told.append("next")

        with trio.move_on_after(3):
            async with here.serve(service) as instance:
                nursery.start_soon(first, instance)  # noqa: ASYNC111 - the order of the blocks is what is tested
                await trio.sleep(0.5)
                nursery.start_soon(second)
                await trio.sleep(0.5)
                faults.slow(0.4, deletes, times=5)
    assert told == ["cancelled", "on_release", "next"]


async def test_a_registration_that_arrives_with_the_end_of_its_block_is_taken_back(autojump_clock: MockClock) -> None:
    """The other nodes do not see the instance live on."""
    faults, service, go = Faults(), Service("s"), trio.Event()

    async def answer_later(store: Store, transaction: Transaction) -> tuple[int, ...]:
        revisions = await store.commit(transaction)
        await go.wait()
        return revisions

    async def leave(node: object) -> None:
        async with node.serve(service, ttl=3, heartbeat_interval=1) as instance:  # type: ignore[attr-defined]
            faults.cut()
            while instance.ready:  # noqa: ASYNC110 - virtual time
                await trio.sleep(0.1)
            rule = faults._rule(registers, answer_later, 1)
            await trio.sleep(2)
            faults.heal()
            while not rule.seen:  # noqa: ASYNC110 - virtual time
                await trio.sleep(0.01)
            await trio.sleep(0.3)
            go.set()
            raise KeyError

    async with faults.node("test") as node, open_node("memory://test") as other:
        with pytest.raises(KeyError):
            await leave(node)
        await trio.sleep(1)
        assert other.runtime.directory.snapshot.live("s") == ()


async def test_a_claim_on_its_way_does_not_outlive_a_drain(autojump_clock: MockClock) -> None:
    """It is refused, and its record is deleted again."""
    faults = Faults()
    async with faults.node("test") as node, node.serve(Service("s")) as instance, trio.open_nursery() as nursery:
        faults.slow(2, lambda tx: tx.operations[0].key == "resources.x")

        async def claim() -> None:
            with pytest.raises(Forbidden):
                await instance.claim("x")

        nursery.start_soon(claim)
        await trio.sleep(0.5)
        await instance.drain(trio.current_time() + 0.2)
        await trio.sleep(5)
        assert not instance.claims
        assert node.owner_of("x") is None


async def test_what_was_given_to_a_block_that_waits_no_more_goes_to_nobody(autojump_clock: MockClock) -> None:
    """Without ``on_acquire`` there is nobody who could work on it: it is free again."""
    faults, service, scope = Faults(), Service("s"), trio.CancelScope()

    async with (
        faults.node("test") as here,
        open_node("memory://test") as there,
        here.serve(service) as giver,
        there.serve(service) as taker,
        trio.open_nursery() as nursery,
    ):

        async def wait() -> None:
            with scope:
                async with taker.own("x", role=Role.STANDBY):
                    pytest.fail("the body ran")

        await giver.claim("x")
        nursery.start_soon(wait)
        await trio.sleep(1)
        faults.on_commit = lambda tx: scope.cancel() if len(tx.operations) == 2 else None
        await giver.transfer("x", to=taker.instance_id)
        await trio.sleep(5)
        assert not taker.claims
        assert here.owner_of("x") is None


async def test_a_hook_cancelled_by_a_lease_that_recovered_gives_its_resource_up(autojump_clock: MockClock) -> None:
    """No claim is held for ever without being ready."""
    faults, slow = Faults(), Service("s")

    @slow.on_acquire
    async def load(claim: Claim) -> None:
        await trio.sleep(9)

    async with (
        open_node("memory://test") as there,
        faults.node("test") as here,
        there.serve(Service("s")) as giver,
        here.serve(slow, ttl=10, heartbeat_interval=5) as taker,
    ):
        await giver.claim("x")
        await trio.sleep(4)
        await giver.transfer("x", to=taker.instance_id)
        await trio.sleep(0.2)
        assert taker.incarnation is not None
        lease = taker.incarnation.lease
        faults.cut()
        while not lease.suspended:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.05)
        faults.heal()
        await trio.sleep(5)
        assert lease.ended is None
        assert not taker.claims


async def test_a_waiting_block_ends_with_its_instance(autojump_clock: MockClock) -> None:
    """Leaving ``serve`` normally tells it, as leaving with an exception does."""
    service = Service("s")
    async with (
        open_node("memory://x") as node,
        node.serve(service) as holder,
        holder.own("a"),
        trio.open_nursery() as nursery,
        node.serve(service) as instance,
    ):

        async def wait() -> None:
            with pytest.raises(Forbidden):
                async with instance.own("a", role=Role.STANDBY):
                    pytest.fail("the body ran")

        nursery.start_soon(wait)
        await trio.sleep(1)


@pytest.mark.parametrize("again", range(5))
async def test_releasing_inside_a_block_lets_running_calls_finish(autojump_clock: MockClock, again: int) -> None:
    """However the tasks are scheduled; and who waits for the role hears of its end."""
    service, answers = Service("s"), []

    @service.method
    async def work(call: Call) -> int:
        await trio.sleep(1)
        return again

    async with open_node("memory://x") as node, node.serve(service) as instance, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await node.call("s", "work", resource_id="a"))

        async with instance.own("a") as claim:
            nursery.start_soon(ask)
            nursery.start_soon(instance.wait_role, Role.STANDBY)
            await trio.sleep(0.1)
            await claim.release()
        await instance.wait_role(Role.STANDBY)
    assert answers == [again]


async def test_a_transfer_whose_lease_ends_before_it_begins_moves_nothing(autojump_clock: MockClock) -> None:
    """It was checked while the lease ran out; what is claimed again under the next one stays."""
    faults, answering = Faults(latency=0.01), trio.Event()
    async with faults.node("test", ttl=10, request_timeout=20) as here, open_node("memory://test") as there:
        async with (
            here.serve(Service("s"), instance_id="one") as one,
            there.serve(adopting(), instance_id="two") as two,
        ):
            (old,) = await one.claim("x")
            faults.hold(answering, registers, times=1000)

            async def answer() -> None:
                await trio.sleep(10)
                answering.set()

            async with trio.open_nursery() as nursery:
                await trio.sleep_until(one.deadline - 0.3)
                assert old.held
                nursery.start_soon(answer)
                reply = await one.transfer("x", to="two")
            (failure,) = reply.failed
            assert (failure.error_code, failure.reason) == ("NOT_OWNER", "instance 'one' does not hold it any more")
            assert old.ended is EndReason.EXPIRED
            await trio.sleep(5)
            assert one.claims["x"].held
            assert not two.claims


async def test_what_is_claimed_in_bulk_while_its_release_is_acknowledged_is_held(autojump_clock: MockClock) -> None:
    """The release is known here by what the watch told; the late answer takes nothing away."""
    faults = Faults()
    async with faults.node("test") as node, node.serve(Service("s")) as instance:
        (old,) = await instance.claim("x")
        faults.slow(1, deletes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(old.release)
            await trio.sleep(0.5)
            assert node.owner_of("x") is None
            reply = await instance.bulk_claim(["x"])
            assert reply.done == ("x",)
            new = instance.claims["x"]
            assert (new.held, old.ended) == (True, EndReason.RELEASED)
        await trio.sleep(5)
        assert instance.claims["x"] is new
        assert new.held
        assert new.epoch > old.epoch


@pytest.mark.parametrize("ids", [("x",), ("x", "y")], ids=["one", "two"])
async def test_a_claim_that_is_committed_as_the_lease_ends_is_lost(
    ids: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """Also of a service without hooks, whose claims are ready at once; who was told so owns nothing later."""
    faults = Faults()
    async with faults.node("test") as here, open_node("memory://test") as there, here.serve(Service("s")) as instance:
        sent = trio.Event()
        rule = faults.hold(sent, names_key("resources"))

        async def disconnect() -> None:
            await rule.met.wait()
            await there.registry.disconnect("s", instance.instance_id)
            sent.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disconnect)
            with pytest.raises(LeaseLost) as caught:
                await instance.claim(*ids)
        assert caught.value.reason is EndReason.ERASED
        await trio.sleep(5)
        assert instance.ready
        assert not instance.claims
        assert there.owner_of("x") is None


def adopting() -> Service:
    """A service that takes over what is given to it."""
    service = Service("s")

    @service.on_acquire
    async def load(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    return service
