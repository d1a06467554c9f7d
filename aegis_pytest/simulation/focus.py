"""Scenarios in which little happens, again and again: what several rare things must meet for.

Where everything may happen, what needs two messages of one kind that come late, on one resource, hardly ever does. So half of
the seeds look at a part of what may happen, closely ("Swarm testing", Groce et al., ISSTA 2012).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from aegis_pytest.simulation.scenario import Scenario, draw_scenario

__all__ = ["FOCUSES", "draw_any"]

FOCUSES: Final[Mapping[str, Callable[[str], Scenario]]] = {
    # A watch that lags tells of the new owner, and then that he was started again; somebody waits who believes it.
    "watches that lag, and crashes": partial(
        draw_scenario, ttl=3.0, kinds=("lag", "crash"), asks=("own",), acts=40, troubles=16
    ),
    # One that is carried out long after it was sent finds what others wrote.
    "commits that come late": partial(
        draw_scenario, nodes=("a", "b"), keys=("key",), ttl=10.0, kinds=("doubt_later",), asks=("claim", "release")
    ),
    # A call that arrives once more, after its callee has released the resource and claimed it again.
    "calls that come late": partial(
        draw_scenario,
        nodes=("a", "b"),
        keys=("key",),
        seconds=20.0,
        ttl=3.0,
        kinds=("duplicate",),
        asks=("claim", "release", "call"),
    ),
    # A call with a key that arrives once more, while its callee holds the resource as before.
    "calls that come twice": partial(
        draw_scenario, nodes=("a", "b"), keys=("key",), kinds=("duplicate",), asks=("claim", "call_once")
    ),
    # The store keeps its answer back for longer than the owner waits, and the lease lasts longer still.
    "moves without an answer": partial(
        draw_scenario, ttl=10.0, kinds=("doubt_applied",), asks=("claim", "own", "hand_on")
    ),
    # What nobody was told of stands while it is repeated, and others come upon it.
    "commits without an answer": partial(
        draw_scenario,
        keys=("key",),
        ttl=30.0,
        seconds=200.0,
        kinds=("doubt_applied",),
        asks=("claim", "release", "get_owner"),
    ),
    # The owner reaches the store again, and its watch has yet to tell it who has taken what it held.
    "owners that come back": partial(
        draw_scenario, keys=("key",), ttl=10.0, kinds=("lag", "cut_off"), asks=("claim", "own")
    ),
    # Two reads on a node for which the store is far away, and a change between them by one for which it is near.
    "reads from afar": partial(draw_scenario, keys=("key",), kinds=("slow",), asks=("claim", "release", "get_owner")),
    # Several who wait for one resource.
    "lines": partial(draw_scenario, keys=("key",), seconds=100.0, ttl=10.0, kinds=(), asks=("own",)),
    # What was claimed is lost with a lease, and hardly anybody else wants it.
    "claims that are lost": partial(
        draw_scenario, ttl=3.0, kinds=("cut_off", "lose_lease"), asks=("claim", "get_owner"), acts=12
    ),
    # Nothing goes wrong, so that whatever is late or lost is so by the library's doing.
    "nothing wrong": partial(draw_scenario, kinds=()),
    # Only so is it known when what the dead held must be free.
    "crashes alone": partial(draw_scenario, kinds=("crash",)),
    # Who ends in order hands over at once.
    "planned new starts": partial(draw_scenario, kinds=("leave",), asks=("claim", "own", "call", "call_once")),
    # Who goes on after his lease has ended, and others have worked with what he held, is held off by the epoch alone.
    "owners that are stopped": partial(
        draw_scenario,
        nodes=("a", "b"),
        keys=("key",),
        ttl=3.0,
        kinds=("pause",),
        asks=("claim", "call_stubborn"),
        handling=4.0,
        troubles=30,
        spans=((1.1, 2.5),),
    ),
    # Handlers that are interrupted, and whose callers ask again or not, while leases are lost.
    "calls under leases that end": partial(
        draw_scenario,
        keys=("key",),
        ttl=3.0,
        kinds=("cut_off", "lose_lease", "store_down"),
        asks=("claim", "call", "call_once", "call_stubborn"),
    ),
}
"""Ways to draw a scenario of a seed in which little happens, by name."""


def draw_any(seed: str) -> Scenario:
    """The scenario of *seed*: of every two seeds one in which anything may happen, and one of `FOCUSES`."""
    chance = random.Random(f"focus {seed}")
    if chance.random() < 0.5:
        return draw_scenario(seed)
    return FOCUSES[chance.choice(sorted(FOCUSES))](seed)
