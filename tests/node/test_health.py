"""Health: by the instance's own word, by its service's check, and what it means for calls and claims."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import InvalidRequest, StoreUnavailable
from aegis_core.models import Health
from aegis_core.node.call import Call
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.faulty import Faults


def make_service(check: Callable[[], object] | None = None) -> Service:
    """A service that answers who it is; *check* says how it is."""
    service = Service("svc", version="1.0.0")

    @service.method
    async def who(call: Call) -> str:
        assert call.instance is not None
        return call.instance.instance_id

    if check is not None:

        @service.health
        async def health() -> Health:
            await trio.lowlevel.checkpoint()
            return check()  # type: ignore[return-value]  # what a user's code may well do

    return service


async def shown(node: Node, instance: Instance) -> Health:
    """The health of *instance* as *node* sees it."""
    view = await node.registry.get_service("svc")
    return next(i.health for i in view.instances if i.instance_id == instance.instance_id)


async def test_an_unhealthy_instance_leaves_the_rotation_and_owns_on(autojump_clock: MockClock) -> None:
    """Calls by service go elsewhere, calls for what it owns still come; and it may say that it is well again."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), instance_id="one") as one, other.serve(make_service(), instance_id="two"):
            await one.claim("a")
            await one.set_health(Health.UNHEALTHY, "a test")
            assert one.health is Health.UNHEALTHY
            await trio.sleep(0.1)
            assert {await other.call("svc", "who") for _ in range(4)} == {"two"}
            assert await other.call("svc", "who", resource_id="a") == "one"
            assert await shown(other, one) is Health.UNHEALTHY
            await one.set_health(Health.ONLINE)
            await trio.sleep(0.1)
            assert {await other.call("svc", "who") for _ in range(4)} == {"one", "two"}


async def test_offline_is_not_to_be_said(autojump_clock: MockClock) -> None:
    """Who has left is."""
    async with open_node("memory://a") as node:
        async with node.serve(make_service()) as instance:
            with pytest.raises(InvalidRequest):
                await instance.set_health(Health.OFFLINE)
            assert instance.health is Health.ONLINE
        assert instance.health is Health.OFFLINE


async def test_the_services_check_is_asked_in_every_interval(autojump_clock: MockClock) -> None:
    """What it says is what is shown."""
    asked: list[float] = []
    answers = [Health.ONLINE, Health.UNHEALTHY, Health.UNHEALTHY, Health.ONLINE]

    def check() -> Health:
        asked.append(trio.current_time())
        return answers[min(len(asked), len(answers)) - 1]

    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(check)) as instance:
            for expected in answers:
                await trio.sleep(1)
                assert await shown(other, instance) is expected
                await trio.sleep(9)
    assert asked[:4] == [0, 10, 20, 30]


def fail() -> Health:
    """A check that raises."""
    raise ValueError("cannot tell")


@pytest.mark.parametrize(
    "check",
    [fail, lambda: None, lambda: Health.OFFLINE, lambda: "fine"],
    ids=["raises", "says-nothing", "says-offline", "says-a-word"],
)
async def test_a_check_that_cannot_tell_means_unhealthy(autojump_clock: MockClock, check: Callable[[], object]) -> None:
    """Whether it raises, or answers what is no health; the node lives on."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(check)) as instance:
            await trio.sleep(1)
            assert instance.health is Health.UNHEALTHY
            assert await shown(other, instance) is Health.UNHEALTHY
            assert await other.call("svc", "who") == instance.instance_id  # where all are UNHEALTHY, all are used


async def test_a_check_that_takes_longer_than_an_interval_means_unhealthy(autojump_clock: MockClock) -> None:
    """It is cancelled, and asked again later."""
    service = Service("svc", version="1.0.0")
    patience = trio.Event()
    cancelled = 0

    @service.health
    async def health() -> Health:
        nonlocal cancelled
        try:
            await patience.wait()
        except trio.Cancelled:
            cancelled += 1
            raise
        return Health.ONLINE

    async with open_node("memory://a") as node, node.serve(service) as instance:
        await trio.sleep(11)
        assert instance.health is Health.UNHEALTHY
        assert cancelled == 1
        patience.set()
        await trio.sleep(10)
        assert instance.health is Health.ONLINE


async def test_a_store_that_is_away_does_not_crash_the_check(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be told is told with the next renewal."""
    well = True

    def check() -> Health:
        return Health.ONLINE if well else Health.UNHEALTHY

    faults = Faults()
    async with faults.node() as node, open_node("memory://test") as other, node.serve(make_service(check)) as instance:
        await trio.sleep(5)
        well = False
        faults.cut()
        await trio.sleep(12)
        faults.heal()
        await trio.sleep(10)
        assert await shown(other, instance) is Health.UNHEALTHY
        assert instance.ready
    assert any("is told later" in record.getMessage() for record in caplog.records)


async def test_another_node_may_say_it(autojump_clock: MockClock) -> None:
    """It asks the instance, which says so itself."""
    async with open_node("memory://a") as node, open_node("memory://a") as other:
        async with node.serve(make_service(), instance_id="one") as one:
            await trio.sleep(0.1)
            await other.registry.set_health("svc", "one", Health.UNHEALTHY, "a test")
            assert one.health is Health.UNHEALTHY
            assert await shown(other, one) is Health.UNHEALTHY


async def test_an_instance_that_is_not_registered_keeps_its_health_to_itself(autojump_clock: MockClock) -> None:
    """There is nothing to write it into."""
    async with open_node("memory://a") as node, node.serve(make_service(), register=False) as instance:
        await instance.set_health(Health.UNHEALTHY)
        assert instance.health is Health.UNHEALTHY


async def test_health_is_told_by_a_new_registration_too(autojump_clock: MockClock) -> None:
    """What was said while the lease was lost is not forgotten."""
    faults = Faults()
    async with faults.node(request_timeout=1) as node, open_node("memory://test") as other:
        async with node.serve(make_service()) as instance:
            faults.cut()
            await trio.sleep(40)
            with pytest.raises(StoreUnavailable):
                await instance.set_health(Health.UNHEALTHY)
            faults.heal()
            await trio.sleep(10)
            assert await shown(other, instance) is Health.UNHEALTHY
