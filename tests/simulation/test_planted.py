"""Simulations find bugs that are planted in the library, each within 200 seeds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from aegis_pytest.simulation import simulate
from tests.simulation.planted import PLANTED, Planted

_SEEDS: Final = 200
_CRASH: Final = r"[\w.]+ in \S*$"
"""The kind of what was found because something raised, and not because a rule was broken."""

_NAMED: Final = {
    "compare-and-set is dropped": "compare-and-set is dropped",
    "a lease is judged dead from a view older than the record": "a lease is judged dead from a view older than the record",
    "a renewal that is acknowledged late is believed": "a late acknowledged renewal is believed",
    "a sync joins a fence that is sent already": "a read joins a barrier that is under way",
    "a claim that was abandoned is kept": "an abandoned claim is kept",
    "the local deadline is ignored": "the local deadline is ignored",
    "the epoch of a call is not checked": "the epoch is not checked",
    "a promotion without compare-and-set": "a promotion does without compare-and-set",
    "a rejection from a stale view": "a refusal from a stale view is told",
    "a lease is renewed after its loss": "a lease is renewed after it was lost",
    "an orphan is swept too early": "an orphan is swept while its owner is only silent",
    "the reply of a hand-off is lost": "a hand-off whose answer is lost is taken for one that failed",
    "the cache of idempotency keys is too small": "the cache of answers is too small",
}
"""What the design is most careful about, and the bug that is planted for each."""

Count = Callable[[str, object], None]


@pytest.mark.thorough
@pytest.mark.parametrize("bug", PLANTED, ids=[bug.name.replace(" ", "-") for bug in PLANTED])
def test_planted_bug_is_found(bug: Planted, monkeypatch: pytest.MonkeyPatch, record_property: Count) -> None:
    """By a rule that it breaks, and that the library without it keeps; and by how many seeds is printed at the end."""
    for change in bug.changes:
        change.make(monkeypatch)
    for seed in range(_SEEDS):
        scenario = bug.draw(str(seed))
        outcome = simulate(scenario)
        if not outcome.is_good:
            assert not re.match(_CRASH, outcome.kind()), outcome.text()
            monkeypatch.undo()
            without = simulate(scenario)
            assert without.is_good, f"found without the bug, too: {without.text()}"
            record_property("counted", f"found by {seed + 1} seeds: {outcome.text().splitlines()[0][:160]}")
            return
    pytest.fail(f"{_SEEDS} seeds find nothing")


def test_catalogue_is_long_enough() -> None:
    """Twenty at least, with names of their own."""
    names = {bug.name for bug in PLANTED}
    assert len(names) == len(PLANTED)
    assert len(names) >= 20


@pytest.mark.parametrize("fault", _NAMED, ids=[fault.replace(" ", "-") for fault in _NAMED])
def test_what_the_design_is_careful_about_is_planted(fault: str) -> None:
    """Whatever else comes and goes; each by a bug of its own."""
    assert _NAMED[fault] in {bug.name for bug in PLANTED}
    assert list(_NAMED.values()).count(_NAMED[fault]) == 1


@pytest.mark.parametrize("bug", PLANTED, ids=[bug.name.replace(" ", "-") for bug in PLANTED])
def test_planted_bug_can_be_planted(bug: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words that it changes stand where it says, once."""
    for change in bug.changes:
        change.make(monkeypatch)
