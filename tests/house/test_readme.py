"""What the README promises happens when it is followed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.house.source import CHECKOUT

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks in *language*."""
    return re.findall(rf"(?s)```{language}\n(.*?)```", README)


def test_quick_start_prints_what_the_readme_says(tmp_path: Path) -> None:
    """The first program of the README, saved and run, prints the text shown under it."""
    program = tmp_path / "accounts.py"
    program.write_text(blocks("python")[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, blocks("text")[0], "")


def test_extras_are_those_that_there_are() -> None:
    """Each is named where the README says how to install it, and no other."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = README.partition("| Extra |")[2].partition("\n\n")[0]
    cells = re.findall(r"(?m)^\| (`.*?) \|", table)
    named = [extra for cell in cells for extra in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(project["optional-dependencies"])


def test_commands_run_sessions_that_exist() -> None:
    """Each of the two commands is one line that sets up everything and runs one session of nox."""
    commands = [block.strip() for block in blocks("console")]
    sessions = re.findall(r"@nox\.session.*\ndef (\w+)", (CHECKOUT / "noxfile.py").read_text(encoding="utf-8"))
    assert [command.rpartition(" ")[2] for command in commands] == ["demo", "tests"]
    for command in commands:
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s ")
        assert command.rpartition(" ")[2] in sessions


def test_ci_runs_the_command_for_the_tests_to_the_letter() -> None:
    """What CI proves is what the README tells the reader to do."""
    script = CHECKOUT / ".ci" / "run"
    assert blocks("console")[1].strip() in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111


def test_linked_files_exist() -> None:
    """No link of the README or of the contributing guide leads nowhere."""
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (CHECKOUT / target).exists(), f"{page} links to {target}"
