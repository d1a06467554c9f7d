"""Whoever asks for something in a simulation is answered in time, and a run in which somebody is not fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from aegis_core import Instance
from aegis_core.node.client import Client
from aegis_core.node.registry import Registry
from aegis_pytest import simulation
from aegis_pytest.history import Rule
from aegis_pytest.simulation import Act, Scenario, Trouble
from tests.simulation.planted import PLANTED

HELD = Scenario(
    seed="held", nodes=("a", "b"), seconds=40.0, ttl=10.0, acts=(Act(2.0, "b", "own", "key", "", 20.0),), troubles=()
)

HANGING: dict[str, tuple[type, str]] = {
    "call": (Client, "a call by a was to be answered within 6 s, and was not for "),
    "claim": (Instance, "a claim by a was to be answered within 16 s, and was not for "),
    "release": (Instance, "a release by a was to be answered within 21 s, and was not for "),
    "transfer": (Instance, "a transfer by a was to be answered within 21 s, and was not for "),
    "get_owner": (Registry, "a get_owner by a was to be answered within 6 s, and was not for "),
}


def test_answer_that_reaches_another_caller_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a handler of that owner and epoch ran for either of them."""
    calls = (Act(3.0, "a", "call", "key", "", 2.0), Act(3.5, "b", "call", "key", "", 0.5))
    scenario = attrs.evolve(HELD, acts=(*HELD.acts, *calls))
    assert simulation.simulate(scenario).is_good
    (mixed,) = (bug for bug in PLANTED if bug.name == "an answer reaches whoever has waited longest for that instance")
    for change in mixed.changes:
        change.make(monkeypatch)
    assert simulation.simulate(scenario).text() == "the answer to call b-1 reaches a, which had made call a-1"


@pytest.mark.parametrize("kind", HANGING)
def test_operation_that_hangs_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although nobody waits for it any more in the end. A node that is stopped meanwhile, or was shortly before, is owed nothing."""
    owner, words = HANGING[kind]
    works: Callable[..., Awaitable[object]] = getattr(owner, kind)

    async def hang_at_first(self: object, *args: object, **kwargs: object) -> object:
        if trio.current_time() < 10.0:
            await trio.sleep_forever()
        return await works(self, *args, **kwargs)

    scenario = attrs.evolve(HELD, acts=(*HELD.acts, Act(3.0, "a", kind, "key", "b" if kind == "transfer" else "")))
    assert simulation.simulate(scenario).is_good
    monkeypatch.setattr(owner, kind, hang_at_first)
    (found,) = simulation.simulate(scenario).violations
    assert found.rule is Rule.ANSWERED
    assert found.message.startswith(words)
    for at, is_good in ((1.0, True), (5.0, True), (30.0, False)):
        stopped = attrs.evolve(scenario, troubles=(Trouble(at, 1.0, "pause", ("a",)),))
        assert simulation.simulate(stopped).is_good == is_good
