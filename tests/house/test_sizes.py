"""No file grows past what one sitting can read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from tests.house import source
from tests.house.source import Module, module

LIMIT = 600
NEEDS_A_REASON = 400
REASON = re.compile(r"\b(lines|length|long|size|(one|single) (file|module|place))\b")


def oversized(modules: Iterable[Module]) -> list[str]:
    """Files past the limit, and long ones that do not say at their top why."""
    wrong = []
    for read in modules:
        lines = read.text.splitlines()
        if len(lines) > LIMIT:
            wrong.append(f"{read.path}: {len(lines)} lines, the limit is {LIMIT}")
        elif len(lines) > NEEDS_A_REASON and not REASON.search(top(read)):
            wrong.append(f"{read.path}: {len(lines)} lines, and its top does not say why")
    return wrong


def top(read: Module) -> str:
    """The docstring of a file, and the comments among its first lines."""
    comments = "\n".join(line for line in read.text.splitlines()[:40] if line.startswith("#"))
    return (ast.get_docstring(read.tree) or "") + comments


def test_files_are_short_or_say_why_they_are_not() -> None:
    """At most 600 lines; from 400 on, the file's top gives the reason."""
    assert len(source.everything()) > 60
    assert oversized(source.everything()) == []


def test_long_file_needs_a_reason_and_an_endless_one_has_none() -> None:
    """The rule bites at both limits, and not below them."""
    reason = '"""A table, long because each line is one message."""\n'
    assert oversized([module("a", "x = 1\n" * 400)]) == []
    assert len(oversized([module("a", "x = 1\n" * 401)])) == 1
    assert oversized([module("a", reason + "x = 1\n" * 599)]) == []
    assert len(oversized([module("a", reason + "x = 1\n" * 600)])) == 1


def test_port_contract_is_read_in_one_sitting() -> None:
    """A backend author reads one file of at most 400 lines."""
    (contract,) = (read for read in source.product() if read.name == "aegis_core.backend")
    assert len(contract.text.splitlines()) <= NEEDS_A_REASON
