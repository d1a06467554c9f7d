"""Scenarios: drawn from seeds, printed as Python, made smaller."""

from __future__ import annotations

import attrs
import pytest

from aegis_pytest import simulation
from aegis_pytest.simulation import TROUBLES, Act, Scenario, Trouble, draw_scenario, shrink


def test_seed_gives_one_scenario() -> None:
    """The same again, another for another seed; acts and troubles in the order of their times."""
    scenario = draw_scenario("7")
    assert scenario == draw_scenario("7")
    assert scenario != draw_scenario("8")
    assert [act.at for act in scenario.acts] == sorted(act.at for act in scenario.acts)
    assert len(scenario.acts) == 90
    assert 1 <= len(scenario.troubles) <= 8


def test_everything_that_can_go_wrong_is_drawn() -> None:
    """And every kind of act; nothing but what was asked for, where somebody asks."""
    drawn = [draw_scenario(str(seed)) for seed in range(60)]
    assert {trouble.kind for scenario in drawn for trouble in scenario.troubles} == set(TROUBLES)
    kinds = {act.kind for scenario in drawn for act in scenario.acts}
    assert kinds == {
        *("claim", "release", "transfer", "hand_on", "own", "get_owner"),
        *("call", "call_once", "call_stubborn"),
    }
    assert {scenario.ttl for scenario in drawn} == {3.0, 10.0, 30.0}
    calm = draw_scenario("1", kinds=["crash"])
    assert {trouble.kind for trouble in calm.troubles} == {"crash"}
    assert draw_scenario("1", kinds=[]).troubles == ()


def test_scenario_prints_as_the_python_that_makes_it() -> None:
    """To be pasted into a test."""
    scenario = draw_scenario("7", acts=12)
    assert eval(str(scenario), vars(simulation)) == scenario
    short = Scenario(seed="1", nodes=("a",), seconds=9.0, ttl=3.0, acts=(Act(1.0, "a", "claim", "key"),), troubles=())
    assert short.code().splitlines() == [
        "Scenario(",
        "    seed='1', nodes=('a',), seconds=9.0, ttl=3.0,",
        "    latencies=(),",
        "    acts=(",
        "        Act(1.0, 'a', 'claim', 'key'),",
        "    ),",
        "    troubles=(",
        "    ),",
        ")",
    ]


def test_shrinking_leaves_what_is_needed() -> None:
    """One trouble and two acts that must come together, out of many."""
    scenario = draw_scenario("3", acts=64)
    needed = (scenario.acts[10], scenario.acts[50], scenario.troubles[-1])

    def fails(tried: Scenario) -> bool:
        return all(step in (*tried.acts, *tried.troubles) for step in needed)

    smallest = shrink(scenario, fails)
    assert (*smallest.acts, *smallest.troubles) == needed
    assert smallest.seconds <= scenario.seconds


def test_shrinking_stops_in_time_with_something_that_fails() -> None:
    """However long it could go on."""
    scenario = draw_scenario("3", acts=64)
    runs = 0

    def fails(tried: Scenario) -> bool:
        nonlocal runs
        runs += 1
        return len(tried.acts) % 2 == 0 and len(tried.acts) > 10

    smallest = shrink(scenario, fails, runs=5)
    assert runs == 5
    assert len(smallest.acts) % 2 == 0


def test_what_needs_nothing_shrinks_to_nothing() -> None:
    """Neither acts nor troubles."""
    smallest = shrink(draw_scenario("3"), lambda _: True)
    assert smallest.acts == ()
    assert smallest.troubles == ()


@pytest.mark.parametrize(
    "unknown", [Act(1.0, "a", "dance", "key"), Trouble(1.0, 1.0, "flood", ("a",))], ids=["act", "trouble"]
)
def test_unknown_step_is_an_error_of_the_scenario(unknown: Act | Trouble) -> None:
    """It names it."""
    steps = {"acts": (unknown,)} if isinstance(unknown, Act) else {"troubles": (unknown,)}
    scenario = attrs.evolve(Scenario(seed="1", nodes=("a",), seconds=9.0, ttl=3.0), **steps)  # type: ignore[arg-type]
    outcome = simulation.simulate(scenario)
    assert not outcome.is_good
    assert repr(unknown.kind) in outcome.text()
