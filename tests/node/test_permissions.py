"""Whose permission the registry operations ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from aegis_core import Forbidden, Health, Role, ServiceInstance
from aegis_core.hookspecs import Principal, Target, hookimpl
from aegis_core.node.registry import Registry
from tests.node.test_registry import three


class Denied:
    """A plug-in that denies one operation, and lets no instance in whose id is "stranger"."""

    def __init__(self, operation: str = "") -> None:
        self.operation = operation
        self.asked: list[tuple[str, str]] = []

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """No, for that one."""
        self.asked.append((operation, target.instance_id))
        return False if operation == self.operation else None

    @hookimpl
    def aegis_check_registration(self, instance: ServiceInstance) -> None:
        """Not the stranger."""
        if instance.instance_id == "stranger":
            raise Forbidden(operation="register", target=instance.instance_id, reason="nobody knows it")


ASKED: dict[str, Callable[[Registry], Awaitable[object]]] = {
    "release": lambda registry: registry.release("svc", "b", "x"),
    "transfer": lambda registry: registry.transfer("svc", ["x"], "b", "a"),
    "drain": lambda registry: registry.drain("svc", "b"),
    "set_health": lambda registry: registry.set_health("svc", "b", Health.UNHEALTHY),
    "disconnect": lambda registry: registry.disconnect("svc", "b"),
    "set_role": lambda registry: registry.set_role("svc", Role.ACTIVE, "b", group="g"),
    "force": lambda registry: registry.transfer("svc", ["x"], "b", "a", verify_ownership=False),
}


@pytest.mark.parametrize("operation", ASKED)
async def test_policy_decides_on_what_is_done_to_others(autojump_clock: MockClock, operation: str) -> None:
    """It is asked by the name of the operation and of the instance; what it denies changes nothing."""
    policy = Denied(operation)
    async with three(policy) as t:
        await t.b.claim("x")
        with pytest.raises(Forbidden):
            await ASKED[operation](t.here.registry)
        assert (operation, "b") in policy.asked
        await trio.sleep(1)
        assert "x" in t.b.claims
        assert (t.b.health, t.b.draining, t.b.ready) == (Health.ONLINE, False, True)


async def test_who_registers_by_itself_is_checked_too(autojump_clock: MockClock) -> None:
    """A plug-in that refuses an instance refuses it whichever way it comes."""
    async with three(Denied()) as t:
        with pytest.raises(Forbidden, match="nobody knows it"):
            await t.here.registry.register("svc", "stranger")
        assert "stranger" not in {i.instance_id for i in (await t.there.registry.get_service("svc")).instances}
