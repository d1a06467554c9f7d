"""What a simulation refuses, as it would check nothing of the application, and how much the application may do."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio

from aegis_core import AegisError, Call, Node, RemoteError, Service, open_node
from aegis_pytest.simulation import (
    Act,
    Application,
    Scenario,
    Simulation,
    Trouble,
    calls,
    draw_scenario,
    process,
    simulate,
)

QUIET = Scenario(seed="quiet", nodes=("a", "b"), seconds=40.0, ttl=10.0)
ACTIVE = attrs.evolve(QUIET, acts=(Act(2.0, "a", "claim", "key"),))


@pytest.mark.parametrize("seeds", [[], iter(())], ids=["none", "exhausted"])
def test_no_seed_is_refused(aegis_simulation: Simulation, seeds: Iterable[object]) -> None:
    """Else the test would pass, with nothing checked."""
    with pytest.raises(ValueError, match="seeds= is empty, or an iterator that was used before"):
        aegis_simulation(seeds=seeds)


def test_no_node_is_refused(aegis_simulation: Simulation) -> None:
    """Whether the scenario is drawn or written."""
    with pytest.raises(ValueError, match="nodes= is empty"):
        aegis_simulation(seeds=[1], nodes=())
    with pytest.raises(ValueError, match="nodes= is empty"):
        attrs.evolve(QUIET, nodes=())


def test_node_with_a_dot_in_its_name_is_refused(aegis_simulation: Simulation) -> None:
    """`a.2` is the second life of `a`."""
    with pytest.raises(ValueError, match=r"nodes= names 'a\.2'"):
        aegis_simulation(seeds=[1], nodes=("a", "a.2"))
    with pytest.raises(ValueError, match=r"nodes= names 'n\.a'"):
        attrs.evolve(QUIET, nodes=("n.a", "b"))


def test_two_nodes_of_one_name_are_refused(aegis_simulation: Simulation) -> None:
    """Before anything runs, as other arguments that cannot be."""
    with pytest.raises(ValueError, match="nodes= names 'a' more than once"):
        aegis_simulation(seeds=[1], nodes=("b", "a", "a"))
    with pytest.raises(ValueError, match="nodes= names 'a' more than once"):
        attrs.evolve(QUIET, nodes=("a", "a"))


UNDONE: dict[str, tuple[Callable[[], object], str]] = {
    "act": (
        lambda: Act(1.0, "a", "tranfser", "key"),
        "there is no act 'tranfser'; there are claim, release, transfer,",
    ),
    "trouble": (lambda: Trouble(1.0, 2.0, "crsh", ("a",)), "there is no trouble 'crsh'; there are crash, cut_off,"),
    "letters": (lambda: Trouble(1.0, 2.0, "drop", "ab"), "takes a tuple of names, two ends of a way, not 'ab'"),  # type: ignore[arg-type]
    "one-end": (lambda: Trouble(1.0, 2.0, "slow", ("a",)), r"two ends of a way, not \('a',\)"),
    "to-itself": (lambda: Trouble(1.0, 2.0, "drop", ("a", "a")), r"two ends of a way, not \('a', 'a'\)"),
    "two-nodes": (lambda: Trouble(1.0, 2.0, "pause", ("a", "b")), "'pause' takes a tuple of names, one node, not"),
    "paused-store": (lambda: Trouble(1.0, 2.0, "pause", ("store",)), "'pause' takes a tuple of names, one node, not"),
    "no-store": (lambda: Trouble(1.0, 2.0, "store_down", ("a",)), "takes a tuple of names, the store alone, not"),
    "no-side": (lambda: Trouble(1.0, 2.0, "partition", ()), r"takes a tuple of names, one side of a cut, not \(\)"),
    "actor": (
        lambda: attrs.evolve(QUIET, acts=(Act(1.0, "nodeA", "claim", "key"),)),
        r"there is no node 'nodeA', which Act\(.*\) names; nodes= has a, b$",
    ),
    "receiver": (lambda: attrs.evolve(QUIET, acts=(Act(1.0, "a", "transfer", "key", "c"),)), "there is no node 'c'"),
    "victim": (
        lambda: attrs.evolve(QUIET, troubles=(Trouble(1.0, 2.0, "crash", ("zz",)),)),
        r"there is no node 'zz', which Trouble\(.*\) names; nodes= has a, b, store$",
    ),
    "drawn-act": (lambda: draw_scenario("1", asks=("claim", "realease")), "there is no act 'realease'"),
    "drawn-trouble": (lambda: draw_scenario("1", kinds=("crash", "pauze")), "there is no trouble 'pauze'"),
}


@pytest.mark.parametrize("undone", UNDONE)
def test_what_would_pass_without_a_trace_is_refused(undone: str) -> None:
    """An act of nobody, a trouble that hits nobody or only some: the scenario would be good without them."""
    make, said = UNDONE[undone]
    with pytest.raises(ValueError, match=said):
        make()


def test_string_is_one_seed(aegis_simulation: Simulation) -> None:
    """Not a seed for each of its letters."""
    tally = aegis_simulation(seeds="17", seconds=20.0, acts=3, troubles=0)
    assert tally.scenarios == 1


async def serve() -> None:
    """An application without fault."""
    async with open_node() as node, node.serve(Service("rooms")):
        await trio.sleep_forever()


async def ask(node: Node, _chance: random.Random) -> None:
    """Call it all the time, though it has no such method."""
    while True:
        await trio.sleep(0.03)
        with suppress(AegisError):
            await node.call("rooms", "enter")


def test_acts_besides_an_application_are_refused(aegis_simulation: Simulation) -> None:
    """They need the nodes' own program, without which they are not done; none are as good as not given."""
    with pytest.raises(pytest.UsageError, match=r"acts are for nodes without main.*: leave out acts="):
        aegis_simulation(serve, seeds=[1], acts=20)
    with pytest.raises(pytest.UsageError, match=r"of a Scenario, write acts=\(\)"):
        aegis_simulation.replay(ACTIVE, serve)
    with pytest.raises(pytest.UsageError, match="acts are for nodes without main"):
        simulate(ACTIVE, Application(serve))
    assert aegis_simulation(serve, work=ask, seeds=[1], seconds=20.0, faults=[], acts=0).scenarios == 1
    assert aegis_simulation.replay(QUIET, serve, work=ask).is_good


async def hold() -> None:
    """An application that holds something, if it can."""
    async with open_node() as node, node.serve(Service("rooms")) as instance:
        with suppress(AegisError):
            await instance.claim("room")
        await trio.sleep_forever()


def test_replay_in_which_nothing_can_happen_is_refused(aegis_simulation: Simulation) -> None:
    """It was pasted without what its failure names, and would pass with the bug."""
    told = (
        r"held no resource and no role, .* in this replay: nothing was checked; give it the main, work= and setup= that"
    )
    with pytest.raises(ValueError, match=f"^the nodes {told}"):
        aegis_simulation.replay(QUIET)
    with pytest.raises(
        ValueError, match=r"^the nodes held no resource .* in any of the scenarios: nothing was checked"
    ):
        aegis_simulation(seeds=[1], seconds=9.0, ttl=3.0, faults=[], acts=0)
    assert aegis_simulation.replay(QUIET, hold).is_good
    assert aegis_simulation.replay(ACTIVE).is_good


def test_replay_of_an_application_that_is_mended_passes(aegis_simulation: Simulation) -> None:
    """Even if what it does would come later than the scenario's end: the smallest one shows the defect, and no more."""
    assert aegis_simulation.replay(QUIET, serve).is_good
    with pytest.raises(ValueError, match=r"^main held no resource .* in any of the scenarios: nothing was checked"):
        aegis_simulation(serve, seeds=[1], seconds=9.0, ttl=3.0, faults=[])


def test_application_may_be_busy_for_as_long_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many steps it takes for that grows with the time and the nodes."""
    monkeypatch.setattr(process, "_LEAST_LIMIT", 2000)
    outcome = simulate(QUIET, Application(serve, ask))
    assert outcome.is_good, outcome.text()
    assert outcome.seconds >= 70.0


def test_tasks_that_wait_for_moments_only_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the scenario is; it is said once."""

    async def spin(_node: Node, _chance: random.Random) -> None:
        for _ in itertools.count():
            await trio.sleep(1e-4)

    monkeypatch.setattr(process, "_LEAST_LIMIT", 2000)
    outcome = simulate(attrs.evolve(QUIET, seconds=1_000_000.0), Application(serve, spin))
    assert re.fullmatch(r"tasks go round in circles: they took \d+ steps in [\d.]+ s, of which .*", outcome.text())
    assert outcome.seconds < 3.0


async def mistake(node: Node, _chance: random.Random) -> None:
    """Call what is not there, and live with it."""
    while True:
        await trio.sleep(1.0)
        with suppress(AegisError):
            await node.call("roms", "enter")


roms = Service("roms")


@roms.method
async def enter(_call: Call) -> None:
    """What nobody serves."""


async def mistake_bound(node: Node, _chance: random.Random) -> None:
    """Call the method of a service that is nowhere."""
    while True:
        await trio.sleep(1.0)
        with suppress(AegisError):
            await node.bind(enter)()


async def mistake_now_and_then(node: Node, chance: random.Random) -> None:
    """Call what is there, too."""
    with suppress(AegisError):
        await node.call("simulated", "touch", {"name": "x", "lasts": 0.0, "stubborn": False}, resource_id="key")
    await mistake(node, chance)


async def claim(node: Node, _chance: random.Random) -> None:
    """Make no call at all."""
    for instance in node.hosted.values():
        with suppress(AegisError):
            await instance.claim("room")
    await trio.sleep_forever()


def test_calls_of_a_service_that_is_nowhere_are_refused(aegis_simulation: Simulation) -> None:
    """Its name is misspelt: nothing of the application was called. Who calls something besides, or nothing, may do so."""
    told = r"there was no instance of service 'roms', which work called, .*; there were instances of: rooms$"
    with pytest.raises(ValueError, match=told):
        aegis_simulation(serve, work=mistake, seeds=[1, 2], seconds=9.0, ttl=3.0, faults=[])
    assert aegis_simulation(serve, work=claim, seeds=[1], seconds=9.0, ttl=3.0, faults=[]).scenarios == 1
    assert aegis_simulation(serve, work=ask, seeds=[1], seconds=9.0, ttl=3.0, faults=[]).scenarios == 1
    with pytest.raises(ValueError, match=told):
        aegis_simulation(serve, work=mistake_bound, seeds=[1], seconds=9.0, ttl=3.0, faults=[])
    calling = aegis_simulation(work=mistake_now_and_then, seeds=[1], seconds=9.0, ttl=3.0, faults=[], acts=20)
    assert calling.evidence.calls


@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["no", "short"])
def test_calls_in_vain_without_a_pause_end_the_run(pause: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes its time in the network, so that time goes on, and the run would take minutes."""

    async def try_again(node: Node, _chance: random.Random) -> None:
        while True:
            with suppress(AegisError):
                await node.call("rooms", "enter", resource_id="room")
            if pause:
                await trio.sleep(pause)

    monkeypatch.setattr(calls, "_MOST_IN_VAIN", 100)
    monkeypatch.setattr(calls, "_QUICK", 2.0)
    scenario = attrs.evolve(QUIET, seconds=5.0, ttl=3.0, latencies=(0.005, 0.005))
    outcome = simulate(scenario, Application(serve, try_again))
    assert outcome.is_good is (pause > 0.0), outcome.text()
    if pause:
        return
    told, where, last, *more = outcome.text().splitlines()
    assert not more
    assert told.startswith(
        "tasks go round in circles: 100 calls of rooms, one after the other without a pause, have failed"
    )
    assert re.search(r"test_limits\.py:\d+: await node\.call\(\"rooms\", \"enter\", resource_id=\"room\"\)$", where)
    assert last.startswith("  the last failed by ResourceNotFound: ")
    assert outcome.seconds < 5.0


def test_bound_calls_in_vain_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those by name, and at the line of who makes them."""

    async def try_again(node: Node, _chance: random.Random) -> None:
        bound = node.bind(enter, resource_id="room")
        while True:
            with suppress(AegisError):
                await bound()

    monkeypatch.setattr(calls, "_MOST_IN_VAIN", 100)
    scenario = attrs.evolve(QUIET, seconds=5.0, ttl=3.0, latencies=(0.005, 0.005))
    told, where, _ = simulate(scenario, Application(serve, try_again)).text().splitlines()
    assert told.startswith("tasks go round in circles: 100 calls of roms, one after the other without a pause")
    assert re.search(r"test_limits\.py:\d+: await bound\(\)$", where)


async def sweep(node: Node, _chance: random.Random) -> None:
    """Ask for many that nobody owns, then wait."""
    while True:
        for number in range(150):
            with suppress(AegisError):
                await node.call("rooms", "enter", resource_id=f"room:{number}")
        await trio.sleep(1.0)


async def be_patient(node: Node, _chance: random.Random) -> None:
    """Wait for each call as long as it may take: nobody answers it."""
    while True:
        with suppress(AegisError):
            await node.call("rooms", "wait", timeout=0.25)


async def be_refused(node: Node, _chance: random.Random) -> None:
    """Take the handler's word for an answer."""
    await trio.sleep(1.0)
    for _ in range(150):
        with suppress(RemoteError):
            await node.call("rooms", "refuse")
    await trio.sleep_forever()


async def serve_rooms() -> None:
    """An application without fault, that does not always do what it is asked for."""
    rooms = Service("rooms")

    @rooms.method
    async def wait(_call: Call) -> None:
        await trio.sleep(1.0)

    @rooms.method
    async def refuse(_call: Call) -> None:
        raise ValueError("there is no room")

    async with open_node() as node, node.serve(rooms):
        await trio.sleep_forever()


@pytest.mark.parametrize("work", [sweep, be_patient, be_refused])
def test_calls_that_are_no_repeats_of_moments_go_on(work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many fail in a row: each is another one, or takes its time, or was handled."""
    monkeypatch.setattr(calls, "_MOST_IN_VAIN", 100)
    monkeypatch.setattr(calls, "_QUICK", 2.0)
    scenario = attrs.evolve(QUIET, seconds=30.0, ttl=3.0, latencies=(0.0, 0.0005))
    outcome = simulate(scenario, Application(serve_rooms, work))
    assert outcome.is_good, outcome.text()
