"""Scenarios in which simulations found a bug once, made as small as they could be."""

from __future__ import annotations

import pytest

from aegis_pytest.simulation import Act, Scenario, simulate

FOUND = {
    # The release deleted a record that had come by the transfer while the claim took it up, and "c" had it at once.
    "claimed while what was transferred is being released": Scenario(
        seed="62",
        nodes=("a", "b", "c"),
        seconds=240.0,
        ttl=30.0,
        latencies=(0.029, 0.0, 0.0),
        acts=(
            Act(198.327, "b", "own", "key-3", "", 153.942),
            Act(199.7646, "a", "claim", "key-3"),
            Act(199.765, "c", "own", "key-3", "", 0.563),
            Act(199.7662, "a", "release", "key-3"),
            Act(199.7664, "b", "transfer", "key-3", "a"),
        ),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_mended(name: str) -> None:
    """Nothing breaks a rule any more."""
    outcome = simulate(FOUND[name])
    assert outcome.is_good, outcome.text()
