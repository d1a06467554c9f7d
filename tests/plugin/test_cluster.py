"""Nodes of a cluster live, die and come back, in tests like those that users write.

It is one long file because all of it is one fixture.
"""

from __future__ import annotations

import pytest
import trio

from aegis_core import (
    Call,
    EndReason,
    Instance,
    InstanceConflict,
    LeaseLost,
    Node,
    Outcome,
    ResourceConflict,
    Role,
    Service,
    TransportUnavailable,
    open_node,
)
from aegis_pytest.cluster import Cluster, open_cluster

rooms = Service("rooms")


@rooms.method
async def enter(call: Call) -> str:
    """Who answers."""
    assert call.instance is not None
    return call.instance.instance_id


async def hold(instance: Instance, resource_id: str = "room") -> None:
    """Own *resource_id* in turn, for ever."""
    async with instance.own(resource_id, role=Role.STANDBY):
        await trio.sleep_forever()


async def application(resource_id: str = "room") -> None:
    """A program as it runs in production: it knows nothing of tests."""
    async with open_node() as node, node.serve(rooms) as instance:
        await hold(instance, resource_id)


# --- Opening and serving ---


async def test_node_is_opened_once(aegis_cluster: Cluster) -> None:
    """Naming a node opens it; naming it again, from several tasks at once, gives the same."""
    nodes: list[Node] = []

    async def name_it() -> None:
        nodes.append(await aegis_cluster.node("a"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(name_it)
    assert nodes[0] is nodes[1] is nodes[2]
    assert aegis_cluster.nodes == {"a": nodes[0]}
    assert "a (open)" in repr(aegis_cluster)


async def test_nodes_form_a_cluster(aegis_cluster: Cluster) -> None:
    """What one serves and claims, another finds and calls."""
    instance = await aegis_cluster.serve("a", rooms, instance_id="room-1")
    await instance.claim("lobby")
    caller = await aegis_cluster.node("b")
    assert await caller.call("rooms", "enter", resource_id="lobby") == "room-1"
    assert aegis_cluster.instances("a") == (instance,)
    assert aegis_cluster.instances("b") == aegis_cluster.instances("nobody") == ()


async def test_serving_takes_the_options_of_serve(aegis_cluster: Cluster) -> None:
    """They reach the node, and what the node refuses is raised by the one who asked."""
    instance = await aegis_cluster.serve("a", rooms, instance_id="room-1", ttl=5.0, priority=3)
    assert (instance.ttl, instance.options.priority) == (5.0, 3)
    with pytest.raises(InstanceConflict):
        await aegis_cluster.serve("b", rooms, instance_id="room-1")


async def test_ttl_is_that_of_the_nodes(aegis_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 seconds, unless the application's own configuration says otherwise."""
    assert aegis_cluster.ttl == 30.0
    monkeypatch.setenv("AEGIS_TTL", "7")
    instance = await aegis_cluster.serve("a", rooms)
    assert aegis_cluster.ttl == instance.ttl == 7.0


async def test_ids_are_the_same_in_every_run() -> None:
    """Random ids come from the seed, and so differ between nodes and lives but not between runs."""

    async def ids(seed: str) -> list[str]:
        async with open_cluster(seed=seed) as cluster:
            first = [(await cluster.serve(name, rooms)).instance_id for name in "ab"]
            await cluster.kill("a")
            return [*first, (await cluster.serve("a", rooms)).instance_id]

    once = await ids("seed")
    assert await ids("seed") == once
    assert len({*once, *await ids("other seed")}) == 6


# --- Background tasks ---


async def test_task_runs_in_the_background(aegis_cluster: Cluster) -> None:
    """`run` returns at once; what it started goes on."""
    instance = await aegis_cluster.serve("a", rooms)
    assert await aegis_cluster.run("a", hold, instance) is None
    claim = await aegis_cluster.wait_owner("room", "a")
    assert claim.instance is instance
    assert claim.held


async def test_task_that_tells_its_start_is_waited_for(aegis_cluster: Cluster) -> None:
    """A function that takes ``task_status`` decides when `run` returns, and what."""

    async def count(least: int, *, task_status: trio.TaskStatus[int]) -> None:
        await trio.sleep(3)
        task_status.started(least + 1)
        await trio.sleep_forever()

    before = trio.current_time()
    assert await aegis_cluster.run("a", count, 41) == 42
    assert trio.current_time() - before == 3


async def test_task_that_fails_before_its_start_fails_its_caller(aegis_cluster: Cluster) -> None:
    """Then there is somebody to tell."""

    async def fail(*, task_status: trio.TaskStatus[None]) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        await aegis_cluster.run("a", fail)


# --- Applications ---


async def test_application_opens_the_node(aegis_cluster: Cluster) -> None:
    """The bare ``open_node()`` of an unmodified ``main`` is the node that it was started as."""
    node = await aegis_cluster.start("a", application, "lobby")
    assert await aegis_cluster.node("a") is node
    claim = await aegis_cluster.wait_owner("lobby", "a")
    caller = await aegis_cluster.node("b")
    assert await caller.call("rooms", "enter", resource_id="lobby") == claim.instance.instance_id


async def test_application_that_tells_its_start_is_waited_for(aegis_cluster: Cluster) -> None:
    """`start` returns when ``main`` says that it is ready, not when the node is open."""

    async def main(*, task_status: trio.TaskStatus[None]) -> None:
        async with open_node() as node, node.serve(rooms) as instance:
            await trio.sleep(3)
            await instance.claim("room")
            task_status.started()
            await trio.sleep_forever()

    await aegis_cluster.start("a", main)
    assert "room" in aegis_cluster.instances("a")[0].claims


async def test_application_may_end(aegis_cluster: Cluster) -> None:
    """That is no failure; only the node is gone."""

    async def main() -> None:
        async with open_node():
            await trio.sleep(3)

    await aegis_cluster.start("a", main)
    await trio.sleep(5)
    assert aegis_cluster.nodes == {}
    with pytest.raises(pytest.UsageError, match="has closed it"):
        await aegis_cluster.node("a")


async def test_application_that_opens_no_node_is_refused(aegis_cluster: Cluster) -> None:
    """It ended, or it opened another node than its own, or it says that it has started without one."""

    async def no_node() -> None:
        await trio.sleep(1)

    async def another_node() -> None:
        async with open_node("memory://elsewhere"):
            await trio.sleep_forever()

    async def early(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()

    with pytest.raises(RuntimeError, match=r"no_node\(\) of node 'a' ended before it had started: .*open_node\(\)"):
        await aegis_cluster.start("a", no_node)
    with pytest.raises(RuntimeError, match=r"another_node\(\) of node 'b' did not start within 30 s: "):
        await aegis_cluster.start("b", another_node)
    with pytest.raises(RuntimeError, match=r"early\(\) of node 'c' says that it has started, and has not opened"):
        await aegis_cluster.start("c", early)


async def test_application_that_fails_at_its_start_fails_its_caller(aegis_cluster: Cluster) -> None:
    """The error is the application's own."""

    async def main() -> None:
        raise OSError("no configuration")

    with pytest.raises(OSError, match="no configuration"):
        await aegis_cluster.start("a", main)


async def test_application_is_started_before_its_node_is_opened(aegis_cluster: Cluster) -> None:
    """A node that is open already cannot become an application's."""
    await aegis_cluster.node("a")
    with pytest.raises(pytest.UsageError, match="node 'a' is open already"):
        await aegis_cluster.start("a", application)


# --- Death and return ---


async def test_standby_takes_over_from_the_dead(aegis_cluster: Cluster) -> None:
    """Until the lease of the dead node expires nobody may own what it owned; then the next in line does."""
    for name in "ab":
        await aegis_cluster.run(name, hold, await aegis_cluster.serve(name, rooms))
        await aegis_cluster.wait_owner("room", "a")
    died = trio.current_time()
    await aegis_cluster.kill("a")
    await aegis_cluster.wait_owner("room", "b")
    assert aegis_cluster.ttl * 2 / 3 <= trio.current_time() - died <= aegis_cluster.ttl + 1.1


async def test_dead_node_says_no_farewell(aegis_cluster: Cluster) -> None:
    """Not even what is shielded reaches the store: others believe the dead alive until its lease expires."""
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room")
    other = await aegis_cluster.serve("b", rooms)
    await aegis_cluster.kill("a")
    with pytest.raises(ResourceConflict):
        await other.claim("room")
    await trio.sleep(aegis_cluster.ttl + 1)
    await other.claim("room")


async def test_bodies_of_the_dead_unwind_before_kill_returns(aegis_cluster: Cluster) -> None:
    """As far as they can: what they raise then is nobody's."""
    ended: list[str] = []

    async def work(instance: Instance) -> None:
        try:
            await hold(instance)
        finally:
            ended.append("unwound")
            raise OSError("unheard")

    await aegis_cluster.run("a", work, await aegis_cluster.serve("a", rooms))
    await aegis_cluster.wait_owner("room", "a")
    await aegis_cluster.kill("a")
    assert ended == ["unwound"]
    assert "a (killed)" in repr(aegis_cluster)
    assert aegis_cluster.nodes == {}


async def test_handle_of_a_dead_node_answers_with_an_error(aegis_cluster: Cluster) -> None:
    """Whoever kept it learns at once that there is nobody, and does not wait."""
    node = await aegis_cluster.node("a")
    await aegis_cluster.serve("b", rooms)
    await aegis_cluster.kill("a")
    before = trio.current_time()
    with pytest.raises(TransportUnavailable, match="this node is closed") as caught:
        await node.call("rooms", "enter")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert trio.current_time() == before


async def test_block_of_serve_in_the_test_survives_the_death_of_its_node(aegis_cluster: Cluster) -> None:
    """The test goes on, and leaves the block without an error."""
    node = await aegis_cluster.node("a")
    async with node.serve(rooms):
        await aegis_cluster.kill("a")
    assert aegis_cluster.nodes == {}


async def test_stopped_node_hands_over_at_once_and_comes_back(aegis_cluster: Cluster) -> None:
    """As a program that is told to end; what it left behind is told, and who is not there cannot be stopped."""
    first = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.run("a", hold, first)
    await aegis_cluster.wait_owner("room", "a")
    second = await aegis_cluster.serve("b", rooms)
    await aegis_cluster.run("b", hold, second)
    assert await aegis_cluster.stop("a") == []
    await aegis_cluster.wait_owner("room", "b", within=0.1)
    with pytest.raises(pytest.UsageError, match="no living node 'a'; living: b"):
        await aegis_cluster.stop("a")
    again = await aegis_cluster.serve("a", rooms)
    assert again.instance_id != first.instance_id


async def test_restart_starts_again_what_was_started(aegis_cluster: Cluster) -> None:
    """In order, and with the new node and instances in the place of the old ones."""
    given: list[tuple[Node, Instance, int]] = []

    async def work(node: Node, instance: Instance, number: int) -> None:
        given.append((node, instance, number))
        await hold(instance)

    old = await aegis_cluster.node("a")
    served = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.run("a", work, old, served, 7)
    await aegis_cluster.wait_owner("room", "a")
    new = await aegis_cluster.restart("a")
    claim = await aegis_cluster.wait_owner("room", "a")
    assert given == [(old, served, 7), (new, claim.instance, 7)]
    assert new is not old
    assert claim.instance is not served


async def test_restart_starts_the_application_again(aegis_cluster: Cluster) -> None:
    """And again: what was started once is started in every life."""
    await aegis_cluster.start("a", application)
    for _ in range(2):
        before = await aegis_cluster.wait_owner("room", "a")
        await aegis_cluster.kill("a")
        node = await aegis_cluster.restart("a")
        assert (await aegis_cluster.wait_owner("room", "a")).epoch > before.epoch
        assert await aegis_cluster.node("a") is node


async def test_restart_within_the_ttl_finds_its_own_id_taken(aegis_cluster: Cluster) -> None:
    """As a process does that comes back too early under a fixed id; later it comes back."""
    await aegis_cluster.serve("a", rooms, instance_id="room-1")
    await aegis_cluster.kill("a")
    with pytest.raises(InstanceConflict):
        await aegis_cluster.restart("a")
    assert aegis_cluster.nodes == {}
    await trio.sleep(aegis_cluster.ttl + 1)
    await aegis_cluster.restart("a")
    assert [instance.instance_id for instance in aegis_cluster.instances("a")] == ["room-1"]


async def test_killed_node_can_be_named_again(aegis_cluster: Cluster) -> None:
    """It is a new one then, with nothing of the old."""
    old = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.kill("a")
    new = await aegis_cluster.serve("a", rooms)
    assert new is not old
    assert aegis_cluster.instances("a") == (new,)


async def test_restart_goes_on_where_a_kill_was_cancelled(aegis_cluster: Cluster) -> None:
    """The node is dead from the beginning of `kill`; that it has unwound is waited for."""
    await aegis_cluster.node("a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await aegis_cluster.kill("a")
    assert "a (killed)" in repr(aegis_cluster)
    await aegis_cluster.restart("a")
    assert "a (open)" in repr(aegis_cluster)


@pytest.mark.parametrize("name", ["", " ", "a\nb", None, 7, "store"])
async def test_name_of_a_node_can_be_read(aegis_cluster: Cluster, name: str) -> None:
    """Above all a node is no name: not another one is opened in its place."""
    with pytest.raises(pytest.UsageError, match="name"):
        await aegis_cluster.node(name)
    if name is None:
        with pytest.raises(pytest.UsageError, match="goes by a name of letters"):
            await aegis_cluster.serve(await aegis_cluster.node("a"), rooms)  # type: ignore[arg-type]


async def test_what_cannot_be_started_is_told_to_its_caller(aegis_cluster: Cluster) -> None:
    """A coroutine instead of a function, above all, without a warning that nobody awaited it."""
    instance = await aegis_cluster.serve("a", rooms)
    with pytest.raises(pytest.UsageError, match=r"write 'hold, ...' instead of 'hold\(...\)'"):
        await aegis_cluster.run("a", hold(instance))  # type: ignore[arg-type]
    with pytest.raises(pytest.UsageError, match="write 'application, "):
        await aegis_cluster.start("b", application())  # type: ignore[arg-type]
    with pytest.raises(pytest.UsageError, match="expected an async function, got None"):
        await aegis_cluster.run("a", None)  # type: ignore[arg-type]
    with pytest.raises(pytest.UsageError, match="expected a Service, got 'rooms'"):
        await aegis_cluster.serve("a", "rooms")  # type: ignore[arg-type]


async def test_only_what_lives_can_be_killed(aegis_cluster: Cluster) -> None:
    """A slip in a node's name is an error, not a test in which nothing happens."""
    await aegis_cluster.node("a")
    with pytest.raises(pytest.UsageError, match="there is no living node 'b'; living: a"):
        await aegis_cluster.kill("b")
    await aegis_cluster.kill("a")
    with pytest.raises(pytest.UsageError, match="there is no living node 'a'; living: none"):
        await aegis_cluster.kill("a")
    with pytest.raises(pytest.UsageError, match="there is no node 'b' to restart"):
        await aegis_cluster.restart("b")


# --- Waiting for an owner ---


async def test_owner_that_does_not_come_is_told_with_the_owner(aegis_cluster: Cluster) -> None:
    """The message says who owns what instead."""
    instance = await aegis_cluster.serve("a", rooms, instance_id="room-1")
    await aegis_cluster.run("a", hold, instance)
    await aegis_cluster.serve("b", rooms)
    with pytest.raises(AssertionError) as caught:
        await aegis_cluster.wait_owner("room", "b", within=3)
    (claim,) = instance.claims.values()
    owner = f"it is claimed by room-1 on node a (epoch {claim.epoch})"
    assert str(caught.value) == f"room is not owned by node 'b' after 3 s: {owner}"
    with pytest.raises(AssertionError, match="not owned by node 'room-1' after 3 s, and there is no node of that name"):
        await aegis_cluster.wait_owner("room", "room-1", within=3)


async def test_many_claims_are_told_in_a_few_lines(aegis_cluster: Cluster) -> None:
    """A state is there to be read."""
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim(*(f"room-{n}" for n in range(100)))
    assert list(aegis_cluster.describe())[-1] == "      and 95 more"
    await aegis_cluster.serve("b", rooms)
    assert list(aegis_cluster.describe())[-1].endswith("no calls without an answer")
    for name in "cdefg":
        await aegis_cluster.serve(name, rooms)
    lines = list(aegis_cluster.describe())
    assert lines[2].endswith(", 100 claims")
    assert lines[-1] == "  and 5 more lines"
    assert len(lines) == 11


async def test_body_of_own_learns_of_the_end_of_its_lease(aegis_cluster: Cluster) -> None:
    """What the test runs in its own task is as real as everything else."""
    instance = await aegis_cluster.serve("a", rooms)
    standby = await aegis_cluster.serve("b", rooms)

    async def give_away() -> None:
        async with instance.own("room"):
            await aegis_cluster.run("b", hold, standby)
            await trio.sleep(1)
            await instance.transfer("room", to=standby.instance_id)

    with pytest.raises(LeaseLost) as caught:
        await give_away()
    assert caught.value.reason is EndReason.TRANSFERRED
    await aegis_cluster.wait_owner("room", "b")
