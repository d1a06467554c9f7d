"""What is told of a scenario that fails: in forty lines what is wrong and how to run it again, and all of it in files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from aegis_pytest.history import to_line
from aegis_pytest.simulation.application import Application
from aegis_pytest.simulation.logged import Logged, tell_last
from aegis_pytest.simulation.run import Outcome
from aegis_pytest.simulation.scenario import Scenario

__all__ = ["tell_failure"]

_MOST_LINES: Final = 40
_MOST_STEP_ROWS: Final = 12
"""Of the scenario; what is wrong keeps as many, and two. Where there are more steps, several share a line."""

_MOST_LOGGED: Final = 6
_LONGEST: Final = 240
_NO_END: Final = 1_000_000
_NEEDS_NOTHING: Final = "it fails although nothing goes wrong"
_DIFFERS: Final = (
    "it did not fail in this way when it was run again: something outside of the simulation decides it, and it is not made "
    "smaller"
)
_MAKE_ANEW: Final = (
    ". Where the application keeps something outside of its nodes, as a database does, one run finds what another left: make "
    "it anew by setup="
)


def tell_failure(
    outcome: Outcome,
    smallest: Outcome | None,
    folder: Path,
    application: Application,
    logged: Sequence[Logged] = (),
) -> str:
    """What a test says that found *outcome*, in at most 40 lines. It ends with Python that makes the scenario, whole.

    Args:
        outcome: Of a scenario that breaks a rule.
        smallest: Of the smallest scenario found that fails like it, run again; *outcome* itself, if none was looked for; None if
            it does not fail like that again, which is then said instead.
        folder: Gets what does not fit into the lines, of what is shown: ``failure.txt``, all that is wrong; ``history.jsonl``, for
            `aegis_pytest.history.History.read`; ``log.txt``, what was logged; and a picture of each violation.
        application: What was run. Who has a *setup* is not advised to have one.
        logged: In the run that is shown. The last of it is told where there is room.
    """
    advice = "" if application.setup is not None else _MAKE_ANEW
    shown = smallest or outcome
    below = [f"all of it in {folder}: {', '.join(_write(shown, folder, logged))}"]
    below += [_DIFFERS + advice] if smallest is None else _to_run_again(outcome, smallest, application, advice)
    room = _MOST_LINES - 2 - len(below)
    text = shown.text(room).splitlines()
    last = tell_last(logged, until=shown.seconds, most=min(_MOST_LOGGED, room - len(text)))
    before = "; of what was logged before, the last warnings and errors:" if last else ""
    text += [f"it showed at {shown.seconds:.6f} s{before}", *last]
    return "\n".join([f"seed {outcome.scenario.seed!r} breaks a rule", *map(_clipped, text), *below])


def _to_run_again(outcome: Outcome, smallest: Outcome, application: Application, advice: str) -> list[str]:
    whole, part = outcome.scenario, smallest.scenario
    steps, kept = len(whole.acts) + len(whole.troubles), len(part.acts) + len(part.troubles)
    needed = "" if smallest is outcome else f" ({kept} of its {steps} steps are needed)"
    lines = [_NEEDS_NOTHING + advice] if steps and not kept else []
    arguments = ", ".join(filter(None, ["scenario", application.arguments]))
    return [
        *lines,
        f"to run it again{needed}: aegis_simulation.replay({arguments}) with",
        f"from aegis_pytest.simulation import {', '.join(_names(part))}",
        *_in_rows(f"scenario = {part.code()}", _MOST_STEP_ROWS),
    ]


def _names(scenario: Scenario) -> Iterator[str]:
    if scenario.acts:
        yield "Act"
    yield "Scenario"
    if scenario.troubles:
        yield "Trouble"


def _write(outcome: Outcome, folder: Path, logged: Sequence[Logged]) -> Iterator[str]:
    """Write all of *outcome* into *folder*, and what was *logged*; the names of the files."""
    said = [*(violation.text(_NO_END) for violation in outcome.violations), *outcome.problems, outcome.scenario.code()]
    (folder / "failure.txt").write_text("\n\n".join([*said, ""]), encoding="utf-8")
    yield "failure.txt"
    (folder / "history.jsonl").write_text("".join(f"{to_line(it)}\n" for it in outcome.history), encoding="utf-8")
    yield "history.jsonl"
    if logged:
        (folder / "log.txt").write_text("".join(f"{it}\n" for it in logged), encoding="utf-8")
        yield "log.txt"
    pictures = [violation.svg() for violation in outcome.violations]
    for number, picture in enumerate(pictures, start=1):
        (folder / f"violation-{number}.svg").write_text(picture, encoding="utf-8")
    if pictures:
        yield "violation-1.svg" if len(pictures) == 1 else f"violation-1.svg to violation-{len(pictures)}.svg"


def _in_rows(code: str, most: int) -> list[str]:
    """The lines of a scenario's *code*, its steps in *most* of them, or fewer."""
    indent = " " * 8  # of a step; what is around the steps has less
    runs = [
        (is_step, list(run))
        for is_step, run in itertools.groupby(code.splitlines(), lambda line: line.startswith(indent))
    ]
    in_a_row = 1
    while sum(-(-len(run) // in_a_row) for is_step, run in runs if is_step) > most:
        in_a_row += 1
    rows: list[str] = []
    for is_step, run in runs:
        size = in_a_row if is_step else 1
        rows += [
            f"{run[at]}{''.join(f' {line.strip()}' for line in run[at + 1 : at + size])}"
            for at in range(0, len(run), size)
        ]
    return rows


def _clipped(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
