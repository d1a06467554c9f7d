"""Simulations from many seeds, on all cores: ``nox -s soak``, or ``python tests/simulation/soak.py``.

What has been done is kept in a file, chunk by chunk, so that it may be stopped at any time and goes on where it was when it is
run again; what runs in that moment is done again, some ten seconds of each processor. Nothing that was done by other code counts: the
file names the code by a hash of it.

The exit status is 0 when all is done and nothing was found, 1 when something was, 2 when it was stopped or its time was over.
What is found is shown as `aegis_simulation` shows it: the smallest scenario that breaks the same rule, and pictures beside the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import attrs
import pytest

import aegis_core
import aegis_pytest
from aegis_backends import memory
from aegis_pytest.simulation import Evidence, Simulation, Tally, draw_any, simulate

__all__ = ["STATE", "Chunk", "State", "main", "run_chunk", "show", "soak"]

CHUNK: Final = 20
"""Seeds that are done, or not, together."""

_ENOUGH: Final = 2000
"""Seeds after which it must have come to everything that the rules are about."""

_TOO_LONG: Final = 120.0
"""Seconds of a processor after which a seed, which takes less than one, does not end any more."""

_PROGRESS_EVERY: Final = 20.0
_LOOK_EVERY: Final = 0.2
STATE: Final = Path(__file__).resolve().parents[2] / ".nox" / "kept" / "soak" / "state.json"
"""Where what has been done is kept: outside of the environments, which nox makes anew for each run."""


@attrs.frozen
class Chunk:
    """What came of the seeds from *first* on.

    Args:
        first: The first seed.
        tally: What was done, up to a seed that failed.
        busy: Seconds of a processor that it took.
        failed: The seed that broke a rule, or None.
    """

    first: int
    tally: Tally
    busy: float
    failed: int | None = None


@attrs.define
class State:
    """What has been done.

    Args:
        code: Names the code that did it.
        done: The first seeds of the chunks.
        tally: In all.
        busy: Seconds of processors.
        real: Seconds on the clock.
    """

    code: str
    done: set[int] = attrs.field(factory=set)
    tally: Tally = attrs.field(factory=Tally)
    busy: float = 0.0
    real: float = 0.0

    @classmethod
    def load(cls, path: Path, code: str) -> State:
        """What *code* has done, as the file at *path* tells; nothing, if there is none, or other code did it, which is said."""
        if not path.exists():
            return cls(code)
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["code"] != code:
            print(
                f"{told['tally']['scenarios']} seeds do not count: other code, or another Python, did them", flush=True
            )
            return cls(code)
        tally = told["tally"]
        known = Tally(**{**tally, "evidence": Evidence(**tally["evidence"])})
        return cls(code, set(told["done"]), known, told["busy"], told["real"])

    def save(self, path: Path) -> None:
        """Write it to *path*, wholly or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        told = {**attrs.asdict(self), "done": sorted(self.done)}
        draft.write_text(json.dumps(told), encoding="utf-8")
        draft.replace(path)

    def add(self, chunk: Chunk) -> None:
        """Count *chunk*, all of which is good."""
        self.done.add(chunk.first)
        self.tally = self.tally.with_all(chunk.tally)
        self.busy += chunk.busy

    def __str__(self) -> str:
        hours, real = self.tally.seconds / 3600, max(self.real, 1e-9)
        return (
            f"{self.tally.scenarios} seeds, {hours:.1f} simulated hours, {self.tally.records} records checked ({self.tally.evidence}); "
            f"{self.tally.seconds / real:.0f} simulated seconds a second, "
            f"{self.tally.seconds / max(self.busy, 1e-9):.0f} for one of a processor"
        )


def code_hash() -> str:
    """A hash of all that a simulation runs; so without the commands, of which a wheel has other files than the checkout."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {CHUNK}".encode())
    folders = [Path(str(module.__file__)).parent for module in (aegis_core, memory, aegis_pytest)]
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            if folder / "cli" not in file.parents:
                digest.update(file.read_bytes())
    return digest.hexdigest()


def run_chunk(first: int, count: int) -> Chunk:
    """Simulate *count* seeds from *first* on, up to one that breaks a rule."""
    tally, began = Tally(), time.process_time()
    for seed in range(first, first + count):
        with _bounded(seed):
            outcome = simulate(draw_any(str(seed)))
        if not outcome.is_good:
            return Chunk(first, tally, time.process_time() - began, seed)
        tally += outcome
    return Chunk(first, tally, time.process_time() - began)


@contextmanager
def _bounded(seed: int) -> Iterator[None]:
    """End this process, and say where it was, when *seed* does not end: an exception might not leave a loop that catches all."""

    def end(_: int, frame: FrameType | None) -> None:
        print(f"seed {seed} does not end; after {_TOO_LONG:g} seconds of a processor it was here:", file=sys.stderr)
        traceback.print_stack(frame)
        sys.stderr.flush()
        os._exit(1)

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, _TOO_LONG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def soak(
    state: State,
    path: Path,
    executor: Executor,
    *,
    seeds: int,
    hours: float,
    is_over: Callable[[], bool],
    workers: int,
) -> int | None:
    """Go on from *state* until *seeds* and *hours* are done, and keep what is done at *path*.

    Args:
        state: What has been done.
        path: Of the file.
        executor: Runs chunks, *workers* at once.
        seeds: How many, at least.
        hours: Simulated ones, at least.
        is_over: Whether it is to end now in any case; asked some times a second. What runs then does not count.
        workers: How many chunks run at once.

    Returns:
        A seed that breaks a rule; None if there was none so far.

    Raises:
        BrokenExecutor: A worker has ended by itself.
    """
    running: dict[Future[Chunk], None] = {}
    coming = _chunks(state)
    told = since = time.monotonic()
    before = state.real
    while not is_over():
        now = time.monotonic()
        state.real = before + now - since
        short_of_hours = state.tally.seconds < 3600 * hours
        if state.tally.scenarios >= seeds and not short_of_hours:
            break
        while len(running) < workers and (short_of_hours or state.tally.scenarios + CHUNK * len(running) < seeds):
            running[executor.submit(run_chunk, next(coming), CHUNK)] = None
        done, _ = wait(running, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED)
        for future in done:
            del running[future]
            chunk = future.result()
            if chunk.failed is not None:
                return chunk.failed
            state.add(chunk)
            state.save(path)
        if now - told >= _PROGRESS_EVERY:
            told = now
            print(state, flush=True)
    state.save(path)
    return None


def _chunks(state: State) -> Iterator[int]:
    """The first seeds of the chunks that are not done."""
    first = 0
    while True:
        if first not in state.done:
            yield first
        first += CHUNK


def _begin_worker() -> None:
    """The main process is told of interrupts, and ends the others; they end, too, when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    threading.Thread(target=_end_with_main, daemon=True).start()


def _end_with_main() -> None:
    main = multiprocessing.parent_process()
    assert main is not None
    main.join()
    os._exit(1)


def show(seed: int, folder: Path) -> None:
    """Print what *seed* breaks, as a test does that uses `aegis_simulation`."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        Simulation(folder).replay(draw_any(str(seed)), smaller=True)
    except pytest.fail.Exception as failure:
        print(failure.msg)
    else:
        print(f"seed {seed} broke a rule, and does not again: something is not drawn from the seed")


def _soak_in_workers(state: State, given: argparse.Namespace) -> int | None:
    """`soak` in processes, which end with it, as *given* on the command line; the first signal ends it."""
    until = time.monotonic() + 60 * given.minutes
    stopped = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in numbers]
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(given.workers, mp_context=context, initializer=_begin_worker) as executor:
            try:
                return soak(
                    state,
                    given.state,
                    executor,
                    seeds=given.seeds,
                    hours=given.hours,
                    is_over=lambda: stopped.is_set() or time.monotonic() >= until,
                    workers=given.workers,
                )
            except BrokenExecutor:
                # Who stops all processes at once, as ``timeout`` does, may end the workers first.
                if not stopped.is_set():
                    raise
                state.save(given.state)
                return None
            finally:
                for worker in multiprocessing.active_children():
                    worker.kill()
    finally:
        for number, reaction in zip(numbers, before, strict=True):
            signal.signal(number, reaction)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description="Simulations from many seeds, on all cores.")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many, at least")
    parser.add_argument("--hours", type=float, default=0.0, help="how many simulated hours, at least")
    parser.add_argument("--minutes", type=float, default=60.0, help="real ones, at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--state", type=Path, default=STATE, help="the file that says what has been done")
    given = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    state = State.load(given.state, code_hash())
    print(f"goes on after {state}" if state.done else f"begins, and keeps what is done in {given.state}", flush=True)
    try:
        failed = _soak_in_workers(state, given)
    except BrokenExecutor:
        print("a process that simulated ended by itself; if it said why, that is above")
        return 1
    print(state, flush=True)
    if failed is not None:
        show(failed, given.state.parent)
        return 1
    if state.tally.scenarios < given.seeds or state.tally.seconds < 3600 * given.hours:
        print("not done; run it again to go on")
        return 2
    never = [name for name, times in attrs.asdict(state.tally.evidence).items() if not times]
    if never and state.tally.scenarios >= _ENOUGH:
        print(f"nothing was found, but it never came to: {', '.join(never)}")
        return 1
    print("done, and nothing was found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
