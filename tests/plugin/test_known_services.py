"""Which services the call log of a cluster knows: those of which there was ever an instance, and those that calls name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
from trio.testing import MockClock

from aegis_core import Call, InvalidRequest, Service
from aegis_core.backend import Backend
from aegis_core.envelopes import RequestEnvelope
from aegis_core.served import Served
from aegis_pytest.call_log import CallLog
from aegis_pytest.cluster import Cluster, open_cluster
from aegis_pytest.memory import MemoryHarness

rooms = Service("rooms")


@rooms.method
async def book(call: Call, guest: str) -> str:
    """Book a room."""
    return guest.upper()


async def test_service_that_the_cluster_has_never_had_is_refused(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Its name is misspelt: nothing could be lost of it, nor recorded."""
    with pytest.raises(pytest.UsageError, match=r"no call names it; known here: no service$"):
        await aegis_calls.expect_none_lost("rooms")
    await aegis_calls.expect_none_lost()
    await aegis_cluster.serve("a", rooms)
    await aegis_cluster.serve("b", Service("cars"))
    refused = r"^the cluster has had no instance of service 'roms', and no call names it; known here: cars, rooms$"
    with pytest.raises(pytest.UsageError, match=refused):
        await aegis_calls.expect_none_lost("roms")
    with pytest.raises(pytest.UsageError, match=refused):
        aegis_calls.recording("roms")
    with pytest.raises(pytest.UsageError, match=refused):
        aegis_calls.of("roms", "book")


async def test_method_that_the_service_does_not_have_is_refused(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Its name is misspelt: there can be no call of it, lost or not. One that a call names is known."""
    await aegis_cluster.serve("a", rooms)
    refused = r"^service 'rooms' has no method 'bok', and no call names it; known here: book$"
    with pytest.raises(pytest.UsageError, match=refused):
        await aegis_calls.expect_none_lost("rooms", "bok")
    with pytest.raises(pytest.UsageError, match=refused):
        aegis_calls.recording("rooms", "bok")
    with pytest.raises(pytest.UsageError, match=refused):
        aegis_calls.of("rooms", "bok")
    with pytest.raises(pytest.UsageError, match=r"^no service here has a method 'bok', and no call names it; known"):
        await aegis_calls.expect_none_lost(None, "bok")
    assert aegis_calls.of(None, "book") == aegis_calls.of("rooms", "book") == []
    caller = await aegis_cluster.node("b")
    with pytest.raises(InvalidRequest):
        await caller.call("rooms", "bok", {"guest": "Ada"})
    (call,) = aegis_calls.of("rooms", "bok")
    assert isinstance(call.error, InvalidRequest)


async def test_service_that_the_cluster_has_had_is_known(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Also when its node has died, or begun another life; and one that only a call names, when the log is cleared."""
    await aegis_cluster.serve("a", rooms)
    await aegis_cluster.kill("a")
    await aegis_cluster.node("a")
    await aegis_calls.expect_none_lost("rooms", within=0)
    aegis_calls.received("b", "cars-1", RequestEnvelope("drive", {}, service_name="cars"))
    aegis_calls.sent("b", "", RequestEnvelope("fly", {}, service_name="planes"), lambda: True)
    aegis_calls.clear()
    for service_name in ("rooms", "cars", "planes"):
        await aegis_calls.expect_none_lost(service_name, within=0)
        assert aegis_calls.recording(service_name).calls == ()


async def test_service_that_is_not_registered_is_known(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """It answers calls by its instance id: they are in the log, and none can be lost before there was one."""
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1", register=False)
    await aegis_calls.expect_none_lost("rooms", within=0)
    assert aegis_calls.recording("rooms").calls == ()
    caller = await aegis_cluster.node("b")
    await caller.call("rooms", "book", {"guest": "Ada"}, instance_id="rooms-1")
    await aegis_calls.expect("rooms", "book", result="ADA", within=0)


class WithTools(MemoryHarness):
    """A backend with tools of its own, which see what is served."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    @asynccontextmanager
    async def open_peer(self) -> AsyncIterator[Backend]:
        """A connection of its own."""
        async with super().open_peer() as backend:
            yield attrs.evolve(backend, announce=self.announce)

    @contextmanager
    def announce(self, served: Served) -> Iterator[None]:
        """See *served* come and go."""
        self.seen.append(f"{served.instance.instance_id} comes")
        yield
        self.seen.append(f"{served.instance.instance_id} goes")


async def test_what_is_served_is_announced_to_the_backend(autojump_clock: MockClock) -> None:
    """As it is outside of tests."""
    harness = WithTools()
    async with open_cluster(harness) as cluster:
        await cluster.serve("a", rooms, instance_id="rooms-1")
        assert harness.seen == ["rooms-1 comes"]
        await cluster.calls.expect_none_lost("rooms", within=0)
    assert harness.seen == ["rooms-1 comes", "rooms-1 goes"]
