"""Transfers: the owner checks the target, ends its own work, and gives all in one transaction.

The file is long, because each way in which a move may end is a sentence of its own.
"""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import (
    Forbidden,
    InstanceNotFound,
    InvalidRequest,
    LeaseLost,
    NotOwner,
    ResourceConflict,
    ResourceLimitExceeded,
    ResourceNotFound,
)
from aegis_core.events import ResourceTransferred
from aegis_core.models import EndReason, Health, ResourceMetadata, Role
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key

RESOURCES = names_key("resources")


class Log:
    """What hooks and handlers of a service did, and when."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def note(self, what: str) -> None:
        """Remember it."""
        self.seen.append((what, trio.current_time()))


def make_service(log: Log | None = None, *, adopts: bool = True) -> Service:
    """A service that adopts what it is given, and says what it does."""
    service = Service("svc", version="1.0.0")
    log = log or Log()

    if adopts:

        @service.on_acquire
        async def load(claim: Claim) -> str:
            await trio.sleep(0.25)
            log.note(f"acquired by {claim.instance.instance_id}")
            return f"state of {claim.instance.instance_id}"

    @service.on_release
    async def unload(claim: Claim) -> None:
        assert claim.held
        await trio.sleep(0.25)
        assert claim.held
        log.note(f"released by {claim.instance.instance_id}")

    @service.method
    async def work(call: Call, seconds: float) -> str:
        await trio.sleep(seconds)
        assert call.instance is not None
        log.note(f"worked at {call.instance.instance_id}")
        return call.instance.instance_id

    return service


async def test_handlers_finish_and_on_release_runs_before_the_next_owner_begins(autojump_clock: MockClock) -> None:
    """New requests wait for the new owner; nothing overlaps, nothing is dropped."""
    log = Log()
    async with open_node("memory://a") as node, open_node("memory://a") as other, open_node("memory://a") as caller:
        async with node.serve(make_service(log), instance_id="one") as one:
            async with other.serve(make_service(log), instance_id="two") as two:
                (claim,) = await one.claim("a", metadata=ResourceMetadata(tags=("kept",)))
                began = trio.current_time()
                answers: list[str] = []

                async def call(seconds: float) -> None:
                    answers.append(await caller.call("svc", "work", {"seconds": seconds}, resource_id="a"))

                async with trio.open_nursery() as nursery, caller.events(ResourceTransferred) as moves:
                    nursery.start_soon(call, 2)
                    await trio.sleep(1)

                    async def move() -> None:
                        reply = await one.transfer("a", to="two", reason="a test")
                        assert reply.transferred == ("a",)
                        assert not reply.failed
                        assert reply.epochs["a"] > claim.epoch
                        assert claim.ended is EndReason.TRANSFERRED
                        assert two.lease_tag == node.runtime.directory.snapshot.held("a").lease  # type: ignore[union-attr]

                    nursery.start_soon(move)
                    await trio.sleep(0.1)
                    assert claim.held
                    assert claim.leaving
                    nursery.start_soon(call, 0)
                    event = await moves.receive()
                    assert isinstance(event, ResourceTransferred)
                    assert (event.old, event.instance_id, event.reason) == ("one", "two", "transferred")
                assert answers == ["one", "two"]
                assert two.claims["a"].state == "state of two"
                assert two.claims["a"].metadata.tags == ("kept",)
                assert [(what, at - began) for what, at in log.seen] == [
                    ("acquired by one", pytest.approx(0)),
                    ("worked at one", pytest.approx(2)),
                    ("released by one", pytest.approx(2.25)),
                    ("acquired by two", pytest.approx(2.5)),
                    ("worked at two", pytest.approx(2.5, abs=0.2)),
                ]
                (record,) = caller.runtime.directory.snapshot.transfers()
                assert (record.kind, record.reason, record.requested_by) == ("transfer", "a test", "instance:one")
                assert (record.from_instance_id, record.to_instance_id) == ("one", "two")
                assert record.resource_ids == ("a",)
                assert record.transfer_id.startswith("transfer_")


async def test_several_move_in_one_transaction(autojump_clock: MockClock) -> None:
    """With one audit record."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            ids = [f"id{number}" for number in range(20)]
            await one.claim(*ids)
            before = len(faults.commits)
            reply = await one.transfer(*ids, to=two.instance_id)
            assert set(reply.transferred) == set(ids)
            assert [len(tx.operations) for _, tx in faults.commits[before:]] == [21]
            await trio.sleep(1)
            assert set(two.claims) == set(ids)
            assert not one.claims


async def test_the_target_is_checked_before_anything_ends(autojump_clock: MockClock) -> None:
    """Whatever is wrong with it, the claim stays and its work goes on."""
    faults = Faults()
    async with faults.node(max_resources_per_instance=2) as node, open_node("memory://test") as other:
        async with node.serve(make_service(), instance_id="one") as one, other.serve(make_service()) as two:
            (claim, full) = await one.claim("a", "b")
            await two.claim("c")

            async def refused(kind: type[Exception], *ids: str, to: str) -> None:
                with pytest.raises(kind):
                    await one.transfer(*ids, to=to)
                assert claim.held
                assert not claim.leaving
                assert claim.is_ready

            await refused(InstanceNotFound, "a", to="nobody")
            await refused(InvalidRequest, "a", to="one")
            await refused(InvalidRequest, to=two.instance_id)
            await refused(InvalidRequest, "x y", to=two.instance_id)
            await refused(ResourceNotFound, "a", "d", to=two.instance_id)
            await refused(NotOwner, "a", "c", to=two.instance_id)
            await refused(ResourceLimitExceeded, "a", "b", to=two.instance_id)
            await two.set_health(Health.UNHEALTHY)
            await refused(Forbidden, "a", to=two.instance_id)
            await two.set_health(Health.ONLINE)
            async with other.serve(make_service(adopts=False)) as bare:
                await refused(ResourceConflict, "a", to=bare.instance_id)
            await two.drain()
            await refused(Forbidden, "a", to=two.instance_id)
            assert full.held


async def test_a_waiting_standby_takes_what_is_given_to_it(autojump_clock: MockClock) -> None:
    """Also one of a service that adopts nothing; it is the waiting block that runs."""
    began: list[float] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(adopts=False)) as one, other.serve(make_service(adopts=False)) as two:
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    async with two.own("a", role=Role.STANDBY) as claim:
                        began.append(trio.current_time())
                        assert claim.held
                        assert two.claims == {"a": claim}
                        await trio.sleep(5)

                await one.claim("a")
                nursery.start_soon(wait)
                await trio.sleep(1)
                await one.transfer("a", to=two.instance_id)
                await trio.sleep(1)
                assert began == [pytest.approx(1.25, abs=0.05)]
            assert node.runtime.directory.snapshot.places_of(two.lease_tag) == ()


async def test_an_owner_s_body_is_told_and_cancelled(autojump_clock: MockClock) -> None:
    """As LeaseLost(TRANSFERRED), before the commit."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with trio.open_nursery() as nursery:
                with pytest.raises(LeaseLost) as caught:
                    async with one.own("a") as claim:
                        nursery.start_soon(lambda: one.transfer("a", to=two.instance_id))
                        try:
                            await trio.sleep_forever()
                        finally:
                            assert claim.held
                            assert other.owner_of("a").owner_instance_id == one.instance_id  # type: ignore[union-attr]
                assert caught.value.reason is EndReason.TRANSFERRED
            await trio.sleep(0.1)
            assert two.claims["a"].held


async def test_if_the_commit_fails_they_are_released_and_listed(autojump_clock: MockClock) -> None:
    """Nobody has them then, and the body was interrupted all the same."""
    faults = Faults()
    async with faults.node(request_timeout=1) as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            (kept,) = await one.claim("kept")
            async with trio.open_nursery() as nursery:
                replies = []

                async def move() -> None:
                    replies.append(await one.transfer("a", to=two.instance_id))

                with pytest.raises(LeaseLost) as caught:
                    async with one.own("a") as claim:
                        faults.lose(names_key("transfers"), times=1000)
                        nursery.start_soon(move)
                        await trio.sleep_forever()
                assert caught.value.reason is EndReason.TRANSFERRED
            (reply,) = replies
            assert reply.transferred == ()
            (failure,) = reply.failed
            assert (failure.resource_id, failure.error_code) == ("a", "STORE_UNAVAILABLE")
            assert "did not finish" in failure.reason
            assert claim.ended is EndReason.RELEASED
            faults.heal_commits()
            await trio.sleep(10)
            assert other.owner_of("a") is None
            assert kept.held


async def test_a_commit_that_failed_and_lands_later_is_no_loss(autojump_clock: MockClock) -> None:
    """The source has released, or the target has it: never both, never a record without owner."""
    for late in (0.5, 3.0, 8.0):
        faults = Faults()
        async with faults.node(request_timeout=1) as node, open_node("memory://test") as other:
            async with node.serve(make_service()) as one, other.serve(make_service()) as two:
                (claim,) = await one.claim("a")
                faults.late(late, names_key("transfers"))
                faults.lose(names_key("transfers"), times=1000)
                await one.transfer("a", to=two.instance_id)
                assert not claim.held
                faults.heal_commits()
                await trio.sleep(30)
                owner = other.owner_of("a")
                assert not one.claims
                assert (owner is None) == (not two.claims)
                if owner is not None:
                    assert two.claims["a"].epoch == owner.epoch


async def test_what_was_lost_while_it_was_wound_down_is_listed(autojump_clock: MockClock) -> None:
    """The lease ended meanwhile: nothing of it is committed."""
    log = Log()
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(log)) as one, other.serve(make_service(log)) as two:
            (claim,) = await one.claim("a")
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(LeaseLost):
                        await other.call("svc", "work", {"seconds": 4}, resource_id="a")

                async def erase() -> None:
                    await trio.sleep(1)
                    await other.registry.deregister("svc", one.instance_id)

                nursery.start_soon(call)
                await trio.sleep(0.1)
                nursery.start_soon(erase)
                reply = await one.transfer("a", to=two.instance_id)
                assert reply.transferred == ()
                (failure,) = reply.failed
                assert (failure.resource_id, failure.error_code) == ("a", "LEASE_LOST")
                assert "lease ended" in failure.reason
                assert claim.ended is EndReason.ERASED
            assert not any(what.startswith("released") for what, _ in log.seen)


@pytest.mark.parametrize("asked", ["here", "there"])
async def test_work_that_does_not_end_is_released_not_given(autojump_clock: MockClock, asked: str) -> None:
    """A shielded handler could go on beside the new owner; who asks from another node is told the same."""
    service = make_service()

    @service.method
    async def stubborn(call: Call) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    async with open_node("memory://a", config={"drain": 2}) as node, open_node("memory://a") as other:
        async with node.serve(service) as one, other.serve(make_service()) as two:
            await one.claim("a")
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(LeaseLost):
                        await other.call("svc", "stubborn", resource_id="a", timeout=100)

                nursery.start_soon(call)
                await trio.sleep(1)
                registry = (node if asked == "here" else other).registry
                reply = await registry.transfer("svc", ["a"], one.instance_id, two.instance_id)
                (failure,) = reply.failed
                assert (failure.resource_id, failure.error_code) == ("a", "TIMEOUT")
                assert "does not end" in failure.reason
                assert reply.transferred == ()
                await trio.sleep(1)
                assert other.owner_of("a") is None
                assert not two.claims


async def test_of_two_transfers_at_once_one_moves_it(autojump_clock: MockClock) -> None:
    """The other one says that it is under way already."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            async with other.serve(make_service()) as three:
                await one.claim("a")
                replies = []

                async def move(to: str) -> None:
                    replies.append(await one.transfer("a", to=to))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(move, two.instance_id)
                    nursery.start_soon(move, three.instance_id)
                assert sorted(len(reply.transferred) for reply in replies) == [0, 1]
                (refused,) = [reply for reply in replies if not reply.transferred]
                (failure,) = refused.failed
                assert (failure.resource_id, failure.error_code) == ("a", "RESOURCE_CONFLICT")
                assert "already" in failure.reason
                await trio.sleep(1)
                assert len(two.claims) + len(three.claims) == 1


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.25, 0.3])
async def test_release_and_drain_wait_for_a_transfer_under_way(autojump_clock: MockClock, delay: float) -> None:
    """They return when the claim has ended, however it did."""
    for action in ("release", "drain", "claim.release"):
        async with open_node("memory://a") as node, open_node("memory://a") as other:
            async with node.serve(make_service()) as one, other.serve(make_service()) as two:
                (claim,) = await one.claim("a")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: one.transfer("a", to=two.instance_id))
                    await trio.sleep(delay)
                    if action == "release":
                        try:
                            await one.release("a")
                        except NotOwner as exc:
                            assert exc.owner == two.instance_id  # noqa: PT017 - the error is one of two ways
                    elif action == "drain":
                        await one.drain()
                    else:
                        await claim.release()
                    assert claim.ended in {EndReason.TRANSFERRED, EndReason.RELEASED}
                    assert not one.claims
                await trio.sleep(1)
                owner = node.owner_of("a")
                assert (owner is not None) == ("a" in two.claims)


async def test_cancelled_it_goes_on(autojump_clock: MockClock) -> None:
    """In the background."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            await one.claim("a")
            with trio.move_on_after(0.1) as scope:
                await one.transfer("a", to=two.instance_id)
            assert scope.cancelled_caught
            await trio.sleep(1)
            assert not one.claims
            assert two.claims["a"].held


async def test_an_adoption_that_fails_releases_the_resource(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it: it is logged."""
    broken = Service("svc", version="1.0.0")

    @broken.on_acquire
    async def load(claim: Claim) -> None:
        raise ValueError("cannot load")

    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(broken) as two:
            await one.claim("a")
            await one.transfer("a", to=two.instance_id)
            await trio.sleep(1)
            assert not two.claims
            assert node.owner_of("a") is None
    assert any("on_acquire of a failed" in record.getMessage() for record in caplog.records)


async def test_release_that_comes_from_another_node_is_told_that_a_transfer_was_quicker(
    autojump_clock: MockClock,
) -> None:
    """And whose it is now; not that it is free."""
    service = Service("svc")

    @service.on_release
    async def save(claim: Claim) -> None:
        await trio.sleep(1)

    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(service, instance_id="one") as one, node.serve(make_service(), instance_id="two"):
            await one.claim("a", "b")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(one.transfer, "a", to="two"))
                await trio.sleep(0.5)
                with pytest.raises(NotOwner) as caught:
                    await other.registry.release("svc", "one", "a", "b")
                assert caught.value.owner == "two"
                assert other.owner_of("b") is None


async def test_there_and_back_again_while_nobody_looks(autojump_clock: MockClock) -> None:
    """A view that sees only the last of several changes ends the old claim and adopts the new one."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service(), instance_id="one") as one, other.serve(make_service()) as two:
            (old,) = await one.claim("a")
            faults.deaf = True
            await other.registry.transfer("svc", ["a"], "one", two.instance_id, verify_ownership=True)
            assert old.ended is EndReason.TRANSFERRED
            await trio.sleep(1)
            await two.transfer("a", to="one")
            await trio.sleep(1)
            assert not one.claims
            faults.resync()
            await trio.sleep(1)
            assert one.claims["a"].epoch > old.epoch


@pytest.mark.parametrize("waiting", [0, 1, 40])
async def test_adoptions_do_not_wait_for_one_another(autojump_clock: MockClock, waiting: int) -> None:
    """However many are given at once, and however many of their hooks have to wait."""
    ids = [f"r{number}" for number in range(40)]
    slow = frozenset(ids[::-1][:waiting])
    service = Service("svc", version="1.0.0")

    @service.on_acquire
    async def load(claim: Claim) -> None:
        if claim.instance.instance_id == "two" and claim.resource_id in slow:
            await trio.sleep(1)

    async with open_node("memory://a") as node, node.serve(service, instance_id="one") as one:
        async with node.serve(service, instance_id="two") as two:
            await one.claim(*ids)
            await one.transfer(*ids, to="two")
            began = trio.current_time()
            await trio.sleep(0.5)
            assert {target for target, claim in two.claims.items() if not claim.is_ready} == slow
            for claim in two.claims.values():
                await claim.wait_ready()
            assert trio.current_time() <= began + 1
