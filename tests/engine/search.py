"""Breadth-first search of a small world: every state that so many steps can lead to."""

from __future__ import annotations

import re

import attrs

from tests.engine.canonical import canonical
from tests.engine.states import State, Violation
from tests.engine.worlds import World


@attrs.frozen
class Explored:
    """How far a search went, and which kinds of steps it took: ``claim arrives``, ``stops believing``."""

    depth: int
    states: int
    steps: int
    kinds: frozenset[str]


def explore(world: World, depth: int) -> Explored:
    """Visit every state that *depth* steps lead to, and judge each.

    Raises:
        Violation: One must not be; the message tells the steps that led to it. Nodes may change their names from one
            step to the next, because each step is told as it looks in the canonical form of its state.
    """
    start = canonical(world.start())
    came: dict[int, tuple[int, str]] = {hash(start): (0, "")}
    frontier = [start]
    taken: set[str] = set()
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
                taken.add(label)
                successor = canonical(reached)
                identity = hash(successor)
                if identity not in came:
                    came[identity] = (origin, label)
                    found.append(successor)
        frontier = found
    return Explored(depth, len(came), steps, frozenset(map(_kind, taken)))


def _kind(label: str) -> str:
    """What *label* tells, without who and of what."""
    command = re.sub(r"\('(\w+)'[^)]*\)", r"\1", label)
    return re.sub(r"^[a-f]('s)? | of [a-f]\b| \([^)]*\)$", "", command)


def _story(came: dict[int, tuple[int, str]], identity: int) -> list[str]:
    told: list[str] = []
    while came[identity][1]:
        identity, label = came[identity]
        told.append(label)
    return told[::-1]
