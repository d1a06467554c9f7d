"""What a test that fails says: at most forty lines, kept beside this file as people see them.

Whoever changes a message on purpose changes the file, and looks at it: would you know at once what is wrong?
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.plugin.conftest import RunTests

GOLDEN: Final = Path(__file__).parent / "golden"
MOST_LINES: Final = 40
LONGEST_LINE: Final = 250
HIDDEN: Final = "All traceback entries are hidden. Pass `--full-trace` to see hidden and internal frames.\n"

SCENES: Final = {
    "event": """
async def test_it(aegis_cluster, aegis_events):
    from aegis_core import RoleChanged
    await aegis_cluster.serve("a", rooms, role=Role.ACTIVE, instance_id="rooms-1")
    await aegis_cluster.serve("b", rooms, role=Role.STANDBY, instance_id="rooms-2")
    await aegis_events.expect(RoleChanged(instance_id="rooms-2", new=Role.ACTIVE), within=5)
""",
    "owner": """
async def test_it(aegis_cluster, aegis_faults):
    for name in ("a", "b"):
        instance = await aegis_cluster.serve(name, rooms, instance_id=f"rooms-{name}")
        await aegis_cluster.run(name, hold, instance)
        await aegis_cluster.wait_owner("room", "a")
    with aegis_faults.partition({"a"}, {"store"}):
        await aegis_cluster.wait_owner("room", "b", within=10)
""",
    "claims": """
async def test_it(aegis_cluster):
    first = await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    second = await aegis_cluster.serve("b", rooms, instance_id="rooms-2")
    await first.claim("room:1", "room:4")
    await second.claim("room:2")
    await aegis_cluster.expect_claims({"a": ["room:1", "room:2", "room:3"], "rooms-3": []}, within=2)
""",
    "call": """
async def test_it(aegis_cluster, aegis_calls):
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    caller = await aegis_cluster.node("b")
    await caller.call("rooms", "enter", {"seconds": 2.0})
    await aegis_calls.expect("rooms", "enter", params={"seconds": 3.0})
""",
    "lost": """
async def test_it(aegis_cluster, aegis_calls, aegis_faults):
    instance = await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    caller = await aegis_cluster.node("b")
    await instance.claim("room:7")
    await caller.call("rooms", "enter", resource_id="room:7")
    for way in (("a", "b"), ("b", "a")):
        with aegis_faults.drop(way), pytest.raises(trio.TooSlowError):
            await caller.call("rooms", "enter", resource_id="room:7", timeout=1)
    with trio.move_on_after(1):
        await caller.call("rooms", "enter", {"seconds": 100.0}, timeout=200)
    await aegis_calls.expect_none_lost("rooms")
""",
    "replay": """
booking = Service("booking")

@booking.method
async def book(call: Call, guest: str) -> dict:
    if guest == "Eve" and call.instance.instance_id == "new":
        raise ValueError("Eve is not welcome")
    return {"guest": guest, "rooms": [1, 2], "by": call.instance.instance_id}

async def test_it(aegis_cluster, aegis_calls):
    caller = await aegis_cluster.node("c")
    instances = [await aegis_cluster.serve(name, booking, instance_id=name) for name in ("old", "new")]
    for guest in ("Ada", "Eve"):
        await caller.call("booking", "book", {"guest": guest}, instance_id="old")
    await aegis_calls.recording("booking").replay(caller, instances[1])
""",
    "plain": """
async def test_it(aegis_cluster, aegis_faults):
    first = await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    await aegis_cluster.serve("b", rooms, instance_id="rooms-2")
    await first.claim("room:7")
    await aegis_cluster.kill("b")
    with aegis_faults.slow(("a", "store"), 0.2):
        await trio.sleep(20)
        assert not first.claims
""",
    "stuck": """
@pytest.mark.aegis_limits(virtual=105)
async def test_it(aegis_cluster):
    for name in ("a", "b"):
        instance = await aegis_cluster.serve(name, rooms, instance_id=f"rooms-{name}")
        await aegis_cluster.run(name, hold, instance)
    await aegis_cluster.wait_owner("room", "b", within=1e9)
""",
    "left": """
async def test_it(aegis_cluster):
    await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    caller = await aegis_cluster.node("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(caller.call, "rooms", "enter", {"seconds": 1000.0}, timeout=2000))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
""",
    "many": """
from aegis_core import InstanceLost

@pytest.mark.aegis_allow("unused_faults")
async def test_it(aegis_cluster, aegis_calls, aegis_events, aegis_faults):
    for name in "abcdefgh":
        instance = await aegis_cluster.serve(name, rooms, instance_id=f"rooms-{name}")
        await instance.claim(*(f"room:{name}:{number}" for number in range(20)))
    caller = await aegis_cluster.node("z")
    with aegis_faults.pause("a"), aegis_faults.drift("b", 0.01), aegis_faults.skew("c", 1), aegis_faults.drop(("d", "e")):
        with aegis_faults.duplicate(("d", "e"), times=2), aegis_faults.indeterminate("f", applied="later"):
            for number in range(30):
                await caller.call("rooms", "enter", {"seconds": number / 100}, instance_id="rooms-h")
    await aegis_events.expect(InstanceLost, within=1)
""",
}


CROWDS: Final = {
    "nodes": """
@pytest.fixture
async def other():
    from aegis_pytest.cluster import open_cluster
    async with open_cluster() as cluster:
        yield cluster

async def test_it(aegis_cluster, other, aegis_events):
    from aegis_core import InstanceLost
    for cluster in (aegis_cluster, other):
        for number in range(15):
            name = f"kafé-{number}-{'n' * 50}"
            instance = await cluster.serve(name, rooms, instance_id=f"rooms-{number}-{'i' * 40}")
            await instance.claim(*(f"room:{number}:{room}:{'ü' * 60}" for room in range(10)))
        await (await cluster.node(name)).call("rooms", "enter")
    await aegis_events.expect(InstanceLost, within=1)
""",
    "fixtures": """
@pytest.fixture
async def failing(aegis_cluster):
    yield
    raise ValueError("the first fixture's end")

@pytest.fixture
async def failing_too(aegis_cluster):
    async with trio.open_nursery():
        yield
        raise ValueError("the second fixture's end")

async def test_it(aegis_cluster, failing, failing_too):
    for number in range(30):
        await aegis_cluster.serve(f"node-{number}", rooms, instance_id=f"rooms-{number}")
    assert "many" == "few"
""",
    "pattern": """
async def test_it(aegis_cluster, aegis_calls):
    await aegis_cluster.serve("a", rooms)
    await aegis_calls.expect("rooms", params={"x": ["line\\n"] * 1000}, within=1)
""",
    "replay": """
booking = Service("booking")

@booking.method
async def book(call: Call, number: int, guest: str) -> dict:
    return {f"key-{n}": call.instance.instance_id for n in range(10)}

async def test_it(aegis_cluster, aegis_calls):
    caller = await aegis_cluster.node("c")
    instances = [await aegis_cluster.serve(name, booking, instance_id=name) for name in ("old", "new")]
    for name in "defghijkl":
        await aegis_cluster.node(name)
    for number in range(10):
        await caller.call("booking", "book", {"number": number, "guest": "g" * 500}, instance_id="old")
    await aegis_calls.recording("booking").replay(caller, instances[1])
""",
    "left": """
async def stubborn():
    with trio.CancelScope(shield=True):
        await trio.sleep(60)

async def test_it(aegis_cluster):
    caller = await aegis_cluster.node("z")
    async with trio.open_nursery() as nursery:
        for name in "abcdefghijkl":
            await aegis_cluster.run(name, stubborn)
            await aegis_cluster.serve(name, rooms, instance_id=f"rooms-{name}")
            enter = partial(caller.call, "rooms", "enter", {"seconds": 1e6}, instance_id=f"rooms-{name}", timeout=1e6)
            nursery.start_soon(enter)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
""",
    "stuck": """
@pytest.mark.aegis_limits(virtual=100)
async def test_it(aegis_cluster):
    for name in "abcdefghijklmnop":
        instance = await aegis_cluster.serve(name, rooms, instance_id=f"rooms-{name}")
        await aegis_cluster.run(name, hold, instance)
        await (await aegis_cluster.node(name)).call("rooms", "enter")
    await trio.sleep_forever()
""",
}


def said(result: pytest.RunResult) -> str:
    """What the failed test of *result* says itself, without pytest's view of its source."""
    lines = result.outlines
    begin = next(at for at, line in enumerate(lines) if line.startswith(("E ", "the test ")))
    end = next(at for at, line in enumerate(lines) if "short test summary" in line)
    section = next((at for at, line in enumerate(lines) if "cluster at the failure" in line), end)
    own = [line for line in lines[begin:section] if line.startswith("E ")] or lines[begin:section]
    text = "\n".join([*own, "", *lines[section:end], ""])
    text = re.sub(r"\(besides \d+ of the libraries\)", "(besides N of the libraries)", text)
    return re.sub(r"test_\w+\.py", "test_rooms.py", text).replace(HIDDEN, "")


@pytest.mark.parametrize("scene", SCENES)
def test_failure_says_what_is_wrong(run_tests: RunTests, scene: str) -> None:
    """As it stands in the file, in at most forty lines."""
    result = run_tests(SCENES[scene])
    result.assert_outcomes(failed=1)
    text = said(result)
    assert text == (GOLDEN / f"{scene}.txt").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("crowd", CROWDS)
def test_failure_is_short_however_much_there_is(run_tests: RunTests, crowd: str) -> None:
    """Many nodes, long names, other alphabets, two clusters: forty lines, none of them endless."""
    result = run_tests(CROWDS[crowd])
    result.assert_outcomes(failed=1)
    lines = said(result).splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= LONGEST_LINE


def test_state_is_shown_where_a_test_failed_and_nowhere_else(run_tests: RunTests) -> None:
    """Of the smallest example under hypothesis; not for a test that was skipped, failed as expected, or has no cluster."""
    result = run_tests("""
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(number=st.integers(0, 3))
async def test_examples(aegis_cluster, number):
    await aegis_cluster.serve("a", rooms, instance_id=f"rooms-{number}")
    assert number < 0

async def test_skipped(aegis_cluster):
    pytest.skip("for a reason")

@pytest.mark.xfail
async def test_expected(aegis_cluster):
    assert not aegis_cluster

def test_without():
    assert not "a cluster"
""")
    result.assert_outcomes(failed=2, skipped=1, xfailed=1)
    text = result.stdout.str()
    assert text.count("cluster at the failure") == 1
    assert "    rooms-0: STANDBY ONLINE" in text
