"""From a decision to the store: what is repeated, what is decided anew, and what a failure says."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import ANY, Capabilities, Conflict, Indeterminate
from aegis_core.engine.decision import Decision, NotYetKnown, Write, answered
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import InvalidRequest, ResourceNotFound, StoreUnavailable
from aegis_core.events import CircuitStateChanged
from aegis_core.models import Outcome, ResourceMetadata
from aegis_core.node.service import Service
from tests.node.faulty import Faults, names_key

RESOURCES = names_key("resources")
NO_CIRCUIT = {"failures": 1_000_000, "cooldown": 1}


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


def sent(faults: Faults, prefix: str = "resources") -> list[str]:
    """The ids of the transactions on keys that begin with *prefix*, as they were sent."""
    return [tx.id for _, tx in faults.commits if names_key(prefix)(tx)]


async def test_an_open_fate_is_settled_by_repeating_the_same_transaction(autojump_clock: MockClock) -> None:
    """Same id, same operations, whether it had been applied or not."""
    for fault in ("lose", "unanswered"):
        faults = Faults()
        async with faults.node() as node, node.serve(make_service()) as instance:
            getattr(faults, fault)(RESOURCES, times=1 if fault == "unanswered" else 4)
            (claim,) = await instance.claim("a")
            tried = [tx for _, tx in faults.commits if RESOURCES(tx)]
            assert len(tried) == (2 if fault == "unanswered" else 5)
            assert len({tx.id for tx in tried}) == 1
            assert len(set(tried)) == 1
            owner = node.owner_of("a")
            assert owner is not None
            assert owner.epoch == claim.epoch


async def test_a_commit_that_lands_between_two_tries_is_found(autojump_clock: MockClock) -> None:
    """It was reported lost, and is there when it is repeated."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        faults.late(0.02, RESOURCES)
        faults.lose(RESOURCES, times=5)
        (claim,) = await instance.claim("a")
        assert claim.held
        assert len(set(sent(faults))) == 1


async def test_a_conflict_is_decided_anew_on_a_level_view(autojump_clock: MockClock) -> None:
    """Under a new id; a view that was behind is no reason to refuse."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        faults.break_down(Conflict(key=None), RESOURCES, times=3)
        (claim,) = await instance.claim("a")
        assert claim.held
        assert len(set(sent(faults))) == 4


async def test_after_a_conflict_the_view_is_made_level_before_it_is_asked_again(autojump_clock: MockClock) -> None:
    """Whoever was quicker has written what the view may not show yet; asking it again as it is would be guessing."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()):
        faults.break_down(Conflict(key=None), names_key("roles"), times=3)
        synced: list[int] = []

        def decide(view: Snapshot) -> Decision[None]:
            synced.append(len(faults.syncs))
            return Decision((Write("roles.svc.default", None, ANY),), lambda _: None)

        await node.committer.decide(decide, timeout=5)
        assert [after - synced[0] for after in synced] == [0, 1, 2, 3]


async def test_what_never_left_is_not_sent(autojump_clock: MockClock) -> None:
    """The store said so each time, until the time was over."""
    faults = Faults()
    async with faults.node(store_circuit=NO_CIRCUIT) as node, node.serve(make_service()) as instance:
        faults.break_down(StoreUnavailable(reason="nothing was sent"), RESOURCES, times=1000)
        with pytest.raises(StoreUnavailable) as caught:
            await instance.claim("a")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert "the claim did not finish within 5 s" in caught.value.reason
        assert trio.current_time() == 5


@pytest.mark.parametrize("fault", ["lose", "cut", "then refused"])
async def test_what_may_have_arrived_is_maybe_executed(autojump_clock: MockClock, fault: str) -> None:
    """One try whose fate is open is enough, whatever the later ones say."""
    faults = Faults()
    async with faults.node(store_circuit=NO_CIRCUIT) as node, node.serve(make_service()) as instance:
        if fault == "cut":
            faults.on_commit = lambda _: faults.cut()
        elif fault == "lose":
            faults.lose(RESOURCES, times=1000)
        else:
            faults.lose(RESOURCES)
            faults.break_down(StoreUnavailable(reason="nothing was sent"), RESOURCES, times=1000)
        with pytest.raises(StoreUnavailable) as caught:
            await instance.claim("a")
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert trio.current_time() == 5
        faults.on_commit = None
        faults.heal()
        faults.heal_commits()


async def test_what_conflicted_to_the_end_is_not_sent(autojump_clock: MockClock) -> None:
    """A conflict changed nothing."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        faults.break_down(Conflict(key=None), RESOURCES, times=1000)
        with pytest.raises(StoreUnavailable) as caught:
            await instance.claim("a")
        assert caught.value.outcome is Outcome.NOT_SENT


async def test_a_refusal_is_believed_only_on_fresh_evidence(autojump_clock: MockClock) -> None:
    """Decided again after a sync; so is an answer that rests on the view."""
    async with Faults().node() as node:
        seen: list[int] = []

        def refuse(view: Snapshot) -> Decision[None]:
            seen.append(view.revision)
            raise ResourceNotFound(resource_id="a")

        with pytest.raises(ResourceNotFound):
            await node.committer.decide(refuse, timeout=1)
        assert len(seen) == 2

        def answer(view: Snapshot) -> Decision[int]:
            seen.append(view.revision)
            return answered(len(seen))

        assert await node.committer.decide(answer, timeout=1) == 4


async def test_what_the_view_may_not_judge_yet_is_decided_until_it_may(autojump_clock: MockClock) -> None:
    """With pauses; in vain, it says that nothing was sent."""
    async with Faults().node() as node:
        tries = 0

        def decide(view: Snapshot) -> Decision[int]:
            nonlocal tries
            tries += 1
            if tries < 6:
                raise NotYetKnown(view.revision)
            return answered(tries)

        assert await node.committer.decide(decide, timeout=1) == 6
        assert 0 < trio.current_time() < 1

        def never(view: Snapshot) -> Decision[int]:
            raise NotYetKnown(view.revision)

        with pytest.raises(StoreUnavailable) as caught:
            await node.committer.decide(never, timeout=1, what="a test")
        assert caught.value.outcome is Outcome.NOT_SENT


async def test_a_value_too_large_for_the_store_is_an_invalid_request(autojump_clock: MockClock) -> None:
    """Before it is sent; it says how large."""
    faults = Faults(capabilities=Capabilities(max_value=2000))
    async with faults.node() as node, node.serve(make_service()) as instance:
        with pytest.raises(InvalidRequest, match="at most 2000"):
            await instance.claim("a", metadata=ResourceMetadata(attributes={"x": "y" * 3000}))
        assert not sent(faults)
        with pytest.raises(InvalidRequest):
            async with node.serve(make_service(), metadata={"x": "y" * 3000}):
                pytest.fail("it was registered")


# -- the circuit of the store --------------------------------------------------------------------------------------


async def test_the_circuit_opens_half_opens_and_closes(autojump_clock: MockClock) -> None:
    """Operations fail at once while it is open, and the first that succeeds closes it."""
    faults = Faults()
    async with faults.node(store_circuit={"failures": 3, "cooldown": 2}, request_timeout=1) as node:
        async with node.events(CircuitStateChanged) as told:
            faults.refusing = True
            with pytest.raises(StoreUnavailable) as caught:
                await node.registry.list_services()
            assert trio.current_time() == 1
            assert (await told.receive()).new == "open"  # type: ignore[attr-defined]
            with pytest.raises(StoreUnavailable) as caught:
                await node.registry.list_services()
            assert caught.value.outcome is Outcome.NOT_SENT
            assert "circuit" in caught.value.reason
            assert trio.current_time() == 1
            faults.refusing = False
            await trio.sleep(2)
            await node.registry.list_services()
            changes = [await told.receive(), await told.receive()]
            assert [change.new for change in changes] == ["half-open", "closed"]  # type: ignore[attr-defined]


async def test_a_store_that_does_not_answer_at_all_opens_it_too(autojump_clock: MockClock) -> None:
    """Silence until the time is over is a failure; being cancelled by the caller is none."""
    faults = Faults()
    async with faults.node(store_circuit={"failures": 3, "cooldown": 50}, request_timeout=1) as node:
        faults.cut()
        for _ in range(10):
            with trio.move_on_after(0.5):
                await node.registry.list_services()
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="did not finish"):
                await node.registry.list_services()
        with pytest.raises(StoreUnavailable, match="circuit"):
            await node.registry.list_services()
        with pytest.raises(StoreUnavailable, match="circuit"):
            await node.committer.commit((Write("resources.x", None, ANY),))
        with pytest.raises(StoreUnavailable, match="circuit"):
            await node.committer.sync_within(1)
        faults.heal()


async def test_the_barrier_within_limits(autojump_clock: MockClock) -> None:
    """It returns, or says that there was no answer."""
    faults = Faults()
    async with faults.node(store_circuit=NO_CIRCUIT) as node:
        await node.committer.sync_within(1)
        assert trio.current_time() == 0
        faults.sync_refused = True
        with pytest.raises(StoreUnavailable) as caught:
            await node.committer.sync_within(1)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert trio.current_time() == 1


async def test_an_attempt_that_was_cancelled_while_half_open_is_withdrawn(autojump_clock: MockClock) -> None:
    """The next one is let through at once."""
    faults = Faults()
    async with faults.node(store_circuit={"failures": 1, "cooldown": 5}, request_timeout=1) as node:
        faults.cut()
        with pytest.raises(StoreUnavailable):
            await node.registry.list_services()
        await trio.sleep(5)
        with trio.move_on_after(0.1) as scope:
            await node.registry.list_services()
        assert scope.cancelled_caught
        faults.heal()
        await node.registry.list_services()


async def test_renewals_are_tried_while_the_circuit_is_open(autojump_clock: MockClock) -> None:
    """A lease is worth every try, and a renewal that succeeds closes it."""
    faults = Faults()
    async with faults.node(store_circuit={"failures": 1, "cooldown": 1000}) as node:
        async with node.serve(make_service()) as instance:
            tag = instance.lease_tag
            faults.break_down(Indeterminate(reason="a test"), RESOURCES)
            await instance.claim("a")
            faults.sync_refused = True
            with pytest.raises(StoreUnavailable):
                await node.registry.list_services()
            with pytest.raises(StoreUnavailable, match="circuit"):
                await instance.claim("b")
            faults.sync_refused = False
            await trio.sleep(100)
            assert instance.lease_tag == tag
            await instance.claim("b")


async def test_the_node_draws_its_ids_from_its_own_generator(autojump_clock: MockClock) -> None:
    """So that a run can be repeated."""
    ids = []
    for _ in range(2):
        faults = Faults(seed=7)
        async with faults.node() as node, node.serve(make_service()) as instance:
            await instance.claim("a")
            ids.append(([tx.id for _, tx in faults.commits], instance.instance_id))
    assert ids[0] == ids[1]
