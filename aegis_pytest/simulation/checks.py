"""What a scenario that is written by hand cannot be: an act or a trouble that would pass without a trace, and prove nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from aegis_pytest.faults.kinds import STORE

__all__ = ["check_kinds", "check_names", "check_who"]


def check_kinds(what: str, kinds: Iterable[str], known: Collection[str]) -> None:
    """Refuse kinds of *what* that are not *known*.

    Raises:
        ValueError: Says which there are.
    """
    for kind in kinds:
        if kind not in known:
            raise ValueError(f"there is no {what} {kind!r}; there are {', '.join(known)}")


def check_names(kind: str, names: Sequence[str]) -> None:
    """Refuse names that a trouble of *kind* cannot have: it would hit only some of them, or nobody.

    Raises:
        ValueError: Says what it takes.
    """
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
    for name in names:
        if name not in nodes:
            raise ValueError(f"there is no node {name!r}, which {what} names; nodes= has {', '.join(nodes)}")
