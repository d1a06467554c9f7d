"""The reference of the command line is the program's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aegis_core.cli.app import COMMANDS, build_app
from aegis_core.cli.exit_statuses import MEANINGS, ExitStatus, remedy_for, status_of
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    ConfigError,
    Forbidden,
    InvalidRequest,
    LeaseLost,
    NodeCrashed,
    NotOwner,
    ResourceConflict,
    ResourceNotFound,
    StoreUnavailable,
)
from aegis_core.models import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
COMMON = {"--backend", "--timeout", "--json"}
_OPTION = re.compile(r"`(--[a-z-]+)`")


def sections() -> dict[str, str]:
    """The page's sections on commands, by command."""
    parts = re.split(r"(?m)^#+ (.*)$", PAGE.read_text(encoding="utf-8"))
    titles = zip(parts[1::2], parts[2::2], strict=True)
    return {title.strip("`").removeprefix("aegis "): text for title, text in titles if title.startswith("`aegis ")}


def options(command: str) -> set[str]:
    """What the program takes, by any of an option's names."""
    arguments = build_app(command)[command].assemble_argument_collection()
    return {name for argument in arguments for name in argument.names if name.startswith("--")}


def tabled(text: str) -> set[str]:
    """The options that the tables of *text* explain."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {option for row in rows for option in _OPTION.findall(row)}


def test_every_command_has_a_section() -> None:
    """And no section is about a command that there is not."""
    assert set(sections()) == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_is_explained(command: str) -> None:
    """In the table of its command, or with those that all have in common; and none that there is not."""
    taken, told = options(command), tabled(sections()[command])
    assert taken - COMMON <= told
    assert told <= taken


def test_common_options_mean_the_same_everywhere() -> None:
    """Each that a command has of them has the one help text."""
    common = PAGE.read_text(encoding="utf-8").partition("## What all commands")[2].partition("\n## ")[0]
    assert tabled(common) == COMMON
    for command in set(COMMANDS) - {"serve", "demo"}:
        assert options(command) >= {"--backend", "--timeout"}


def test_exit_statuses_are_one_table() -> None:
    """In the code and on the page."""
    page = PAGE.read_text(encoding="utf-8").partition("## Exit status")[2].partition("\n## ")[0]
    told = dict(re.findall(r"(?m)^\| (\d+) \| (.*) \|$", page))
    assert told == {str(int(status)): meaning.replace("|", r"\|") for status, meaning in MEANINGS.items()}
    assert set(MEANINGS) == set(ExitStatus)


ERRORS: dict[AegisError, tuple[ExitStatus, str]] = {
    ConfigError(problem="no"): (ExitStatus.USAGE, ""),
    InvalidRequest.at("$", "no"): (ExitStatus.USAGE, ""),
    ResourceNotFound(resource_id="r"): (ExitStatus.NOT_FOUND, "aegis resources"),
    ResourceConflict(resource_id="r", owner="a"): (ExitStatus.CONFLICT, "aegis explain"),
    LeaseLost(resource_id="r"): (ExitStatus.LEASE_LOST, ""),
    StoreUnavailable(): (ExitStatus.UNAVAILABLE, "aegis doctor"),
    CallTimeout(timeout=1, outcome=Outcome.MAYBE_EXECUTED): (ExitStatus.UNAVAILABLE, "--timeout"),
    Forbidden(operation="drain"): (ExitStatus.FAILED, "token"),
    NotOwner(operation="release", owner="a"): (ExitStatus.FAILED, ""),
    NodeCrashed(): (ExitStatus.FAILED, ""),
}


@pytest.mark.parametrize("exc", ERRORS, ids=[type(exc).__name__ for exc in ERRORS])
def test_an_error_s_status_and_remedy_are_those_of_its_kind(exc: AegisError) -> None:
    """Kinds that the table does not name count as the kind that they are one of."""
    status, remedy = ERRORS[exc]
    assert status_of(exc) is status
    assert remedy in remedy_for(exc)
    assert bool(remedy) == bool(remedy_for(exc))
