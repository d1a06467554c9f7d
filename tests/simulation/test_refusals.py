"""Whoever is refused something in a simulation is so for a reason, and a run in which somebody is not fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from aegis_core import Instance
from aegis_core.backend import StoreUnavailable
from aegis_core.node.client import Client
from aegis_core.node.registry import Registry
from aegis_pytest import simulation
from aegis_pytest.simulation import Act, Scenario, Trouble

HELD = Scenario(
    seed="held", nodes=("a", "b", "c"), seconds=60.0, ttl=10.0, acts=(Act(2.0, "b", "claim", "key"),), troubles=()
)

REFUSING: dict[str, tuple[type, str]] = {
    "call": (Client, "a"),
    "claim": (Instance, "a"),
    "release": (Instance, "b"),
    "transfer": (Instance, "b"),
    "get_owner": (Registry, "a"),
}


def refuse(monkeypatch: pytest.MonkeyPatch, owner: type, kind: str, *, until: float) -> None:
    """Have the method *kind* of *owner* raise, up to *until* seconds."""
    works: Callable[..., Awaitable[object]] = getattr(owner, kind)

    async def never(self: object, *args: object, **kwargs: object) -> object:
        if trio.current_time() < until:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable(reason="it never works")
        return await works(self, *args, **kwargs)

    monkeypatch.setattr(owner, kind, never)


@pytest.mark.parametrize("kind", REFUSING)
def test_refusal_without_a_reason_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something is wrong that could be the reason, there, then, or not long before, it is none."""
    owner, node = REFUSING[kind]
    key = "other" if kind == "claim" else "key"
    scenario = attrs.evolve(HELD, acts=(*HELD.acts, Act(30.0, node, kind, key, "c" if kind == "transfer" else "")))
    assert simulation.simulate(scenario).is_good
    refuse(monkeypatch, owner, kind, until=31.0)
    if kind == "claim":
        scenario = attrs.evolve(scenario, acts=scenario.acts[1:])
    outcome = simulation.simulate(scenario)
    assert outcome.text().startswith(
        f"refused for nothing: a {kind} of {key} by {node} at 30.000 s ends at 30.000 s in STORE_UNAVAILABLE (the store"
    )
    for began, is_good in ((25.0, True), (5.0, False), (40.0, False)):
        away = attrs.evolve(scenario, troubles=(Trouble(began, 1.0, "store_down", ("store",)),))
        assert simulation.simulate(away).is_good == is_good


def test_call_that_ends_with_the_claim_of_whom_it_asked_has_a_reason() -> None:
    """As long as it lasts, its callee is giving the resource up: it is broken off, or not taken."""
    acts = (*HELD.acts, Act(10.0, "a", "call", "key", "", 20.0), Act(15.0, "b", "release", "key"))
    outcome = simulation.simulate(attrs.evolve(HELD, acts=(*acts, Act(16.0, "c", "call", "key"))))
    assert outcome.is_good, outcome.text()
    codes = [getattr(record, "code", "") for record in outcome.history]
    assert "LEASE_LOST" in codes
    assert "NO_INSTANCE" in codes


def test_read_that_fails_when_all_is_well_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By everybody who reads."""
    refuse(monkeypatch, Registry, "get_owner", until=1e9)
    words = " cannot read who owns key: the store is unavailable (NOT_SENT): it never works"
    problems = sorted(it for it in simulation.simulate(HELD).problems if it.endswith(words))
    assert problems == [f"nothing is wrong any more, but {name}{words}" for name in "abc"]
