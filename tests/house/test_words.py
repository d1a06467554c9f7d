"""The repository speaks of the project alone, and refers to nothing that its reader cannot open."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest

from tests.house.source import CHECKOUT

TEXT = {".cfg", ".css", ".csv", ".html", ".ini", ".j2", ".js", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yml"}
BUILT = {"__pycache__", "_build", "build", "dist", "htmlcov"}

# Hosts that may stand in a URL: reserved names, this machine, and the documents that ours build on.
HOSTS = re.compile(
    r"""
    ( [\w-]+ | ([\w-]+\.)+(example|invalid|test) | ([\w-]+\.)*example\.(com|net|org)  # reserved names
    | 127\.0\.0\.1 | 0\.0\.0\.0 | \[::1\] | \{[^}]*\}                                  # this machine, a variable
    | docs\.nats\.io | docs\.python\.org | semver\.org | trio\.readthedocs\.io | www\.apache\.org | www\.w3\.org
    ) (:(\d+|\{[^}]*\}))?
    """,
    re.VERBOSE,
)
URL = re.compile(r"\bhttps?://([^\s/\"'`)>\]?#,]+)")

PLACES = re.compile(r"(?<![\w.~])/(work|root|home/\w+|Users/\w+|mnt|media)/")
NUMBERS = re.compile(r"\b(issue|ticket|pull request|PR) ?#?\d+|(?<![\w&#'\"])#\d+\b", re.IGNORECASE)
SECTIONS = re.compile(r"§")
DOCUMENTS = re.compile(r"[\w./-]*\b[\w-]+\.md\b")


@cache
def texts() -> dict[str, str]:
    """Every text file of the repository by its path, without what builds leave behind."""
    found = {}
    for folder, inner, names in os.walk(CHECKOUT):
        # Virtual environments, of which nox makes a dozen, are not even looked into.
        inner[:] = sorted(name for name in inner if not left_behind(name))
        for name in sorted(names):
            path = Path(folder, name)
            if not left_behind(name) and (path.suffix in TEXT or name == "run"):
                found[path.relative_to(CHECKOUT).as_posix()] = path.read_text(encoding="utf-8")
    return found


def left_behind(name: str) -> bool:
    """Whether a file or folder of that name is no part of the repository."""
    return name in BUILT or (name.startswith(".") and name != ".ci")


def foreign_words(path: str, text: str) -> list[str]:
    """Unknown hosts, paths of somebody's machine, numbers of issues, sections of no document."""
    if path in {"tests/house/test_words.py", "LICENSE"}:
        return []
    wrong = [f"{path}: host {host}" for host in URL.findall(text) if not HOSTS.fullmatch(host)]
    for kind, pattern in {"place": PLACES, "number": NUMBERS, "section": SECTIONS}.items():
        wrong += [f"{path}: {kind} {found.group()}" for found in pattern.finditer(text)]
    return wrong


def missing_documents(path: str, text: str, present: set[str]) -> list[str]:
    """Documents that *text* names and the repository lacks."""
    if path == "tests/house/test_words.py":
        return []
    names = {Path(document).name for document in present}
    lines = "\n".join(line for line in text.splitlines() if ".md" in line)  # the pattern is slow on much else
    return [
        f"{path}: {named} does not exist"
        for named in sorted(set(DOCUMENTS.findall(lines)))
        if Path(named).name not in names
    ]


def test_no_word_of_anything_but_the_project() -> None:
    """No foreign host, no machine's path, no issue's number."""
    read = texts()
    assert len(read) > 60
    assert [wrong for path, text in read.items() for wrong in foreign_words(path, text)] == []


def test_every_document_that_is_named_exists() -> None:
    """A reader can open each document that a comment or a page sends him to."""
    read = texts()
    assert "README.md" in read
    assert [wrong for path, text in read.items() for wrong in missing_documents(path, text, set(read))] == []


@pytest.mark.parametrize(
    "text",
    ["https://files.somewhere.dev/x", "see /home/me/notes", "see issue 12", "fixes #7", "rule 3 of §5"],
)
def test_rule_bites(text: str) -> None:
    """Each kind of foreign word is found."""
    assert len(foreign_words("aegis_core/x.py", text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "http://router:8700/x",
        "http://127.0.0.1:8700",
        "https://registry.example.com/",
        "f(x)  # 3 of them",
        "colour = '#123'",
    ],
)
def test_rule_lets_pass_what_it_should(text: str) -> None:
    """Reserved hosts, plain numbers and colours are no violation."""
    assert foreign_words("aegis_core/x.py", text) == []


def test_missing_document_is_found() -> None:
    """A name that nobody can open is a violation; one beside the reader is not."""
    assert missing_documents("a.py", "read docs/gone.md", {"docs/here.md"}) == ["a.py: docs/gone.md does not exist"]
    assert missing_documents("a.py", "read here.md", {"docs/here.md"}) == []
