"""What happens in one simulated run: who does what, and what goes wrong, all drawn from a seed beforehand.

Nothing is decided while it runs, so that a scenario can be printed, run again, and made smaller.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import attrs

from aegis_pytest.faults.kinds import STORE
from aegis_pytest.simulation.checks import (
    check_collection,
    check_count,
    check_kinds,
    check_latencies,
    check_length,
    check_names,
    check_nodes,
    check_seconds,
    check_seed,
    check_size,
    check_ttl,
    check_who,
    leave_out_of_tracebacks,
)
from aegis_pytest.simulation.troubles import BETWEEN, TROUBLES

__all__ = ["ENDS", "TROUBLES", "Act", "Scenario", "Trouble", "draw_scenario"]

_ACTS: Final = {
    "claim": 6,
    "release": 3,
    "transfer": 2,
    "hand_on": 3,
    "own": 5,
    "get_owner": 4,
    "call": 4,
    "call_once": 2,
    "call_stubborn": 2,
}
_WEIGHTS: Final = {"crash": 4, "partition": 3, "cut_off": 3, "store_down": 2, "lag": 3}
_LATENCIES: Final = (0.0, 0.0005, 0.005, 0.05)
_WIDTHS: Final = (0.005, 0.05, 1.0)
_MILD: Final = frozenset({"drift", "duplicate", "jitter", "lag", "late_expiry", "slow"})
"""With these a cluster goes on for long: only what happens meanwhile shows what they do."""

_APART: Final = frozenset({"jitter"})

_LASTS: Final = ((0.005, 0.05), (0.05, 0.5), (0.6, 1.1), (1.1, 2.5))
_TTLS: Final = (3.0, 10.0, 10.0, 30.0, 30.0, 30.0)
_TTLS_LONG: Final = 17
_STEP: Final = 0.001
ENDS: Final = frozenset({"crash", "leave"})
"""What ends a node: nothing is wrong with those that live."""

_QUIET_AT_FIRST: Final = 2.0


@attrs.frozen
class Act:
    """One node's program asks for something.

    Args:
        at: Seconds after the start.
        node: Whose program.
        kind: ``claim``, ``release``, ``transfer``, ``hand_on`` (a transfer by whoever holds it, and runs, instead of
            `node`), ``own`` (stand by, then hold for `lasts`), ``get_owner``, ``call``,
            ``call_once`` (with an idempotency key, and again where it may have run) or ``call_stubborn`` (its handler
            lets nobody cancel it).
        key: The resource id.
        to: Of a transfer: the node to whose instance it goes.
        lasts: Of `own`: seconds for which it is held; of calls: that the handler takes, 0 for a moment.

    Raises:
        TypeError: `at` or `lasts` is no number.
        ValueError: One is less than 0; or there is no such kind.
    """

    at: float
    node: str
    kind: str
    key: str
    to: str = ""
    lasts: float = 0.0

    def __attrs_post_init__(self) -> None:
        __tracebackhide__ = True
        check_kinds("act", [self.kind], _ACTS)
        check_seconds("at", self.at)
        check_seconds("lasts", self.lasts)


@attrs.frozen
class Trouble:
    """Something goes wrong, and heals.

    Args:
        at: Seconds after the start.
        lasts: Seconds until it heals; of a ``crash`` or ``leave`` until the node is started again.
        kind: Of `TROUBLES`.
        names: Whom it hits; of a ``partition`` one side, the others are the other one.
        size: Seconds of a ``skew`` or ``slow``, at most of a ``jitter``, the rate of a ``drift``, seconds until a doubtful commit is applied, between
            the pieces of a ``lag``, until a ``duplicate`` arrives; of a ``late_expiry`` the share of the TTL.

    Raises:
        TypeError: `at`, `lasts` or `size` is no number.
        ValueError: One is less than it can be; or there is no such kind, or it cannot have these names.
    """

    at: float
    lasts: float
    kind: str
    names: tuple[str, ...]
    size: float = 0.0

    def __attrs_post_init__(self) -> None:
        __tracebackhide__ = True
        check_kinds("trouble", [self.kind], TROUBLES)
        check_names(self.kind, self.names)
        check_seconds("at", self.at)
        check_seconds("lasts", self.lasts)
        check_size(self.kind, self.size)


@attrs.frozen(kw_only=True)
class Scenario:
    """One run. What acts and troubles name are its nodes, and the store; another name is a `ValueError`.

    Args:
        seed: What ids, jitter and the order of tasks are drawn from.
        nodes: Names of the nodes.
        seconds: How long acts and troubles go on; 1 at least.
        ttl: Of every instance, in seconds; 1 at least.
        latencies: Of each node, in the order of `nodes`: seconds from it to the store, and as many back. None: no time.
        acts: In the order of their times.
        troubles: In the order of their times.

    Raises:
        TypeError: The seed is no text, the nodes are no names, `seconds`, `ttl` or a latency is no number, or the acts or
            troubles are none.
        ValueError: There is no node, two have the same name, or a name has a dot; `seconds` or `ttl` is too short; or a latency
            is less than 0.
    """

    seed: str
    nodes: tuple[str, ...]
    seconds: float
    ttl: float
    latencies: tuple[float, ...] = ()
    acts: tuple[Act, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    def __attrs_post_init__(self) -> None:
        __tracebackhide__ = True
        check_seed(self.seed)
        check_nodes(self.nodes)
        check_length(self.seconds)
        check_ttl(self.ttl)
        check_latencies(self.latencies)
        check_collection("acts", self.acts, Act, "several, (Act(2.0, 'a', 'claim', 'key'),)")
        check_collection("troubles", self.troubles, Trouble, "several, (Trouble(5.0, 10.0, 'crash', ('a',)),)")
        for act in self.acts:
            check_who(act, filter(None, (act.node, act.to)), self.nodes)
        for trouble in self.troubles:
            check_who(trouble, trouble.names, (*self.nodes, STORE))

    def __str__(self) -> str:
        return self.code()

    def code(self) -> str:
        """A few lines of Python that make this scenario, to paste into a test."""
        lines = [
            "Scenario(",
            f"    seed={self.seed!r}, nodes={self.nodes!r}, seconds={self.seconds!r}, ttl={self.ttl!r},",
            f"    latencies={self.latencies!r},",
            *_steps("acts", self.acts),
            *_steps("troubles", self.troubles),
            ")",
        ]
        return "\n".join(lines)


leave_out_of_tracebacks(Act, Trouble, Scenario)


def _steps(name: str, steps: Sequence[Act | Trouble]) -> Iterator[str]:
    if steps:
        yield f"    {name}=("
        for step in steps:
            yield f"        {_call(step)},"
        yield "    ),"


def _call(value: Act | Trouble) -> str:
    """*value* as it is made, without what has its default."""
    given = attrs.astuple(value, recurse=False)
    fields = attrs.fields(type(value))
    while fields[len(given) - 1].default == given[-1]:
        given = given[:-1]
    return f"{type(value).__name__}({', '.join(map(repr, given))})"


# --- Drawing one ---------------------------------------------------------------------------------


def draw_scenario(
    seed: str,
    *,
    nodes: Sequence[str] = ("a", "b", "c"),
    keys: Sequence[str] = ("key-1", "key-2", "key-3"),
    seconds: float | None = None,
    ttl: float | None = None,
    acts: int = 90,
    troubles: int = 8,
    kinds: Collection[str] = tuple(TROUBLES),
    asks: Collection[str] = tuple(_ACTS),
    handling: float | None = None,
    spans: Sequence[tuple[float, float]] = _LASTS,
) -> Scenario:
    """The scenario of *seed*: the same in every process and on every machine.

    Args:
        seed: Any text.
        nodes: Names of the nodes.
        keys: Resource ids that the nodes' programs want.
        seconds: How long it goes on, 1 at least; by default 17 times the TTL.
        ttl: Of every instance, in seconds, 1 at least; None to draw that, too: 3, 10 or 30.
        acts: How often a program asks for something.
        troubles: How often something goes wrong, at most: it is drawn, too.
        kinds: What may go wrong; of `TROUBLES`.
        asks: What programs may ask for; kinds of `Act`.
        handling: Seconds that the handlers of calls take at most; by default most take a moment.
        spans: How long troubles last, in TTLs: the least and the most, one pair of which is drawn for each.

    Raises:
        TypeError: One of them is nothing of the kind.
        ValueError: There is no node, or two have the same name; there is no such kind; *seconds* or *ttl* is shorter than 1; or
            a count is less than 0.
    """
    __tracebackhide__ = True
    check_nodes(nodes)
    check_kinds("trouble", kinds, TROUBLES)
    check_kinds("act", asks, _ACTS)
    check_count("acts", acts)
    check_count("troubles", troubles)
    if seconds is not None:
        check_length(seconds)
    if ttl is not None:
        check_ttl(ttl)
    chance = random.Random(f"scenario {seed}")
    ttl = chance.choice(_TTLS) if ttl is None else ttl
    seconds = _TTLS_LONG * ttl if seconds is None else seconds
    # Some things each time, and often: where everything is rare, what needs two of a kind hardly ever happens.
    weights = {kind: weight * chance.choice([0.2, 1.0, 3.0]) for kind, weight in _ACTS.items()}
    weights = {kind: weight for kind, weight in weights.items() if kind in asks}
    drawn_acts: list[Act] = []
    while len(drawn_acts) < acts:
        drawn_acts += _draw_burst(chance, nodes, keys, seconds, ttl, weights, handling)[: acts - len(drawn_acts)]
    sudden = sorted(set(kinds) - _APART)
    known = chance.sample(sudden, min(len(sudden), chance.choice([1, 3, 5, len(sudden)])))
    known = [kind for kind in known for _ in range(_WEIGHTS.get(kind, 1))]
    count = chance.randint(1, troubles) if known and troubles else 0
    drawn: list[Trouble] = []
    while len(drawn) < count:
        drawn += _draw_misfortune(chance, nodes, known, seconds, ttl, spans)[: count - len(drawn)]
    # How regularly messages come goes with whatever befalls the nodes, and is drawn apart from it.
    apart = random.Random(f"apart {seed}")
    slow = sorted(_APART.intersection(kinds))
    for _ in range(apart.choice([0, 0, 0, 1, 3]) if slow else 0):
        if len(drawn) < troubles:
            drawn.append(_draw_trouble(apart, nodes, slow, _QUIET_AT_FIRST + apart.random() * seconds, ttl, spans))
    return Scenario(
        seed=seed,
        nodes=tuple(nodes),
        seconds=seconds,
        ttl=ttl,
        latencies=tuple(round(chance.choice(_LATENCIES) * (0.5 + chance.random()), 4) for _ in nodes),
        acts=tuple(sorted(drawn_acts, key=lambda act: act.at)),
        troubles=tuple(sorted(drawn, key=lambda trouble: trouble.at)),
    )


def _draw_burst(
    chance: random.Random,
    nodes: Sequence[str],
    keys: Sequence[str],
    seconds: float,
    ttl: float,
    weights: Mapping[str, float],
    handling: float | None,
) -> list[Act]:
    """Some acts at about the same time, on one key: what happens far apart tries nothing."""
    at, key = _QUIET_AT_FIRST + chance.random() * seconds, chance.choice(keys)
    width = chance.choice(_WIDTHS)
    count = chance.choice([1, 2, 3, 4, 6])
    return [_draw_act(chance, nodes, key, at + width * chance.random(), ttl, weights, handling) for _ in range(count)]


def _draw_act(
    chance: random.Random,
    nodes: Sequence[str],
    key: str,
    at: float,
    ttl: float,
    weights: Mapping[str, float],
    handling: float | None,
) -> Act:
    (kind,) = chance.choices([*weights], [*weights.values()])
    node = chance.choice(nodes)
    others = [name for name in nodes if name != node]
    to = chance.choice(others) if kind in {"transfer", "hand_on"} and others else ""
    lasts = 0.0
    if kind == "own":
        lasts = round(chance.choice([0.1, 6.0]) * ttl * chance.random(), 3)
    elif kind.startswith("call") and handling is not None:
        lasts = round(handling * chance.random(), 3)
    elif kind.startswith("call") and chance.random() < 0.4:
        lasts = round(chance.choice([0.5, 3.0, 0.5 * ttl]) * chance.random(), 3)
    return Act(round(at, 4), node, kind, key, to, lasts)


def _draw_misfortune(
    chance: random.Random,
    nodes: Sequence[str],
    kinds: Sequence[str],
    seconds: float,
    ttl: float,
    spans: Sequence[tuple[float, float]],
) -> list[Trouble]:
    """One trouble, or two of which the second begins before the first is over, or as it is."""
    first = _draw_trouble(chance, nodes, kinds, _QUIET_AT_FIRST + chance.random() * seconds, ttl, spans)
    if chance.random() < 0.5:
        return [first]
    after = chance.choice([chance.random(), 1.0]) * first.lasts + chance.choice([0.0, 0.05 * chance.random()])
    # Mostly to the same node, on which the first has left its marks.
    again = [name for name in first.names if name in nodes] if chance.random() < 0.7 else []
    return [first, _draw_trouble(chance, again[:1] or nodes, kinds, first.at + after, ttl, spans, all_nodes=nodes)]


def _draw_trouble(
    chance: random.Random,
    nodes: Sequence[str],
    kinds: Sequence[str],
    at: float,
    ttl: float,
    spans: Sequence[tuple[float, float]],
    *,
    all_nodes: Sequence[str] = (),
) -> Trouble:
    kind = chance.choice(kinds)
    names, size = TROUBLES[kind](chance, all_nodes or nodes if kind in BETWEEN else nodes)
    if kind == "lag":
        size = round(size * ttl / 10, 3)  # with the large ones, renewals come to cover what was written before them
    low, high = chance.choice(spans)
    lasts = round(ttl * (low + (high - low) * chance.random()) * (4 if kind in _MILD else 1), 3)
    return Trouble(round(at, 4), max(_STEP, lasts), kind, names, size)
