"""Every interleaving of commands, expiries and stale views in small worlds, judged state by state.

The depths are chosen so that all of it takes a minute or two; what takes longest is for the thorough run, and a smaller
world or depth of the kind, which meets each command and fault of it, for every one. Each mutant at the end plants one bug into the engine and
shows that the search is sharp enough to find it.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from aegis_core.engine import resources, roles
from aegis_core.engine.decision import Decision
from aegis_core.engine.resources import Acquisition
from aegis_core.engine.view import View
from aegis_core.models import Ownership, ServiceInstance, Standby
from tests.engine.canonical import canonical, exactly_canonical
from tests.engine.search import explore
from tests.engine.states import INSTANCE, State, Violation, node_of, record_of
from tests.engine.worlds import ABANDONED, World


def world(
    commands: str,
    faults: str = "",
    *,
    nodes: int = 3,
    resources: int = 2,
    registered: int | None = None,
    held: int = 0,
) -> World:
    """A world from words."""
    return World(
        nodes=nodes,
        resources=resources,
        commands=frozenset(commands.split()),
        faults=frozenset(faults.split()),
        registered=registered,
        held=held,
    )


EVERYTHING = "claim claim_some release transfer deregister"
OWNED = "claim release transfer deregister sweep"
FAULTS = "lose abandon glimpse"
TWO_NODES = world("claim join", "lose glimpse", nodes=2, resources=1)


@pytest.mark.parametrize(
    ("small", "depth"),
    [
        pytest.param(world(EVERYTHING, FAULTS, nodes=2), 6, id="everything"),
        pytest.param(world(EVERYTHING, FAULTS), 6, id="everything-of-three", marks=pytest.mark.thorough),
        pytest.param(world(OWNED, FAULTS, nodes=2, resources=1, held=1), 6, id="everything-of-one-that-is-owned"),
        pytest.param(
            world(OWNED, FAULTS, resources=1, held=1),
            6,
            id="everything-of-three-of-one-that-is-owned",
            marks=pytest.mark.thorough,
        ),
        pytest.param(world(OWNED, FAULTS, held=2), 6, id="everything-owned", marks=pytest.mark.thorough),
        pytest.param(world("claim release", "lose"), 7, id="claims-and-expiries"),
        pytest.param(world("claim release", "lose"), 8, id="claims-and-expiries-deeper", marks=pytest.mark.thorough),
        pytest.param(world("claim release join", FAULTS, nodes=2), 6, id="lines"),
        pytest.param(world("claim release join", FAULTS), 6, id="lines-of-three", marks=pytest.mark.thorough),
        pytest.param(world("claim join", "lose"), 6, id="promotions"),
        pytest.param(world("join", "lose abandon", held=1), 6, id="promotions-of-what-is-owned"),
        pytest.param(
            world("join", "lose abandon", held=1),
            7,
            id="promotions-of-what-is-owned-deeper",
            marks=pytest.mark.thorough,
        ),
        pytest.param(world("claim", "lose glimpse", registered=1), 6, id="registrations"),
        pytest.param(
            world("claim", "lose glimpse", registered=1), 7, id="registrations-deeper", marks=pytest.mark.thorough
        ),
        pytest.param(world("claim", "lose glimpse", registered=0), 8, id="from-nothing"),
        pytest.param(TWO_NODES, 7, id="two-nodes-one-resource"),
        pytest.param(TWO_NODES, 9, id="two-nodes-one-resource-deeper", marks=pytest.mark.thorough),
    ],
)
def test_no_interleaving_leads_to_what_must_not_be(
    small: World, depth: int, record_property: Callable[[str, object], None]
) -> None:
    """In every state: one believer at most, nothing acknowledged lost, true refusals, and the dead make way.

    The search came as far as to carry out, and to be told of, each command of its world; and it met each fault.
    """
    explored = explore(small, depth)
    record_property(
        "counted",
        f"{small.nodes} instances, {small.resources} resources, {', '.join(sorted(small.commands | small.faults))}: "
        f"{explored.states:,} states, {explored.steps:,} steps to depth {explored.depth}",
    )
    assert explored.states > 1000
    expected = {f"{command} is acknowledged" for command in small.commands}
    if "join" in small.commands:
        expected.add("promote is acknowledged")
    if "lose" in small.faults:
        expected |= {"stops believing", "record expires", "register is acknowledged", "stray arrives"}
    if "abandon" in small.faults:
        expected |= {f"{command} is abandoned" for command in small.commands & ABANDONED}
    if "glimpse" in small.faults:
        expected.add("glimpses")
    assert expected - explored.kinds == set()


def test_the_canonical_form_merges_only_what_leads_to_the_same_states() -> None:
    """Searching without merging, and merging afterwards, finds the same states as merging at each step."""
    small = world("claim release transfer", "lose abandon glimpse")
    plain = {small.start()}
    merged = {canonical(small.start())}
    for _ in range(4):
        plain = {reached for state in plain for reached in _reached(small, state)}
        merged = {canonical(reached) for state in merged for reached in _reached(small, state)}
    assert len(plain) > 3 * len(merged)
    assert _exact(plain) == _exact(merged)


def _exact(states: set[State]) -> set[State]:
    return {exactly_canonical(state, 2) for state in states}


def _reached(small: World, state: State) -> list[State]:
    return [reached for _, take in small.successors(state) if (reached := take()) is not None]


# --- Planted bugs --------------------------------------------------------------------------------


def test_judging_death_from_an_old_view_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim record seen before the registration that it names must not count as dead."""
    monkeypatch.setattr(View, "holder", lambda self, record: self._alive(record))
    with pytest.raises(Violation, match="which lives"):
        explore(world("claim", "glimpse", nodes=2, resources=1, registered=1), 9)


def test_holding_on_to_the_dead_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that names a dead lease must not be held against a claim."""

    def holder(self: View, record: Ownership | Standby) -> ServiceInstance:
        ghost = record_of((INSTANCE, node_of(record.instance_id)), (99, 1))
        assert isinstance(ghost, ServiceInstance)
        return self._alive(record) or ghost

    monkeypatch.setattr(View, "holder", holder)
    with pytest.raises(Violation, match="held by instance"):
        explore(world("claim", "lose", nodes=2, resources=1), 9)


def test_confirming_a_claim_without_writing_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that was given up under way may still end a claim that was merely confirmed."""
    monkeypatch.setattr(resources, "_again", lambda record, metadata, at: Acquisition(epoch=record.epoch))
    with pytest.raises(Violation, match="believes to hold"):
        explore(world("claim release", "abandon", nodes=2, resources=1), 9)


def test_an_epoch_that_does_not_grow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A promotion must not keep the epoch of the dead owner."""
    promote = roles.promote

    def keep_epoch(view: View, target: str, **options: object) -> Decision[Ownership]:
        decision = promote(view, target, **options)  # type: ignore[arg-type]
        dead = view.held(target)
        (write,) = decision.writes
        if dead is None or not isinstance(write.record, Ownership):
            return decision
        kept = attrs.evolve(write, record=attrs.evolve(write.record, epoch=dead.epoch))
        return attrs.evolve(decision, writes=(kept,))

    monkeypatch.setattr(roles, "promote", keep_epoch)
    with pytest.raises(Violation, match="under the old epoch"):
        explore(world("join", "lose", nodes=2, resources=1, held=1), 8)


def test_believing_a_partial_refusal_of_a_stale_view_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conflicts that are listed in an answer need fresh evidence as errors do."""
    monkeypatch.setattr(Decision, "rests_on_view", property(lambda self: not self.writes))
    with pytest.raises(Violation, match="was never held by"):
        explore(world("claim claim_some release", nodes=2), 8)
