"""Simulations find bugs that are planted in the library, each within 200 seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from aegis_pytest.simulation import draw_scenario, simulate
from tests.simulation.planted import ELUSIVE, PLANTED, Planted

_SEEDS: Final = 200
_SOUGHT: Final = tuple(bug for bug in PLANTED if bug.name not in ELUSIVE)
Count = Callable[[str, object], None]


@pytest.mark.thorough
@pytest.mark.parametrize("bug", _SOUGHT, ids=[bug.name.replace(" ", "-") for bug in _SOUGHT])
def test_planted_bug_is_found(bug: Planted, monkeypatch: pytest.MonkeyPatch, record_property: Count) -> None:
    """And by how many seeds is printed at the end."""
    for change in bug.changes:
        change.make(monkeypatch)
    for seed in range(_SEEDS):
        outcome = simulate(draw_scenario(str(seed)))
        if not outcome.is_good:
            record_property("counted", f"found by {seed + 1} seeds: {outcome.text().splitlines()[0][:160]}")
            return
    pytest.fail(f"{_SEEDS} seeds find nothing")


def test_catalogue_is_long_enough() -> None:
    """Twenty at least, with names of their own."""
    names = {bug.name for bug in PLANTED}
    assert len(names) == len(PLANTED)
    assert names > ELUSIVE
    assert len(_SOUGHT) >= 20


@pytest.mark.parametrize("bug", PLANTED, ids=[bug.name.replace(" ", "-") for bug in PLANTED])
def test_planted_bug_can_be_planted(bug: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words that it changes stand where it says, once."""
    for change in bug.changes:
        change.make(monkeypatch)
