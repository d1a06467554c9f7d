"""What can go wrong in a simulation, and how whom it hits is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aegis_pytest.faults.kinds import STORE

__all__ = ["BETWEEN", "TROUBLES"]

_Draw = Callable[[random.Random, Sequence[str]], tuple[tuple[str, ...], float]]


def _one(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes),), 0.0


def _sides(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    count = chance.randint(1, max(1, len(nodes) - 1))
    side = sorted(chance.sample(nodes, count))
    return (*side, *((STORE,) if chance.random() < 0.3 else ())), 0.0


def _store(_chance: random.Random, _nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (STORE,), 0.0


def _way(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    one, other = chance.sample([*nodes, STORE], 2)
    return (one, other), round(chance.choice([0.02, 0.2, 1.0]) * (0.5 + chance.random()), 3)


def _skew(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes),), round(40 * chance.random(), 3)


def _drift(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes),), round(0.02 * chance.random() - 0.01, 5)


def _cut_off(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes), STORE), 0.0


def _lag(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes),), round(chance.choice([0.02, 0.3, 2.0]) * (0.5 + chance.random()), 3)


def _late_expiry(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes),), 0.08  # less than the margin, a tenth, by the 1 % that clocks may drift


def _doubt(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes),), round(20 * chance.random(), 3)


TROUBLES: Final[Mapping[str, _Draw]] = {
    "crash": _one,
    "cut_off": _cut_off,
    "doubt_applied": _doubt,
    "doubt_later": _doubt,
    "doubt_lost": _doubt,
    "drift": _drift,
    "drop": _way,
    "duplicate": _way,
    "jitter": _way,
    "lag": _lag,
    "late_expiry": _late_expiry,
    "leave": _one,
    "lose_lease": _one,
    "partition": _sides,
    "pause": _one,
    "skew": _skew,
    "slow": _way,
    "store_down": _store,
}
"""Everything that can go wrong: a node's crash and new start, or its orderly end and new start; a node that is cut off from the store alone; commits whose answer
is lost, although they are applied at once, later, or never; clocks that run up to 1 % fast or slow, or jump ahead; messages
that are lost, doubled, slow, or take as long as it comes, so that they overtake each other; a watch that lags; renewals that the store acknowledges and forgets, or does not take;
partitions; a node that is stopped; a store that nobody reaches."""

BETWEEN: Final = frozenset(kind for kind, draw in TROUBLES.items() if draw in {_way, _sides})
"""What goes wrong between two, of whom one may be any node."""
