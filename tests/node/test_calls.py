"""Calls between real nodes on memory: whom they reach, what they return, and how they fail."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.errors import (
    InstanceNotFound,
    InvalidRequest,
    NoInstance,
    RemoteError,
    ResourceNotFound,
    ServiceNotFound,
    StoreUnavailable,
)
from aegis_core.models import Health, Outcome, Role
from aegis_core.node.call import Call
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.node.accounts import accounts
from tests.node.faulty import Faults, names_key


@attrs.frozen
class Money:
    """A class that travels as a map."""

    amount: int
    currency: str


bank = Service("bank")


@bank.method
async def add(call: Call, left: Money, right: Money) -> Money:
    """A method with classes for parameters and result."""
    return Money(left.amount + right.amount, left.currency)


@bank.method
async def greet(call: Call, name: str, greeting: str = "Hello") -> str:
    """A method with a default."""
    return f"{greeting} {name} of {call.resource_id}"


@asynccontextmanager
async def two_instances(calls: list[Call] | None = None) -> AsyncIterator[Node]:
    """A caller, and two instances ``a`` and ``b`` on another node."""
    service = accounts(calls)
    async with (
        open_node("memory://") as caller,
        open_node("memory://") as host,
        host.serve(service, instance_id="a"),
        host.serve(service, instance_id="b"),
    ):
        await caller.runtime.directory.sync()
        yield caller


# --- Whom they reach ---------------------------------------------------------------------------


async def test_calls_by_service_are_balanced() -> None:
    """Each instance gets its turn."""
    async with two_instances() as caller:
        reached = [await caller.call("account-service", "who") for _ in range(4)]
    assert sorted(reached) == ["a", "a", "b", "b"]


async def test_call_by_instance_reaches_that_one() -> None:
    """The instance id decides."""
    async with two_instances() as caller:
        reached = [await caller.call("account-service", "who", instance_id="b") for _ in range(3)]
        assert reached == ["b", "b", "b"]
        with pytest.raises(InstanceNotFound):
            await caller.call("account-service", "who", instance_id="c", timeout=1)


async def test_call_by_resource_reaches_its_owner_under_its_claim() -> None:
    """The handler gets the resource, its epoch, claim and state."""
    calls: list[Call] = []
    service = accounts(calls)

    @service.on_acquire
    async def load(claim: object) -> dict[str, int]:
        return {"balance": 7}

    async with (
        open_node("memory://") as caller,
        open_node("memory://") as host,
        host.serve(service, instance_id="a"),
        host.serve(service, instance_id="b") as owner,
    ):
        (claim,) = await owner.claim("account:42")
        assert await caller.call("account-service", "who", resource_id="account:42") == "b"
        (call,) = calls
        assert (call.resource_id, call.epoch, call.claim) == ("account:42", claim.epoch, claim)
        assert call.state == {"balance": 7}
        assert call.instance is owner
        assert (call.service_name, call.method) == ("account-service", "who")


async def test_unhealthy_instance_is_out_of_the_rotation() -> None:
    """While there is a healthy one, it gets the calls."""
    service = accounts()
    async with (
        open_node("memory://") as node,
        node.serve(service, instance_id="a") as sick,
        node.serve(service, instance_id="b"),
    ):
        await sick.set_health(Health.UNHEALTHY)
        assert [await node.call("account-service", "who") for _ in range(3)] == ["b", "b", "b"]


async def test_nobody_of_that_name_is_said_after_a_sync() -> None:
    """Unknown services and resources are refused; a resource of another service is named as such."""
    async with open_node("memory://") as node, node.serve(accounts()), node.serve(bank) as other:
        await other.claim("vault:1")
        with pytest.raises(ServiceNotFound):
            await node.call("nobody", "who")
        with pytest.raises(ResourceNotFound) as caught:
            await node.call("account-service", "who", resource_id="account:1")
        assert caught.value.owned_by_service == ""
        with pytest.raises(ResourceNotFound) as caught:
            await node.call("account-service", "who", resource_id="vault:1")
        assert caught.value.owned_by_service == "bank"


async def test_nobody_is_not_said_without_a_store(autojump_clock: MockClock) -> None:
    """When the store does not answer, that is the error, not that nobody is there."""
    faults = Faults()
    async with faults.node() as node:
        faults.sync_refused = True
        with pytest.raises(StoreUnavailable) as caught:
            await node.call("nobody", "who", timeout=2)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert trio.current_time() <= 2


async def test_nobody_is_not_said_while_the_store_is_silent(autojump_clock: MockClock) -> None:
    """A store that never answers costs the time of the call, and no more."""
    faults = Faults()
    async with faults.node() as node:
        faults.cut()
        with pytest.raises(StoreUnavailable) as caught:
            await node.call("nobody", "who", timeout=2)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert trio.current_time() == pytest.approx(2)
        faults.heal()


async def test_call_waits_for_an_active_of_the_role_group(autojump_clock: MockClock) -> None:
    """None alive in the group: the call waits, and goes to who is promoted."""
    faults, promoted = Faults(), trio.Event()
    faults.hold(promoted, names_key("roles."))
    reached: list[str] = []
    async with open_node("memory://test") as caller, faults.node() as host:

        async def ask() -> None:
            reached.append(await caller.call("account-service", "who"))

        async with host.serve(accounts(), instance_id="a", role=Role.STANDBY), trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(2)
            assert reached == []
            promoted.set()
        assert reached == ["a"]


async def test_call_for_a_role_that_nobody_takes_was_not_sent(autojump_clock: MockClock) -> None:
    """When its time is over, it says so."""
    faults = Faults()
    faults.hold(trio.Event(), names_key("roles."))
    async with (
        open_node("memory://test") as caller,
        faults.node() as host,
        host.serve(accounts(), role=Role.STANDBY),
    ):
        with pytest.raises(NoInstance) as caught:
            await caller.call("account-service", "who", timeout=2)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert trio.current_time() == pytest.approx(2)


async def test_call_waits_for_the_next_in_line_for_a_resource(autojump_clock: MockClock) -> None:
    """A resource whose owner died is not missing while somebody waits for it."""
    service = accounts()
    faults, promoted = Faults(), trio.Event()
    async with (
        open_node("memory://test") as caller,
        open_node("memory://test") as first,
        faults.node() as second,
        first.serve(service, instance_id="a") as a,
        second.serve(service, instance_id="b") as b,
        trio.open_nursery() as nursery,
    ):

        async def wait_in_line() -> None:
            async with b.own("account:1", role=Role.STANDBY):
                await trio.sleep_forever()

        await a.claim("account:1")
        nursery.start_soon(wait_in_line)
        await trio.sleep(1)
        faults.hold(promoted, names_key("resources."))
        await a.release("account:1")
        with trio.move_on_after(1) as scope:
            await caller.call("account-service", "who", resource_id="account:1")
        assert scope.cancelled_caught
        promoted.set()
        assert await caller.call("account-service", "who", resource_id="account:1") == "b"
        nursery.cancel_scope.cancel()


async def test_wrong_arguments_of_the_call_itself_are_refused() -> None:
    """Before anything is sent, with the path."""
    async with open_node("memory://") as node, node.serve(accounts()):
        with pytest.raises(InvalidRequest, match=r"\$\.timeout"):
            await node.call("account-service", "who", timeout=-1)
        with pytest.raises(InvalidRequest, match=r"\$\.timeout"):
            await node.call("account-service", "who", timeout=math.nan)
        with pytest.raises(InvalidRequest, match=r"\$\.instance_id"):
            await node.call("account-service", "who", resource_id="account:1", instance_id="a")
        with pytest.raises(InvalidRequest, match=r"\$\.resource_id"):
            await node.call("account-service", "who", resource_id="account *")
        with pytest.raises(InvalidRequest, match=r"cannot be sent: object has no form on the wire @ \$\.params\.value"):
            await node.call("account-service", "echo", {"value": object()})
        with pytest.raises(InvalidRequest, match="bytes are more than"):
            await node.call("account-service", "echo", {"value": b"x" * (1 << 21)})


# --- What they return --------------------------------------------------------------------------


async def test_values_pass_both_ways() -> None:
    """Everything that MessagePack knows arrives as it was sent."""
    values = [None, True, 5, 1.5, "text", b"\x00\xff", [1, [2]], {"a": {"b": None}}, {1: 2}]
    async with open_node("memory://") as node, node.serve(accounts()):
        for value in values:
            assert await node.call("account-service", "echo", {"value": value}) == value


async def test_result_is_made_what_the_caller_says() -> None:
    """``returns`` structures the result, and what does not fit is the callee's fault."""
    params = {"left": {"amount": 1, "currency": "EUR"}, "right": Money(2, "EUR")}
    async with open_node("memory://") as node, node.serve(bank):
        plain = await node.call("bank", "add", params)
        assert plain == {"amount": 3, "currency": "EUR"}
        assert await node.call("bank", "add", params, returns=Money) == Money(3, "EUR")
        with pytest.raises(RemoteError) as caught:
            await node.call("bank", "add", params, returns=int)
        assert caught.value.kind == "InvalidResult"


async def test_bound_method_has_the_types_of_its_function() -> None:
    """Parameters and result are classes at both ends."""
    async with open_node("memory://") as node, node.serve(bank) as instance:
        await instance.claim("vault:1")
        assert await node.bind(add)(left=Money(1, "EUR"), right=Money(2, "EUR")) == Money(3, "EUR")
        assert await node.bind(add)(Money(1, "EUR"), right=Money(4, "EUR")) == Money(5, "EUR")
        hello = node.bind(greet, resource_id="vault:1", timeout=1.0)
        assert await hello(name="Ada") == "Hello Ada of vault:1"
        assert await hello("Ada", greeting="Good day") == "Good day Ada of vault:1"
        assert repr(hello) == "<BoundMethod bank.greet of 'vault:1'>"
        with pytest.raises(InvalidRequest, match=r"\$\.name"):
            await hello(name=5)  # type: ignore[arg-type]


async def test_error_says_who_answered() -> None:
    """Errors of the callee carry its id; those of this node do not."""
    async with open_node("memory://") as node, node.serve(accounts(), instance_id="a"):
        with pytest.raises(InvalidRequest, match="no such method; it has: who, sleep, echo") as caught:
            await node.call("account-service", "nothing")
        assert caught.value.answered_by == "a"
        assert caught.value.__notes__ == ["answered by instance 'a' to account-service.nothing"]
        with pytest.raises(ServiceNotFound) as missing:
            await node.call("nobody", "who")
        assert missing.value.answered_by == ""


# --- On demand ---------------------------------------------------------------------------------


async def test_resource_comes_into_being_when_it_is_called() -> None:
    """An id with the prefix is claimed by the instance that then serves it; others are not found."""
    calls: list[Call] = []
    service = accounts(calls, on_demand=("cart:",))
    async with (
        open_node("memory://") as caller,
        open_node("memory://") as host,
        host.serve(service, instance_id="a") as a,
        host.serve(service, instance_id="b") as b,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: caller.call("account-service", "who", resource_id="cart:1"))
        owners = [instance for instance in (a, b) if "cart:1" in instance.claims]
        assert len(owners) == 1
        assert {call.instance for call in calls} == set(owners)
        assert {call.epoch for call in calls} == {owners[0].claims["cart:1"].epoch}
        with pytest.raises(ResourceNotFound):
            await caller.call("account-service", "who", resource_id="shelf:1")


async def test_failing_on_acquire_is_the_callers_remote_error() -> None:
    """A resource that cannot be loaded is not served, and the next call tries again."""
    attempts: list[str] = []
    service = accounts(on_demand=("cart:",))

    @service.on_acquire
    async def load(claim: object) -> None:
        attempts.append("once")
        if len(attempts) == 1:
            raise ValueError("disk full")

    async with open_node("memory://") as node, node.serve(service, instance_id="a"):
        with pytest.raises(RemoteError, match="disk full"):
            await node.call("account-service", "who", resource_id="cart:1")
        assert await node.call("account-service", "who", resource_id="cart:1") == "a"
