"""The scenarios together change who owns what as often as is promised."""

from __future__ import annotations

import inspect

import pytest

from aegis_pytest.history import Answer
from tests.chaos import test_partitions, test_processes, test_servers
from tests.chaos.churn import SHARES, tally
from tests.history.writing import claim, history, owner, release, transfer


def test_scenarios_do_twenty_thousand_changes_under_faults() -> None:
    """Each scenario that there is has a share, which it fails without."""
    scenarios = [
        name
        for module in (test_partitions, test_processes, test_servers)
        for name, test in vars(module).items()
        if name.startswith("test_") and "share" in inspect.signature(test).parameters
    ]
    assert sorted(scenarios) == sorted(SHARES)
    assert sum(SHARES.values()) >= 20_000


def test_scenario_that_does_less_than_its_share_fails() -> None:
    """What was refused, or has an unknown outcome, counts as little as a read does."""
    written = history(
        claim(1, 2, "i1", 10),
        claim(1, 3, "i2", answer=Answer.HELD, holder="i1"),
        transfer(3, 4, "i1", "i2", answer=Answer.UNKNOWN),
        owner(5, 6, "i1", 10),
        release(7, 8, "i1"),
    )
    assert tally(written, share=2).startswith(
        "2 claims, releases and transfers done, 1 refused, 0 failed, 1 of unknown"
    )
    with pytest.raises(AssertionError, match="2 changes were done, of 3"):
        tally(written, share=3)
