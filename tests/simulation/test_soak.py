"""The program that simulates many seeds: what it keeps, when it goes on, and how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest

from aegis_core.node import lease
from aegis_pytest.simulation import Tally
from tests.simulation import soak
from tests.simulation.soak import CHUNK, Chunk, State

PROGRAM = [sys.executable, str(Path(soak.__file__))]


class AtOnce(Executor):
    """Runs nothing: gives each chunk as done, but the one with the seed *failing*."""

    def __init__(self, failing: int | None = None) -> None:
        self.asked: list[int] = []
        self._failing = failing

    def submit(self, fn: object, /, *args: object, **kwargs: object) -> Future[Chunk]:  # type: ignore[override]
        """Done already."""
        first = args[0]
        assert isinstance(first, int)
        self.asked.append(first)
        failed = self._failing if self._failing is not None and 0 <= self._failing - first < CHUNK else None
        future: Future[Chunk] = Future()
        future.set_result(Chunk(first, Tally(CHUNK, CHUNK * 360.0, CHUNK * 100), 2.0, failed))
        return future


def run(state: State, path: Path, executor: Executor, *, seeds: int = 0, hours: float = 0.0) -> int | None:
    """`soak` without end, for two workers."""
    return soak.soak(state, path, executor, seeds=seeds, hours=hours, is_over=lambda: False, workers=2)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is done is not done again, unless other code did it."""
    path, first, second = tmp_path / "folder" / "state.json", AtOnce(), AtOnce()
    assert run(State.load(path, "code"), path, first, seeds=3 * CHUNK) is None
    assert first.asked == [0, CHUNK, 2 * CHUNK]
    known = State.load(path, "code")
    assert run(known, path, second, seeds=5 * CHUNK) is None
    assert second.asked == [3 * CHUNK, 4 * CHUNK]
    assert known.tally == Tally(5 * CHUNK, 5 * CHUNK * 360.0, 5 * CHUNK * 100)
    assert str(known).startswith("100 seeds, 10.0 simulated hours, 10000 records checked; ")
    assert str(known).endswith(", 3600 for one of a processor")
    assert State.load(path, "other code").done == set()


def test_hours_are_reached_by_more_seeds(tmp_path: Path) -> None:
    """However few were asked for."""
    state = State("code")
    assert run(state, tmp_path / "state.json", AtOnce(), seeds=CHUNK, hours=5.0) is None
    assert state.tally.seconds >= 5 * 3600


def test_seed_that_fails_is_told_and_not_counted(tmp_path: Path) -> None:
    """So that it fails first when it is run again."""
    path = tmp_path / "state.json"
    state = State("code")
    assert run(state, path, AtOnce(failing=CHUNK + 3), seeds=9 * CHUNK) == CHUNK + 3
    assert CHUNK not in state.done


def test_program_counts_and_ends(tmp_path: Path) -> None:
    """With status 0, and nothing to do the second time."""
    command = [*PROGRAM, "--seeds", "1", "--workers", "1", "--state", str(tmp_path / "state.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert re.search(rf"^{CHUNK} seeds, \d+\.\d simulated hours, ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("done, and nothing was found\n")
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert again.stdout.startswith(f"goes on after {CHUNK} seeds, ")


def test_what_runs_when_it_is_stopped_counts(tmp_path: Path) -> None:
    """It is waited for."""
    state, asked = State("code"), iter([False, True])
    path = tmp_path / "state.json"
    assert soak.soak(state, path, AtOnce(), seeds=99 * CHUNK, hours=0.0, is_over=lambda: next(asked), workers=2) is None
    assert state.done == State.load(path, "code").done == {0, CHUNK}


def test_program_whose_time_is_over_says_so(tmp_path: Path) -> None:
    """With status 2, as when it is stopped."""
    command = [*PROGRAM, "--minutes", "0", "--workers", "1", "--state", str(tmp_path / "state.json")]
    over = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert over.returncode == 2
    assert over.stdout.endswith("not done; run it again to go on\n")


def test_what_is_found_is_shown_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a picture beside the file of what was done."""
    monkeypatch.setattr(lease, "margin", lambda ttl: -2 * ttl)
    found = soak.run_chunk(0, CHUNK)
    assert found.failed is not None
    soak.show(found.failed, tmp_path / "pictures")
    told = capsys.readouterr().out
    assert told.startswith(f"seed '{found.failed}' breaks a rule\n")
    assert "Scenario(" in told
    monkeypatch.undo()
    soak.show(found.failed, tmp_path / "pictures")
    assert capsys.readouterr().out.endswith("something is not drawn from the seed\n")
