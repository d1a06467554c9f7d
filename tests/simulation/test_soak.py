"""The program that simulates many seeds: what it keeps, when it goes on, and how it ends."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs
import pytest

import aegis_core
import aegis_pytest
from aegis_backends import memory
from aegis_core.node import lease
from aegis_pytest.simulation import Evidence, Tally
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


def changed(folder: Path, changes: str) -> list[str]:
    """The command of the program with *changes*, which its worker processes make, too: they load what it was started from."""
    file = folder / "changed.py"
    file.write_text(
        f"import sys\n\nsys.path.insert(0, {str(Path(soak.__file__).parent)!r})\nimport soak\n\n{changes}\n"
        'if __name__ == "__main__":\n    sys.exit(soak.main())\n',
        encoding="utf-8",
    )
    return [sys.executable, str(file)]


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The program in a group of its own, and what it prints; when a test fails, nothing of the group is left."""
    variables = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables, start_new_session=True) as program:
        assert program.stdout is not None
        try:
            yield program, program.stdout
        except BaseException:
            os.killpg(program.pid, signal.SIGKILL)
            raise


CHUNKS_OF_ONE = """
soak.CHUNK = 1
soak._PROGRESS_EVERY = 0.0
soak.code_hash = lambda: "changed"
"""
"""What is done is told and kept after each seed."""

BROKEN = """
from aegis_core.node import lease
from aegis_pytest.simulation import Act, Scenario, Trouble

lease.margin = lambda ttl: -2 * ttl
soak.draw_any = lambda seed: Scenario(
    seed=seed,
    nodes=("a", "b"),
    seconds=40.0,
    ttl=10.0,
    acts=(Act(2.0, "a", "claim", "key"), Act(20.0, "b", "claim", "key")),
    troubles=(Trouble(5.0, 25.0, "partition", ("a",)),),
)
"""
"""Nodes believe in their leases for longer than the store keeps them, and each seed comes to it in a few steps."""

ENDLESS = """
soak._TOO_LONG = 1.0

def draw_any(seed):
    print("begins with", seed, flush=True)
    while True:
        try: pass
        except BaseException: pass

soak.draw_any = draw_any
"""
"""The first seed loops where nothing ends it."""

COUNTS = r"[1-9]\d* seeds, "
"""How a line begins that says what was done, if anything was."""

COUNTERS = [field.name for field in attrs.fields(Evidence)]
ALL_ONCE = Evidence(**dict.fromkeys(COUNTERS, 1))


def test_all_that_was_counted_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each number as itself; it does not count for other code, and that is said."""
    path = tmp_path / "folder" / "state.json"
    evidence = Evidence(**{name: number for number, name in enumerate(COUNTERS, 1)})
    state = State("code", {0, 2 * CHUNK}, Tally(2 * CHUNK, 7.5, 300, evidence), 2.25, 1.125)
    state.save(path)
    assert State.load(path, "code") == state
    assert State.load(path, "other code") == State("other code")
    assert capsys.readouterr().out == "40 seeds do not count: other code, or another Python, did them\n"


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is done is not done again, unless other code did it."""
    path, first, second = tmp_path / "folder" / "state.json", AtOnce(), AtOnce()
    assert run(State.load(path, "code"), path, first, seeds=3 * CHUNK) is None
    assert first.asked == [0, CHUNK, 2 * CHUNK]
    known = State.load(path, "code")
    assert run(known, path, second, seeds=5 * CHUNK) is None
    assert second.asked == [3 * CHUNK, 4 * CHUNK]
    assert known.tally == Tally(5 * CHUNK, 5 * CHUNK * 360.0, 5 * CHUNK * 100)
    assert str(known).startswith("100 seeds, 10.0 simulated hours, 10000 records checked (0 beliefs, ")
    assert str(known).endswith(", 3600 for one of a processor")
    assert State.load(path, "other code").done == set()


def test_what_is_done_is_kept_outside_of_the_environments_that_nox_makes_anew() -> None:
    """Nox empties the folder of a session, ``.nox/<its name>``, before it runs it."""
    checkout = Path(__file__).parents[2]
    sessions = re.findall(r"@nox\.session.*\ndef (\w+)", (checkout / "noxfile.py").read_text(encoding="utf-8"))
    assert "soak" in sessions
    folder, *_ = soak.STATE.relative_to(checkout / ".nox").parts
    assert folder not in sessions


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


@pytest.mark.thorough
def test_program_counts_and_ends(tmp_path: Path) -> None:
    """With status 0, and nothing to do the second time."""
    command = [*PROGRAM, "--seeds", "1", "--workers", "1", "--state", str(tmp_path / "state.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert re.search(rf"^{CHUNK} seeds, \d+\.\d simulated hours, ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("done, and nothing was found\n")
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert again.stdout.startswith(f"goes on after {CHUNK} seeds, ")


def test_what_was_done_when_it_is_stopped_counts(tmp_path: Path) -> None:
    """Nothing is waited for."""
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


@pytest.mark.parametrize(
    ("tell", "number"),
    [
        pytest.param(os.kill, signal.SIGTERM, id="SIGTERM"),
        pytest.param(os.killpg, signal.SIGTERM, id="SIGTERM-to-all"),  # as ``timeout`` does it
        pytest.param(os.killpg, signal.SIGINT, id="SIGINT-to-all"),  # as a terminal does it
    ],
)
def test_program_that_is_stopped_keeps_what_is_done(
    tmp_path: Path, tell: Callable[[int, int], None], number: signal.Signals
) -> None:
    """With all that was counted, and status 2; it says how to go on."""
    path = tmp_path / "state.json"
    command = [*changed(tmp_path, CHUNKS_OF_ONE), "--workers", "1", "--minutes", "5", "--state", str(path)]
    with started(command) as (program, lines):
        next(line for line in lines if re.match(COUNTS, line))
        before = State.load(path, "changed")
        tell(program.pid, number)
        told, _ = program.communicate(timeout=60)
    known = State.load(path, "changed")
    assert program.returncode == 2
    assert told.endswith(f"{known}\nnot done; run it again to go on\n")
    assert before.done
    assert before.done <= known.done
    assert known.tally.scenarios == len(known.done)
    assert known.tally.evidence.beliefs >= before.tally.evidence.beliefs > 0


@pytest.mark.thorough
def test_session_of_nox_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    """As on a terminal, where nox and all that it started are told of an interrupt: nox gives the program time."""
    path, folder = tmp_path / "state.json", Path(__file__).parents[2]
    (tmp_path / "noxfile.py").write_text(
        f"import sys\n\nsys.path.insert(0, {str(folder)!r})\nimport nox\nfrom noxfile import run_soak\n\n"
        '@nox.session(venv_backend="none")\ndef interrupted(session):\n'
        f'    run_soak(session, "--workers", "1", "--minutes", "5", "--state", {str(path)!r})\n',
        encoding="utf-8",
    )
    # A background job of a shell, and all that it starts, is not told of interrupts: nox is, here.
    heed = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from nox.__main__ import main; main()"
    )
    command = [sys.executable, "-c", heed, "-f", str(tmp_path / "noxfile.py"), "-s", "interrupted"]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for begin in (r"begins, and keeps what is done in ", r"goes on after [1-9]\d* seeds, "):
        with started(command, PATH=search) as (program, lines):
            next(line for line in lines if re.match(begin, line))
            next(line for line in lines if re.match(COUNTS, line))
            os.killpg(program.pid, signal.SIGINT)
            told, _ = program.communicate(timeout=60)
        assert "not done; run it again to go on\n" in told
        assert program.returncode == 130


def test_no_process_outlives_a_program_that_is_killed(tmp_path: Path) -> None:
    """None computes on for nobody, or holds its output open."""
    state = str(tmp_path / "state.json")
    command = [*changed(tmp_path, CHUNKS_OF_ONE), "--workers", "2", "--minutes", "5", "--state", state]
    with started(command) as (program, lines):
        next(line for line in lines if re.match(COUNTS, line))
        program.kill()
        program.communicate(timeout=60)  # Until nobody can write any more.


def test_seed_that_does_not_end_is_named(tmp_path: Path) -> None:
    """With the line where it was, and status 1, though nothing in that process can be cancelled."""
    command = [*changed(tmp_path, ENDLESS), "--workers", "1", "--minutes", "5", "--state", str(tmp_path / "state.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stderr.startswith("seed 0 does not end; after 1 seconds of a processor it was here:\n")
    assert ", in draw_any\n" in done.stderr
    assert done.stdout.endswith("a process that simulated ended by itself; if it said why, that is above\n")
    assert done.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_seed_that_does_not_end_hinders_no_stop(tmp_path: Path, number: signal.Signals) -> None:
    """What runs is not waited for."""
    changes = f"{ENDLESS}\nsoak._TOO_LONG = 600.0"
    state = str(tmp_path / "state.json")
    command = [*changed(tmp_path, changes), "--workers", "1", "--minutes", "5", "--state", state]
    with started(command) as (program, lines):
        next(line for line in lines if line == "begins with 0\n")
        os.kill(program.pid, number)
        told, _ = program.communicate(timeout=60)
    assert told.endswith("not done; run it again to go on\n")
    assert program.returncode == 2


def test_checkout_and_wheel_of_it_are_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands, of which a wheel has other files, are no part of it; the rest is."""
    folders = [Path(str(module.__file__)).parent for module in (aegis_core, memory, aegis_pytest)]
    copies = [tmp_path / folder.name for folder in folders]
    for folder, copy in zip(folders, copies, strict=True):
        shutil.copytree(folder, copy)
    for module, copy in zip((aegis_core, memory, aegis_pytest), copies, strict=True):
        monkeypatch.setattr(module, "__file__", str(copy / "__init__.py"))
    before = soak.code_hash()
    (tmp_path / "aegis_core" / "cli" / "of_a_wheel.py").write_text("1\n", encoding="utf-8")
    assert soak.code_hash() == before
    (tmp_path / "aegis_core" / "node" / "lease.py").write_text("1\n", encoding="utf-8")
    assert soak.code_hash() != before


def test_program_that_finds_something_fails(tmp_path: Path) -> None:
    """With status 1, after it has shown what."""
    command = [*changed(tmp_path, BROKEN), "--workers", "1", "--minutes", "5", "--state", str(tmp_path / "state.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert "\nseed '0' breaks a rule\nSINGLE_OWNER is broken for 'key'" in done.stdout
    assert done.returncode == 1, done.stderr


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[State], int]]:
    """The program's status after a state, in this process; it simulates nothing, as its time is over at once."""
    disabled = logging.root.manager.disable
    monkeypatch.setattr(soak, "code_hash", lambda: "code")
    path = tmp_path / "state.json"

    def run_after(state: State) -> int:
        state.save(path)
        seeds = str(state.tally.scenarios)
        return soak.main(["--seeds", seeds, "--minutes", "0", "--workers", "1", "--state", str(path)])

    yield run_after
    logging.disable(disabled)


def test_rules_that_were_put_to_the_test_are_a_success(
    main: Callable[[State], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of few seeds it is not asked."""
    assert main(State("code", {0}, Tally(2000, evidence=ALL_ONCE))) == 0
    assert main(State("code", {0}, Tally(1999))) == 0
    assert capsys.readouterr().out.count("done, and nothing was found\n") == 2


@pytest.mark.parametrize("name", COUNTERS)
def test_rule_that_was_never_put_to_the_test_is_no_success(
    name: str, main: Callable[[State], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Late writes that were never refused, say: after so many seeds the generator is to blame."""
    assert main(State("code", {0}, Tally(2000, evidence=attrs.evolve(ALL_ONCE, **{name: 0})))) == 1
    assert capsys.readouterr().out.endswith(f"nothing was found, but it never came to: {name}\n")


def test_all_rules_that_were_never_put_to_the_test_are_told(
    main: Callable[[State], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the first alone."""
    assert main(State("code", {0}, Tally(2000))) == 1
    assert capsys.readouterr().out.endswith(f"never came to: {', '.join(COUNTERS)}\n")


@pytest.mark.thorough
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
