"""A fault that could hit nobody is a mistake of the test, and told; what a dead node left under way arrives all the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from aegis_core import Call, InstanceLost, Service
from aegis_pytest.cluster import Cluster
from aegis_pytest.event_log import EventLog
from aegis_pytest.faults import FaultPlane, Faults
from tests.plugin.scene import commit, open_scene

rooms = Service("rooms")


@rooms.method
async def enter(call: Call) -> str:
    """Who is there."""
    return call.instance.instance_id


Mistake = Callable[[Any], AbstractContextManager[None]]  # typed, most of them could not be made

MISTAKES: dict[str, tuple[Mistake, str]] = {
    "no-groups": (lambda it: it.partition(), "groups of names"),
    "empty-group": (lambda it: it.partition({"a"}, set()), "groups of names"),
    "both-sides": (lambda it: it.partition({"a", "b"}, {"b", "store"}), "b cannot stand on both sides"),
    "three-ends": (lambda it: it.slow(("a", "b", "store"), 1.0), "a way between two names"),
    "negative": (lambda it: it.slow("a", -1.0), "less than no time"),
    "not-a-number": (lambda it: it.slow(("a", "b"), float("nan")), "no number of seconds"),
    "letters": (lambda it: it.drop("ab"), "a way between two names"),
    "to-itself": (lambda it: it.drop(("a", "a")), "a way between two names"),
    "never": (lambda it: it.drop(("a", "b"), times=0), "would never happen"),
    "doubled-answer": (lambda it: it.duplicate(("store", "a")), "an answer counts once"),
    "half-applied": (lambda it: it.indeterminate("a", applied="Later"), "True, False or 'later'"),
    "too-early": (lambda it: it.indeterminate("a", applied="later", after=-1), "less than no time"),
    "doubtful-store": (lambda it: it.indeterminate("store", applied=True), "is of a node"),
    "paused-store": (lambda it: it.pause("store"), "is of a node"),
    "drifting-store": (lambda it: it.drift("store", 0.1), "is of a node"),
    "endless-drift": (lambda it: it.drift("a", float("inf")), "no number of seconds"),
    "skewed-store": (lambda it: it.skew("store", 1), "is of a node"),
    "endless-skew": (lambda it: it.skew("a", float("inf")), "no number of seconds"),
    "text-for-seconds": (lambda it: it.slow("a", "0.5"), "slow: '0.5' is no number of seconds"),
    "text-for-a-rate": (lambda it: it.drift("a", "0.5"), "drift: '0.5' is no number of seconds"),
    "text-for-a-jump": (lambda it: it.skew("a", "1"), "skew: '1' is no number of seconds"),
    "text-for-a-delay": (lambda it: it.indeterminate("a", applied="later", after="1"), "'1' is no number of seconds"),
    "text-for-times": (lambda it: it.drop(("a", "b"), times="1"), "times= takes how often, 1 or more, not '1'"),
    "list-of-nodes": (lambda it: it.pause(["a"]), r"pause takes the name of a node, not \['a'\]"),
    "no-name": (lambda it: it.partition({"a", 3}), "partition takes groups of names, not 3"),
    "no-group": (lambda it: it.partition(3), "partition takes groups of names, not 3"),
    "groups-in-a-group": (lambda it: it.partition([["a"], ["b"]]), r"partition takes groups of names, not \['a'\]"),
    "list-of-instances": (
        lambda it: it.lose_lease(["a"]),
        "lose_lease takes an instance id, or the name of a node, not",
    ),
    "reset-store": (lambda it: it.reset("store"), "is of a node"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_fault_that_can_do_nothing_is_refused(autojump_clock: MockClock, mistake: str) -> None:
    """Before its block begins, in words that say what it takes."""
    fault, said = MISTAKES[mistake]
    async with open_scene() as scene:
        with pytest.raises(pytest.UsageError, match=said), fault(scene.faults):
            raise AssertionError("not reached")
        await commit(scene.a, "k")


async def test_blocks_that_are_kept_need_not_be_entered(aegis_cluster: Cluster, aegis_faults: Faults) -> None:
    """Several are made, and one is chosen: whoever keeps them has not forgotten them."""
    await aegis_cluster.node("a")
    blocks = {"pause": aegis_faults.pause("a"), "cut": aegis_faults.partition({"a"})}
    with {"pause": aegis_faults.pause("a"), "cut": aegis_faults.partition({"a"})}["cut"], blocks["pause"]:
        pass
    blocks = {}
    aegis_faults.expect_entered()
    assert not blocks


async def test_call_without_a_block_is_a_mistake(autojump_clock: MockClock) -> None:
    """Once is enough, whatever is right besides."""
    async with open_scene() as scene:
        with scene.faults.pause("b"):
            scene.faults.pause("a")
        with pytest.raises(pytest.fail.Exception, match=r"aegis_faults\.pause\(\.\.\.\) was called and never put"):
            scene.faults.expect_entered()


async def test_block_that_is_entered_by_hand_is_to_be_left(autojump_clock: MockClock) -> None:
    """Whoever does both may."""
    async with open_scene() as scene:
        block = scene.faults.pause("a")

        async def enter() -> None:
            block.__enter__()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(
            pytest.fail.Exception, match=r"the block of aegis_faults\.pause\(\.\.\.\) was entered and not left"
        ):
            scene.faults.expect_entered()
        block.__exit__(None, None, None)
        scene.faults.expect_entered()


def test_faults_are_shown_in_a_word() -> None:
    """With each failure, when all is over: what they had to say then would not be true of the failure."""
    assert repr(Faults(FaultPlane())) == "<Faults>"


@pytest.mark.aegis_allow("unused_faults")
async def test_call_without_a_block_may_be_allowed(aegis_faults: Faults) -> None:
    """By the marker."""
    aegis_faults.pause("a")
    assert aegis_faults.unused == ["pause"]


UNUSED: dict[str, tuple[Mistake, str]] = {
    "misspelt-prefix": (
        lambda it: it.indeterminate("a", applied=False, prefix="resource."),
        r"commit of a that writes a key beginning with 'resource\.' in its block; see that there is one, or allow it by @",
    ),
    "lost": (lambda it: it.drop(("a", "b"), times=1), "message from a to b in its block"),
    "doubled": (lambda it: it.duplicate(("b", "a"), times=1), "request from b to a in its block"),
    "doubled-commit": (lambda it: it.duplicate(("b", "store"), times=1), "commit from b to store in its block"),
}


@pytest.mark.parametrize("unused", UNUSED)
async def test_counted_fault_that_hit_nothing_is_a_mistake(autojump_clock: MockClock, unused: str) -> None:
    """Of a block in which all goes well; what fails for want of the fault is told so. It may be allowed."""
    fault, said = UNUSED[unused]
    async with open_scene() as scene:
        with (
            pytest.raises(pytest.UsageError, match=f", 1 at most, hit nothing: there was no {said}"),
            fault(scene.faults),
        ):
            await commit(scene.a, "resources.k")
        with pytest.raises(KeyError) as caught, fault(scene.faults):
            raise KeyError
        assert len(caught.value.__notes__) == 1
        with fault(Faults(scene.plane, allow_unused=True)):
            await commit(scene.a, "resources.k")


async def test_counted_fault_need_not_hit_as_often_as_it_could(autojump_clock: MockClock) -> None:
    """Once is enough, and one that is not counted is for whatever comes."""
    async with open_scene() as scene:
        with scene.faults.duplicate(("a", "store"), times=3), scene.faults.drop(("a", "b")):
            await commit(scene.a, "k")


@pytest.mark.aegis_allow("unused_faults")
async def test_counted_fault_may_be_allowed_to_hit_nothing(aegis_cluster: Cluster, aegis_faults: Faults) -> None:
    """By the marker."""
    await aegis_cluster.node("a")
    with aegis_faults.indeterminate("a", applied=True, prefix="resource."):
        await trio.sleep(1)


async def test_stranger_is_noted_on_what_fails_for_want_of_the_fault(autojump_clock: MockClock) -> None:
    """The test fails by its own assertion, and is told why that was to be expected."""
    async with open_scene() as scene:
        with pytest.raises(KeyError) as caught, scene.faults.partition({"a"}, {"stroe"}):
            raise KeyError
    assert caught.value.__notes__ == ["there is no node 'stroe' that the fault could have hit"]


async def test_what_is_under_way_may_be_refused(autojump_clock: MockClock) -> None:
    """Nobody waits for the answer: neither a conflict nor what the store finds wrong with it ends the test."""

    async def refuse() -> None:
        raise ValueError("too large")

    async with open_scene() as scene:
        scene.plane.send(refuse)
        await trio.testing.wait_all_tasks_blocked()
        await commit(scene.a, "k")


async def test_commit_arrives_although_its_node_is_dead(aegis_cluster: Cluster, aegis_faults: Faults) -> None:
    """The write of an owner that crashed lands after its death, which is what fencing is for."""
    instance = await aegis_cluster.serve("a", rooms)
    other = await aegis_cluster.node("b")
    with aegis_faults.indeterminate("a", applied="later", prefix="resources.", after=5.0, times=None):
        with trio.move_on_after(0.5):
            await instance.claim("room:7")
        await aegis_cluster.kill("a")
    assert other.owner_of("room:7") is None
    await trio.sleep(6)
    owned = other.owner_of("room:7")
    assert owned is not None
    assert owned.owner_instance_id == instance.instance_id


async def test_lease_of_a_dead_node_can_end_at_once(
    aegis_cluster: Cluster, aegis_faults: Faults, aegis_events: EventLog
) -> None:
    """So a test need not wait for its time to pass."""
    await aegis_cluster.serve("a", rooms)
    await aegis_cluster.node("b")
    await aegis_cluster.kill("a")
    with aegis_faults.lose_lease("a"):
        await aegis_events.expect(InstanceLost, within=1)


async def test_block_in_a_task_that_goes_on_is_no_mistake(aegis_cluster: Cluster, aegis_faults: Faults) -> None:
    """The task leaves it when it is cancelled, which it is after the test."""
    await aegis_cluster.node("a")

    async def pause_for_ever() -> None:
        with aegis_faults.pause("b"):
            await trio.sleep_forever()

    await aegis_cluster.node("b")
    await aegis_cluster.run("a", pause_for_ever)
    await trio.sleep(1)
    assert [block.name for block in aegis_faults.within] == ["pause"]
