"""What a simulation refuses, as it would check nothing of the application, and how much the application may do."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable
from contextlib import suppress

import attrs
import pytest
import trio

from aegis_core import AegisError, Node, Service, open_node
from aegis_pytest.simulation import Act, Application, Scenario, Simulation, process, simulate

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
    assert aegis_simulation.replay(QUIET, serve).is_good


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
