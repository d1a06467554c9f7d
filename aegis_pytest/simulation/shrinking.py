"""Making a scenario that fails smaller, as long as it fails in the same way.

It is Zeller and Hildebrandt's ddmin (Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28(2), 2002), on the troubles
and on the acts: parts are left out, larger ones first, and stay out where the rest still fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import attrs

from aegis_pytest.simulation.scenario import Scenario

__all__ = ["MOST_RUNS", "shrink"]

T = TypeVar("T")

MOST_RUNS: Final = 150
"""How many smaller scenarios are tried."""

_LEEWAY: Final = 5.0


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool], *, runs: int = MOST_RUNS) -> Scenario:
    """The smallest scenario found that still fails.

    Args:
        scenario: One that fails.
        fails: Runs a scenario, and tells whether it fails in the same way.
        runs: How often *fails* is called at most.
    """
    budget = _Budget(fails, runs)
    # Fewer troubles first, so that acts are left out of a calmer world; and once more, as fewer acts may need fewer.
    scenario = _without_troubles(scenario, budget)
    scenario = _without_acts(scenario, budget)
    scenario = _without_troubles(scenario, budget)
    last = max(
        [act.at + act.lasts for act in scenario.acts] + [it.at + it.lasts for it in scenario.troubles], default=0.0
    )
    shorter = attrs.evolve(scenario, seconds=min(scenario.seconds, round(last + _LEEWAY + 2 * scenario.ttl, 3)))
    return shorter if shorter != scenario and budget.fails(shorter) else scenario


class _Budget:
    """Asks *fails* at most *runs* times; then nothing fails any more."""

    def __init__(self, fails: Callable[[Scenario], bool], runs: int) -> None:
        self._fails = fails
        self._left = runs

    def fails(self, scenario: Scenario) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        return self._fails(scenario)


def _without_troubles(scenario: Scenario, budget: _Budget) -> Scenario:
    kept = _minimal(scenario.troubles, lambda tried: budget.fails(attrs.evolve(scenario, troubles=tuple(tried))))
    return attrs.evolve(scenario, troubles=tuple(kept))


def _without_acts(scenario: Scenario, budget: _Budget) -> Scenario:
    kept = _minimal(scenario.acts, lambda tried: budget.fails(attrs.evolve(scenario, acts=tuple(tried))))
    return attrs.evolve(scenario, acts=tuple(kept))


def _minimal(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """A part of *items*, in their order, that fails and of which no chunk can be left out."""
    if not items or fails(()):
        return ()
    parts = 2
    while len(items) >= 2:
        size = -(-len(items) // parts)
        for start in range(0, len(items), size):
            kept = [*items[:start], *items[start + size :]]
            if kept and fails(kept):
                items, parts = kept, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(items))
    return items
