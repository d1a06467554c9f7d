"""What it costs to import the library, in fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Final

import trio

from tests.benchmarks.measuring import Arena, Contestant, Watch, at_most
from tests.benchmarks.waiting import SCHEDULE

__all__ = ["MEASURED", "measure", "show_imports"]

MEASURED: Final = ("import",)

# Loads nothing that the import itself would have loaded but for its own stop watch.
_PROGRAM: Final = f"""
from time import perf_counter
def waited():
    try:
        with open({SCHEDULE!r}) as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0
before = waited()
began = perf_counter()
import {{}}
elapsed = perf_counter() - began
print(elapsed - (waited() - before))
"""


@contextmanager
def _compiled_once() -> Iterator[dict[str, str]]:
    """An environment in which every module is compiled at its first import, and kept so, as installed modules are."""
    with TemporaryDirectory() as kept:
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        yield inherited | {"PYTHONPYCACHEPREFIX": kept}


async def _import(operations: int, watch: Watch, *, module: str, environment: Mapping[str, str]) -> None:
    for _ in range(operations):
        command = [sys.executable, "-c", _PROGRAM.format(module)]
        done = await trio.run_process(command, capture_stdout=True, env=environment)
        watch.file(f"import {module}", float(done.stdout))


async def measure(arena: Arena) -> None:
    """``import aegis_core`` beside ``import trio``, the least of many."""
    with _compiled_once() as environment:
        found = await arena.compete(
            Contestant(partial(_import, module="trio", environment=environment), 1),
            Contestant(partial(_import, module="aegis_core", environment=environment), 1),
            rounds=15,
        )
    trio_alone, ours = found["import trio"], found["import aegis_core"]
    arena.line("import trio", trio_alone)
    arena.line("import aegis_core", ours, at_most(ours.p50 / trio_alone.p50, 1.5, "{:.2f} x import trio, goal 1.5"))


def show_imports() -> None:
    """Print the imports of the library that take longest, each with those that it causes."""
    command = [sys.executable, "-X", "importtime", "-c", "import aegis_core"]
    with _compiled_once() as environment:
        done = [subprocess.run(command, capture_output=True, text=True, check=True, env=environment) for _ in range(2)]
    lines = [line.removeprefix("import time:").split("|") for line in done[-1].stderr.splitlines()[1:]]
    slowest = sorted(lines, key=lambda fields: -int(fields[1]))[:40]
    print("self us  whole us  module")
    for own, whole, module in slowest:
        print(f"{own.strip():>7}  {whole.strip():>8}  {module.strip()}")
