"""Simulations: a whole cluster in one thread, whose every step follows from a seed, and in which much goes wrong.

``aegis_simulation`` is the fixture. A `Scenario` says what happens and what goes wrong; `draw_scenario` makes one of a seed, and
`simulate` runs it: N nodes on the memory backend in one Trio run, on virtual time, with the order of tasks, all ids and
all jitter drawn from the seed. What the nodes asked, were told and believed becomes a `aegis_pytest.history.History`, and is
checked: safety (S1 to S4) by the rules of histories, liveness (L1) after each crash that nothing else disturbs.
"""

from __future__ import annotations

from aegis_pytest.simulation.application import Application
from aegis_pytest.simulation.evidence import Evidence
from aegis_pytest.simulation.focus import FOCUSES, draw_any
from aegis_pytest.simulation.run import Outcome, simulate
from aegis_pytest.simulation.scenario import TROUBLES, Act, Scenario, Trouble, draw_scenario
from aegis_pytest.simulation.shrinking import shrink
from aegis_pytest.simulation.simulation import Simulation, Tally

__all__ = [
    "FOCUSES",
    "TROUBLES",
    "Act",
    "Application",
    "Evidence",
    "Outcome",
    "Scenario",
    "Simulation",
    "Tally",
    "Trouble",
    "draw_any",
    "draw_scenario",
    "shrink",
    "simulate",
]
