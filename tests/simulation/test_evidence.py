"""Simulations come to what the rules are about, and count how often."""

from __future__ import annotations

import re

import attrs
import pytest

from aegis_pytest import simulation
from aegis_pytest.history import Recorder
from aegis_pytest.simulation import Act, Scenario, Trouble
from aegis_pytest.simulation.program import Storage

HELD = Scenario(seed="held", nodes=("a", "b"), seconds=40.0, ttl=10.0, acts=(Act(2.0, "a", "claim", "key"),))


def test_write_of_an_owner_who_was_stopped_is_fenced() -> None:
    """His handler goes on after another has worked under a newer epoch; that is counted, and breaks no rule."""
    stopped = attrs.evolve(
        HELD,
        seconds=60.0,
        acts=(
            Act(2.0, "a", "claim", "key"),
            Act(3.0, "b", "own", "key", "", 40.0),
            Act(5.0, "b", "call_stubborn", "key", "", 30.0),
            Act(20.0, "b", "call", "key"),
        ),
        troubles=(Trouble(5.5, 20.0, "pause", ("a",)),),
    )
    outcome = simulation.simulate(stopped)
    assert outcome.is_good, outcome.text()
    assert outcome.evidence.fenced == 1
    assert outcome.evidence.handlers >= 2


def test_write_of_an_owner_that_is_refused_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds a resource, as far as he knows, has the newest epoch of all."""

    def refuse(_self: Storage, recorder: Recorder, key: str, epoch: int) -> bool:
        recorder.wrote(key, epoch, accepted=False)
        return False

    called = attrs.evolve(HELD, acts=(*HELD.acts, Act(5.0, "b", "call", "key")))
    assert simulation.simulate(called).is_good
    monkeypatch.setattr(Storage, "write", refuse)
    outcome = simulation.simulate(called)
    assert re.match(
        r"fenced: a write to key with epoch \d+ is refused, although a-?\d* believes to hold it", outcome.text()
    )
    assert not outcome.is_good


def test_late_writes_are_drawn() -> None:
    """Of owners who were stopped, and go on when others have written."""
    draw = simulation.FOCUSES["owners that are stopped"]
    outcomes = (simulation.simulate(draw(str(seed))) for seed in range(20))
    assert any(outcome.is_good and outcome.evidence.fenced for outcome in outcomes)


def test_refused_commits_are_counted() -> None:
    """Two ask for one thing at once: the store refuses the one that comes second."""
    alone = attrs.evolve(HELD, latencies=(0.05, 0.05))
    assert simulation.simulate(alone).evidence.conflicts == 0
    at_once = attrs.evolve(alone, acts=(Act(2.0, "a", "claim", "key"), Act(2.0, "b", "claim", "key")))
    outcome = simulation.simulate(at_once)
    assert outcome.is_good, outcome.text()
    assert outcome.evidence.conflicts == 1
