"""What is asked of a router under a lease id is done under that lease or not at all, and within one time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core.backend import Transaction
from aegis_core.errors import AegisError, InstanceNotFound, InvalidRequest, NotOwner, ResourceNotFound, StoreUnavailable
from aegis_core.models import Outcome
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from aegis_core.principals import Principal, Target
from aegis_core.router.operations import OPERATIONS
from aegis_core.router.router import Router

FIRST, SECOND = "the first one's", "its successor's"
ONE = {"service_name": "rooms", "instance_id": "one"}


class Racing(Router):
    """A router that finds the instance replaced by another incarnation just after it has seen the lease of the first."""

    async def admit(
        self, principal: Principal | None, operation: str, target: Target, *, lease_id: str | None = None
    ) -> None:
        """As it is, and then the race."""
        await super().admit(principal, operation, target, lease_id=lease_id)
        registry = self.node.registry
        await registry.deregister("rooms", "one")
        await registry.register("rooms", "one", lease_id=SECOND)
        await registry.claim("rooms", "one", "hall", "attic")


async def do(router: Router, name: str, **raw: object) -> Any:  # noqa: ANN401 - each its own
    """Carry an operation out."""
    operation = OPERATIONS[name]
    return await operation.carry_out(router, operation.read(raw), None)


@asynccontextmanager
async def open_rooms() -> AsyncIterator[Node]:
    """A node with instances one, which owns the hall, and two, which owns the cellar."""
    async with open_node("memory://leases") as node:
        await node.registry.register("rooms", "one", lease_id=FIRST)
        await node.registry.register("rooms", "two", lease_id="two's")
        await node.registry.claim("rooms", "one", "hall")
        await node.registry.claim("rooms", "two", "cellar")
        yield node


OF_INSTANCES: dict[str, tuple[str, dict[str, object]]] = {
    "claim": ("resource.register", {**ONE, "resource_ids": ["new"]}),
    "claim or wait": ("resource.register", {**ONE, "resource_ids": ["new", "cellar"], "role": "standby"}),
    "release": ("resource.release", {**ONE, "resource_ids": ["hall"]}),
    "claim many": ("resource.bulk_register", {**ONE, "resources": [{"resource_id": "new"}]}),
    "release many": ("resource.bulk_release", {**ONE, "resource_ids": ["hall"]}),
    "transfer": (
        "resource.transfer",
        {"service_name": "rooms", "from_instance_id": "one", "to_instance_id": "two", "resource_ids": ["hall"]},
    ),
    "unregister": ("service.unregister", ONE),
    "renew": ("service.heartbeat", ONE),
}


@pytest.mark.parametrize("name", OF_INSTANCES)
async def test_who_has_been_replaced_changes_nothing_of_its_successors(name: str, autojump_clock: MockClock) -> None:
    """Although the router had seen that its lease lived."""
    operation, raw = OF_INSTANCES[name]
    async with open_rooms() as node:
        with pytest.raises(NotOwner):
            await do(Racing(node), operation, **raw, lease_id=FIRST)
        held = {r.resource_id: r.owner_instance_id for r in (await node.registry.query_resources()).resources}
        assert held == {"hall": "one", "attic": "one", "cellar": "two"}
        assert node.runtime.directory.snapshot.line("cellar") == ()


async def test_instance_of_this_node_lives_by_its_lease_too(autojump_clock: MockClock) -> None:
    """Whoever shows another one does not act for it."""
    async with (
        open_node("memory://leases") as node,
        node.serve(Service("rooms", version="1"), instance_id="one") as one,
    ):
        await one.claim("hall")
        for name in ("claim", "release", "claim many", "release many", "transfer"):
            operation, raw = OF_INSTANCES[name]
            request = OPERATIONS[operation].read({**raw, "lease_id": "made up"})
            with pytest.raises(NotOwner):
                await getattr(node.registry, OPERATION_NAMES[name])(*arguments(request), lease_id="made up")
        assert one.claims.keys() == {"hall"}


OPERATION_NAMES = {
    "claim": "claim",
    "release": "release",
    "claim many": "bulk_register",
    "release many": "bulk_release",
    "transfer": "transfer",
}


def arguments(request: Any) -> tuple[object, ...]:  # noqa: ANN401 - each its own
    """The same, as arguments of the registry's own operation."""
    match type(request).__name__:
        case "Transfer":
            return request.service_name, request.resource_ids, request.from_instance_id, request.to_instance_id
        case "BulkRegister":
            return request.service_name, request.instance_id, [item.resource_id for item in request.resources]
        case "BulkRelease":
            return request.service_name, request.instance_id, request.resource_ids
        case _:
            return request.service_name, request.instance_id, *request.resource_ids


async def test_who_cannot_wait_by_a_router_claims_nothing_either(autojump_clock: MockClock) -> None:
    """A refusal leaves what was free as it was."""
    async with open_rooms() as node, node.serve(Service("rooms", version="1"), instance_id="served"):
        with pytest.raises(InvalidRequest, match="waits in line by itself"):
            await do(
                Router(node), "resource.register", service_name="rooms", instance_id="served", role="standby",
                resource_ids=["new", "hall"],
            )  # fmt: skip
        with pytest.raises(ResourceNotFound):
            await node.registry.get_owner("new")


@attrs.define
class Slow:
    """Commits in the time that each key's kind takes."""

    node: Node
    seconds: dict[str, float]

    async def __call__(self, transaction: Transaction) -> tuple[int, ...]:
        """As the store does, later."""
        await trio.sleep(max(self.seconds[op.key.partition(".")[0]] for op in transaction.operations))
        return await self.node.runtime.store.commit(transaction)


WAIT: dict[str, object] = {**ONE, "instance_id": "two", "role": "standby", "resource_ids": ["new", "a", "b", "c"]}


async def test_all_places_are_taken_at_once(autojump_clock: MockClock) -> None:
    """However many there are, the answer comes in time."""
    async with open_rooms() as node:
        await node.registry.claim("rooms", "one", "a", "b", "c")
        node.committer._commit_once = Slow(node, {"resources": 2.0, "standbys": 2.0})
        began = trio.current_time()
        done = await do(Router(node), "resource.register", **WAIT)
        assert trio.current_time() - began <= node.runtime.settings.request_timeout
        assert (done.success, done.registered, dict(done.standbys)) == (True, ("new",), dict.fromkeys("abc", "one"))
        for name in "abc":
            assert [place.instance_id for place in node.runtime.directory.snapshot.line(name)] == ["two"]


async def test_claims_that_stand_without_their_places_are_no_refusal(autojump_clock: MockClock) -> None:
    """Nobody is told that nothing happened; and it takes no longer than one request may."""
    async with open_rooms() as node:
        await node.registry.claim("rooms", "one", "a", "b", "c")
        slow = node.committer._commit_once = Slow(node, {"resources": 2.0, "standbys": 60.0})
        began = trio.current_time()
        with pytest.raises(StoreUnavailable) as caught:
            await do(Router(node), "resource.register", **WAIT)
        assert caught.value.outcome is Outcome.MAYBE_EXECUTED
        assert trio.current_time() - began == pytest.approx(node.runtime.settings.request_timeout)
        slow.seconds["standbys"] = 0.0
        assert (await do(Router(node), "resource.register", **WAIT)).registered == ("new",)


@pytest.mark.parametrize(
    ("wanted", "error", "outcome"),
    [
        (["new", "hall"], StoreUnavailable, Outcome.MAYBE_EXECUTED),
        (["hall"], InstanceNotFound, None),
    ],
    ids=["after a claim", "after nothing"],
)
async def test_places_that_cannot_be_taken_after_a_claim_are_no_refusal(
    wanted: list[str],
    error: type[AegisError],
    outcome: Outcome | None,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the reason is; where nothing was done, it is told as it is."""
    async with open_rooms() as node:
        decide = node.committer.decide

        async def leave_before(*args: Any, what: str, **options: Any) -> object:  # noqa: ANN401 - as it is asked
            if what == "taking places in lines":
                await node.registry.deregister("rooms", "two")
            return await decide(*args, what=what, **options)

        monkeypatch.setattr(node.committer, "decide", leave_before)
        with pytest.raises(error) as caught:
            await do(Router(node), "resource.register", **{**WAIT, "resource_ids": wanted})
        assert getattr(caught.value, "outcome", None) is outcome
