"""What it costs to import the library, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Final

import trio

from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most

__all__ = ["MEASURED", "measure", "show_imports"]

MEASURED: Final = ("import",)

_PROGRAM: Final = "from time import perf_counter as now; began = now(); import {}; print(now() - began)"


async def _import(operations: int, watch: Watch, *, module: str) -> None:
    for _ in range(operations):
        done = await trio.run_process([sys.executable, "-c", _PROGRAM.format(module)], capture_stdout=True)
        watch.file(f"import {module}", float(done.stdout))


async def measure(arena: Arena) -> None:
    """``import aegis_core`` beside ``import trio``, the least of many."""
    found = await arena.compete(
        Contestant(partial(_import, module="trio"), 1),
        Contestant(partial(_import, module="aegis_core"), 1),
        rounds=15,
    )
    trio_alone, ours = found["import trio"], found["import aegis_core"]
    arena.line("import trio", trio_alone)
    arena.line("import aegis_core", ours, at_most(ours.p50 / trio_alone.p50, 1.5, "{:.2f} x import trio, goal 1.5"))


def show_imports() -> None:
    """Print the imports of the library that take longest, each with those that it causes."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import aegis_core"], capture_output=True, text=True, check=True
    )
    lines = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines()[1:]]
    slowest = sorted(lines, key=lambda fields: -int(fields[1]))[:40]
    print("self us  whole us  module")
    for own, whole, module in slowest:
        print(f"{own.strip():>7}  {whole.strip():>8}  {module.strip()}")
