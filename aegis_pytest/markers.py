"""What tests say by the plugin's markers. Whatever cannot be meant is refused before any of them runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from aegis_pytest.virtual_time import Limits

__all__ = ["allowed", "check_markers", "limits_of", "needs_of", "own_limits_of"]

# ruff: noqa: PLC0415 - looking at the markers of tests that use none of ours imports nothing of ours

_PREFIX: Final = "aegis_"
_BACKEND: Final = "aegis_backend"
_NAMING: Final = {"aegis_needs": "network", "aegis_allow": "tasks_left"}
"""Markers that name something, and an example of what."""

_ALIKE: Final = 0.9
_CLOCKS: Final = frozenset({"autojump_clock", "mock_clock"})


def check_markers(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Refuse markers of *items* that look like ours and are none, and arguments that ours do not take.

    Raises:
        pytest.UsageError: One has such a marker; says what there is.
    """
    registered = [line.partition(":")[0].partition("(")[0].strip() for line in config.getini("markers")]
    known = [name for name in registered if name.startswith(_PREFIX)]
    for item in items:
        for mark in item.iter_markers():
            problem = _misuse(mark) if mark.name in known else _misspelling(mark.name, known)
            if problem:
                raise pytest.UsageError(f"{item.nodeid}: {problem}")


def _misspelling(name: str, known: Sequence[str]) -> str:
    if get_close_matches(name, [_BACKEND], cutoff=_ALIKE):
        return (
            f"there is no marker {name}: the option --aegis-backend says which backends tests run on, "
            "and aegis_needs('network') what a test needs of its backend"
        )
    if get_close_matches(name, known, cutoff=_ALIKE):
        return f"there is no marker {name}; there are {', '.join(sorted(known))}"
    return ""


def _misuse(mark: pytest.Mark) -> str:
    """What is wrong with the arguments of *mark*, of which others look at the names."""
    if mark.name == "aegis_real_time" and (mark.args or mark.kwargs):
        return "aegis_real_time takes no arguments: leave the marker out of tests that run on virtual time"
    # To allow nothing is what every test does; who needs nothing has forgotten to say what.
    is_empty = not mark.args and mark.name != "aegis_allow"
    if mark.name in _NAMING and (mark.kwargs or is_empty or not all(isinstance(it, str) for it in mark.args)):
        return f"{mark.name} takes names, as @pytest.mark.{mark.name}({_NAMING[mark.name]!r})"
    return ""


def needs_of(item: pytest.Item) -> frozenset[str]:
    """The capabilities that *item* needs of its backend.

    Raises:
        pytest.UsageError: There is no such capability.
    """
    from aegis_pytest.backends import CAPABILITIES

    needs = frozenset(name for mark in item.iter_markers("aegis_needs") for name in mark.args)
    for name in needs.difference(CAPABILITIES):
        known = ", ".join(map(repr, CAPABILITIES))
        raise pytest.UsageError(f"{item.nodeid}: aegis_needs knows {known}, not {name!r}")
    # Who names a clock means virtual time.
    return needs | {"virtual_time"} if _CLOCKS.intersection(getattr(item, "fixturenames", ())) else needs


def allowed(item: pytest.Item) -> frozenset[str]:
    """What the markers ``aegis_allow`` of *item* let its cluster leave behind, or the test itself do.

    Raises:
        pytest.UsageError: There is no such thing.
    """
    from aegis_pytest.leftovers import LEFTOVERS
    from aegis_pytest.mistakes import MISTAKES

    known = (*LEFTOVERS, *MISTAKES)
    named = frozenset(name for mark in item.iter_markers("aegis_allow") for name in mark.args)
    for name in named.difference(known):
        raise pytest.UsageError(f"{item.nodeid}: aegis_allow knows {', '.join(map(repr, known))}, not {name!r}")
    return named


def expects_error(item: pytest.Item) -> bool:
    """Whether pytest compares the type of what *item* raises: then that is left as it is."""
    return any("raises" in mark.kwargs for mark in item.iter_markers("xfail"))


def limits_of(config: pytest.Config) -> Limits:
    """What a test may take that says nothing itself.

    Raises:
        pytest.UsageError: An option of the configuration file is no number of seconds.
    """
    return _checked(
        (("virtual", config.getini("aegis_virtual_budget")), ("real", config.getini("aegis_test_timeout"))),
        "ini options aegis_virtual_budget and aegis_test_timeout",
    )


def own_limits_of(item: pytest.Item, defaults: Limits) -> Limits:
    """What *item* may take: as its marker ``aegis_limits`` says, and for the rest, *defaults*.

    Raises:
        pytest.UsageError: The marker says something else than seconds.
    """
    mark = item.get_closest_marker("aegis_limits")
    if mark is None:
        return defaults
    where = f"{item.nodeid}: aegis_limits"
    if mark.args or not {"virtual", "real"}.issuperset(mark.kwargs):
        raise pytest.UsageError(f"{where} takes virtual= and real=, seconds")
    for value in mark.kwargs.values():
        if not isinstance(value, int | float):
            raise pytest.UsageError(f"{where}: expected seconds, got {value!r}")
    given = {"virtual": defaults.virtual, "real": defaults.real, **mark.kwargs}
    return _checked(given.items(), where)


def _checked(given: Iterable[tuple[str, object]], where: str) -> Limits:
    from aegis_pytest.virtual_time import Limits

    seconds: dict[str, float] = {}
    for name, value in given:
        try:
            number = float(value)  # type: ignore[arg-type]  # what is none, is told
        except (TypeError, ValueError):
            number = -1.0
        if not number >= 0:
            raise pytest.UsageError(f"{where}: expected seconds, got {value!r}")
        seconds[name] = number or float("inf")
    return Limits(**seconds)
