"""The backends that an application's tests run on: the option ``--aegis-backend``.

Each is a `Harness`, found by an entry point of the group ``aegis_harnesses``, as those of the library itself are::

    [project.entry-points.aegis_harnesses]
    sqlite = "aegis_sqlite.harness:SqliteHarness"

It is loaded when it is named. Its *capabilities* are those by which tests say what they need:

- ``virtual_time``: the clock jumps over every wait;
- ``network``: nodes reach servers over real sockets, so that their connections can break;
- ``bus``: subjects that anybody can publish to.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Final, get_args

from aegis_core.errors import ConfigError
from aegis_pytest.harness import Capability, Harness

__all__ = ["CAPABILITIES", "REAL_TTL", "application_ttl", "known_backends", "load_harness", "read_choices"]

CAPABILITIES: Final[Sequence[Capability]] = get_args(Capability)
"""What the marker ``aegis_needs`` can name."""

REAL_TTL: Final = 3.0
"""Seconds that registrations live where time is real: short, and a busy machine still renews them in time."""

_GROUP: Final = "aegis_harnesses"
_OPTION: Final = "--aegis-backend"

_BUILT_IN: Final = {
    name: EntryPoint(name, value, _GROUP)
    for name, value in (
        ("memory", "aegis_pytest.memory:MemoryHarness"),
        ("nats", "aegis_pytest.nats:NatsHarness"),
        ("http", "aegis_pytest.http:HttpHarness"),
    )
}


def known_backends() -> Sequence[str]:
    """Every name that ``--aegis-backend`` takes here: the library's own first, then what is installed."""
    installed = {entry.name for entry in importlib.metadata.entry_points(group=_GROUP)}
    return [*_BUILT_IN, *sorted(installed.difference(_BUILT_IN))]


def load_harness(name: str) -> type[Harness]:
    """The class of the harness of backend *name*.

    Raises:
        ConfigError: It cannot be loaded, or is none; or there is no such backend, or more than one.
    """
    entries = [_BUILT_IN[name]] if name in _BUILT_IN else importlib.metadata.entry_points(group=_GROUP, name=name)
    if not entries:
        raise _refused(
            f"there is no backend {name!r} here, only {', '.join(known_backends())}; install the distribution that brings "
            f"it (an entry point of the group {_GROUP})"
        )
    entry, *others = entries
    if others:
        raise _refused(
            f"{name!r} is {' and '.join(it.value for it in entries)}: uninstall the distribution of all but one"
        )
    try:
        found = entry.load()
    except Exception as exc:
        raise _refused(f"{entry.value} of backend {name!r} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not (isinstance(found, type) and issubclass(found, Harness)):
        raise _refused(f"{entry.value} of backend {name!r} is no class of aegis_pytest.conformance.Harness")
    for capability in found.capabilities.difference(CAPABILITIES):
        raise _refused(
            f"{entry.value} of backend {name!r} has a capability {capability!r}, expected {', '.join(CAPABILITIES)}"
        )
    return found


def application_ttl(harness: type[Harness]) -> float | None:
    """Seconds that registrations of an application's tests live on *harness*; None for the library's default."""
    return None if "virtual_time" in harness.capabilities else max(REAL_TTL, harness.ttl)


def read_choices(given: str) -> Mapping[str, type[Harness]]:
    """The backends that ``--aegis-backend`` names, in that order.

    Raises:
        ConfigError: As `load_harness`; or one is named twice, or none.
    """
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if not name:
            raise _refused(f"expected one or more of {', '.join(known_backends())}, with commas between; got {given!r}")
        if names.count(name) > 1:
            raise _refused(f"{name!r} is named twice")
    return {name: load_harness(name) for name in names}


def _refused(problem: str) -> ConfigError:
    return ConfigError(source=_OPTION, problem=problem)
