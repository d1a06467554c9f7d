"""Every program on the pages of the documentation runs, and prints what stands under it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from aegis_pytest.backends import known_backends

DOCS = Path(__file__).parents[2] / "docs"
README = DOCS.parent / "README.md"
_FENCE = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
_STARTED = re.compile(r"(?m)^trio\.run\(")
_ENVIRONMENT = re.compile(r"((?:AEGIS_\w+=\S+ )+)\S*python (\S+)")


@attrs.frozen
class Program:
    """A block of Python with the name of its file, the environment it is run in, and what it prints (None: not shown)."""

    name: str
    source: str
    environment: dict[str, str]
    output: str | None


def programs(page: Path) -> list[Program]:
    """The programs of *page*, in their order. The first line may name the file; ``# fragment`` says that it is none."""
    blocks = [(found.group(1), found.group(2)) for found in _FENCE.finditer(page.read_text(encoding="utf-8"))]
    found: list[Program] = []
    for at, (language, text) in enumerate(blocks):
        if language != "python":
            continue
        first = text.partition("\n")[0]
        if first == "# fragment":
            continue
        named = re.fullmatch(r"# (\w+\.py)", first)
        name = named.group(1) if named else f"example_{at}.py"
        following = blocks[at + 1 : at + 3]
        environment: dict[str, str] = {}
        output = None
        for other, shown in following:
            if other == "console" and (command := _ENVIRONMENT.search(shown)) and command.group(2) == name:
                environment = dict(pair.split("=", 1) for pair in command.group(1).split())
            elif other == "text":
                output = shown
                break
            else:
                break
        found.append(Program(name, text, environment, output))
    return found


RUN_ON_NATS = DOCS / "how-to" / "run-on-nats.md"
"""Its programs need a server and each other: see `tests.docs.test_run_on_nats`."""
OTHER_LANGUAGES = DOCS / "how-to" / "use-from-other-languages.md"
"""Its program needs a server and a router: see `tests.docs.test_use_from_other_languages`."""
SECURE = DOCS / "how-to" / "secure-a-deployment.md"
"""Its programs need a router, tokens and certificates: see `tests.docs.test_secure_a_deployment`."""
OPERATE = DOCS / "how-to" / "operate-the-router.md"
"""Its program needs routers: see `tests.docs.test_operate_the_router`."""
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if "```python\n" in page.read_text(encoding="utf-8") and page not in (RUN_ON_NATS, OTHER_LANGUAGES, SECURE, OPERATE)
]


def test_the_pages_with_programs_are_found() -> None:
    """The tutorial is among them, with its three programs."""
    names = [program.name for program in programs(DOCS / "tutorial.md")]
    assert names == ["accounts.py", "engine.py", "test_engine.py"]
    assert len(PAGES) >= 4


def test_programs_can_be_imported() -> None:
    """A test imports what a reader saved; nothing is started by that."""
    found = [(page, program) for page in (README, *DOCS.rglob("*.md")) for program in programs(page)]
    started = [f"{page.name}: {program.name}" for page, program in found if _STARTED.search(program.source)]
    assert not started


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_programs_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """Saved under their names in one folder and run in order, they end well and print what the page shows."""
    # A settings file of its own, so that none above the folder counts.
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n", encoding="utf-8")
    for program in programs(page):
        (tmp_path / program.name).write_text(program.source, encoding="utf-8")
    for program in programs(page):
        command = [sys.executable, program.name]
        if program.name.startswith("test_"):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", program.name]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, **program.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{program.name}:\n{done.stdout}\n{done.stderr}"
        if program.output is not None:
            assert done.stdout == program.output


@pytest.mark.thorough
@pytest.mark.parametrize("page", ["test-your-service", "failure-modes"])
@pytest.mark.parametrize("backend", known_backends())
def test_tests_of_a_how_to_run_on_each_backend(backend: str, page: str, tmp_path: Path) -> None:
    """All of them, as they stand there: what differs by backend is the option alone. Backends that are installed count, too."""
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n", encoding="utf-8")
    for program in programs(DOCS / "how-to" / f"{page}.md"):
        (tmp_path / program.name).write_text(program.source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-rs", f"--aegis-backend={backend}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (f"backend {backend} has no virtual_time" in done.stdout) is (backend != "memory")
