"""The table, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from tests.benchmarks.measuring import Check, Line

__all__ = ["as_json", "from_json", "missed", "show"]

_WIDTH: Final = 42


def missed(lines: Sequence[Line], *, ceilings: bool) -> list[str]:
    """Which checks were missed: those that are ceilings, or the others."""
    return [
        f"{line.name}: {check.text}"
        for line in lines
        for check in line.checks
        if check.ceiling is ceilings and not check.met
    ]


def show(scenario: str, lines: Sequence[Line]) -> None:
    """Print the part of the table that one scenario measured."""
    width = 2 + max(_WIDTH, *(len(line.name) for line in lines))
    print(f"\n{scenario:<{width}}{'p50':>10}{'p99':>10}{'per second':>12}   goals")
    for line in lines:
        goals = "; ".join(f"{'ok' if check.met else 'MISSED'} {check.text}" for check in line.checks)
        print(
            f"{line.name:<{width}}{_time(line.p50):>10}{_time(line.p99):>10}{_rate(line.rate):>12}   {goals or line.note}",
            flush=True,
        )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, factor in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 100 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds:.2f} s"


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}"


def as_json(found: Mapping[str, Sequence[Line]]) -> str:
    """All lines, by scenario; times in seconds."""
    return json.dumps({name: [attrs.asdict(line) for line in lines] for name, lines in found.items()}, indent=1)


def from_json(text: str) -> dict[str, list[Line]]:
    """What `as_json` wrote."""
    return {
        name: [Line(**{**line, "checks": tuple(Check(**check) for check in line["checks"])}) for line in lines]
        for name, lines in json.loads(text).items()
    }
