"""The fixtures of the plugin. They import what they need when they are used; see `aegis_pytest.plugin`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import pytest
from pytest_trio import trio_fixture

from aegis_pytest.markers import allowed
from aegis_pytest.plugin import harness_of, keep_state

if TYPE_CHECKING:
    from aegis_core.backend import Store
    from aegis_core.models import Resource, ResourceMetadata
    from aegis_core.node.node import Node
    from aegis_pytest.call_log import CallLog
    from aegis_pytest.cluster import Cluster
    from aegis_pytest.event_log import EventLog
    from aegis_pytest.faults import Faults
    from aegis_pytest.harness import Harness
    from aegis_pytest.logs import CapturedLogs
    from aegis_pytest.simulation import Simulation

__all__ = [
    "aegis_backend",
    "aegis_calls",
    "aegis_cluster",
    "aegis_events",
    "aegis_faults",
    "aegis_logs",
    "aegis_nats_url",
    "aegis_node",
    "aegis_simulation",
    "aegis_store",
    "bulk_registration_data",
    "conflicting_resources",
    "expired_resources",
    "sample_resource_metadata",
    "sample_resources",
]

# ruff: noqa: PLC0415 - see the docstring

F = TypeVar("F", bound=Callable[..., object])


def fixture(function: F) -> F:
    """A fixture that pytest-trio runs, in its mode and without."""
    return cast(F, trio_fixture(function))


@pytest.fixture
def aegis_backend(request: pytest.FixtureRequest) -> str:
    """The name of the backend that the test runs on: ``memory``, unless ``--aegis-backend`` chooses others."""
    name: str = getattr(request, "param", "memory")
    return name


@pytest.fixture
def _aegis_harness(aegis_backend: str, request: pytest.FixtureRequest) -> Harness:
    """Of the backend that the nodes of the test share. Servers are started here, where no Trio runs yet."""
    return harness_of(aegis_backend, request.config).for_test(request)


@fixture
async def aegis_cluster(_aegis_harness: Harness, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Nodes by name, on the memory backend and virtual time by default; see `aegis_pytest.cluster.Cluster`."""
    __tracebackhide__ = True
    from aegis_pytest.backends import application_ttl
    from aegis_pytest.cluster import open_cluster
    from aegis_pytest.state_dump import describe_state
    from aegis_pytest.verdict import left_by_exception

    ttl = application_ttl(type(_aegis_harness))
    try:
        async with open_cluster(
            _aegis_harness, ttl=ttl, seed=request.node.nodeid, allow=allowed(request.node)
        ) as cluster:
            try:
                yield cluster
            finally:
                if (
                    not left_by_exception()
                ):  # a fixture that uses the cluster may have failed, before the test or after it
                    keep_state(request.node, describe_state())
    except pytest.fail.Exception:
        keep_state(request.node, "")  # what was left behind is told with where it waits
        raise


@fixture
async def aegis_events(aegis_cluster: Cluster) -> EventLog:
    """What happens in the cluster of the test; see `aegis_pytest.event_log.EventLog`."""
    return aegis_cluster.events


@fixture
async def aegis_calls(aegis_cluster: Cluster) -> CallLog:
    """The calls that the instances of the test's cluster handle; see `aegis_pytest.call_log.CallLog`."""
    return aegis_cluster.calls


@fixture
async def aegis_faults(aegis_cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Faults]:
    """What goes wrong in the cluster of the test; see `aegis_pytest.faults.Faults`."""
    from aegis_pytest.faults import Faults
    from aegis_pytest.verdict import left_by_exception

    allow_unused = "unused_faults" in allowed(request.node)
    faults = Faults(aegis_cluster.plane, allow_unused=allow_unused)
    yield faults
    if not left_by_exception() and not allow_unused:
        faults.expect_entered()


@fixture
async def aegis_node(aegis_cluster: Cluster) -> Node:
    """One node, which is node ``node`` of `aegis_cluster`."""
    return await aegis_cluster.node("node")


@fixture
async def aegis_store(_aegis_harness: Harness) -> AsyncIterator[Store]:
    """The store of an empty backend, with no node."""
    async with _aegis_harness.open_backend() as backend:
        assert backend.store is not None
        yield backend.store


@pytest.fixture
def aegis_simulation(tmp_path: Path) -> Simulation:
    """Simulations from seeds, for a synchronous test; see `aegis_pytest.simulation`."""
    from aegis_pytest.simulation import Simulation

    return Simulation(tmp_path)


@pytest.fixture
def aegis_logs() -> Iterator[CapturedLogs]:
    """What the library logs during the test, from DEBUG on; see `aegis_pytest.logs.CapturedLogs`."""
    from aegis_pytest.logs import capture_logs

    with capture_logs() as captured:
        yield captured


@pytest.fixture(scope="session")
def aegis_nats_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A backend's URL without a bucket: of the cluster that ``--aegis-nats-url`` names, or of a server that is started.

    Its tests take buckets of their own, by adding the parameter ``bucket``, as `aegis_pytest.nats.NatsHarness` does.
    """
    from aegis_pytest.nats import session_url

    with session_url(request.config.getoption("--aegis-nats-url")) as url:
        yield url


@pytest.fixture
def sample_resource_metadata() -> ResourceMetadata:
    """A gold customer's session: type, tags, attributes, an hour to live, priority 10."""
    from aegis_pytest import samples

    return samples.METADATA


@pytest.fixture
def sample_resources() -> tuple[Resource, ...]:
    """100 resources of ``test-instance-1``, in five groups by tag."""
    from aegis_pytest import samples

    return samples.sample_resources(datetime.now(UTC))


@pytest.fixture
def conflicting_resources() -> Mapping[str, tuple[str, str]]:
    """Three resource ids, and the two instances that want each."""
    from aegis_pytest import samples

    return samples.CONFLICTS


@pytest.fixture
def expired_resources() -> tuple[Resource, ...]:
    """A resource whose time to live passed an hour ago, and whose owner is dead."""
    from aegis_pytest import samples

    return samples.expired_resources(datetime.now(UTC))


@pytest.fixture
def bulk_registration_data() -> Mapping[str, tuple[tuple[str, ResourceMetadata], ...]]:
    """Batches to claim: ``small_batch`` (10), ``medium_batch`` (100), ``large_batch`` (1000), ``with_conflicts`` (52)."""
    from aegis_pytest import samples

    return samples.bulk_registration_data()
