"""Scenarios in which simulations found a bug once, of the library or of their own, made as small as they could be."""

from __future__ import annotations

import pytest

from aegis_pytest.simulation import Act, Scenario, Trouble, simulate

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
    # The release was told as done, although it had waited for a transfer that gave the resource to "c".
    "released while it is handed on": Scenario(
        seed="424",
        nodes=("a", "b", "c"),
        seconds=170.0,
        ttl=10.0,
        latencies=(0.0271, 0.0437, 0.0072),
        acts=(
            Act(153.8708, "b", "claim", "key-1"),
            Act(153.878, "b", "transfer", "key-1", "c"),
            Act(153.8969, "b", "release", "key-1"),
        ),
    ),
    # The same of a release that was asked for before the resource had come, and found it on its way.
    "released while it comes and is handed on": Scenario(
        seed="2332",
        nodes=("a", "b", "c"),
        seconds=51.0,
        ttl=3.0,
        latencies=(0.0, 0.0743, 0.0033),
        acts=(
            Act(3.3927, "b", "release", "key-1"),
            Act(3.3937, "a", "own", "key-1", "", 0.331),
            Act(3.3961, "b", "transfer", "key-1", "c"),
            Act(3.3972, "c", "release", "key-1"),
            Act(3.3976, "c", "hand_on", "key-1", "b"),
            Act(4.1618, "a", "get_owner", "key-1"),
        ),
    ),
    # The release was told as in doubt, because another task of the instance was taking what had just come by a transfer.
    "released while another task takes it": Scenario(
        seed="1037",
        nodes=("a", "b", "c"),
        seconds=20.0,
        ttl=10.0,
        latencies=(0.0289, 0.0, 0.0331),
        acts=(
            Act(10.3785, "a", "release", "key-1"),
            Act(10.3789, "b", "own", "key-1", "", 1.76),
            Act(10.38, "a", "own", "key-1", "", 38.016),
            Act(10.3803, "b", "hand_on", "key-1", "a"),
        ),
    ),
    # "b" had it, did not hear of that while its commits were in doubt, and lost it with its lease: no bug, but taken for one.
    "held by who still waits for the answer": Scenario(
        seed="8322",
        nodes=("a", "b", "c"),
        seconds=65.32,
        ttl=10.0,
        latencies=(0.0004, 0.0073, 0.0),
        acts=(
            Act(16.1663, "b", "own", "key-3", "", 0.105),
            Act(16.1666, "a", "own", "key-3", "", 0.792),
            Act(19.9384, "a", "own", "key-3", "", 0.358),
            Act(19.9492, "a", "hand_on", "key-3", "b"),
        ),
        troubles=(Trouble(16.527, 23.793, "doubt_applied", ("b",), 14.221),),
    ),
    # The first attempt ran and was not answered; that the repeat found no owner was taken for what became of both.
    "repeated when its owner is gone": Scenario(
        seed="478",
        nodes=("a", "b", "c"),
        seconds=170.0,
        ttl=10.0,
        latencies=(0.0044, 0.0, 0.0032),
        acts=(
            Act(90.9386, "a", "own", "key-3", "", 58.228),
            Act(90.9386, "a", "hand_on", "key-3", "c"),
            Act(101.1531, "a", "call_once", "key-3", "", 1.631),
        ),
        troubles=(Trouble(102.3075, 0.32, "crash", ("c",)),),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_mended(name: str) -> None:
    """Nothing breaks a rule any more."""
    outcome = simulate(FOUND[name])
    assert outcome.is_good, outcome.text()
