"""What routers do for clients: requests as maps, carried out on the registry, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core import codec
from aegis_core.errors import (
    AegisError,
    Forbidden,
    InstanceConflict,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    RemoteError,
    ResourceNotFound,
    RoleConflict,
)
from aegis_core.models import Role
from aegis_core.node.asking import asking
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.node import open_node
from aegis_core.node.service import Service
from aegis_core.principals import Principal
from aegis_core.router.operations import OPERATIONS
from aegis_core.router.router import Router

SOMEBODY = Principal("token", "somebody")
ADMIN = Principal("token", "boss", is_admin=True)
ROOMS = {"service_name": "rooms", "instance_id": "rooms-1"}


@asynccontextmanager
async def open_router() -> AsyncIterator[Router]:
    """A router, alone on a memory cluster."""
    async with open_node("memory://operations") as node:
        yield Router(node)


async def do(router: Router, name: str, principal: Principal | None = None, /, **raw: object) -> Any:  # noqa: ANN401 - each its own
    """Carry an operation out, and make sure that its reply can travel."""
    operation = OPERATIONS[name]
    reply = await operation.carry_out(router, operation.read(raw), principal)
    assert type(reply) is operation.reply
    plain = codec.decode_plain(codec.encode_plain(reply), most=1000)
    assert isinstance(plain, dict)
    assert plain.keys() == {field.name for field in attrs.fields(operation.reply)}
    return reply


# --- Instances -----------------------------------------------------------------------------------------------------


async def test_an_instance_registers_renews_and_leaves(autojump_clock: MockClock) -> None:
    """With the lease id that it was given, or none."""
    async with open_router() as router:
        done = await do(router, "service.register", **ROOMS, metadata={"floor": 2}, endpoints=["tcp://here"], ttl=9.0)
        assert (done.role, done.ttl, done.heartbeat_interval, done.data.instance_id) == ("STANDBY", 9.0, 3.0, "rooms-1")
        known = router.node.runtime.directory.snapshot.instance("rooms", "rooms-1")
        assert known is not None
        assert dict(known.metadata) == {"floor": 2, "endpoints": ["tcp://here"]}
        assert known.endpoints == ()
        with pytest.raises(InstanceConflict):
            await do(router, "service.register", **ROOMS)
        again = await do(router, "service.register", **ROOMS, lease_id=done.lease_id)
        assert again.message == "already registered"
        for _ in range(4):
            await trio.sleep(6)
            taken = await do(router, "service.heartbeat", **ROOMS, lease_id=done.lease_id, status="degraded")
        assert taken.envelope.success
        known = router.node.runtime.directory.snapshot.instance("rooms", "rooms-1")
        assert known is not None
        assert not known.is_healthy
        with pytest.raises(NotOwner):
            await do(router, "service.unregister", **ROOMS, lease_id="another")
        await do(router, "service.heartbeat", **ROOMS)
        await do(router, "resource.register", **ROOMS, resource_ids=["lobby"])
        gone = await do(router, "service.unregister", **ROOMS)
        assert gone.released == ("lobby",)
        with pytest.raises(InstanceNotFound):
            await do(router, "service.heartbeat", **ROOMS)


async def test_a_role_is_about_the_resource_that_the_metadata_name(autojump_clock: MockClock) -> None:
    """One is active for it; without it, roles are only shown."""
    async with open_router() as router:
        named: dict[str, object] = {"service_name": "rooms", "metadata": {"resource_id": "hall"}}
        first = await do(router, "service.register", **named, instance_id="a", role="active")
        assert (first.role, first.epoch > 0) == ("ACTIVE", True)
        with pytest.raises(RoleConflict):
            await do(router, "service.register", **named, instance_id="b", role="active")
        await do(router, "service.register", **named, instance_id="b", role="standby")
        assert [p.instance_id for p in router.node.runtime.directory.snapshot.line("hall")] == ["b"]
        for name in ("c", "d"):
            shown = await do(router, "service.register", service_name="rooms", instance_id=name, role="active")
            assert shown.role == "ACTIVE"


RESERVED: list[tuple[str, dict[str, object]]] = [
    ("service.register", {"service_name": "aegis-router", "instance_id": "a"}),
    ("service.register", {**ROOMS, "role": "active", "metadata": {"resource_id": "aegis:events"}}),
    ("service.heartbeat", {"service_name": "aegis-router", "instance_id": "a"}),
    ("service.unregister", {"service_name": "aegis-router", "instance_id": "a"}),
    ("resource.register", {**ROOMS, "resource_ids": ["lobby", "aegis:events"]}),
    ("resource.release", {**ROOMS, "resource_ids": ["aegis:events"]}),
    ("resource.release", {"service_name": "aegis-router", "instance_id": "a", "resource_ids": ["lobby"]}),
    ("resource.bulk_register", {**ROOMS, "resources": [{"resource_id": "aegis:any"}]}),
    ("resource.bulk_release", {**ROOMS, "resource_ids": ["aegis:any"]}),
    (
        "resource.transfer",
        {"service_name": "rooms", "from_instance_id": "a", "to_instance_id": "b", "resource_ids": ["aegis:any"]},
    ),
]


@pytest.mark.parametrize("principal", [None, ADMIN], ids=["who is believed", "admin"])
async def test_what_is_for_routers_is_refused_to_all_clients(
    principal: Principal | None, autojump_clock: MockClock
) -> None:
    """Whatever it is, and whoever they are; they may look."""
    async with open_router() as router, router.node.serve(Service("aegis-router", version="1"), instance_id="a") as one:
        await one.claim("aegis:events")
        for name, raw in RESERVED:
            with pytest.raises(Forbidden, match="are for routers"):
                await do(router, name, principal, **raw)
        found = await do(router, "resource.query", principal, service_name="aegis-router")
        assert [(r.resource_id, r.owner_instance_id) for r in found.resources] == [("aegis:events", "a")]


# --- Resources -----------------------------------------------------------------------------------------------------


async def register(router: Router, *names: str) -> None:
    """Register instances of the service ``rooms``."""
    for name in names:
        await do(router, "service.register", service_name="rooms", instance_id=name)


def of(name: str) -> dict[str, object]:
    """In the name of an instance."""
    return {"service_name": "rooms", "instance_id": name}


async def test_resources_are_claimed_queried_and_released(autojump_clock: MockClock) -> None:
    """What others hold is a conflict, and what is not one's own is no release."""
    async with open_router() as router:
        await register(router, "a", "b")
        metadata = {"lobby": {"resource_type": "room", "tags": ["big"], "priority": 3}}
        done = await do(router, "resource.register", **of("a"), resource_ids=["lobby", "attic"], metadata=metadata)
        assert (done.success, done.registered, done.epochs.keys()) == (True, ("lobby", "attic"), {"lobby", "attic"})
        other = await do(router, "resource.register", **of("b"), resource_ids=["lobby", "cellar"])
        assert (other.success, other.registered, other.conflicts) == (False, ("cellar",), {"lobby": "a"})
        found = await do(router, "resource.query", tags=["big"])
        ((room,), total) = found.resources, found.total_count
        assert (room.owner_instance_id, room.metadata.priority, total, found.has_more) == ("a", 3, 1, False)
        bare = await do(router, "resource.query", service_name="rooms", include_metadata=False, limit=2)
        assert ([r.metadata for r in bare.resources], bare.total_count, bare.has_more) == ([None, None], 3, True)
        with pytest.raises(NotOwner):
            await do(router, "resource.release", **of("b"), resource_ids=["lobby"])
        freed = await do(router, "resource.release", **of("a"), resource_ids=["lobby"])
        assert (freed.success, freed.released) == (True, ("lobby",))
        with pytest.raises(ResourceNotFound):
            await do(router, "resource.release", **of("a"), resource_ids=["lobby"])


async def test_a_standby_for_resources_waits_in_their_lines(autojump_clock: MockClock) -> None:
    """What is free it has at once."""
    async with open_router() as router:
        await register(router, "a", "b")
        await do(router, "resource.register", **of("a"), resource_ids=["lobby"])
        done = await do(router, "resource.register", **of("b"), resource_ids=["lobby", "attic"], role="standby")
        assert (done.success, done.registered, done.conflicts, done.standbys) == (True, ("attic",), {}, {"lobby": "a"})
        (place,) = router.node.runtime.directory.snapshot.line("lobby")
        assert place.instance_id == "b"


async def test_an_instance_that_a_node_serves_waits_by_itself(autojump_clock: MockClock) -> None:
    """A router cannot run its work when its turn comes."""
    async with open_router() as router, router.node.serve(Service("rooms", version="1"), instance_id="b"):
        await register(router, "a")
        await do(router, "resource.register", **of("a"), resource_ids=["lobby"])
        with pytest.raises(InvalidRequest, match=r"\$\.role"):
            await do(router, "resource.register", **of("b"), resource_ids=["lobby"], role="standby")


async def test_bulk_operations_tell_what_failed(autojump_clock: MockClock) -> None:
    """The request is a success where it was processed."""
    async with open_router() as router:
        await register(router, "a", "b")
        await do(router, "resource.register", **of("b"), resource_ids=["r-1"])
        wanted = [{"resource_id": f"r-{i}"} for i in range(4)]
        none = await do(router, "resource.bulk_register", **of("a"), resources=wanted)
        assert (none.success, none.total_registered, none.failed[0].current_owner) == (True, 0, "b")
        most = await do(router, "resource.bulk_register", **of("a"), resources=wanted, continue_on_error=True)
        assert (most.total_requested, most.registered, len(most.batch_results)) == (4, ("r-0", "r-2", "r-3"), 1)
        ids = [f"r-{i}" for i in range(4)]
        kept = await do(router, "resource.bulk_release", **of("a"), resource_ids=ids)
        assert (kept.total_released, [f.error_code for f in kept.failed]) == (0, ["NOT_OWNER"])
        freed = await do(router, "resource.bulk_release", **of("a"), resource_ids=ids, transactional=False)
        assert freed.released == ("r-0", "r-2", "r-3")


async def test_resources_are_transferred(autojump_clock: MockClock) -> None:
    """In the owner's name, with an audit record."""
    async with open_router() as router:
        await register(router, "a", "b")
        await do(router, "resource.register", **of("a"), resource_ids=["lobby", "attic"])
        move: dict[str, object] = {"service_name": "rooms", "from_instance_id": "a", "to_instance_id": "b"}
        done = await do(router, "resource.transfer", **move, resource_ids=["lobby"], reason="tired")
        assert (done.success, done.transferred, done.failed, done.error_codes) == (True, ("lobby",), {}, {})
        audit = router.node.runtime.directory.snapshot.transfer(done.transfer_id)
        assert audit is not None
        assert (audit.reason, audit.requested_by) == ("tired", "instance:a")
        with pytest.raises(Forbidden):
            await do(router, "resource.transfer", **move, resource_ids=["attic"], verify_ownership=False)


# --- Who may ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("service.heartbeat", {}),
        ("service.unregister", {}),
        ("resource.register", {"resource_ids": ["new"]}),
        ("resource.release", {"resource_ids": ["lobby"]}),
        ("resource.bulk_register", {"resources": [{"resource_id": "new"}]}),
        ("resource.bulk_release", {"resource_ids": ["lobby"]}),
        ("resource.transfer", {"resource_ids": ["lobby"], "from_instance_id": "a", "to_instance_id": "b"}),
    ],
)
async def test_a_principal_shows_the_lease_or_needs_the_permission(
    name: str, fields: Mapping[str, object], autojump_clock: MockClock
) -> None:
    """A token is not an instance; an admin needs no lease."""
    async with open_router() as router:
        done = await do(router, "service.register", SOMEBODY, **of("a"))
        await register(router, "b")
        await do(router, "resource.register", **of("a"), resource_ids=["lobby"])
        with pytest.raises(Forbidden):
            await do(router, name, SOMEBODY, **of("a"), **fields)
        with pytest.raises(NotOwner):
            await do(router, name, ADMIN, **of("a"), lease_id="guessed", **fields)
        await do(router, name, SOMEBODY, **of("a"), lease_id=done.lease_id, **fields)


async def test_force_needs_a_permission_also_with_a_lease(autojump_clock: MockClock) -> None:
    """An admin has it, and is named in the audit record."""
    async with open_router() as router:
        await register(router, "a", "b", "c")
        await do(router, "resource.register", **of("a"), resource_ids=["lobby"])
        lease_id = (await do(router, "service.register", **of("d"))).lease_id
        for asking, shown in ((None, None), (SOMEBODY, lease_id)):
            with pytest.raises(Forbidden):
                await do(
                    router, "resource.register", asking, **of("d"), resource_ids=["lobby"], force=True, lease_id=shown
                )
        assert (await do(router, "resource.register", ADMIN, **of("b"), resource_ids=["lobby"], force=True)).success
        forced = await do(
            router,
            "resource.bulk_register",
            ADMIN,
            **of("c"),
            resources=[{"resource_id": "lobby", "force": True}],
        )
        assert forced.registered == ("lobby",)
        moved = await do(
            router,
            "resource.transfer",
            ADMIN,
            service_name="rooms",
            resource_ids=["lobby"],
            from_instance_id="a",
            to_instance_id="d",
            verify_ownership=False,
        )
        assert moved.success
        asked = [record.requested_by for record in router.node.runtime.directory.snapshot.transfers()]
        assert asked == ["token:boss"] * 3


async def test_audit_names_who_asked_the_router(autojump_clock: MockClock) -> None:
    """Also where another node carries it out, which is asked in the name of the instance."""
    service = Service("rooms", version="1")

    @service.on_acquire
    async def take(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    async with (
        open_router() as router,
        open_node("memory://operations") as node,
        node.serve(service, instance_id="a", group="main", role=Role.ACTIVE) as a,
        node.serve(service, instance_id="b", group="main", role=Role.STANDBY),
    ):
        await a.claim("lobby")
        move: dict[str, object] = {"service_name": "rooms", "from_instance_id": "a", "to_instance_id": "b"}
        assert (await do(router, "resource.transfer", ADMIN, **move, resource_ids=["lobby"])).success
        with asking(ADMIN):
            assert await router.node.registry.set_role("rooms", Role.ACTIVE, "b") == ("b",)
        await router.node.registry.set_role("rooms", Role.STANDBY, "b")
        await router.node.runtime.directory.sync()
        asked = [(record.kind, record.requested_by) for record in router.node.runtime.directory.snapshot.transfers()]
        assert asked == [("transfer", "token:boss"), ("role", "token:boss"), ("role", "instance:b")]


# --- Calls ---------------------------------------------------------------------------------------------------------


def make_rooms() -> Service:
    """A service that says who answers, and can fail."""
    service = Service("rooms", version="1")

    @service.method
    async def who(call: Call) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        assert call.instance is not None
        return {"by": call.instance.instance_id, "trace_id": call.trace_id, "message_id": call.message_id}

    @service.method
    async def fail(call: Call) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("no rooms")

    return service


async def test_calls_are_forwarded_to_owners_and_to_healthy_instances(autojump_clock: MockClock) -> None:
    """With the ids of their senders."""
    async with (
        open_router() as router,
        open_node("memory://operations") as node,
        node.serve(make_rooms(), instance_id="a") as a,
        node.serve(make_rooms(), instance_id="b"),
    ):
        await a.claim("lobby")
        call: dict[str, object] = {"service_name": "rooms", "method": "who"}
        owned = await do(router, "route.request", **call, resource_id="lobby", trace_id="t-1", message_id="m-1")
        assert (owned.instance_id, owned.trace_id, owned.error) == ("a", "t-1", None)
        assert owned.result == {"by": "a", "trace_id": "t-1", "message_id": "m-1"}
        balanced = {(await do(router, "route.request", SOMEBODY, **call)).instance_id for _ in range(4)}
        assert balanced == {"a", "b"}
        for _ in range(3):
            assert (await do(router, "route.request", **call, excluded_instances=["a"])).instance_id == "b"
        with pytest.raises(RemoteError, match="no rooms"):
            await do(router, "route.request", service_name="rooms", method="fail")
        with pytest.raises(AegisError, match="was tried"):
            await do(router, "route.request", **call, excluded_instances=["a", "b"], timeout=1)


@pytest.mark.parametrize(
    ("traceparent", "known"),
    [
        (f"00-{'a1' * 16}-{'b2' * 8}-01", "a1" * 16),
        (f"cc-{'a1' * 16}-{'b2' * 8}-00-more", "a1" * 16),
        (f"00-{'0' * 32}-{'b2' * 8}-01", ""),
        (f"00-{'A1' * 16}-{'b2' * 8}-01", ""),
        ("00-a1-b2-01", ""),
    ],
)
async def test_request_without_a_trace_id_has_that_of_its_trace(
    autojump_clock: MockClock, traceparent: str, known: str
) -> None:
    """So that logs and traces speak of the same; where the header is none, one is minted."""
    async with open_router() as router:
        operation = OPERATIONS["resource.query"]
        for asked, expected in (({}, known), ({"trace_id": "t-1"}, "t-1")):
            reply = await operation.carry_out(router, operation.read(asked), None, traceparent=traceparent)
            assert reply.trace_id == (expected or reply.trace_id)
            assert reply.trace_id not in {"", "0" * 32}


async def test_calls_of_one_trace_have_ids_of_their_own(autojump_clock: MockClock) -> None:
    """Whoever keeps them to recognise a repeat takes neither for one."""
    async with open_router() as router, router.node.serve(make_rooms()):
        operation = OPERATIONS["route.request"]
        request = operation.read({"service_name": "rooms", "method": "who"})
        seen: list[tuple[str, str]] = []
        for _ in range(2):
            reply = await operation.carry_out(router, request, None, traceparent=f"00-{'a1' * 16}-{'b2' * 8}-01")
            seen.append((reply.result["trace_id"], reply.result["message_id"]))
        assert [trace_id for trace_id, _ in seen] == ["a1" * 16] * 2
        assert len({"a1" * 16, *(message_id for _, message_id in seen)}) == 3


async def test_a_call_for_what_nobody_owns_is_refused(autojump_clock: MockClock) -> None:
    """On fresh evidence."""
    async with open_router() as router:
        with pytest.raises(ResourceNotFound):
            await do(router, "route.request", service_name="rooms", method="who", resource_id="lobby")
