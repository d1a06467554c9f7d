"""Measure how fast the library is; ``nox -s bench``, or ``python tests/benchmarks/run.py``.

Each scenario runs in an interpreter of its own, so that what one leaves in memory does not slow the next one down.
Goals that are missed are marked. A *ceiling* that is missed is measured again, because another program's work looks like
ours; missed again, it makes the exit status 1, unless ``--advisory`` is given. A scenario that fails twice does so in any case,
after the others.
"""

from __future__ import annotations

import argparse
import pstats
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

# At the end, so that what is measured is the installed library wherever there is one.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import (
    asking_roles,
    calling,
    clustering,
    importing,
    looking_up,
    managing,
    observing,
    owning,
    registering,
    scraping,
    table,
    watching,
)
from tests.benchmarks.measuring import Arena, Line
from tests.benchmarks.on_http import calling as http_calling
from tests.benchmarks.on_http import serving
from tests.benchmarks.on_nats import administering, failing_over, heartbeating, requesting, routing, viewing
from tests.benchmarks.on_nats import calling as nats_calling
from tests.benchmarks.on_nats import owning as nats_owning

_ATTEMPTS: Final = 2
_LONGEST: Final = 900.0
# What the scenarios' names begin with whose parts run in processes of their own.
_ELSEWHERE: Final = ("http-", "nats-")


@attrs.frozen
class Scenario:
    """One part of the table: how to measure it, and the names under which parts of it can be profiled.

    One that is `slow` runs only where it is asked for by its name.
    """

    measure: Callable[[Arena], Awaitable[None]]
    measured: tuple[str, ...]
    slow: bool = False


SCENARIOS: Final = {
    "calls": Scenario(calling.measure, calling.MEASURED),
    "look-ups": Scenario(looking_up.measure, looking_up.MEASURED),
    "registrations": Scenario(registering.measure, registering.MEASURED),
    "claims": Scenario(owning.measure_claims, owning.MEASURED_CLAIMS),
    "bulk": Scenario(owning.measure_bulk, owning.MEASURED_BULK),
    "transfers": Scenario(owning.measure_transfers, owning.MEASURED_TRANSFERS),
    "roles": Scenario(asking_roles.measure, asking_roles.MEASURED),
    "events": Scenario(watching.measure, watching.MEASURED),
    "clusters": Scenario(clustering.measure, clustering.MEASURED),
    "rest": Scenario(managing.measure, managing.MEASURED),
    "observability": Scenario(observing.measure, observing.MEASURED),
    "metrics": Scenario(scraping.measure, scraping.MEASURED),
    "imports": Scenario(importing.measure, importing.MEASURED),
    "http-calls": Scenario(http_calling.measure, http_calling.MEASURED),
    "http-server": Scenario(serving.measure, serving.MEASURED),
    "nats-calls": Scenario(nats_calling.measure, nats_calling.MEASURED),
    "nats-requests": Scenario(requesting.measure, requesting.MEASURED),
    "nats-claims": Scenario(nats_owning.measure_claims, nats_owning.MEASURED_CLAIMS),
    "nats-many": Scenario(nats_owning.measure_many, nats_owning.MEASURED_MANY),
    "nats-heartbeats": Scenario(heartbeating.measure, heartbeating.MEASURED),
    "nats-view": Scenario(viewing.measure, viewing.MEASURED),
    "nats-router": Scenario(routing.measure, routing.MEASURED),
    "nats-router-registry": Scenario(administering.measure, administering.MEASURED),
    "nats-kills": Scenario(failing_over.measure_kills, ()),
    "nats-hand-overs": Scenario(failing_over.measure_hand_overs, failing_over.MEASURED_HAND_OVERS),
    "nats-view-million": Scenario(viewing.measure_million, viewing.MEASURED_MILLION, slow=True),
}

# Several scenarios by one name.
GROUPS: Final = {
    "memory": tuple(name for name in SCENARIOS if not name.startswith(_ELSEWHERE)),
    **{
        prefix.rstrip("-"): tuple(
            name for name, scenario in SCENARIOS.items() if name.startswith(prefix) and not scenario.slow
        )
        for prefix in _ELSEWHERE
    },
}


def chosen_by(only: Sequence[str]) -> list[str]:
    """The scenarios to run; each once, in the order asked for."""
    named = [name for asked in only or GROUPS for name in GROUPS.get(asked, (asked,))]
    return list(dict.fromkeys(named))


def _here(name: str, *, quick: bool) -> list[Line]:
    """Measure one scenario in this process."""
    arena = Arena(quick=quick)
    trio.run(_within_limits, SCENARIOS[name], arena)
    return arena.lines


async def _within_limits(scenario: Scenario, arena: Arena) -> None:
    """Let *scenario* measure, and end with all its processes if it does not come to an end by itself."""
    with trio.fail_after(_LONGEST):
        await scenario.measure(arena)


def _elsewhere(name: str, *, quick: bool) -> list[Line]:
    """Measure one scenario in a process of its own, anew while it fails or a ceiling is missed; no lines if it failed."""
    command = [sys.executable, __file__, "--json", "--only", name, *(["--quick"] if quick else [])]
    lines: list[Line] = []
    for _ in range(_ATTEMPTS):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout or done.returncode not in {0, 1}:  # 1 says that a ceiling was missed
            print(f"the scenario {name} failed with exit status {done.returncode}", file=sys.stderr, flush=True)
            continue
        lines = table.from_json(done.stdout)[name]
        if not table.missed(lines, ceilings=True):
            break
    return lines


def _profile(name: str, *, quick: bool) -> None:
    """Show where the time of one measured thing goes."""
    if name in importing.MEASURED:
        importing.show_imports()
        return
    (scenario,) = (scenario for scenario in SCENARIOS.values() if name in scenario.measured)
    arena = Arena(quick=quick, profiled=name)
    trio.run(_within_limits, scenario, arena)
    if name.startswith(_ELSEWHERE):
        return  # the processes that measured it have told
    pstats.Stats(arena.watch.profile).strip_dirs().sort_stats("tottime").print_stats(45)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description="Measure how fast the library is, beside floors of the same run.")
    names = [name for scenario in SCENARIOS.values() for name in scenario.measured]
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes: to try it, not to judge")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*GROUPS, *SCENARIOS],
        metavar="NAME",
        help=f"{', '.join(GROUPS)}; or one of {', '.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--advisory", action="store_true", help="a ceiling that is missed is shown, and does not decide"
    )
    parser.add_argument("--json", action="store_true", help="print the lines as JSON")
    parser.add_argument("--profile", choices=names, metavar="NAME", help=", ".join(names))
    asked = parser.parse_args(arguments)
    if asked.profile:
        _profile(asked.profile, quick=asked.quick)
        return 0
    found: dict[str, list[Line]] = {}
    chosen = chosen_by(asked.only)
    for number, name in enumerate(chosen, 1):
        if not asked.json:
            print(f"measuring {name}, {number} of {len(chosen)}", file=sys.stderr, flush=True)
        measure = _here if asked.json and len(chosen) == 1 else _elsewhere
        found[name] = measure(name, quick=asked.quick)
        if found[name] and not asked.json:
            table.show(name, found[name])
    failed = [name for name, part in found.items() if not part]
    lines = [line for part in found.values() for line in part]
    goals, ceilings = table.missed(lines, ceilings=False), table.missed(lines, ceilings=True)
    if asked.json:
        print(table.as_json(found))
    else:
        _conclude(lines, goals, ceilings, failed)
    return 1 if failed or (ceilings and not asked.advisory) else 0


def _conclude(lines: Sequence[Line], goals: Sequence[str], ceilings: Sequence[str], failed: Sequence[str]) -> None:
    kept = sum(len(line.checks) for line in lines) - len(goals) - len(ceilings)
    print(f"\n{kept} goals and ceilings kept, {len(goals)} goals missed, {len(ceilings)} ceilings missed")
    for text in goals:
        print(f"  goal     {text}")
    for text in ceilings:
        print(f"  ceiling  {text}")
    for name in failed:
        print(f"  failed   {name}: its error is above")


if __name__ == "__main__":
    sys.exit(main())
