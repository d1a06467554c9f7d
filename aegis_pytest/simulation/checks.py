"""What simulations refuse: arguments that cannot be, and acts and troubles that would pass without a trace, and prove nothing.

Each check says in one line what is taken, and what was given. It and who asks for it are left out of tracebacks, so that the line
of the test is what is shown.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from aegis_core.node.node import SHORTEST_TTL
from aegis_pytest.faults.kinds import STORE

__all__ = [
    "check_collection",
    "check_count",
    "check_kinds",
    "check_latencies",
    "check_length",
    "check_names",
    "check_nodes",
    "check_seconds",
    "check_seed",
    "check_size",
    "check_ttl",
    "check_who",
    "leave_out_of_tracebacks",
]

_SHORTEST: Final = 1.0
"""Seconds of a scenario; nothing goes wrong in its first two."""


def leave_out_of_tracebacks(*classes: type) -> None:
    """Have what attrs has generated to make values of *classes* left out, too, when it does not like what it is given."""
    for made in classes:
        vars(made)["__init__"].__globals__["__tracebackhide__"] = True


def check_seconds(name: str, given: object, *, least: float = 0.0) -> None:
    """Refuse, as argument *name*, what is no time, or shorter than *least* seconds.

    Raises:
        TypeError: It is no number.
        ValueError: It is too short, or no finite number.
    """
    __tracebackhide__ = True
    _check_number(f"{name}= takes a number of seconds, {least:g} or more, not {given!r}", given, least)


def _check_number(takes: str, given: object, least: float) -> None:
    __tracebackhide__ = True
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(takes)
    if not least <= given < math.inf:
        raise ValueError(takes)


def check_latencies(given: object) -> None:
    """Refuse, as argument ``latencies``, what are no times of messages; raises as `check_seconds`."""
    __tracebackhide__ = True
    check_collection("latencies", given, object, "seconds for each node, (0.005, 0.05)")
    assert isinstance(given, Sequence)
    for number, seconds in enumerate(given):
        check_seconds(f"latencies[{number}]", seconds)


def check_size(kind: str, given: object) -> None:
    """Refuse, as argument ``size``, what no trouble of *kind* has.

    Raises:
        TypeError: It is no number.
        ValueError: It is no finite number, or less than *kind* may have.
    """
    __tracebackhide__ = True
    match kind:
        case "drift":
            least, told = math.nextafter(-1.0, 0.0), "a number above -1, seconds in a second"
        case "skew":
            least, told = -sys.float_info.max, "a number of seconds"
        case "late_expiry":
            least, told = 0.0, "a share of the TTL, 0 or more"
        case _:
            least, told = 0.0, "a number of seconds, 0 or more"
    _check_number(f"size= of a {kind} takes {told}, not {given!r}", given, least)


def check_seed(given: object) -> None:
    """Refuse, as argument ``seed``, what is no text.

    Raises:
        TypeError: It is none.
    """
    __tracebackhide__ = True
    if not isinstance(given, str):
        raise TypeError(f"seed= takes a text, {str(given)!r}, not {given!r}")


def check_length(given: object) -> None:
    """Refuse, as argument ``seconds``, what no scenario lasts; raises as `check_seconds`."""
    __tracebackhide__ = True
    check_seconds("seconds", given, least=_SHORTEST)


def check_ttl(given: object) -> None:
    """Refuse, as argument ``ttl``, what no instance is served with; raises as `check_seconds`."""
    __tracebackhide__ = True
    check_seconds("ttl", given, least=SHORTEST_TTL)


def check_count(name: str, given: object) -> None:
    """Refuse, as argument *name*, what nothing can be counted by.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is less than 0.
    """
    __tracebackhide__ = True
    takes = f"{name}= takes a whole number, 0 or more, not {given!r}"
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(takes)
    if given < 0:
        raise ValueError(takes)


def check_collection(name: str, given: object, kind: type, takes: str, *, in_order: bool = True) -> None:
    """Refuse, as argument *name* that *takes* several of *kind*, a single thing, or a text.

    Raises:
        TypeError: It is none, or has something else in it; or it has no order, and is to be *in_order*.
    """
    __tracebackhide__ = True
    if isinstance(given, Collection) and not isinstance(given, str):
        is_fit = isinstance(given, Sequence) or not in_order
        if is_fit and all(isinstance(it, kind) for it in given):
            return
    raise TypeError(f"{name}= takes {takes}, not {given!r}")


def check_nodes(nodes: Sequence[str]) -> None:
    """Refuse nodes of which nothing can be drawn or run.

    Raises:
        TypeError: They are no sequence of names.
        ValueError: There is none, two have the same name, or a name has a dot.
    """
    __tracebackhide__ = True
    check_collection("nodes", nodes, str, "the nodes' names, ('a', 'b', 'c')")
    if not nodes:
        raise ValueError("nodes= is empty: a scenario needs one node at least")
    names = list(nodes)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"nodes= names {twice[0]!r} more than once: each node needs a name of its own")
    dotted = [name for name in names if "." in name]
    if dotted:
        raise ValueError(
            f"nodes= names {dotted[0]!r}: what follows a dot is the number of a node's life, so leave it out"
        )


def check_kinds(what: str, kinds: Iterable[object], known: Collection[str]) -> None:
    """Refuse kinds of *what* that are not *known*.

    Raises:
        ValueError: Says which there are.
    """
    __tracebackhide__ = True
    for kind in kinds:
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(f"there is no {what} {kind!r}; there are {', '.join(known)}")


def check_names(kind: str, names: Sequence[str]) -> None:
    """Refuse names that a trouble of *kind* cannot have: it would hit only some of them, or nobody.

    Raises:
        ValueError: Says what it takes.
    """
    __tracebackhide__ = True
    match kind:
        case "partition":
            takes, fits = "one side of a cut", bool(names)
        case "cut_off" | "drop" | "duplicate" | "jitter" | "slow":
            takes, fits = "two ends of a way", len(names) == 2
        case "store_down":
            takes, fits = "the store alone", tuple(names) == (STORE,)
        case _:
            takes, fits = "one node", len(names) == 1 and STORE not in names
    if isinstance(names, str) or not fits or len(set(names)) < len(names):
        raise ValueError(f"a trouble of kind {kind!r} takes a tuple of names, {takes}, not {names!r}")


def check_who(what: object, names: Iterable[str], nodes: Collection[str]) -> None:
    """Refuse names in *what*, an act or a trouble, that are none of *nodes*.

    Raises:
        ValueError: Says which there are.
    """
    __tracebackhide__ = True
    for name in names:
        if name not in nodes:
            raise ValueError(f"there is no node {name!r}, which {what} names; nodes= has {', '.join(nodes)}")
