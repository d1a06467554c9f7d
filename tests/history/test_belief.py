"""Beliefs as a probe notes them in nodes that run, on virtual time."""

from __future__ import annotations

import trio

from aegis_core import Instance, LeaseLost, Role, Service
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults import Faults
from aegis_pytest.history import BeliefBegan, BeliefEnded, BeliefProbe, History, Recorder, watch_beliefs

rooms = Service("rooms")


async def own_once(instance: Instance) -> None:
    """Own the room in turn, until it is lost."""
    try:
        async with instance.own("room", role=Role.STANDBY):
            await trio.sleep_forever()
    except LeaseLost:
        pass


async def test_release_ends_belief_before_the_next_begins(aegis_cluster: Cluster) -> None:
    """And a claim begins it; both are noted with their epochs, and break no rule."""
    history = History()
    recorder = Recorder("p", history.append, clock=trio.current_time)
    a, b = [await aegis_cluster.serve(name, rooms, instance_id=name) for name in "ab"]
    with watch_beliefs(recorder) as probe:
        probe.watch(a)
        probe.watch(b)
        await a.claim("room", "other")
        await trio.lowlevel.checkpoint()
        assert repr(probe) == "<BeliefProbe of 2 instances: 2 claims held>"
        await a.release("room")
        await b.claim("room")
        await b.release("room")
        await a.release("other")
    noted = [it for it in history if isinstance(it, BeliefBegan | BeliefEnded) and it.key == "room"]
    assert [(type(it), it.instance) for it in noted] == [
        (BeliefBegan, "a"),
        (BeliefEnded, "a"),
        (BeliefBegan, "b"),
        (BeliefEnded, "b"),
    ]
    assert history.check() == ()


async def test_belief_of_who_is_cut_off_ends_at_its_deadline(aegis_cluster: Cluster, aegis_faults: Faults) -> None:
    """And its standby's begins after the time to live."""
    history = History()
    recorder = Recorder("p", history.append, clock=trio.current_time)
    a, b = [await aegis_cluster.serve(name, rooms, instance_id=name) for name in "ab"]
    with watch_beliefs(recorder) as probe:
        probe.watch(a)
        probe.watch(b)
        await a.claim("room")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(aegis_cluster.run, "b", own_once, b)
            with aegis_faults.partition({"a"}, {"b", "store"}):
                deadline = a.deadline
                await aegis_cluster.wait_owner("room", "b", within=60)
            nursery.cancel_scope.cancel()
    ended = next(it for it in history if isinstance(it, BeliefEnded))
    began = next(it for it in history if isinstance(it, BeliefBegan) and it.instance == "b")
    assert (ended.instance, ended.at) == ("a", deadline)
    assert deadline < began.at
    assert history.check() == ()


async def test_process_that_is_stopped_while_it_looks_believes_no_longer_for_that(aegis_cluster: Cluster) -> None:
    """What was seen before it was stopped is not noted as seen when it goes on."""
    history = History()
    stops = [0.0]

    def clock() -> float:
        """It is stopped for a minute whenever it has read the clock."""
        now = trio.current_time() + stops[0]
        stops[0] += stopped
        return now

    stopped = 0.0
    instance = await aegis_cluster.serve("a", rooms, instance_id="a")
    probe = BeliefProbe(Recorder("p", history.append, clock=clock))
    probe.watch(instance)
    await instance.claim("room")
    began, stopped = trio.current_time(), 60.0
    probe.look()
    stopped = 0.0
    await instance.release("room")
    probe.look_for_ends(began)
    noted = [(it.at, it.key) for it in history if isinstance(it, BeliefBegan | BeliefEnded)]
    assert noted == [(began, "room"), (began, "room")]
