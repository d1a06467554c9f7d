"""How the blocks of ``open_node`` and ``serve`` end: what leaves them, in how much time, and what they leave behind.

The file is long, because each way out of a block is a sentence of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_backends.memory import open_memory
from aegis_core.backend import Backend, BackendAddress
from aegis_core.errors import (
    ConfigError,
    Forbidden,
    InstanceConflict,
    NodeCrashed,
    NotFound,
    StoreUnavailable,
    TransportUnavailable,
)
from aegis_core.events import Event, InstanceRegistered
from aegis_core.hookspecs import BackendRegistrar, ObserverRegistrar, hookimpl
from aegis_core.models import EndReason, Outcome, Role, ServiceInstance
from aegis_core.node import node as node_module
from aegis_core.node import reading
from aegis_core.node.claims import Claim
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.interrupting import Interrupt, interrupt_everywhere
from tests.node.faulty import Faults, names_key
from tests.node.working import make_service

INSTANCE_KEYS = names_key("service-instances")


class Refused(Exception):
    """What a user's own code raises."""


async def live_instances(node: Node) -> list[str]:
    """The ids of the live instances, as the store knows them."""
    return [i.instance_id for view in await node.registry.list_services() for i in view.instances]


# -- open_node -----------------------------------------------------------------------------------------------------


async def test_what_the_body_raises_leaves_open_node_as_itself(autojump_clock: MockClock) -> None:
    """Through open_node, serve and own, and never in a group."""
    error = Refused("mine")
    with pytest.raises(Refused) as caught:
        async with open_node("memory://") as node, node.serve(make_service()) as instance, instance.own("a"):
            raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Refused])
async def test_interrupts_leave_as_themselves_too(autojump_clock: MockClock, error: type[BaseException]) -> None:
    """From the body."""
    with pytest.raises(error):
        async with open_node("memory://") as node, node.serve(make_service()):
            raise error


async def test_cancelled_the_node_closes_at_once_and_cancellation_stays_outer(autojump_clock: MockClock) -> None:
    """Its instances deregister."""
    async with open_node("memory://a") as other:
        with trio.move_on_after(5) as scope:
            async with open_node("memory://a") as node, node.serve(make_service()) as instance:
                await instance.claim("a")
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == 5
        assert await live_instances(other) == []


async def test_a_failing_background_task_cancels_the_body_and_is_the_cause(autojump_clock: MockClock) -> None:
    """The block raises NodeCrashed from what happened."""
    faults = Faults()
    error = ValueError("the watch broke")
    with pytest.raises(NodeCrashed) as caught:
        async with faults.node() as node, node.serve(make_service()) as instance:
            faults.watch_error = error
            await instance.claim("a")
            await trio.sleep_forever()
    assert caught.value.__cause__ is error
    assert caught.value.cause == "ValueError: the watch broke"
    assert trio.current_time() < 5


async def test_the_cause_of_a_crash_deep_in_the_node_is_named(autojump_clock: MockClock) -> None:
    """Not the groups that it came through."""
    faults = Faults()
    error = ValueError("renewals break")
    with pytest.raises(NodeCrashed) as caught:
        async with faults.node() as node, node.serve(make_service()):
            faults.break_down(error, INSTANCE_KEYS)
            await trio.sleep_forever()
    assert caught.value.__cause__ is error
    assert caught.value.cause == "ValueError: renewals break"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_an_interrupt_in_a_background_task_is_raised_as_itself(
    autojump_clock: MockClock, error: BaseException
) -> None:
    """Python may deliver it anywhere."""
    faults = Faults()
    with pytest.raises(type(error)) as caught:
        async with faults.node() as node, node.serve(make_service()) as instance:
            faults.watch_error = error
            await instance.claim("a")
            await trio.sleep_forever()
    assert caught.value is error


async def test_a_body_that_raises_because_of_a_crash_does_not_hide_it(autojump_clock: MockClock) -> None:
    """The crash is what happened."""
    faults = Faults()
    with pytest.raises(NodeCrashed):
        async with faults.node() as node, node.serve(make_service()) as instance:
            faults.watch_error = ValueError("the watch broke")
            await instance.claim("a")
            try:
                await trio.sleep_forever()
            finally:
                raise Refused


async def test_cancelled_while_it_opens_a_node_leaves_nothing(autojump_clock: MockClock) -> None:
    """Where the first look at the store takes its time."""
    faults = Faults(lag=10)
    with trio.move_on_after(5) as scope:
        async with faults.node():
            pytest.fail("it opened")
    assert scope.cancelled_caught
    assert trio.current_time() == 5


async def test_a_registration_cancelled_while_it_is_committed_is_withdrawn(autojump_clock: MockClock) -> None:
    """Also by a node that closes, and whose feed is behind: the view is read until the withdrawal is through."""
    faults = Faults()
    async with open_node("memory://test") as other:
        with trio.move_on_after(0.01) as scope:
            async with faults.node() as node:
                faults.lag = 0.05
                faults.slow(10, INSTANCE_KEYS)
                async with node.serve(make_service(), instance_id="one"):
                    pytest.fail("it was registered")
        assert scope.cancelled_caught
        assert trio.current_time() < 1
        assert await live_instances(other) == []


def test_ctrl_c_ends_a_node_wherever_it_hits() -> None:
    """Whatever of the node's own code is at work as the block ends, nothing shielded stays behind."""

    async def program(interrupt: Interrupt) -> None:
        faults = Faults()

        def rescue() -> None:
            faults.watch_error = ValueError("rescued")
            faults.receiving.cancel()

        async with faults.node():
            interrupt.arm(rescue)

    interrupts = interrupt_everywhere(program, node_module, reading)
    assert [interrupt.place for interrupt in interrupts if interrupt.hung] == []
    assert "nursery.cancel_scope.cancel()" in [interrupt.place for interrupt in interrupts]


async def test_a_backend_that_cannot_be_opened_is_told_as_it_is(autojump_clock: MockClock) -> None:
    """No server there; or one without a store."""

    class Broken:
        @hookimpl
        def aegis_register_backends(self, register: BackendRegistrar) -> None:
            """Two that do not work."""
            register("down", self.down)
            register("storeless", self.storeless)

        @asynccontextmanager
        async def down(self, address: BackendAddress) -> AsyncIterator[Backend]:
            """Nobody there."""
            raise TransportUnavailable(reason="nobody listens", endpoint=address.location)
            yield

        @asynccontextmanager
        async def storeless(self, address: BackendAddress) -> AsyncIterator[Backend]:
            """A transport alone."""
            async with open_memory(BackendAddress("memory://", "memory", "")) as opened:
                yield attrs.evolve(opened, store=None)

    with pytest.raises(TransportUnavailable):
        async with open_node("down://x", plugins=[Broken()]):
            pytest.fail("it opened")
    with pytest.raises(ConfigError):
        async with open_node("storeless://x", plugins=[Broken()]):
            pytest.fail("it opened")


async def test_a_watch_that_fails_from_the_start_is_told_as_it_is(autojump_clock: MockClock) -> None:
    """Before there is a node that could crash."""
    faults = Faults(watch_error=StoreUnavailable(reason="no watch"))
    with pytest.raises(StoreUnavailable):
        async with faults.node():
            pytest.fail("it opened")


async def test_nothing_configured_is_a_config_error(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a silent node of its own."""
    monkeypatch.delenv("AEGIS_BACKEND", raising=False)
    with pytest.raises(ConfigError, match="memory://"):
        async with open_node():
            pytest.fail("it opened")


async def test_a_node_shows_what_it_is(autojump_clock: MockClock) -> None:
    """For whoever prints it."""
    async with open_node("memory://here") as node, node.serve(make_service(), instance_id="one") as instance:
        assert repr(node).startswith("<Node on memory://here: 1 instances, <Directory synced at revision ")
        assert repr(instance) == "<Instance one STANDBY ONLINE ready>"
        assert instance.ttl == 30
    assert repr(instance) == "<Instance one STANDBY OFFLINE closed>"
    assert not instance.ready


# -- serve ---------------------------------------------------------------------------------------------------------


async def test_leaving_serve_drains_and_deregisters(autojump_clock: MockClock) -> None:
    """Calls finish within the drain time, hooks run, then the id is free."""
    seen: list[str] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:
        async with node.serve(make_service(seen), instance_id="one") as instance:
            (claim,) = await instance.claim("a")
            for target in ({"resource_id": "a"}, {"instance_id": "one"}):
                nursery.start_soon(lambda t: other.call("svc", "work", {"seconds": 3}, **t), target)
            await trio.sleep(1)
        assert trio.current_time() == 3
        assert seen == ["released a"]
        assert claim.ended is EndReason.RELEASED
        assert await live_instances(other) == []
        assert other.owner_of("a") is None
        assert not node.hosted
        async with node.serve(make_service(), instance_id="one") as again:
            await again.claim("a")


async def test_draining_ends_after_ten_seconds(autojump_clock: MockClock) -> None:
    """What runs then is cut off."""
    seen: list[str] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(TransportUnavailable) as caught:
                await other.call("svc", "work", {"seconds": 100}, timeout=200)
            assert caught.value.outcome is Outcome.MAYBE_EXECUTED
            assert trio.current_time() == pytest.approx(11, abs=0.2)

        async with node.serve(make_service(seen)):
            nursery.start_soon(call)
            await trio.sleep(1)
        assert trio.current_time() == pytest.approx(11, abs=0.2)
        assert seen == ["cut off"]


async def test_with_an_exception_serve_ends_at_once(autojump_clock: MockClock) -> None:
    """Whatever runs is interrupted, on_release runs, the record is deleted; nothing of it runs on."""
    seen: list[str] = []
    async with open_node("memory://a") as node, open_node("memory://a") as other, trio.open_nursery() as nursery:

        async def call(**target: str) -> None:
            with pytest.raises(Exception, match=r"claim|stopped|lease ended"):
                await other.call("svc", "work", {"seconds": 100}, timeout=200, **target)  # type: ignore[call-overload]

        with pytest.raises(Refused):
            async with node.serve(make_service(seen), instance_id="one") as instance:
                await instance.claim("a")
                nursery.start_soon(lambda: call(resource_id="a"))
                nursery.start_soon(lambda: call(instance_id="one"))
                await trio.sleep(1)
                raise Refused
        assert trio.current_time() == pytest.approx(1, abs=0.2)
        assert sorted(seen) == ["cut off", "cut off", "released a"]
        assert await live_instances(other) == []


async def test_cancelled_serve_deregisters_in_limited_time(autojump_clock: MockClock) -> None:
    """At most two seconds, though the store is away and a hook hangs."""
    service = Service("svc", version="1.0.0")

    @service.on_release
    async def hang(claim: Claim) -> None:
        await trio.sleep_forever()

    faults = Faults()
    async with faults.node() as node:
        with trio.move_on_after(5) as scope:
            async with node.serve(service) as instance:
                (claim,) = await instance.claim("a")
                faults.cut()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(7, abs=0.2)
        assert claim.ended is EndReason.CLOSED
        faults.heal()


async def test_a_registration_that_is_given_up_is_withdrawn(autojump_clock: MockClock) -> None:
    """The id is free again, whatever became of the commit."""
    for seconds in (0.5, 5.5):
        faults = Faults()
        async with faults.node() as node, open_node("memory://test") as other:
            faults.slow(20, INSTANCE_KEYS)
            with trio.move_on_after(seconds), pytest.raises(StoreUnavailable) if seconds > 5 else trio.CancelScope():
                async with node.serve(make_service(), instance_id="one"):
                    pytest.fail("it was registered")
            await trio.sleep(2)
            assert await live_instances(other) == []
            assert not node.hosted
            async with other.serve(make_service(), instance_id="one") as instance:
                assert instance.ready


class CancelsOnRegistration:
    """A plug-in that cancels *scope* as soon as an instance is seen to be registered."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    @hookimpl
    def aegis_register_observers(self, register: ObserverRegistrar) -> None:
        """Watch."""
        register(self)

    def on_event(self, event: Event) -> None:
        """Cancel."""
        if isinstance(event, InstanceRegistered):
            self._scope.cancel()


async def test_a_block_that_is_cancelled_as_it_registers_leaves_no_instance_behind(autojump_clock: MockClock) -> None:
    """Its body never ran; the node does not answer for the instance any more, and its id is free."""
    scope = trio.CancelScope()
    async with open_node("memory://a", plugins=[CancelsOnRegistration(scope)]) as node:
        with scope:
            async with node.serve(make_service(), instance_id="one"):
                pytest.fail("it was cancelled before")
        await trio.sleep(0.1)
        assert scope.cancelled_caught
        assert not node.hosted
        before = trio.current_time()
        with pytest.raises(NotFound):
            await node.registry.claim("svc", "one", "a")
        assert trio.current_time() == before


async def test_an_instance_that_is_closed_while_it_registers_anew_does_not_come_back(autojump_clock: MockClock) -> None:
    """Nor does it keep the block from ending."""
    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other:
        async with node.serve(make_service()):
            await trio.sleep(1)
            faults.cut()
            await trio.sleep(40)
        assert trio.current_time() < 44
        faults.heal()
        await trio.sleep(100)
        assert await live_instances(other) == []


async def test_a_node_that_crashes_while_an_instance_registers_anew_says_so(autojump_clock: MockClock) -> None:
    """And waits for nothing."""
    faults = Faults()
    error = ValueError("a bug")
    with pytest.raises(NodeCrashed) as caught:
        async with faults.node() as node, open_node("memory://test") as other:
            async with node.serve(make_service(), instance_id="one"):
                faults.break_down(error, INSTANCE_KEYS)
                await other.registry.deregister("svc", "one")
                await trio.sleep_forever()
    assert caught.value.__cause__ is error
    assert trio.current_time() < 5


async def test_who_waits_for_a_registration_hears_that_the_instance_is_closed(autojump_clock: MockClock) -> None:
    """Or that it takes too long."""
    faults = Faults()
    async with faults.node() as node, trio.open_nursery() as nursery:
        async with node.serve(make_service()) as instance:
            faults.cut()
            await trio.sleep(30)
            with pytest.raises(StoreUnavailable) as caught:
                await instance.claim("a")
            assert caught.value.outcome is Outcome.NOT_SENT

            async def claim() -> None:
                with pytest.raises(Forbidden):
                    await instance.claim("a")

            nursery.start_soon(claim)
            await trio.sleep(1)
        faults.heal()


async def test_an_id_in_use_is_refused(autojump_clock: MockClock) -> None:
    """By this node or by another one; and what was refused leaves nothing."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), instance_id="one") as instance:
            for place in (node, other):
                with pytest.raises(InstanceConflict) as caught:
                    async with place.serve(make_service(), instance_id="one"):
                        pytest.fail("it was registered")
                assert caught.value.owner == "one"
            await trio.sleep(2)
            assert instance.ready
            assert await live_instances(other) == ["one"]


async def test_ids_are_minted_by_the_node(autojump_clock: MockClock) -> None:
    """From the service's name and eight hex digits of the node's own generator, at each start."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service()) as one, other.serve(make_service()) as two:
            for instance in (one, two):
                prefix, _, digits = instance.instance_id.rpartition("-")
                assert prefix == "svc"
                assert len(digits) == 8
                assert int(digits, 16) >= 0
            assert one.instance_id != two.instance_id


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0.5},
        {"ttl": 5},
        {"ttl": 30, "heartbeat_interval": 16},
        {"heartbeat_interval": 0},
        {"heartbeat_interval": -1},
        {"heartbeat_interval": "10"},
        {"heartbeat_interval": float("nan")},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
        {"ttl": float("inf"), "register": False},
        {"ttl": "30"},
        {"ttl": True},
        {"ttl": 86400.0 * 366},
        {"role": Role.ACTIVE, "register": False},
    ],
    ids=str,
)
async def test_times_that_cannot_be_are_config_errors(autojump_clock: MockClock, options: dict[str, object]) -> None:
    """Before anything is written."""
    from aegis_core.backend import Capabilities

    faults = Faults(capabilities=Capabilities(min_ttl=10))
    async with faults.node() as node:
        with pytest.raises(ConfigError):
            async with node.serve(make_service(), **options):  # type: ignore[arg-type]
                pytest.fail("it was registered")
        assert not faults.commits


async def test_the_configured_times_hold_where_none_are_given(autojump_clock: MockClock) -> None:
    """An interval that is configured belongs to the configured TTL only."""
    async with open_node("memory://a", config={"ttl": 20, "heartbeat_interval": 2}) as node:
        async with (
            node.serve(make_service(), metadata={"zone": "b"}, priority=3) as one,
            node.serve(make_service(), ttl=9) as two,
        ):
            view = await node.registry.get_service("svc")
            records = {i.instance_id: i for i in view.instances}
            first, second = records[one.instance_id], records[two.instance_id]
            assert (first.ttl, first.heartbeat_interval, first.priority) == (20, 2, 3)
            assert dict(first.metadata) == {"zone": "b"}
            assert (second.ttl, second.heartbeat_interval) == (9, 3)


async def test_a_plug_in_may_refuse_a_registration(autojump_clock: MockClock) -> None:
    """Its error is what serve raises."""

    class Guard:
        @hookimpl
        def aegis_check_registration(self, instance: ServiceInstance) -> None:
            """Refuse all."""
            raise Forbidden(operation="register", target=instance.instance_id, reason="not today")

    async with open_node("memory://a", plugins=[Guard()]) as node:
        with pytest.raises(Forbidden, match="not today"):
            async with node.serve(make_service()):
                pytest.fail("it was registered")


async def test_an_instance_that_is_not_registered_is_not_seen(autojump_clock: MockClock) -> None:
    """It serves, and leaves, all the same."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), register=False) as instance:
            assert instance.ready
            assert await live_instances(other) == []
            assert not node.hosted
            await instance.set_health(instance.health)
            await instance.drain()


async def test_a_closed_node_says_so(autojump_clock: MockClock) -> None:
    """Whatever is asked of it afterwards."""
    async with open_node("memory://a") as node, node.serve(make_service()) as instance:
        (claim,) = await instance.claim("a")
    await claim.release()
    with pytest.raises(StoreUnavailable) as caught:
        await node.runtime.shelter(trio.sleep, 1)
    assert caught.value.outcome is Outcome.NOT_SENT
