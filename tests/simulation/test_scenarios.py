"""Scenarios: drawn from seeds, printed as Python, made smaller."""

from __future__ import annotations

import attrs

from aegis_pytest import simulation
from aegis_pytest.simulation import FOCUSES, TROUBLES, Act, Scenario, draw_any, draw_scenario, shrink


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
    asked = draw_scenario("1", asks=["claim", "call"])
    assert {act.kind for act in asked.acts} == {"claim", "call"}


def test_drift_is_drawn_up_to_one_percent() -> None:
    """Either way, near it, and never beyond."""
    drawn = [draw_scenario(str(seed), kinds=["drift"], acts=0) for seed in range(200)]
    rates = [trouble.size for scenario in drawn for trouble in scenario.troubles]
    assert -0.01 <= min(rates) < -0.0095
    assert 0.0095 < max(rates) <= 0.01


def test_jitter_is_drawn_apart() -> None:
    """Besides anything else that goes wrong, within as many troubles; alone, where nothing else may."""
    with_jitter = [draw_scenario(str(seed)) for seed in range(60)]
    without = [draw_scenario(str(seed), kinds=set(TROUBLES) - {"jitter"}) for seed in range(60)]
    others = [
        attrs.evolve(it, troubles=tuple(trouble for trouble in it.troubles if trouble.kind != "jitter"))
        for it in with_jitter
    ]
    assert others == without
    assert 10 <= sum(a != b for a, b in zip(with_jitter, without, strict=True)) <= 40
    assert max(len(it.troubles) for it in with_jitter) == 8
    alone = [draw_scenario(str(seed), kinds=["jitter"]) for seed in range(20)]
    assert {trouble.kind for it in alone for trouble in it.troubles} == {"jitter"}


def test_half_of_the_seeds_look_at_little_closely() -> None:
    """Each in one of the ways in which planted bugs are looked for; the others are drawn from everything."""
    drawn = [(str(seed), draw_any(str(seed))) for seed in range(200)]
    whole = [scenario for seed, scenario in drawn if scenario == draw_scenario(seed)]
    assert 70 <= len(whole) <= 130
    for draw in FOCUSES.values():
        assert any(scenario == draw(seed) for seed, scenario in drawn)
    assert all(draw_any(seed) == scenario for seed, scenario in drawn[:5])


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
