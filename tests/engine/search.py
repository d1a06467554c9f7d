"""Breadth-first search of a small world: every state that so many steps can lead to."""

from __future__ import annotations

import attrs

from tests.engine.canonical import canonical
from tests.engine.states import State, Violation
from tests.engine.worlds import World


@attrs.frozen
class Explored:
    """How far a search went."""

    depth: int
    states: int
    steps: int


def explore(world: World, depth: int) -> Explored:
    """Visit every state that *depth* steps lead to, and judge each.

    Raises:
        Violation: One must not be; the message tells the steps that led to it. Nodes may change their names from one
            step to the next, because each step is told as it looks in the canonical form of its state.
    """
    start = canonical(world.start())
    came: dict[int, tuple[int, str]] = {hash(start): (0, "")}
    frontier = [start]
    steps = 0
    for _ in range(depth):
        found: list[State] = []
        for state in frontier:
            origin = hash(state)
            for label, take in world.successors(state):
                try:
                    reached = take()
                    if reached is None:
                        continue
                    world.judge(reached)
                except Violation as violation:
                    story = "\n  ".join([*_story(came, origin), label])
                    raise Violation(f"{violation}\n  {story}\n  in {state}") from violation
                steps += 1
                successor = canonical(reached)
                identity = hash(successor)
                if identity not in came:
                    came[identity] = (origin, label)
                    found.append(successor)
        frontier = found
    return Explored(depth, len(came), steps)


def _story(came: dict[int, tuple[int, str]], identity: int) -> list[str]:
    told: list[str] = []
    while came[identity][1]:
        identity, label = came[identity]
        told.append(label)
    return told[::-1]
