"""An application's tests in parallel, and in any order: nothing of one is seen by another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import PREAMBLE

TESTS = (
    PREAMBLE
    + """
from pathlib import Path

import aegis_core

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("number", range(6))
async def test_same_names_everywhere(aegis_cluster, aegis_calls, number):
    first = await aegis_cluster.serve("a", rooms)
    (claim,) = await first.claim("room")
    caller = await aegis_cluster.node("b")
    await caller.call("rooms", "enter", resource_id="room")
    assert len(aegis_calls) == 1
    (FOLDER / f"{number}.told").write_text(f"{first.instance_id} {claim.epoch} {trio.current_time()}")


async def test_failover(aegis_cluster, aegis_events):
    for name in ("a", "b"):
        instance = await aegis_cluster.serve(name, rooms, instance_id=f"rooms-{name}")
        await aegis_cluster.run(name, hold, instance)
        await aegis_cluster.wait_owner("room", "a")
    await aegis_cluster.kill("a")
    await aegis_events.expect(aegis_core.InstanceLost, within=aegis_cluster.ttl + 1)
    await aegis_cluster.expect_claims({"b": ["room"]})


async def test_faulty(aegis_cluster, aegis_faults):
    instance = await aegis_cluster.serve("a", rooms)
    with aegis_faults.pause("a"):
        await trio.sleep(1)
    assert await instance.claim("room")
"""
)
FAILING = """

async def test_failing(aegis_cluster):
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    assert not aegis_cluster.nodes
"""


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    """Run *source* in processes of its own, as its author does."""
    pytester.makeini("[pytest]\nfilterwarnings = error")
    pytester.makepyfile(test_rooms=source)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)


def told(folder: Path) -> dict[str, str]:
    """What the tests wrote down."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.told"))}


def test_order_does_not_matter(pytester: pytest.Pytester) -> None:
    """Nor does who ran before: each test has the same ids and epochs in every order, and in parallel."""
    seen = []
    for order in (("-p", "no:randomly"), ("-p", "randomly", "-p", "no:xdist", "--randomly-seed=1"), ("-n", "2")):
        result = run(pytester, TESTS, *order)
        result.assert_outcomes(passed=8)
        seen.append(told(pytester.path))
    assert len(seen[0]) == 6
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]


def test_parallel_tests_share_no_server(pytester: pytest.Pytester) -> None:
    """Every process starts what it needs."""
    result = run(pytester, TESTS, "-n", "2", "--aegis-backend=memory,nats,http", "-k", "same_names")
    result.assert_outcomes(passed=18)


def test_failure_in_another_process_is_told_as_here(pytester: pytest.Pytester) -> None:
    """The state of the cluster comes with the report."""
    result = run(pytester, PREAMBLE + FAILING, "-n", "1", "-p", "no:randomly")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*cluster at the failure*",
            "cluster, 0 s after its start:",
            "  node a: open, its view at revision *",
            "    rooms-1: STANDBY ONLINE, * s of its lease left, no calls without an answer",
        ]
    )
