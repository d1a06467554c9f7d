"""Hooks as a running node calls them: each plug-in is given to `open_node`, and changes what happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from aegis_core import Call, Claim, Instance, Role, Service, open_node
from aegis_core.backend import Backend, BackendAddress
from aegis_core.config import Settings, parse_backend
from aegis_core.engine.view import View
from aegis_core.errors import Forbidden
from aegis_core.events import Event
from aegis_core.hookspecs import (
    BackendRegistrar,
    BalancerRegistrar,
    CallInfo,
    MiddlewareRegistrar,
    ObserverRegistrar,
    Principal,
    Target,
    hookimpl,
)
from aegis_core.models import ServiceInstance, Standby
from aegis_core.plugins import load_plugins

ECHO = Service("echo-service")
SERVED: Counter[str] = Counter()


@ECHO.method
async def echo(call: Call, text: str = "") -> str:
    """Answer what was sent, and count it."""
    SERVED[text] += 1
    assert call.instance is not None
    return f"{call.instance.instance_id}: {text}"


@ECHO.on_acquire
async def adopt(_claim: Claim) -> None:
    """Take over whatever is transferred here."""


async def test_hook_register_backends_in_a_node() -> None:
    """A URL of a plug-in's scheme opens the plug-in's backend."""
    seen: list[BackendAddress] = []

    class Plugin:
        @hookimpl
        def aegis_register_backends(self, register: BackendRegistrar) -> None:
            register("recorded", self.open)

        @asynccontextmanager
        async def open(self, address: BackendAddress) -> AsyncIterator[Backend]:
            seen.append(address)
            async with load_plugins(Settings()).open_backend(parse_backend("memory://recorded")) as backend:
                yield backend

    async with open_node("recorded://x?ttl=9&shards=2", plugins=[Plugin()]) as node:
        assert node.runtime.settings.ttl == 9.0
    assert [(address.location, dict(address.parameters)) for address in seen] == [("x", {"shards": "2"})]


async def test_hook_register_balancers_in_a_node() -> None:
    """The setting names it, and every call by service asks it."""

    class Last:
        def choose(
            self,
            candidates: Sequence[ServiceInstance],
            *,
            key: str | None,
            pending: Callable[[ServiceInstance], int],
        ) -> ServiceInstance:
            assert pending(candidates[-1]) == 0
            return candidates[-1]

    class Plugin:
        @hookimpl
        def aegis_register_balancers(self, register: BalancerRegistrar) -> None:
            register("last", Last)

    async with (
        open_node("memory://", config={"balancer": "last"}, plugins=[Plugin()]) as node,
        node.serve(ECHO, instance_id="a"),
        node.serve(ECHO, instance_id="b"),
    ):
        assert {await node.call("echo-service", "echo") for _ in range(4)} == {"b: "}


async def test_hook_register_observers_in_a_node() -> None:
    """An observer sees the cluster's life, and one that fails disturbs nothing."""

    class Plugin:
        def __init__(self, *, fails: bool) -> None:
            self.kinds: list[str] = []
            self.fails = fails

        @hookimpl
        def aegis_register_observers(self, register: ObserverRegistrar) -> None:
            register(self)

        def on_event(self, event: Event) -> None:
            self.kinds.append(event.kind)
            if self.fails:
                raise RuntimeError("no ink")

    good, bad = Plugin(fails=False), Plugin(fails=True)
    async with open_node("memory://", plugins=[good, bad]) as node, node.serve(ECHO, instance_id="a") as served:
        await served.claim("room:1")
        assert await node.call("echo-service", "echo", {"text": "x"}, resource_id="room:1") == "a: x"
        await served.release("room:1")
    assert good.kinds == bad.kinds
    assert good.kinds[:3] == ["instance_registered", "resource_registered", "resource_released"]


class Around:
    """Middleware made of a function."""

    def __init__(self, enter: Callable[[CallInfo], AbstractAsyncContextManager[None]]) -> None:
        self.enter = enter

    @hookimpl
    def aegis_register_middleware(self, register: MiddlewareRegistrar) -> None:
        """Offer it."""
        register(self.enter)


async def test_hook_register_middleware_in_a_node() -> None:
    """Around the call that is sent, and around its handling; what the one carries, the other finds."""
    seen: list[CallInfo] = []

    @asynccontextmanager
    async def enter(info: CallInfo) -> AsyncIterator[None]:
        seen.append(info)
        if info.side == "sent":
            info.carrier["traceparent"] = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        yield

    async with open_node("memory://", plugins=[Around(enter)]) as node, node.serve(ECHO, instance_id="a") as served:
        await served.claim("room:1")
        seen.clear()
        await node.call("echo-service", "echo", {"text": "x"}, resource_id="room:1")
    sent, handled = seen
    assert (sent.side, handled.side) == ("sent", "handled")
    for info in seen:
        assert (info.service_name, info.method, info.instance_id, info.resource_id) == (
            "echo-service",
            "echo",
            "a",
            "room:1",
        )
    assert sent.trace_id == handled.trace_id
    assert sent.message_id == handled.message_id
    assert handled.carrier["traceparent"] == sent.carrier["traceparent"]


@pytest.mark.parametrize("side", ["sent", "handled"])
async def test_middleware_refuses_a_call_before_it_is_executed(side: str) -> None:
    """On either side the caller gets the error, and the handler does not run."""

    @asynccontextmanager
    async def enter(info: CallInfo) -> AsyncIterator[None]:
        if info.side == side and info.method == "echo":
            raise Forbidden(operation=info.method, reason="closed on Sundays")
        yield

    SERVED.clear()
    async with open_node("memory://", plugins=[Around(enter)]) as node, node.serve(ECHO):
        with pytest.raises(Forbidden, match="closed on Sundays"):
            await node.call("echo-service", "echo", {"text": "x"})
    assert not SERVED


async def test_hook_check_registration_in_a_node() -> None:
    """Who is refused is not served, and nobody sees it."""

    class Plugin:
        @hookimpl
        def aegis_check_registration(self, instance: ServiceInstance) -> None:
            if "zone" not in instance.metadata:
                raise Forbidden(operation="register", target=instance.instance_id, reason="say in which zone")

    async with open_node("memory://", plugins=[Plugin()]) as node:
        with pytest.raises(Forbidden, match="say in which zone"):
            async with node.serve(ECHO, instance_id="a"):
                pass
        async with node.serve(ECHO, instance_id="b", metadata={"zone": "north"}):
            view = await node.registry.get_service("echo-service")
            assert [instance.instance_id for instance in view.instances] == ["b"]


async def test_hook_authorize_in_a_node() -> None:
    """Without a policy nobody may force; a policy is asked with the operation and what it concerns."""
    asked: list[tuple[str, str, Target]] = []

    class Plugin:
        @hookimpl
        def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
            asked.append((str(principal), operation, target))
            return operation == "force" or None

    async def force(plugins: list[object]) -> str:
        async with (
            open_node("memory://", plugins=plugins) as node,
            node.serve(ECHO, instance_id="a") as holder,
            node.serve(ECHO, instance_id="b") as taker,
        ):
            await holder.claim("room:1")
            await taker.claim("room:1", force=True)
            owner = await node.registry.get_owner("room:1")
            return owner.owner_instance_id

    with pytest.raises(Forbidden, match="force"):
        await force([])
    assert await force([Plugin()]) == "b"
    target = Target(service_name="echo-service", instance_id="b", resource_ids=("room:1",))
    assert ("instance:b", "force", target) in asked


async def test_hook_promote_in_a_node(autojump_clock: MockClock) -> None:
    """Whom the plug-in ranks first is promoted, though others came before."""
    asked: list[tuple[str, ...]] = []

    class Plugin:
        @hookimpl
        def aegis_promote(self, target: str, standbys: Sequence[Standby]) -> Sequence[str]:
            asked.append(tuple(standby.instance_id for standby in standbys))
            return ["c"]

    promoted: list[str] = []

    async def wait(instance: Instance) -> None:
        async with instance.own("engine", role=Role.STANDBY) as claim:
            promoted.append(claim.instance.instance_id)
            await trio.sleep_forever()

    async with (
        open_node("memory://", plugins=[Plugin()]) as node,
        node.serve(ECHO, instance_id="a") as active,
        node.serve(ECHO, instance_id="b") as second,
        node.serve(ECHO, instance_id="c") as third,
        trio.open_nursery() as nursery,
    ):
        await active.claim("engine")
        for instance in (second, third):
            nursery.start_soon(wait, instance)
            await trio.sleep(1)
        await active.release("engine")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert promoted == ["c"]
    assert ("b", "c") in asked


async def test_hook_plan_rebalance_in_a_node() -> None:
    """The plug-in's plan is carried out instead of even counts."""

    class Plugin:
        @hookimpl
        def aegis_plan_rebalance(self, view: View, service_name: str, max_moves: int) -> Mapping[str, str]:
            assert view.owner("room:1") is not None
            assert (service_name, max_moves) == ("echo-service", 1)
            return {"room:1": "b", "room:2": "b"}

    async with (
        open_node("memory://", plugins=[Plugin()]) as node,
        node.serve(ECHO, instance_id="a") as holder,
        node.serve(ECHO, instance_id="b"),
    ):
        await holder.claim("room:1", "room:2", "room:3")
        (reply,) = await node.registry.rebalance("echo-service", 1)
        assert reply.transferred == ("room:1",)
        assert (await node.registry.get_owner("room:1")).owner_instance_id == "b"
        assert (await node.registry.get_owner("room:2")).owner_instance_id == "a"


async def test_settings_count_in_a_node() -> None:
    """What is configured is what the registration says."""
    async with (
        open_node("memory://?ttl=12", config={"time_offset": "+08:00"}) as node,
        node.serve(ECHO, instance_id="a") as served,
    ):
        assert served.ttl == 12.0
        stored = await node.runtime.store.get("service-instances.echo-service.a")
        assert stored is not None
        assert b"+08:00" in stored.value
