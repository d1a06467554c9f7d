"""What happens in one simulated run: who does what, and what goes wrong, all drawn from a seed beforehand.

Nothing is decided while it runs, so that a scenario can be printed, run again, and made smaller.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import attrs

from aegis_pytest.faults.kinds import STORE

__all__ = ["TROUBLES", "Act", "Scenario", "Trouble", "draw_scenario"]

_ACTS: Final = {"claim": 6, "release": 3, "transfer": 3, "own": 3, "get_owner": 4, "call": 6}
_STEP: Final = 0.001
_QUIET_AT_FIRST: Final = 2.0
_LONGEST: Final = 25.0


@attrs.frozen
class Act:
    """One node's program asks for something.

    Args:
        at: Seconds after the start.
        node: Whose program.
        kind: ``claim``, ``release``, ``transfer``, ``own`` (stand by, then hold for `lasts`), ``get_owner`` or ``call``.
        key: The resource id.
        to: Of a transfer: the node to whose instance it goes.
        lasts: Of `own`: seconds for which it is held.
    """

    at: float
    node: str
    kind: str
    key: str
    to: str = ""
    lasts: float = 0.0


@attrs.frozen
class Trouble:
    """Something goes wrong, and heals.

    Args:
        at: Seconds after the start.
        lasts: Seconds until it heals; of a ``crash`` until the node is started again.
        kind: Of `TROUBLES`.
        names: Whom it hits; of a ``partition`` one side, the others are the other one.
        size: Seconds of a ``skew`` or ``slow``, the rate of a ``drift``, seconds until a doubtful commit is applied.
    """

    at: float
    lasts: float
    kind: str
    names: tuple[str, ...]
    size: float = 0.0


@attrs.frozen(kw_only=True)
class Scenario:
    """One run.

    Args:
        seed: What ids, jitter and the order of tasks are drawn from.
        nodes: Names of the nodes.
        seconds: How long acts and troubles go on.
        ttl: Of every instance, in seconds.
        acts: In the order of their times.
        troubles: In the order of their times.
    """

    seed: str
    nodes: tuple[str, ...]
    seconds: float
    ttl: float
    acts: tuple[Act, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    def __str__(self) -> str:
        return self.code()

    def code(self) -> str:
        """A few lines of Python that make this scenario, to paste into a test."""
        lines = [
            "Scenario(",
            f"    seed={self.seed!r}, nodes={self.nodes!r}, seconds={self.seconds!r}, ttl={self.ttl!r},",
            "    acts=(",
            *(f"        {_call(act)}," for act in self.acts),
            "    ),",
            "    troubles=(",
            *(f"        {_call(trouble)}," for trouble in self.troubles),
            "    ),",
            ")",
        ]
        return "\n".join(lines)


def _call(value: Act | Trouble) -> str:
    """*value* as it is made, without what has its default."""
    given = attrs.astuple(value, recurse=False)
    fields = attrs.fields(type(value))
    while fields[len(given) - 1].default == given[-1]:
        given = given[:-1]
    return f"{type(value).__name__}({', '.join(map(repr, given))})"


# --- Drawing one ---------------------------------------------------------------------------------

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


def _doubt(chance: random.Random, nodes: Sequence[str]) -> tuple[tuple[str, ...], float]:
    return (chance.choice(nodes),), round(20 * chance.random(), 3)


TROUBLES: Final[Mapping[str, _Draw]] = {
    "crash": _one,
    "doubt_applied": _doubt,
    "doubt_later": _doubt,
    "doubt_lost": _doubt,
    "drift": _drift,
    "drop": _way,
    "duplicate": _way,
    "lose_lease": _one,
    "partition": _sides,
    "pause": _one,
    "skew": _skew,
    "slow": _way,
    "store_down": _store,
}
"""Everything that can go wrong: a node's crash and new start; commits whose answer is lost, although they are applied at once,
later, or never; clocks that run up to 1 % fast or slow, or jump ahead; messages that are lost, doubled, or slow; a lease that
expires under its owner; partitions; a node that is stopped; a store that nobody reaches."""


def draw_scenario(
    seed: str,
    *,
    nodes: Sequence[str] = ("a", "b", "c"),
    keys: Sequence[str] = ("key-1", "key-2", "key-3", "key-4"),
    seconds: float = 360.0,
    ttl: float = 10.0,
    acts: int = 120,
    troubles: int = 8,
    kinds: Collection[str] = tuple(TROUBLES),
) -> Scenario:
    """The scenario of *seed*: the same in every process and on every machine.

    Args:
        seed: Any text.
        nodes: Names of the nodes.
        keys: Resource ids that the nodes' programs want.
        seconds: How long it goes on.
        ttl: Of every instance.
        acts: How often a program asks for something.
        troubles: How often something goes wrong, at most: it is drawn, too.
        kinds: What may go wrong; of `TROUBLES`.
    """
    chance = random.Random(f"scenario {seed}")
    drawn_acts = sorted((_draw_act(chance, nodes, keys, seconds) for _ in range(acts)), key=lambda act: act.at)
    known = sorted(kinds)
    count = chance.randint(1, troubles) if known and troubles else 0
    drawn = sorted((_draw_trouble(chance, nodes, known, seconds) for _ in range(count)), key=lambda it: it.at)
    return Scenario(
        seed=seed, nodes=tuple(nodes), seconds=seconds, ttl=ttl, acts=tuple(drawn_acts), troubles=tuple(drawn)
    )


def _draw_act(chance: random.Random, nodes: Sequence[str], keys: Sequence[str], seconds: float) -> Act:
    (kind,) = chance.choices([*_ACTS], [*_ACTS.values()])
    node, key = chance.choice(nodes), chance.choice(keys)
    others = [name for name in nodes if name != node]
    to = chance.choice(others) if kind == "transfer" and others else ""
    lasts = round(60 * chance.random(), 3) if kind == "own" else 0.0
    return Act(round(_QUIET_AT_FIRST + chance.random() * seconds, 3), node, kind, key, to, lasts)


def _draw_trouble(chance: random.Random, nodes: Sequence[str], kinds: Sequence[str], seconds: float) -> Trouble:
    kind = chance.choice(kinds)
    names, size = TROUBLES[kind](chance, nodes)
    at = round(_QUIET_AT_FIRST + chance.random() * seconds, 3)
    lasts = round(chance.choice([0.5, 5.0, _LONGEST]) * (0.1 + 0.9 * chance.random()), 3)
    return Trouble(at, max(_STEP, lasts), kind, names, size)
