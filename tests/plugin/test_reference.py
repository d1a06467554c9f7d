"""The reference of the plugin names everything that the plugin offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_pytest import fixtures
from aegis_pytest.leftovers import LEFTOVERS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "pytest-plugin.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", fixtures.__all__)
def test_fixture_is_in_the_reference(name: str) -> None:
    """In a table of its own kind, with what it gives; and its docstring says so, too."""
    assert f"| `{name}` | " in PAGE
    assert getattr(fixtures, name).__doc__


def test_markers_and_options_are_in_the_reference(pytestconfig: pytest.Config) -> None:
    """As they are registered."""
    markers = [line.partition(":")[0].partition("(")[0] for line in pytestconfig.getini("markers")]
    ours = [name for name in markers if name.startswith("aegis_")]
    assert len(ours) == 4
    for name in ours:
        assert f"`@pytest.mark.{name}" in PAGE
    for option in ("aegis_virtual_budget", "aegis_test_timeout"):
        assert float(pytestconfig.getini(option)) > 0
        assert f"`{option}`\n: " in PAGE
    for leftover in LEFTOVERS:
        assert f'"{leftover}"' in PAGE
