"""Ownership as a cancel scope: how the block of ``own`` ends, whatever happens inside and outside.

The file is long, because each promise of `own` is a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import InvalidRequest, LeaseLost, ResourceConflict, StoreUnavailable
from aegis_core.hookspecs import Principal, hookimpl
from aegis_core.models import EndReason, ResourceMetadata, Role
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key

RESOURCES = names_key("resources")


class Refused(Exception):
    """What a user's own code raises."""


class ForceAllowed:
    """A plug-in that lets everybody use force."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str) -> bool | None:
        """Allow it."""
        return True if operation == "force" else None


def make_service(**options: object) -> Service:
    """A service that adopts what it is given."""
    service = Service("svc", version="1.0.0")

    @service.on_acquire
    async def load(claim: Claim) -> str:
        await trio.lowlevel.checkpoint()
        return f"state of {claim.resource_id}"

    return service


async def test_the_body_runs_while_the_resource_is_owned(autojump_clock: MockClock) -> None:
    """And leaving it releases the resource; the instance is ACTIVE meanwhile."""
    async with (
        open_node("memory://a") as node,
        open_node("memory://a") as other,
        node.serve(make_service()) as instance,
    ):
        assert instance.role is Role.STANDBY
        async with instance.own("a", metadata=ResourceMetadata(priority=2)) as claim:
            assert claim.held
            assert claim.is_ready
            assert claim.state == "state of a"
            assert claim.metadata.priority == 2
            assert claim.epoch > 0
            assert instance.role is Role.ACTIVE
            await instance.wait_role(Role.ACTIVE)
            assert instance.claims == {"a": claim}
            await trio.sleep(100)
            assert claim.held
        assert claim.ended is EndReason.RELEASED
        assert instance.role is Role.STANDBY
        await instance.wait_role(Role.STANDBY)
        assert not instance.claims
        await trio.sleep(0.01)
        assert other.owner_of("a") is None


async def test_the_users_exception_leaves_as_itself(autojump_clock: MockClock) -> None:
    """Not in a group, and the resource is released."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        with pytest.raises(Refused, match="mine"):
            async with instance.own("a"):
                raise Refused("mine")
        assert node.owner_of("a") is None
        with pytest.raises(Refused):
            async with instance.own("a"):
                await trio.sleep(1)
                raise Refused


async def test_a_group_that_the_user_raises_leaves_as_it_is(autojump_clock: MockClock) -> None:
    """With nothing added."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        group = ExceptionGroup("mine", [Refused(), ValueError()])
        with pytest.raises(ExceptionGroup) as caught:  # noqa: ASYNC401 - the user's own group
            async with instance.own("a"):
                raise group
        assert caught.value is group


async def test_a_failing_on_acquire_is_raised_as_itself(autojump_clock: MockClock) -> None:
    """The body never ran, and the resource is free."""
    service = Service("svc", version="1.0.0")

    @service.on_acquire
    async def load(claim: Claim) -> None:
        raise Refused

    async with open_node("memory://") as node, node.serve(service) as instance:
        with pytest.raises(Refused):
            async with instance.own("a"):
                pytest.fail("the body ran")
        assert node.owner_of("a") is None


async def test_active_refuses_at_once_what_another_holds(autojump_clock: MockClock) -> None:
    """It names who."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            await rival.claim("a")
            with pytest.raises(ResourceConflict) as caught:
                async with instance.own("a"):
                    pytest.fail("the body ran")
            assert caught.value.owner == rival.instance_id
            assert trio.current_time() < 0.1  # a lost race or two


@pytest.mark.parametrize("role", list(Role))
async def test_what_the_instance_itself_holds_is_refused(autojump_clock: MockClock, role: Role) -> None:
    """Whether by claim() or by another block: one owner is one block."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        await instance.claim("a")
        async with instance.own("b"):
            for resource_id in ("a", "b"):
                with pytest.raises(ResourceConflict) as caught:
                    async with instance.own(resource_id, role=role):
                        pytest.fail("the body ran")
                assert caught.value.owner == instance.instance_id
                assert "this very instance has claimed it already" in caught.value.__notes__[0]
        assert instance.claims["a"].held


@pytest.mark.parametrize("role", list(Role))
async def test_of_two_blocks_that_begin_together_one_is_refused(autojump_clock: MockClock, role: Role) -> None:
    """However they interleave."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        outcomes: list[str] = []

        async def own() -> None:
            try:
                async with instance.own("a", role=role):
                    outcomes.append("owned")
                    await trio.sleep(1)
            except ResourceConflict as exc:
                outcomes.append(exc.owner)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(own)
            nursery.start_soon(own)
        assert sorted(outcomes) == sorted(["owned", instance.instance_id])
        assert node.owner_of("a") is None


async def test_bad_names_are_refused(autojump_clock: MockClock) -> None:
    """As for claim()."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        with pytest.raises(InvalidRequest):
            async with instance.own("%svc%default"):
                pytest.fail("the body ran")


# -- the claim ends under the body ---------------------------------------------------------------------------------


async def force(rival: Instance, owner: Instance) -> None:
    """Another one takes it by force."""
    await rival.claim("a", force=True)


async def erase_instance(rival: Instance, owner: Instance) -> None:
    """The owner's registration is deleted."""
    node: Node = rival._node
    await node.registry.deregister("svc", owner.instance_id)


async def transfer(rival: Instance, owner: Instance) -> None:
    """It is given to another one."""
    await owner.transfer("a", to=rival.instance_id)


ENDS: list[tuple[Callable[[Instance, Instance], Awaitable[None]], EndReason]] = [
    (force, EndReason.FORCED),
    (erase_instance, EndReason.ERASED),
    (transfer, EndReason.TRANSFERRED),
]


@pytest.mark.parametrize(("end", "reason"), ENDS, ids=[reason.value for _, reason in ENDS])
async def test_a_body_whose_claim_ended_is_cancelled_and_says_why(
    autojump_clock: MockClock, end: Callable[[Instance, Instance], Awaitable[None]], reason: EndReason
) -> None:
    """LeaseLost, with resource, epoch and reason."""
    async with open_node("memory://a") as node, open_node("memory://a", plugins=[ForceAllowed()]) as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            async with trio.open_nursery() as nursery:
                with pytest.raises(LeaseLost) as caught:
                    async with instance.own("a") as claim:
                        nursery.start_soon(end, rival, instance)
                        await trio.sleep_forever()
                assert caught.value.reason is reason
                assert caught.value.epoch == claim.epoch
                assert claim.ended is reason
            assert trio.current_time() < 1


@pytest.mark.parametrize(("end", "reason"), ENDS, ids=[reason.value for _, reason in ENDS])
async def test_a_body_that_had_finished_ends_silently(
    autojump_clock: MockClock, end: Callable[[Instance, Instance], Awaitable[None]], reason: EndReason
) -> None:
    """Its work was done; and its exception is its own, whatever became of the claim."""
    async with open_node("memory://a") as node, open_node("memory://a", plugins=[ForceAllowed()]) as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            async with trio.open_nursery() as nursery:
                async with instance.own("a"):
                    nursery.start_soon(end, rival, instance)
                    with trio.CancelScope(shield=True):
                        await trio.sleep(0.5)
                await trio.sleep(1)
            if reason is EndReason.ERASED:
                return
            await rival.release("a")
            async with trio.open_nursery() as nursery:
                with pytest.raises(Refused):
                    async with instance.own("a"):
                        nursery.start_soon(end, rival, instance)
                        try:
                            await trio.sleep_forever()
                        finally:
                            raise Refused


async def test_a_resource_past_its_time_to_live_ends_the_body(autojump_clock: MockClock) -> None:
    """As RESOURCE_TTL."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        with pytest.raises(LeaseLost) as caught:
            async with instance.own("a", metadata=ResourceMetadata(ttl_seconds=7)):
                await trio.sleep_forever()
        assert caught.value.reason is EndReason.RESOURCE_TTL
        assert trio.current_time() == 7
        assert node.owner_of("a") is None


async def test_a_nursery_in_the_body_raises_lease_lost_alone(autojump_clock: MockClock) -> None:
    """The cancellations of its tasks are no errors."""
    async with (
        open_node("memory://a") as node,
        open_node("memory://a") as other,
        node.serve(make_service()) as instance,
    ):
        with pytest.raises(LeaseLost):
            async with instance.own("a"), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                await other.registry.deregister("svc", instance.instance_id)


async def test_the_loop_of_the_documentation_owns_again(autojump_clock: MockClock) -> None:
    """``while True: try: async with own(...) ... except LeaseLost`` comes back after each loss."""
    async with (
        open_node("memory://a") as node,
        open_node("memory://a") as other,
        node.serve(make_service()) as instance,
    ):
        epochs: list[int] = []

        async def engine() -> None:
            while True:
                try:
                    async with instance.own("a", role=Role.STANDBY) as claim:
                        epochs.append(claim.epoch)
                        await trio.sleep_forever()
                except LeaseLost:
                    continue

        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine)
            for _ in range(3):
                await trio.sleep(5)
                await other.registry.deregister("svc", instance.instance_id)
            await trio.sleep(5)
            assert instance.claims["a"].held
            nursery.cancel_scope.cancel()
        assert len(epochs) == 4
        assert epochs == sorted(set(epochs))


# -- ends of the program's own doing -------------------------------------------------------------------------------


async def by_claim(instance: Instance) -> None:
    """`Claim.release`."""
    await instance.claims["a"].release()


async def by_instance(instance: Instance) -> None:
    """`Instance.release`."""
    await instance.release("a")


async def by_drain(instance: Instance) -> None:
    """`Instance.drain`."""
    await instance.drain()


@pytest.mark.parametrize("release", [by_claim, by_instance, by_drain])
@pytest.mark.parametrize("inside", [True, False], ids=["by the body", "by another task"])
async def test_what_the_program_itself_releases_ends_silently(
    autojump_clock: MockClock,
    release: Callable[[Instance], Awaitable[None]],
    inside: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The body is cancelled, the block is left without an error."""
    reached: list[str] = []
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        async with trio.open_nursery() as nursery:
            async with instance.own("a") as claim:
                if inside:
                    await release(instance)
                    reached.append("after the release")
                else:
                    nursery.start_soon(release, instance)
                    await trio.sleep_forever()
            reached.append("after the block")
        assert claim.ended is EndReason.RELEASED
        assert reached == ["after the block"]
        assert node.owner_of("a") is None
        assert trio.current_time() == 0


async def test_closing_the_instance_ends_bodies_elsewhere_silently(autojump_clock: MockClock) -> None:
    """A block in a task that outlives ``serve`` is cancelled and just ends."""
    ended: list[EndReason | None] = []
    async with open_node("memory://") as node, trio.open_nursery() as nursery:

        async def engine(instance: Instance, began: trio.Event) -> None:
            async with instance.own("a") as claim:
                began.set()
                await trio.sleep_forever()
            ended.append(claim.ended)

        async def serve_and_fail() -> None:
            async with node.serve(make_service()) as instance:
                began = trio.Event()
                nursery.start_soon(engine, instance, began)
                await began.wait()
                raise Refused

        with pytest.raises(Refused):
            await serve_and_fail()
        await trio.sleep(1)
        assert ended == [EndReason.CLOSED]
        async with node.serve(make_service()) as instance:
            began = trio.Event()
            nursery.start_soon(engine, instance, began)  # noqa: ASYNC111 - the order of the blocks is what is tested
            await began.wait()
        await trio.sleep(1)
        assert ended == [EndReason.CLOSED, EndReason.RELEASED]


async def test_outer_cancellation_stays_outer(autojump_clock: MockClock) -> None:
    """The block is cancelled, the resource released in limited time, and the outer scope catches it."""
    async with open_node("memory://") as node, node.serve(make_service()) as instance:
        with trio.move_on_after(2) as scope:
            async with instance.own("a"):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == 2
        assert node.owner_of("a") is None


async def test_leaving_takes_limited_time_when_the_store_is_away(autojump_clock: MockClock) -> None:
    """A second; the record goes when the store answers again."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        with trio.move_on_after(1):
            async with instance.own("a"):
                faults.cut()
                await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(2)
        assert other.owner_of("a") is not None
        faults.heal()
        await trio.sleep(5)
        assert other.owner_of("a") is None
        with pytest.raises(Refused):
            async with instance.own("a"):
                faults.cut()
                raise Refused
        faults.heal()


async def test_calls_finish_when_the_body_has_finished(autojump_clock: MockClock) -> None:
    """As by release; being cancelled meanwhile does not stop that."""
    service = make_service()
    done: list[str] = []

    @service.method
    async def work(call: Call) -> None:
        await trio.sleep(3)
        done.append("done")

    async with open_node("memory://") as node, node.serve(service) as instance, trio.open_nursery() as nursery:

        async def call() -> None:
            await node.call("svc", "work", resource_id="a")

        async with instance.own("a") as claim:
            nursery.start_soon(call)
            await trio.sleep(1)
        assert done == ["done"]
        assert trio.current_time() == 3
        with trio.move_on_after(2) as scope:
            async with instance.own("a") as claim:
                nursery.start_soon(call)
                await trio.sleep(1)
        assert scope.cancelled_caught
        assert claim.leaving
        assert await claim.wait_ended() is EndReason.RELEASED
        assert done == ["done", "done"]


async def test_calls_wait_for_set_ready_where_the_block_asks_for_it(autojump_clock: MockClock) -> None:
    """on_acquire does not run; the state is what set_ready was given."""
    service = make_service()

    @service.method
    async def state(call: Call) -> object:
        return call.state

    async with open_node("memory://") as node, node.serve(service) as instance, trio.open_nursery() as nursery:
        answers: list[tuple[float, object]] = []

        async def call() -> None:
            answers.append((0, await node.call("svc", "state", resource_id="a")))

        async with instance.own("a", ready=False) as claim:
            nursery.start_soon(call)
            await trio.sleep(2)
            assert not claim.is_ready
            assert repr(claim) == f"<Claim 'a' epoch {claim.epoch} acquired>"
            assert await instance.claim("a") == (claim,)
            assert answers == []
            claim.set_ready("mine")
            await claim.wait_ready()
            await trio.sleep(0.1)
            assert answers == [(0, "mine")]
            claim.set_ready("newer")
            assert await node.call("svc", "state", resource_id="a") == "newer"


async def test_the_body_goes_on_for_its_grace_when_it_is_handed_over(autojump_clock: MockClock) -> None:
    """From ``leaving`` on, and no longer; handlers may take longer."""
    service = make_service()

    @service.method
    async def work(call: Call) -> str:
        await trio.sleep(4)
        return "done"

    seen: list[tuple[str, float]] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(service) as instance, other.serve(make_service()) as target:
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    assert await other.call("svc", "work", resource_id="a") == "done"
                    seen.append(("call", trio.current_time()))

                async def move() -> None:
                    await instance.transfer("a", to=target.instance_id)
                    seen.append(("moved", trio.current_time()))

                with pytest.raises(LeaseLost) as caught:
                    async with instance.own("a", grace=2) as claim:
                        nursery.start_soon(call)
                        await trio.sleep(0.5)
                        nursery.start_soon(move)
                        await claim.wait_leaving()
                        assert claim.held
                        assert trio.current_time() == 0.5
                        assert instance.role is Role.STANDBY
                        try:
                            await trio.sleep_forever()
                        finally:
                            seen.append(("body", trio.current_time()))
                            assert claim.held
                assert caught.value.reason is EndReason.TRANSFERRED
            assert seen == [("body", 2.5), ("call", 4.0), ("moved", 4.0)]
            await target.release("a")
            async with trio.open_nursery() as nursery:
                async with instance.own("a", grace=2) as claim:
                    nursery.start_soon(lambda: instance.transfer("a", to=target.instance_id))
                    await claim.wait_leaving()
                    await trio.sleep(1)
                assert claim.ended is EndReason.TRANSFERRED


async def test_a_claim_released_while_on_acquire_runs_for_a_block(autojump_clock: MockClock) -> None:
    """There is no body to end silently: the block says that it lost it."""
    service = Service("svc", version="1.0.0")
    began = trio.Event()

    @service.on_acquire
    async def load(claim: Claim) -> None:
        began.set()
        await trio.sleep_forever()

    async with open_node("memory://") as node, node.serve(service) as instance, trio.open_nursery() as nursery:

        async def release() -> None:
            await began.wait()
            await instance.claims["a"].release()

        nursery.start_soon(release)
        with pytest.raises(LeaseLost) as caught:
            async with instance.own("a"):
                pytest.fail("the body ran")
        assert caught.value.reason is EndReason.RELEASED


async def test_a_block_that_begins_while_the_lease_runs_out_is_interrupted(autojump_clock: MockClock) -> None:
    """What is acquired in the last moments of a lease is not worked on."""
    faults = Faults()
    async with faults.node(request_timeout=20) as node, node.serve(make_service()) as instance:
        faults.hold(trio.Event(), names_key("service-instances"))
        faults.slow(7, RESOURCES)
        await trio.sleep(19)
        with pytest.raises(LeaseLost) as caught:
            async with instance.own("a"):
                await trio.sleep_forever()
        assert caught.value.reason is EndReason.EXPIRED
        assert trio.current_time() == 26


async def test_what_was_forced_away_before_the_answer_is_no_success(autojump_clock: MockClock) -> None:
    """The commit was acknowledged, but somebody else has it by now."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test", plugins=[ForceAllowed()]) as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            slow = faults.slow(2, RESOURCES)

            async def rob() -> None:
                await slow.met.wait()
                await trio.sleep(1)
                await rival.claim("a", force=True)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(rob)
                with pytest.raises(LeaseLost) as caught:
                    async with instance.own("a"):
                        pytest.fail("the body ran")
            assert caught.value.reason is EndReason.FORCED
            assert rival.claims["a"].held


async def test_a_store_that_does_not_answer_is_told(autojump_clock: MockClock) -> None:
    """After the request timeout; what comes to be later is released."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        faults.cut()
        with pytest.raises(StoreUnavailable):
            async with instance.own("a"):
                pytest.fail("the body ran")
        assert trio.current_time() == 5
        faults.heal()
        await trio.sleep(5)
        assert other.owner_of("a") is None
