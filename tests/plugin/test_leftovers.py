"""What a test leaves behind fails it, unless its marker says that it is meant."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests

UNANSWERED = """
async def test_unanswered(aegis_cluster):
    await aegis_cluster.serve("a", rooms, instance_id="room-1")
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(caller.call, "rooms", "enter", {"seconds": 1000.0}, timeout=2000))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
"""

LEFT = """
async def stubborn():
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(50)

async def test_left(aegis_cluster):
    await aegis_cluster.run("a", stubborn)
    await trio.sleep(1)
"""

LEAKED = """
@pytest.fixture
async def owner(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms, instance_id="room-1")
    began, end = trio.Event(), trio.Event()

    async def own():
        async with instance.own("room"):
            began.set()
            with trio.CancelScope(shield=True):
                await trio.sleep(1000)

    trio.lowlevel.spawn_system_task(own)
    await began.wait()

async def test_leaked(owner):
    await trio.sleep(1)
"""

CASES = {
    "unanswered_calls": (
        UNANSWERED,
        ["  a call to room-1 on node a without an answer", "    *in enter: await trio.sleep(seconds)"],
    ),
    "tasks_left": (
        LEFT,
        ["  a: stubborn, which goes on 20 s after it was told to end", "    *in stubborn: await trio.sleep(50)"],
    ),
    "leaked_claims": (
        LEAKED,
        ["  a claim of room by room-1 on node a: its own block was entered and never left"],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_leftover_fails_the_test_and_says_how_to_allow_it(run_tests: RunTests, kind: str) -> None:
    """The message names what, where it stands, and the marker."""
    source, lines = CASES[kind]
    result = run_tests(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the test left behind:",
            *lines,
            f"(where that is meant: @pytest.mark.aegis_allow('{kind}'))",
        ]
    )


@pytest.mark.parametrize("kind", CASES)
def test_leftover_can_be_allowed(run_tests: RunTests, kind: str) -> None:
    """By the marker on the test, or on its module."""
    source, _ = CASES[kind]
    mark = f"pytest.mark.aegis_allow('{kind}')"
    run_tests(source.replace("async def test_", f"@{mark}\nasync def test_")).assert_outcomes(passed=1)
    others = ", ".join(repr(other) for other in CASES if other != kind)
    run_tests(f"pytestmark = [{mark}, pytest.mark.aegis_allow()]\n{source}").assert_outcomes(passed=1)
    run_tests(f"pytestmark = pytest.mark.aegis_allow({others})\n{source}").assert_outcomes(failed=1)


def test_claim_that_only_the_store_knows_is_a_leak(run_tests: RunTests) -> None:
    """A claim that was abandoned while its fate was open is given back; where it is not, that is found."""
    source = """
async def abandon(instance, aegis_faults):
    with aegis_faults.indeterminate("a", applied="later", prefix="resources.", times=None):
        with trio.move_on_after(1):
            await instance.claim("room")
        await trio.sleep(20)

async def test_given_back(aegis_cluster, aegis_faults):
    await abandon(await aegis_cluster.serve("a", rooms), aegis_faults)

async def test_kept(aegis_cluster, aegis_faults, monkeypatch):
    from aegis_core.node.holdings import Holdings

    monkeypatch.setattr(Holdings, "touched", lambda self, target: None)
    await abandon(await aegis_cluster.serve("a", rooms, instance_id="room-1"), aegis_faults)
"""
    result = run_tests(source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["  a claim of room by room-1 on node a: the store has it, the instance does not know of it"]
    )


def test_test_that_failed_is_not_asked_what_it_left(run_tests: RunTests) -> None:
    """The failure is what there is to read."""
    result = run_tests(UNANSWERED + "    raise KeyError('first')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*KeyError: 'first'"])
    result.stdout.no_fnmatch_line("*left behind*")


def test_what_ends_by_itself_is_no_leftover(run_tests: RunTests) -> None:
    """Claims end with their instances, tasks with their cancellation, calls within the drain time, the dead are dead."""
    result = run_tests("""
async def call_for_ever(node):
    while True:
        await node.call("rooms", "enter", {"seconds": 0.5})

async def test_tidy(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room-1", "room-2")
    await aegis_cluster.run("a", hold, instance)
    caller = await aegis_cluster.node("b")
    await aegis_cluster.run("b", call_for_ever, caller)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(caller.call, "rooms", "enter", {"seconds": 9.0}, timeout=20))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()

async def test_dead(aegis_cluster):
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room-1")
    await aegis_cluster.run("a", hold, instance)
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(caller.call, "rooms", "enter", {"seconds": 1000.0}, timeout=2000))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await aegis_cluster.kill("a")

async def test_application(aegis_cluster):
    async def main():
        async with open_node() as node, node.serve(rooms) as instance:
            await instance.claim("room-3")
            await hold(instance)
    await aegis_cluster.start("a", main)
    await aegis_cluster.wait_owner("room", "a")
""")
    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*WARNING*")


def test_calls_that_come_while_a_node_ends_are_no_leftovers(run_tests: RunTests) -> None:
    """Others call on until it takes none any more: only what had come before is to be answered when the drain time is over."""
    source = """
from aegis_core import AegisError

async def call_for_ever(node, seconds=0.5):
    while True:
        try:
            await node.call("rooms", "enter", {"seconds": seconds}, timeout=50)
        except AegisError:
            await trio.sleep(0.1)

async def call_by_turns(cluster):
    caller = await cluster.node("b")
    await cluster.run("b", call_for_ever, caller)
    await trio.sleep(0.2)
    await cluster.run("b", call_for_ever, caller)
    await trio.sleep(3)

async def test_answered(aegis_cluster):
    await aegis_cluster.serve("a", rooms)
    await call_by_turns(aegis_cluster)
    began = trio.current_time()
    assert await aegis_cluster.stop("a") == []
    assert trio.current_time() < began + 1.5

async def test_unanswered(aegis_cluster):
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    caller = await aegis_cluster.node("b")
    await aegis_cluster.run("b", call_for_ever, caller, 25.0)
    await call_by_turns(aegis_cluster)
    (left,) = await aegis_cluster.stop("a")
    assert left.what == "a call to rooms-1 on node a without an answer"
"""
    run_tests(source).assert_outcomes(passed=2)
