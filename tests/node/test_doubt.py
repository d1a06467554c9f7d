"""A commit without an answer, and a conflict when it is repeated: nobody can know, so nobody is told that nothing happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import ABSENT, ANY, Delete, Put, Transaction
from aegis_core.engine.decision import Decision, Write, answered
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import Forbidden, NotOwner, ResourceNotFound, StoreUnavailable
from aegis_core.models import Outcome
from aegis_core.names import target_key
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key

RESOURCES = names_key("resources")


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


@attrs.frozen
class World:
    """A node behind faults, and another one with an instance that is quicker."""

    faults: Faults
    here: Node
    there: Node
    quick: Instance

    def meanwhile(self, act: Callable[[], Awaitable[object]], *, applied: bool = True) -> None:
        """The answer to the next commit on resources is lost, and *act* is done before it is repeated."""

        def wanted(transaction: Transaction) -> bool:
            return RESOURCES(transaction)

        (self.faults.unanswered if applied else self.faults.lose)(wanted)
        repeated = self.faults.hold(done := trio.Event(), wanted)

        async def go() -> None:
            await repeated.met.wait()
            try:
                await act()
            finally:
                done.set()

        self.here.runtime.nursery.start_soon(go)

    async def take(self, *targets: str) -> None:
        """The quicker one claims *targets*."""
        await self.quick.claim(*targets)

    async def free(self, *targets: str) -> None:
        """The records of *targets* are deleted, and put by nobody."""
        for target in targets:
            await self.there.runtime.store.commit(Transaction(f"free-{target}", (Delete(target_key(target), ANY),)))

    async def rob(self, *targets: str) -> None:
        """The records of *targets* go, and the quicker one claims them."""
        await self.free(*targets)
        await self.take(*targets)

    async def mix(self, taken: str, freed: str) -> None:
        """The quicker one has *taken*, and had *freed*: nothing there tells any more who wrote it before."""
        await self.rob(taken, freed)
        await self.quick.release(freed)

    def owner(self, target: str) -> str:
        """Who owns *target*, "" for nobody."""
        found = self.there.owner_of(target)
        return "" if found is None else found.owner_instance_id


@asynccontextmanager
async def world(*, request_timeout: float = 5.0) -> AsyncIterator[World]:
    """Both nodes."""
    faults = Faults()
    async with (
        faults.node(request_timeout=request_timeout) as here,
        open_node("memory://test") as there,
        there.serve(make_service(), instance_id="quick") as quick,
    ):
        yield World(faults, here, there, quick)


async def maybe(act: Awaitable[object]) -> StoreUnavailable:
    """*act* raises that the fate is unknown."""
    with pytest.raises(StoreUnavailable) as caught:
        await act
    assert caught.value.outcome is Outcome.MAYBE_EXECUTED
    return caught.value


async def register(node: Node, instance_id: str = "slow") -> None:
    """Register an instance that no node serves."""
    await node.registry.register("svc", instance_id, version="1.0.0")


# -- one operation each ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "lost"])
async def test_a_release_that_others_wrote_over_is_no_refusal(*, applied: bool, autojump_clock: MockClock) -> None:
    """The record names another owner: because it was released, or although it was not."""
    async with world() as it:
        await register(it.here)
        await it.here.registry.claim("svc", "slow", "a")
        it.meanwhile(lambda: it.take("a") if applied else it.rob("a"), applied=applied)
        error = await maybe(it.here.registry.release("svc", "slow", "a"))
        assert "'quick'" in error.reason
        assert it.owner("a") == "quick"
        with pytest.raises(NotOwner):  # of another release there is no doubt
            await it.here.registry.release("svc", "slow", "a")


async def test_a_release_by_its_own_node_is_no_refusal(autojump_clock: MockClock) -> None:
    """The claim has ended, and whoever asked is told what is known; also who waited for it."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow") as slow:
        await slow.claim("a")
        it.meanwhile(lambda: it.take("a"))
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(maybe, it.here.registry.release("svc", "slow", "a"))
        assert not slow.claims
        assert it.owner("a") == "quick"


async def test_a_release_that_timed_out_is_no_refusal(autojump_clock: MockClock) -> None:
    """Others own it by the time that it was given up."""
    async with world(request_timeout=1) as it, it.here.serve(make_service(), instance_id="slow") as slow:
        await slow.claim("a")
        it.faults.unanswered(RESOURCES)
        it.faults.lose(RESOURCES, times=1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(maybe, it.here.registry.release("svc", "slow", "a"))
            await trio.sleep(0.5)
            await it.take("a")
        it.faults.heal_commits()


async def test_a_claim_that_others_wrote_over_is_no_refusal(autojump_clock: MockClock) -> None:
    """For an instance of the node, and for one that nobody serves."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow") as slow:
        await register(it.here, "bare")
        it.meanwhile(lambda: it.rob("a"))
        await maybe(slow.claim("a"))
        it.meanwhile(lambda: it.rob("b"))
        await maybe(it.here.registry.claim("svc", "bare", "b"))
        assert not slow.claims
        assert it.owner("a") == it.owner("b") == "quick"


async def test_what_comes_of_a_claim_in_doubt_is_released(autojump_clock: MockClock) -> None:
    """It lands after all, once the other one has let go: nobody waits for it any more."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow") as slow:
        it.faults.late(14, RESOURCES)
        async with it.there.events(resource_id="a") as events, trio.open_nursery() as nursery:
            repeated = it.faults.hold(done := trio.Event(), RESOURCES)
            nursery.start_soon(maybe, slow.claim("a"))
            await repeated.met.wait()
            await it.take("a")
            done.set()
            await trio.sleep(5)
            await it.quick.release("a")
            await trio.sleep(20)
            told = [type(await events.receive()).__name__ for _ in range(4)]
        assert told == ["ResourceRegistered", "ResourceReleased"] * 2
        assert it.owner("a") == ""
        assert not slow.claims


async def test_a_claim_in_doubt_that_can_be_had_is_had(autojump_clock: MockClock) -> None:
    """Decided anew, nothing is refused: whatever became of the first try, the goal is reached."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow") as slow:

        async def touch() -> None:
            """Write the same again: the store forgets who wrote it first."""
            key = target_key("a")
            entry = await it.there.runtime.store.get(key)
            assert entry is not None
            await it.there.runtime.store.commit(Transaction("touch", (Put(key, entry.value, entry.revision),)))

        it.meanwhile(touch)
        (claim,) = await slow.claim("a")
        assert claim.held
        assert it.owner("a") == "slow"


async def test_what_was_refused_before_any_doubt_stays_refused(autojump_clock: MockClock) -> None:
    """Another resource of the same request, which no commit ever named."""
    async with world() as it:
        await register(it.here)
        await it.take("theirs")
        it.meanwhile(lambda: it.free("mine"))
        reply = await it.here.registry.claim("svc", "slow", "mine", "theirs")
        assert reply.registered == ("mine",)
        assert set(reply.conflicts) == {"theirs"}


async def test_a_transfer_that_others_wrote_over_is_no_refusal(autojump_clock: MockClock) -> None:
    """It may be on its way still."""
    async with world() as it:
        await register(it.here)
        await register(it.here, "heir")
        await it.here.registry.claim("svc", "slow", "a")
        it.meanwhile(lambda: it.rob("a"), applied=False)
        await maybe(it.here.registry.transfer("svc", ["a"], "slow", "heir"))


async def test_a_transfer_by_its_own_node_tells_the_doubt(autojump_clock: MockClock) -> None:
    """Among what failed, with the outcome."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow") as slow:
        await register(it.here, "heir")
        await slow.claim("a")
        it.meanwhile(lambda: it.rob("a"), applied=False)
        reply = await slow.transfer("a", to="heir")
        (failure,) = reply.failed
        assert (failure.resource_id, failure.error_code) == ("a", StoreUnavailable.code)
        assert Outcome.MAYBE_EXECUTED.value in failure.reason
        assert it.owner("a") == "quick"


async def test_a_deregistration_that_others_wrote_over_is_no_refusal(autojump_clock: MockClock) -> None:
    """Another lease has the name by then."""
    async with world() as it:
        await it.here.registry.register("svc", "slow", version="1.0.0", lease_id="mine")
        instances = names_key("service-instances")
        it.faults.unanswered(instances)
        repeated = it.faults.hold(done := trio.Event(), instances)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(maybe, it.here.registry.deregister("svc", "slow", lease_id="mine"))
            await repeated.met.wait()
            await it.there.registry.register("svc", "slow", version="1.0.0", lease_id="other")
            done.set()


# -- many -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("going_on", [True, False], ids=["continue", "all or nothing"])
async def test_a_bulk_claim_tells_the_doubt_of_each_id(*, going_on: bool, autojump_clock: MockClock) -> None:
    """And who owns it now; what no commit named is refused as ever."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow") as slow:
        await it.take("theirs")
        it.meanwhile(lambda: it.mix("a", "b"))
        wanted = ["a", "b", "theirs"] if going_on else ["a", "b"]
        reply = await it.here.registry.bulk_register("svc", "slow", wanted, continue_on_error=going_on)
        told = {f.resource_id: f.error_code for f in reply.failed}
        assert told == {"a": "STORE_UNAVAILABLE"} | ({"theirs": "RESOURCE_CONFLICT"} if going_on else {})
        assert {f.current_owner for f in reply.failed} == {"quick"}
        assert set(reply.done) == set(slow.claims) == ({"b"} if going_on else set())
        await trio.sleep(5)
        assert it.owner("b") == ("slow" if going_on else "")


@pytest.mark.parametrize("served", [True, False], ids=["served", "bare"])
@pytest.mark.parametrize("going_on", [True, False], ids=["continue", "all or nothing"])
async def test_a_bulk_release_tells_the_doubt_of_each_id(
    *, going_on: bool, served: bool, autojump_clock: MockClock
) -> None:
    """What is gone counts as released; what others own by now, nobody knows."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow"):
        name = "slow" if served else "bare"
        if not served:
            await register(it.here, name)
        await it.here.registry.claim("svc", name, "a", "b")
        it.meanwhile(lambda: it.mix("a", "b"))
        reply = await it.here.registry.bulk_release("svc", name, ["a", "b"], continue_on_error=going_on)
        assert [(f.resource_id, f.error_code, f.current_owner) for f in reply.failed] == [
            ("a", "STORE_UNAVAILABLE", "quick")
        ]
        assert reply.done == (("b",) if going_on else ())
        assert it.owner("a") == "quick"
        assert it.owner("b") == ("" if going_on else name)


# -- the rule -------------------------------------------------------------------------------------------------------


async def test_every_refusal_after_the_doubt_is_doubtful(autojump_clock: MockClock) -> None:
    """Of the engine, of a guarded store, and that there is no time left."""
    async with world() as it:
        committer, key = it.here.committer, "roles.svc.default"
        for last in ("engine", "guard", "time", "circuit"):
            it.faults.lose(names_key("roles"))
            decided = 0

            def decide(view: Snapshot, last: str = last) -> Decision[None]:
                nonlocal decided
                decided += 1
                if decided > 1 and last == "engine":
                    raise ResourceNotFound(resource_id="a")
                return Decision((Write(key, None, 12345),), lambda _: None)

            if last == "guard":
                error = Forbidden(operation="write", target=key, reason="no")
                it.faults.break_down(error, names_key("roles"))
            if last == "circuit":
                it.faults.on_commit = lambda _: setattr(it.faults, "sync_refused", True)
            await maybe(committer.decide(decide, timeout=1))
            it.faults.heal_commits()


async def test_a_success_leaves_no_doubt(autojump_clock: MockClock) -> None:
    """What is refused after it, in the same operation, is refused."""
    async with world() as it, it.here.serve(make_service(), instance_id="slow") as slow:
        it.faults.unanswered(RESOURCES)
        await slow.claim("a")
        with pytest.raises(ResourceNotFound):
            await it.here.registry.release("svc", "slow", "b")
        assert await it.here.committer.decide(lambda _: answered(ABSENT), timeout=1) == ABSENT
