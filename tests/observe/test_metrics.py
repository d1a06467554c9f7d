"""Every metric is fed by what nodes really do, and none by what callers make up.

It is one long file because there is one page, and each part of it is a few lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
import trio.testing
from prometheus_client import generate_latest

from aegis_backends.memory import open_memory
from aegis_core import Call, Claim, Health, Instance, Node, ResourceMetadata, Role, Service, open_node
from aegis_core.backend import Backend, BackendAddress, Message
from aegis_core.config import MetricsSettings
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    ConfigError,
    Conflict,
    Forbidden,
    InvalidRequest,
    Misdirected,
    RemoteError,
    ResourceConflict,
    ResourceNotFound,
    ServiceNotFound,
    StoreUnavailable,
)
from aegis_core.events import RoleChanged
from aegis_core.hookspecs import BackendRegistrar, hookimpl
from aegis_core.observe.gauges import SLICE
from aegis_core.observe.metrics import Metrics, exposition
from aegis_core.observe.series import Counts, Sample
from aegis_core.router.operations import OPERATIONS
from aegis_core.router.router import open_router
from tests.node.faulty import Faults, names_key
from tests.node.scene import RESOURCE, scene
from tests.node.wires import answer
from tests.observe.scraping import parse, scrape
from tests.router.wired import open_wire, packed, unpacked

ON = {"metrics": {"enabled": True}}


def service() -> Service:
    """A service whose instances take over what they are given."""
    made = Service("account-service", version="1.0.0")

    @made.method
    async def who(call: Call) -> str:
        assert call.instance is not None
        return call.instance.instance_id

    @made.method
    async def fail(call: Call) -> str:
        raise ValueError("on purpose")

    @made.method
    async def wait(call: Call) -> None:
        await trio.sleep(60)

    @made.on_acquire
    async def take(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    return made


@attrs.frozen
class Pair:
    """A node and two instances that it serves."""

    node: Node
    a: Instance
    b: Instance


@asynccontextmanager
async def pair(**metrics: object) -> AsyncIterator[Pair]:
    """Instances ``a`` and ``b`` on one node that counts."""
    config = {"metrics": {"enabled": True, **metrics}, "limits": {"handlers": 2}}
    made = service()
    async with (
        open_node("memory://", config=config) as node,
        node.serve(made, instance_id="a") as a,
        node.serve(made, instance_id="b") as b,
    ):
        yield Pair(node, a, b)


# --- On and off --------------------------------------------------------------------------------


async def test_nothing_is_counted_unless_it_is_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    """By default a node has no instruments at all, and says which setting turns them on."""
    async with open_node("memory://") as node:
        assert node.runtime.instruments is None
        with pytest.raises(ConfigError, match=r"metrics\.enabled"):
            await exposition(node)


# --- Resources ---------------------------------------------------------------------------------


async def test_claims_conflicts_and_metadata_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    """Each resource that was asked for counts once, by what became of it."""
    async with pair() as both:
        await both.a.claim("r:1", metadata=ResourceMetadata(tags=("premium",)))
        with pytest.raises(ResourceConflict):
            await both.b.claim("r:1", "r:2")
        reply = await both.node.registry.claim("account-service", "b", "r:1", "r:3")
        assert reply.registered == ("r:3",)
        async with both.b.own("r:4"):
            page = await scrape(both.node)
    labels = {"service_name": "account-service"}
    assert page.value("ipc_resource_registrations_total", **labels, status="success") == 3
    assert page.value("ipc_resource_registrations_total", **labels, status="conflict") == 2
    assert page.value("ipc_resource_registrations_total", **labels, status="refused") == 1
    assert page.value("ipc_resource_conflicts_total", **labels) == 2
    assert page.value("ipc_resource_metadata_size_bytes_count", **labels) == 3
    size = page.value("ipc_resource_metadata_size_bytes_sum", **labels)
    assert size is not None
    assert size > len("premium")
    assert page.value("ipc_resource_operation_duration_seconds_count", operation="claim") == 4
    assert page.value("ipc_resources_per_instance", **labels, instance_id="a") == 1
    assert page.value("ipc_resources_per_instance", **labels, instance_id="b") == 2


async def test_conflicts_are_told_apart_by_resource_up_to_the_number_that_is_set(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The first ids have series of their own, all later ones share one."""
    async with pair(conflict_resource_ids=2) as both:
        await both.a.claim(*(f"r:{at}" for at in range(5)))
        for at in (0, 1, 2, 3, 0):
            with pytest.raises(ResourceConflict):
                await both.b.claim(f"r:{at}")
        page = await scrape(both.node)
    found = {
        dict(labels)["resource_id"]: value for labels, value in page.series("ipc_resource_conflicts_total").items()
    }
    assert found == {"r:0": 2, "r:1": 1, "other": 2}


async def test_releases_are_counted_by_reason(autojump_clock: trio.testing.MockClock) -> None:
    """Released, moved, expired, and left behind."""
    async with open_node("memory://", config=ON) as seeing, open_node("memory://") as node:
        made = service()
        async with node.serve(made, instance_id="a") as a, node.serve(made, instance_id="b"):
            await a.claim("r:1", "r:2", "r:3")
            await a.claim("r:4", metadata=ResourceMetadata(ttl_seconds=5))
            await a.release("r:1")
            await a.transfer("r:2", to="b", reason="any words of a person")
            await trio.sleep(10)
        await seeing.runtime.directory.sync()
        page = await scrape(seeing)
    found = {dict(labels)["reason"]: value for labels, value in page.series("ipc_resource_releases_total").items()}
    assert found == {"released": 3, "transferred": 1, "expired": 1}


async def test_look_ups_are_counted_by_whether_there_was_an_owner(autojump_clock: trio.testing.MockClock) -> None:
    """Those of programs, of the registry, and of calls."""
    async with pair() as both:
        await both.a.claim("r:1")
        assert both.node.owner_of("r:1") is not None
        assert both.node.owner_of("r:2") is None
        await both.node.registry.get_owner("r:1")
        with pytest.raises(ResourceNotFound):
            await both.node.registry.get_owner("r:2")
        await both.node.call("account-service", "who", resource_id="r:1")
        with pytest.raises(ResourceNotFound):
            await both.node.call("account-service", "who", resource_id="r:2")
        page = await scrape(both.node)
    assert page.value("ipc_resource_lookups_total", service_name="account-service", found="true") == 3
    assert page.value("ipc_resource_lookups_total", service_name="account-service", found="false") == 1
    assert page.value("ipc_resource_lookups_total", service_name="unknown", found="false") == 2


async def test_bulk_operations_are_counted_by_how_they_ended(autojump_clock: trio.testing.MockClock) -> None:
    """In whole, in part, not at all, and refused."""
    async with pair() as both:
        await both.a.claim("r:0")
        await both.b.bulk_claim([f"r:{at}" for at in range(4)], continue_on_error=True)
        await both.b.bulk_claim(["r:0"])
        await both.b.bulk_claim(["s:1", "s:2"])
        await both.b.bulk_release(["s:1", "s:2"])
        with pytest.raises(InvalidRequest):
            await both.b.bulk_claim(["no space"])
        await both.b.bulk_claim(["no space", "t:1"], continue_on_error=True)
        page = await scrape(both.node)
    for operation, status, number in (
        ("bulk_register", "partial", 2),
        ("bulk_register", "failed", 1),
        ("bulk_register", "success", 1),
        ("bulk_register", "refused", 1),
        ("bulk_release", "success", 1),
    ):
        assert page.value("ipc_resource_bulk_operations_total", operation=operation, status=status) == number
    asked = {dict(k)["status"]: v for k, v in page.series("ipc_resource_registrations_total").items()}
    assert asked == {"success": 1 + 3 + 2 + 1, "conflict": 2, "refused": 1}


async def test_transfers_are_counted_by_resource(autojump_clock: trio.testing.MockClock) -> None:
    """What moved, what did not, and what was refused as a whole."""
    async with pair() as both:
        await both.a.claim("r:1", "r:2", "r:3")
        await both.a.transfer("r:1", "r:2", to="b")
        with pytest.raises(AegisError):
            await both.node.registry.transfer("account-service", ["r:9"], "a", "b")
        moved = await both.node.registry.rebalance("account-service")
        assert moved == ()
        page = await scrape(both.node)
    labels = {"from_service": "account-service", "to_service": "account-service"}
    assert page.value("ipc_resource_transfers_total", **labels, status="success") == 2
    assert page.value("ipc_resource_transfers_total", **labels, status="refused") == 1


# --- Instances ---------------------------------------------------------------------------------


async def test_instances_are_counted_by_service_and_health(autojump_clock: trio.testing.MockClock) -> None:
    """As this node sees them now."""
    async with pair() as both:
        await both.b.set_health(Health.UNHEALTHY, "for the test")
        page = await scrape(both.node)
    assert page.value("ipc_instances", service_name="account-service", health="ONLINE") == 1
    assert page.value("ipc_instances", service_name="account-service", health="UNHEALTHY") == 1


async def test_registrations_and_heartbeats_are_counted_by_how_they_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Those of instances of this node, and those that it is asked for."""
    async with pair() as both:
        with pytest.raises(AegisError):
            await both.node.registry.register("account-service", "a")
        with pytest.raises(AegisError):
            await both.node.registry.heartbeat("account-service", "nobody")
        with pytest.raises(TypeError):
            await both.node.registry.heartbeat()  # type: ignore[call-arg]  # on purpose
        await trio.sleep(25)
        page = await scrape(both.node)
    labels = {"service_name": "account-service"}
    assert page.value("ipc_registrations_total", **labels, status="success") == 2
    assert page.value("ipc_registrations_total", **labels, status="conflict") == 1
    assert page.value("ipc_heartbeats_total", **labels, status="success") == 4
    assert page.value("ipc_heartbeats_total", **labels, status="refused") == 1
    assert page.value("ipc_heartbeat_latency_seconds_count") == 5


async def test_lost_leases_roles_and_fail_overs_are_seen(autojump_clock: trio.testing.MockClock) -> None:
    """Who falls silent loses its lease, and the next in line is active soon after."""
    async with open_node("memory://", config=ON) as node, node.serve(service(), instance_id="b", ttl=60) as b:
        await node.registry.register("account-service", "old", {"resource_id": "r:1"}, role=Role.ACTIVE, ttl=5)
        async with b.own("r:1", role=Role.STANDBY):
            page = await scrape(node)
        await node.registry.disconnect("account-service", "b")
        await trio.sleep(1)
        after = await scrape(node)
    labels = {"service_name": "account-service"}
    assert page.value("ipc_leases_lost_total", **labels, reason="expired") == 1
    assert after.value("ipc_leases_lost_total", **labels, reason="erased") == 1
    assert page.value("ipc_failover_duration_seconds_count") == 1
    promoted = {**labels, "from_role": "STANDBY", "to_role": "ACTIVE", "reason": "promoted"}
    assert page.value("ipc_role_transitions_total", **promoted) == 1
    lost = {**labels, "from_role": "ACTIVE", "to_role": "none", "reason": "lease_expired"}
    assert page.value("ipc_role_transitions_total", **lost) == 1


async def test_roles_that_nobody_takes_over_are_forgotten(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest ends of actives are remembered, so many and no more; a fail-over after that is still timed."""
    monkeypatch.setattr("aegis_core.observe.metrics._MOST_FAILING_OVER", 2)
    metrics = Metrics(MetricsSettings())
    for at in range(5):
        lost = {"old": Role.ACTIVE, "reason": "lease_expired", "group": f"g-{at}"}
        metrics.on_event(RoleChanged(service_name="account-service", **lost))
    for at in (0, 4):
        taken = RoleChanged(service_name="account-service", new=Role.ACTIVE, reason="promoted", group=f"g-{at}")
        metrics.on_event(taken)
    (count,) = (value for suffix, _, value in metrics.counted.failover_seconds.samples() if suffix == "_count")
    assert count == 1


# --- Calls -------------------------------------------------------------------------------------


async def test_calls_are_counted_by_outcome(autojump_clock: trio.testing.MockClock) -> None:
    """Answered, failed, out of time, cancelled, and never sent."""
    async with pair() as both:
        call = both.node.call
        await call("account-service", "who")
        with pytest.raises(RemoteError):
            await call("account-service", "fail")
        with pytest.raises(CallTimeout):
            await call("account-service", "wait", timeout=1)
        with trio.move_on_after(1):
            await call("account-service", "wait")
        with pytest.raises(ServiceNotFound):
            await call("no-such-service", "who")
        with pytest.raises(InvalidRequest):
            await call("account-service", "who", {"too": "much"})
        page = await scrape(both.node)
    found = {tuple(sorted(dict(labels).values())): value for labels, value in page.series("ipc_calls_total").items()}
    assert found == {
        ("account-service", "ok", "who"): 1,
        ("account-service", "error", "fail"): 1,
        ("account-service", "maybe_executed", "other"): 1,
        ("account-service", "cancelled", "other"): 1,
        ("not_sent", "other", "unknown"): 1,
        ("account-service", "error", "who"): 1,
    }
    assert page.value("ipc_call_duration_seconds_count", service_name="account-service") == 5


async def test_calls_for_clients_of_a_router_are_counted_like_its_own(autojump_clock: trio.testing.MockClock) -> None:
    """Once each, and under names that clients cannot make up."""
    async with pair() as both, open_router(both.node) as router:
        for method in ("who", "made-up"):
            operation = OPERATIONS["route.request"]
            request = operation.read({"service_name": "account-service", "method": method})
            with suppress(InvalidRequest):
                await operation.carry_out(router, request, None)
        page = await scrape(both.node)
    labels = {"service_name": "account-service"}
    assert page.value("ipc_calls_total", **labels, method="who", outcome="ok") == 1
    assert page.value("ipc_calls_total", **labels, method="other", outcome="error") == 1


async def test_names_that_callers_make_up_are_no_labels(autojump_clock: trio.testing.MockClock) -> None:
    """A thousand names of methods and services make one series each way."""
    async with pair() as both:
        await both.node.call("account-service", "who")
        before = (await exposition(both.node)).count(b"\n")
        for at in range(100):
            with pytest.raises(InvalidRequest):
                await both.node.call("account-service", f"made-up-{at}")
            with pytest.raises(ServiceNotFound):
                await both.node.call(f"made-up-{at}", "who")
            with pytest.raises(AegisError):
                await both.node.registry.claim(f"made-up-{at}", "a", "r:1")
        text = await exposition(both.node)
    assert b"made-up" not in text
    assert text.count(b"\n") - before < 100


async def test_errors_of_other_programs_prove_no_method(autojump_clock: trio.testing.MockClock) -> None:
    """They answer methods that they do not have in their own way; what one of them answered well counts by its name."""
    async with open_wire("others", **ON) as wire:
        await wire.client.ask("service.register", service_name="rooms", instance_id="old", ttl=1000)

        def receive(message: Message) -> None:
            method = unpacked(message.payload)["method"]
            error = {"code": "NO_SUCH_METHOD", "type": "AttributeError", "message": method}
            result = {"success": True, "result": 1} if method == "book" else {"success": False, "error": error}
            wire.bus.publish(message.reply, packed(result))

        async with wire.bus.subscribe("ipc.instance.old.inbox", receive):
            for method in ("made-up-1", "made-up-2", "book"):
                await wire.client.ask("route.request", service_name="rooms", method=method)
        page = await scrape(wire.node)
    found = {tuple(sorted(dict(labels).values())): value for labels, value in page.series("ipc_calls_total").items()}
    assert found == {("error", "other", "rooms"): 2, ("book", "ok", "rooms"): 1}


async def test_calls_under_way_and_waiting_are_shown(autojump_clock: trio.testing.MockClock) -> None:
    """Five calls at an instance that handles two at once: all are in flight, three wait."""
    async with pair() as both, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(_quietly, both.node)
        await trio.sleep(1)
        page = await scrape(both.node)
        nursery.cancel_scope.cancel()
    assert page.value("ipc_calls_in_flight", service_name="account-service") == 5
    assert page.value("ipc_queue_depth", service_name="account-service") == 3


async def _quietly(node: Node) -> None:
    await node.call("account-service", "wait", instance_id="a", timeout=100)


async def test_retries_and_misdirected_attempts_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    """By what had failed before."""
    async with scene(second=True, **ON) as made:
        made.wire.faults = [
            answer(Misdirected(resource_id=RESOURCE, epoch=0)),
            answer(Misdirected(resource_id=RESOURCE)),
        ]
        await made.call()
        page = await scrape(made.caller)
    assert page.value("ipc_misdirected_total", service_name="account-service") == 2
    assert page.value("ipc_retries_total", reason="misdirected") == 2
    assert page.value("ipc_calls_total", service_name="account-service", method="plain", outcome="ok") == 1


# --- The store and the transport ---------------------------------------------------------------


async def test_commits_are_counted_by_how_they_ended(autojump_clock: trio.testing.MockClock) -> None:
    """Unanswered, refused, given up, and what is tried again after that."""
    faults, resources = Faults(), names_key("resources.")
    async with faults.node(**ON) as node, node.serve(service(), instance_id="a") as a:
        faults.unanswered(resources)
        faults.break_down(Conflict(), resources)
        faults.break_down(StoreUnavailable(reason="for the test"), resources)
        await a.claim("r:1")
        faults.break_down(Forbidden(operation="commit", target="r:2"), resources)
        with pytest.raises(Forbidden):
            await a.claim("r:2")
        faults.hold(trio.Event(), resources)
        with trio.move_on_after(1):
            await a.claim("r:3")
        page = await scrape(node)
    found = {dict(labels)["status"]: value for labels, value in page.series("ipc_store_commits_total").items()}
    assert found == {"success": 2, "indeterminate": 1, "conflict": 1, "unavailable": 1, "refused": 1, "cancelled": 1}
    tried = {dict(labels)["reason"]: value for labels, value in page.series("ipc_retries_total").items()}
    assert tried == {"store_indeterminate": 1, "store_conflict": 1, "store_unavailable": 1}
    assert page.value("ipc_store_commit_duration_seconds_count") == 7


async def test_reconnects_are_those_of_the_backend(autojump_clock: trio.testing.MockClock) -> None:
    """The backend counts them."""

    class Flaky:
        """Offers ``flaky://``."""

        @hookimpl
        def aegis_register_backends(self, register: BackendRegistrar) -> None:
            register("flaky", _open_flaky)

    async with open_node("flaky://", config=ON, plugins=[Flaky()]) as node:
        page = await scrape(node)
    assert page.value("ipc_transport_reconnects_total") == 3


@asynccontextmanager
async def _open_flaky(_address: BackendAddress) -> AsyncIterator[Backend]:
    memory = BackendAddress(url="memory://flaky", scheme="memory", location="flaky")
    async with open_memory(memory) as opened:
        yield attrs.evolve(opened, reconnects=lambda: 3)


# --- The page ----------------------------------------------------------------------------------


async def test_collectors_of_the_program_get_the_same_numbers(autojump_clock: trio.testing.MockClock) -> None:
    """The node's own registry of prometheus-client writes down what the page says."""
    async with pair() as both:
        await both.a.claim("r:1")
        assert both.node.runtime.instruments is not None
        (metrics,) = both.node.runtime.instruments.all
        assert isinstance(metrics, Metrics)
        text = generate_latest(metrics.registry)
        assert parse(text.decode()) == await scrape(both.node)
        assert repr(metrics) == "<Metrics: 26 families>"
        assert repr(both.node.runtime.instruments) == "<Instruments: Metrics>"


async def test_long_page_is_written_in_slices(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two checkpoints at most a slice of samples is written; and other tasks do run in between."""
    steps = _Steps()
    read = Counts.samples

    def counted(self: Counts) -> Iterator[Sample]:
        for sample in read(self):
            steps.work += 1
            yield sample

    async with pair() as both:
        (metrics,) = both.node.runtime.instruments.all  # type: ignore[union-attr]  # it is on
        assert isinstance(metrics, Metrics)
        for at in range(2000):
            metrics.counted.calls.add("account-service", f"method-{at}", "ok")
            metrics.counted.leases_lost.add(f"service-{at}", "expired")
        monkeypatch.setattr(Counts, "samples", counted)
        trio.lowlevel.add_instrument(steps)
        page = await scrape(both.node)
        trio.lowlevel.remove_instrument(steps)
    assert len(page.series("ipc_calls_total")) == 2000
    assert steps.total >= 4000
    assert steps.most <= SLICE


class _Steps(trio.abc.Instrument):
    """Counts the work of each step of a task."""

    def __init__(self) -> None:
        self.work = self.most = self.total = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most, self.total, self.work = max(self.most, self.work), self.total + self.work, 0


async def test_many_instances_are_counted_in_slices(autojump_clock: trio.testing.MockClock) -> None:
    """Looking at a service's instances, too, is interrupted: every so often there is a None among the samples."""
    async with open_node("memory://", config=ON) as node:
        for at in range(2 * SLICE + 1):
            await node.registry.register("account-service", f"i-{at}", ttl=100)
        (metrics,) = node.runtime.instruments.all  # type: ignore[union-attr]  # it is on
        assert isinstance(metrics, Metrics)
        (family,) = (one for one in metrics.families if one.name == "ipc_instances")
        found = Counter(sample is None for sample in family.samples())
        page = await scrape(node)
    assert found == {True: 2, False: 1}
    assert page.value("ipc_instances", service_name="account-service", health="ONLINE") == 2 * SLICE + 1
