"""Leases: for how long an instance believes that it is registered, and what becomes of it when it may not any more."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core import clock
from aegis_core.backend import Conflict
from aegis_core.errors import LeaseLost, StoreUnavailable
from aegis_core.events import LeaseEnded, ScopeOverran
from aegis_core.models import EndReason, Health, Outcome, ResourceMetadata
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.lease import Lease, margin
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults, SlantedClock, names_key

INSTANCE_KEYS = names_key("service-instances")
TTL, MARGIN, INTERVAL = 30.0, 3.0, 10.0
DEADLINE = TTL - MARGIN
"""When belief ends that is not renewed after time 0."""


def make_service() -> Service:
    """A service without anything."""
    return Service("svc", version="1.0.0")


def lease_of(instance: Instance) -> Lease:
    """The current lease."""
    assert instance.incarnation is not None
    return instance.incarnation.lease


@pytest.mark.parametrize(("ttl", "seconds"), [(30.0, 3.0), (2.5, 0.25), (1.0, 0.25)])
def test_margin_is_a_tenth_of_the_ttl_and_at_least_250_ms(ttl: float, seconds: float) -> None:
    """It covers drift, skew with the store, and unwinding."""
    assert margin(ttl) == seconds


async def test_belief_counts_from_the_first_sending_of_the_registration(autojump_clock: MockClock) -> None:
    """A registration that had to be repeated is no younger for it."""
    faults = Faults()
    faults.lose(INSTANCE_KEYS, times=4)
    async with faults.node() as node, node.serve(make_service()) as instance:
        assert trio.current_time() > 0
        assert instance.deadline == DEADLINE
        assert instance.ready


async def test_it_is_renewed_in_every_interval(autojump_clock: MockClock) -> None:
    """Each renewal comes at most an interval, and not much less, after the one before; the deadline moves along."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        await trio.sleep(200.3)
        sent = faults.times_of("service-instances")
        assert instance.deadline == sent[-1] + DEADLINE
        assert instance.lease_tag == lease_of(instance).tag
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert len(gaps) >= 20
    assert all(0.85 * INTERVAL <= gap <= INTERVAL for gap in gaps)
    assert len(set(gaps)) > 1


async def test_a_short_lease_is_renewed_in_every_interval_too(autojump_clock: MockClock) -> None:
    """Also where the interval is shorter than any other pause."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service(), ttl=1, heartbeat_interval=0.2) as instance:
        tag = instance.lease_tag
        await trio.sleep(20)
        assert instance.lease_tag == tag
        sent = faults.times_of("service-instances")
    assert all(later - earlier <= 0.2001 for earlier, later in itertools.pairwise(sent))


async def test_instances_of_one_node_renew_at_the_same_moments(autojump_clock: MockClock) -> None:
    """Renewals fall on a grid of a twentieth of the interval, so that one flush carries many."""
    faults = Faults()
    async with faults.node() as node:
        await trio.sleep(0.123)
        async with node.serve(make_service()):
            await trio.sleep(0.07)
            async with node.serve(make_service()):
                await trio.sleep(95)
                sent = [at for at in faults.times_of("service-instances") if at > 1]
    assert sent
    assert all(at % (INTERVAL / 20) == pytest.approx(0, abs=1e-6) for at in sent)


async def test_a_renewal_that_was_repeated_counts_from_its_first_sending(autojump_clock: MockClock) -> None:
    """The store may have taken it any time since."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        tag = instance.lease_tag
        lost = faults.lose(INSTANCE_KEYS, times=20)
        await trio.sleep(14)
        assert lost.seen == 20
        first = next(at for at in faults.times_of("service-instances") if at > 1)
        assert trio.current_time() > first + 1
        assert instance.deadline == first + DEADLINE
        assert instance.lease_tag == tag


async def test_a_renewal_acknowledged_after_the_deadline_is_not_believed(autojump_clock: MockClock) -> None:
    """An expiry under way may have erased it: the lease ends by its own clock, the instance registers anew."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        (claim,) = await instance.claim("a")
        tag = instance.lease_tag
        slow = faults.slow(25, INSTANCE_KEYS)
        await slow.met.wait()
        await trio.sleep_until(DEADLINE - 0.01)
        assert claim.held
        await trio.sleep_until(DEADLINE)
        assert not claim.held
        await claim.wait_ended()
        assert trio.current_time() == DEADLINE
        assert claim.ended is EndReason.EXPIRED
        await trio.sleep(2)  # and not only when the renewal that was not believed has expired
        assert instance.ready
        assert instance.lease_tag not in {"", tag}
        assert instance.claims["a"].epoch > claim.epoch


async def test_acknowledgement_at_the_deadline_itself_comes_too_late(autojump_clock: MockClock) -> None:
    """Whichever task runs first at that moment, belief is over."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        lease = lease_of(instance)
        faults.on_commit = lambda _: faults.slow(DEADLINE - trio.current_time(), INSTANCE_KEYS)
        await lease.wait_ended()
        faults.on_commit = None
        assert lease.ended is EndReason.EXPIRED
        assert trio.current_time() == DEADLINE


async def test_a_renewal_is_tried_until_the_deadline_and_never_beyond(autojump_clock: MockClock) -> None:
    """With pauses that grow, and not once under a lease that has ended."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        tag = instance.lease_tag
        rule = faults.lose(lambda tx: tag.encode() in getattr(tx.operations[0], "value", b""), times=100_000)
        reason = await lease_of(instance).wait_ended()
        assert reason is EndReason.EXPIRED
        assert trio.current_time() == DEADLINE
        tries = rule.seen
        await trio.sleep(100)
        assert rule.seen == tries
        assert 60 < tries < 400
        assert instance.ready


async def test_conflict_with_an_earlier_attempt_of_ones_own_is_adopted(autojump_clock: MockClock) -> None:
    """A store that forgot whose write it was says Conflict; the view says that it was ours."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        (claim,) = await instance.claim("a")
        tag = instance.lease_tag
        faults.unanswered(INSTANCE_KEYS)
        forgot = faults.break_down(Conflict(key=None), INSTANCE_KEYS)
        await trio.sleep(100)
        assert forgot.seen == 1
        assert instance.lease_tag == tag
        assert claim.held


async def test_conflict_while_the_store_does_not_tell_why_is_tried_again(autojump_clock: MockClock) -> None:
    """The circuit is open, so nobody can look what happened: the renewal goes on trying."""
    faults = Faults()
    async with faults.node(store_circuit={"failures": 1, "cooldown": 1}) as node:
        async with node.serve(make_service()) as instance:
            tag = instance.lease_tag
            faults.on_commit = lambda _: setattr(faults, "sync_refused", True)
            faults.lose(INSTANCE_KEYS)
            faults.break_down(Conflict(key=None), INSTANCE_KEYS, times=1)
            await trio.sleep(12)
            faults.on_commit = None
            faults.sync_refused = False
            await trio.sleep(60)
            assert instance.lease_tag == tag


async def test_an_erased_record_ends_the_lease_and_is_registered_anew(autojump_clock: MockClock) -> None:
    """Every claim ends, and what claim() held is claimed again under a new lease and epoch."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        async with node.events(LeaseEnded) as ends:
            (claim,) = await instance.claim("a")
            tag = instance.lease_tag
            await other.registry.deregister("svc", instance.instance_id)
            assert await claim.wait_ended() is EndReason.ERASED
            ended = await ends.receive()
            assert isinstance(ended, LeaseEnded)
            assert (ended.instance_id, ended.reason) == (instance.instance_id, "ERASED")
            await trio.sleep(1)
            again = instance.claims["a"]
            assert again.held
            assert again.epoch > claim.epoch
            assert instance.lease_tag != tag
            owner = other.owner_of("a")
            assert owner is not None
            assert owner.epoch == again.epoch


async def test_erased_while_the_watch_is_deaf_is_found_at_the_next_renewal(autojump_clock: MockClock) -> None:
    """A renewal's Conflict, and a look at the view once it is level, end the lease."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        lease = lease_of(instance)
        faults.deaf = True
        await other.registry.deregister("svc", instance.instance_id)
        await trio.sleep(5)
        assert lease.ended is None
        faults.resync()
        assert await lease.wait_ended() is EndReason.ERASED
        assert trio.current_time() < 12


async def test_a_lease_without_renewals_expires_and_its_body_is_cancelled_before(autojump_clock: MockClock) -> None:
    """The body half a margin before the deadline, belief at the deadline; then the instance comes back."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance, node.events(LeaseEnded) as ends:
        faults.on_commit = lambda _: None
        with pytest.raises(LeaseLost) as caught:
            async with instance.own("a") as claim:
                faults.cut()
                try:
                    await trio.sleep_forever()
                finally:
                    assert trio.current_time() == DEADLINE - MARGIN / 2
                    assert claim.held
        assert caught.value.reason is EndReason.EXPIRED
        assert caught.value.resource_id == "a"
        assert caught.value.epoch == claim.epoch
        assert trio.current_time() < DEADLINE
        await lease_of(instance).wait_ended()
        assert trio.current_time() == DEADLINE
        ended = await ends.receive()
        assert isinstance(ended, LeaseEnded)
        assert ended.reason == "EXPIRED"
        assert not instance.ready
        faults.heal()
        await trio.sleep(TTL)
        assert instance.ready
        assert not instance.claims


async def test_a_shielded_body_that_overruns_is_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It reaches no checkpoint that could stop it: an event and an ERROR say so, again and again."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance, node.events(ScopeOverran) as overruns:
        with pytest.raises(LeaseLost) as caught:
            async with instance.own("a") as claim:
                faults.cut()
                with trio.CancelScope(shield=True):
                    await trio.sleep_until(DEADLINE + 4)
                    assert not claim.held
                    with pytest.raises(LeaseLost):
                        claim.check()
                await trio.lowlevel.checkpoint()
        assert caught.value.reason is EndReason.EXPIRED
        faults.heal()
        told = []
        with trio.move_on_after(60):
            async for event in overruns:
                told.append(event)  # noqa: PERF401 - some are lost when time is over
    assert [type(event) for event in told] == [ScopeOverran] * 3
    assert all((event.resource_id, event.instance_id) == ("a", instance.instance_id) for event in told)
    assert [getattr(event, "seconds", None) for event in told] == pytest.approx([0.05, 1.05, 2.1], abs=0.01)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR and r.name == "aegis.events"]
    assert len(errors) == 3
    assert "only its epoch" in errors[0].getMessage()


async def test_what_was_claimed_is_claimed_again_with_its_metadata(autojump_clock: MockClock) -> None:
    """Under the new lease, and not what own() held, nor what was released meanwhile."""
    faults = Faults()
    service = make_service()
    prepared: list[tuple[str, int]] = []

    @service.on_acquire
    async def prepare(claim: Claim) -> str:
        prepared.append((claim.resource_id, claim.epoch))
        return f"state of {claim.resource_id}"

    async with faults.node() as node, node.serve(service) as instance:
        await instance.claim("a", metadata=ResourceMetadata(resource_type="book", tags=("x",)))
        await instance.claim("b")

        async def own_c() -> None:
            with pytest.raises(LeaseLost):
                async with instance.own("c"):
                    await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(own_c)
            await trio.sleep(1)
            faults.cut()
            await trio.sleep(50)
            faults.heal()
            await trio.sleep(TTL)
        assert sorted(instance.claims) == ["a", "b"]
        assert instance.claims["a"].metadata.tags == ("x",)
        assert instance.claims["a"].metadata.resource_type == "book"
        assert instance.claims["a"].state == "state of a"
        assert sorted(target for target, _ in prepared) == ["a", "a", "b", "b", "c"]


async def test_what_others_took_meanwhile_stays_theirs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The conflict is logged, the rest is claimed again."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as rival:
            await instance.claim("a", "b")
            faults.cut()
            await trio.sleep(TTL + 1)
            await rival.claim("a")
            faults.heal()
            await trio.sleep(TTL)
            assert list(instance.claims) == ["b"]
            assert list(rival.claims) == ["a"]
    said = [record.getMessage() for record in caplog.records]
    assert f"a is now held by {rival.instance_id}" in said


async def test_what_was_lost_is_not_forgotten_when_the_next_lease_is_lost_too(autojump_clock: MockClock) -> None:
    """Claiming again goes on until it has succeeded or somebody else has it."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        await instance.claim("a")
        faults.lose(names_key("resources"), times=200)
        await other.registry.deregister("svc", instance.instance_id)
        await trio.sleep(0.5)
        assert instance.ready
        assert not instance.claims
        await other.registry.deregister("svc", instance.instance_id)
        await trio.sleep(60)
        assert list(instance.claims) == ["a"]


async def test_claiming_again_waits_for_a_store_that_is_away(autojump_clock: MockClock) -> None:
    """It is tried until the store answers."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        await instance.claim("a")
        faults.lose(names_key("resources"), times=500)
        await other.registry.deregister("svc", instance.instance_id)
        await trio.sleep(25)
        assert instance.ready
        await trio.sleep(120)
        assert list(instance.claims) == ["a"]


async def test_what_is_lost_by_a_refusal_is_told(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that will not change is logged once, and the resource is left."""
    faults = Faults()
    async with faults.node(max_resources_per_instance=2) as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance:
            await instance.claim("a", "b")
            held = trio.Event()
            faults.hold(held, INSTANCE_KEYS)
            await other.registry.deregister("svc", instance.instance_id)
            node.runtime.settings = attrs.evolve(node.runtime.settings, max_resources_per_instance=1)
            held.set()
            await trio.sleep(1)
            assert not instance.claims
    assert any("could not claim again" in record.getMessage() for record in caplog.records)


async def test_a_claim_that_outlives_its_lease_is_told_so(autojump_clock: MockClock) -> None:
    """When the store is back it does not know the lease any more: that is neither an unknown instance nor another's resource."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance, other.serve(make_service()) as holder:
            await holder.claim("a")
            await node.runtime.directory.sync()
            lease = lease_of(instance)
            faults.cut()
            await trio.sleep_until(lease.deadline - 2)
            await other.registry.deregister("svc", instance.instance_id)

            async def heal() -> None:
                await lease.wait_ended()
                faults.heal()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(heal)
                with pytest.raises(LeaseLost) as caught:
                    await instance.claim("a")
            assert (caught.value.reason, caught.value.outcome) == (EndReason.EXPIRED, Outcome.REJECTED)
            assert not instance.claims


async def test_health_is_written_at_once(autojump_clock: MockClock) -> None:
    """A change does not wait for the next renewal."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        await instance.set_health(Health.UNHEALTHY, "a test")
        assert trio.current_time() == 0
        view = await other.registry.get_service("svc")
        assert [shown.health for shown in view.instances] == [Health.UNHEALTHY]
        await instance.set_health(Health.UNHEALTHY)
        assert len(faults.times_of("service-instances")) == 2


async def test_a_change_during_a_renewal_is_written_by_another_one(autojump_clock: MockClock) -> None:
    """The renewal under way was made from what was said before."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        slow = faults.slow(2, INSTANCE_KEYS)
        await slow.met.wait()
        began = trio.current_time()
        await instance.set_health(Health.UNHEALTHY)
        assert trio.current_time() == began + 2
        view = await other.registry.get_service("svc")
        assert [shown.health for shown in view.instances] == [Health.UNHEALTHY]


async def test_a_change_that_cannot_be_stored_in_time_says_so(autojump_clock: MockClock) -> None:
    """After the request timeout; a later renewal carries it."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        faults.cut()
        with pytest.raises(StoreUnavailable) as caught:
            await instance.set_health(Health.UNHEALTHY)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert trio.current_time() == 5
        faults.heal()
        await trio.sleep(INTERVAL)
        view = await other.registry.get_service("svc")
        assert [shown.health for shown in view.instances] == [Health.UNHEALTHY]


async def test_refreshing_a_lease_that_ended_returns(autojump_clock: MockClock) -> None:
    """There is nothing to write any more; who was waiting is woken by the end."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service()) as instance:
        lease = lease_of(instance)
        faults.cut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease.refresh)
            nursery.start_soon(lease.refresh)
            await lease.wait_ended()
        assert trio.current_time() == DEADLINE
        await lease.refresh()
        lease.end(EndReason.CLOSED)
        assert lease.ended is EndReason.EXPIRED
        assert lease.remaining == 0
        faults.heal()


async def test_time_in_which_the_machine_was_suspended_counts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Belief ends with the jump itself; bodies are cancelled within a second of it."""
    suspended = 0.0
    monkeypatch.setattr(clock, "_suspended", lambda: suspended)
    async with open_node("memory://suspended") as node, node.serve(make_service()) as instance:
        (kept,) = await instance.claim("b")
        await trio.sleep(5)
        with pytest.raises(LeaseLost) as caught:
            async with instance.own("a") as claim:
                await trio.sleep(0.7)
                assert claim.held
                suspended += 100
                assert not claim.held
                assert not instance.ready
                woken = trio.current_time()
                await trio.sleep_forever()
        assert caught.value.reason is EndReason.EXPIRED
        assert trio.current_time() <= woken + 1
        assert kept.ended is EndReason.EXPIRED
        await trio.sleep(TTL)
        assert instance.ready
        assert list(instance.claims) == ["b"]


async def test_a_clock_that_is_behind_loses_the_lease_before_the_store_does(autojump_clock: MockClock) -> None:
    """With a drift of 1 % the store's copy outlives belief, with what is left of the margin."""
    for rate in (0.99, 1.01):
        faults = Faults(clock=SlantedClock(rate, offset=1234.5))
        async with faults.node() as node, open_node("memory://test") as other:
            async with node.serve(make_service()) as instance:
                began = trio.current_time()
                faults.cut()
                await lease_of(instance).wait_ended()
                assert trio.current_time() - began == pytest.approx(DEADLINE / rate)
                await trio.sleep(1)
                assert (await other.registry.get_service("svc")).instances
                faults.heal()


async def test_a_renewal_in_the_last_moment_ends_the_body_and_nothing_else(autojump_clock: MockClock) -> None:
    """The body was interrupted for want of a lease and says so; claims go on and take calls again."""
    faults = Faults()
    service = make_service()
    interrupted = 0

    @service.method
    async def wait(call: object) -> str:
        nonlocal interrupted
        try:
            await trio.sleep_forever()
        finally:
            interrupted += 1

    @service.method
    async def ping(call: object) -> str:
        await trio.sleep(0.01)
        return "pong"

    async with faults.node() as node, open_node("memory://test") as other, node.serve(service) as instance:
        tag = instance.lease_tag
        (claim,) = await instance.claim("a")

        async def call() -> None:
            with pytest.raises(LeaseLost) as caught:
                await other.call("svc", "wait", resource_id="a", timeout=100)
            assert caught.value.reason is EndReason.EXPIRED

        with pytest.raises(LeaseLost) as caught:
            async with instance.own("b"), trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.sleep(1)
                faults.cut()
                with trio.CancelScope(shield=True):
                    await trio.sleep_until(DEADLINE - MARGIN / 4)
                    assert interrupted == 1
                    with pytest.raises(LeaseLost):
                        await other.call("svc", "ping", resource_id="a", timeout=0.1)
                    faults.heal()
                    await trio.sleep(0.5)
                await trio.lowlevel.checkpoint()
        assert caught.value.reason is EndReason.EXPIRED
        assert instance.lease_tag == tag
        assert claim.held
        assert claim.interrupted is None
        assert await other.call("svc", "ping", resource_id="a") == "pong"
        assert other.owner_of("b") is None


async def test_an_instance_that_is_not_registered_needs_no_renewal(autojump_clock: MockClock) -> None:
    """It has no name in the registry that somebody else could take."""
    faults = Faults()
    async with faults.node() as node, node.serve(make_service(), register=False) as instance:
        await trio.sleep(1000)
        assert instance.ready
        assert instance.deadline == math.inf
        assert not faults.commits


async def test_a_lease_shows_its_state(autojump_clock: MockClock) -> None:
    """For whoever prints it."""
    faults = Faults()
    show: Callable[[object], str] = repr
    async with faults.node() as node, node.serve(make_service(), instance_id="one") as instance:
        lease = lease_of(instance)
        assert show(lease) == "<Lease of one 27.0 s left>"
        assert lease.remaining == DEADLINE
        lease.end(EndReason.ERASED)
        assert show(lease) == "<Lease of one ERASED>"


async def test_a_lease_kept_alive_by_a_late_renewal_expires_where_work_still_runs_under_it(
    autojump_clock: MockClock,
) -> None:
    """Nobody may own what somebody still works on, as long as the store keeps it from them."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service()) as instance:
        with pytest.raises(LeaseLost):
            async with instance.own("a"):
                await trio.sleep(0.1)  # the change of role is written at once
                slow = faults.slow(25, INSTANCE_KEYS)
                await slow.met.wait()
                renewed = trio.current_time()
                with trio.CancelScope(shield=True):
                    await trio.sleep_until(renewed + TTL - 1)
                    assert other.owner_of("a") is not None
                    assert not instance.ready
                await trio.lowlevel.checkpoint()
        await trio.sleep(3)
        assert other.owner_of("a") is None
        assert instance.ready
