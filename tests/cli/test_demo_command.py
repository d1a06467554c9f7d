"""Where ``aegis demo`` finds the example; what it does is tested with the example itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_core.cli import demo as command
from aegis_core.cli.demo import examples_folder


@pytest.mark.parametrize("folder", ["aegis_core/cli/_examples", "docs/examples"])
def test_the_example_is_found_in_the_package_and_in_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The wheel carries it inside of the package, a checkout has it under docs."""
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "order_book.py").touch()
    monkeypatch.setattr(command, "__file__", str(tmp_path / "aegis_core" / "cli" / "demo.py"))
    assert examples_folder() == tmp_path / folder


def test_a_missing_example_is_an_installation_that_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names both places."""
    monkeypatch.setattr(command, "__file__", str(tmp_path / "aegis_core" / "cli" / "demo.py"))
    with pytest.raises(FileNotFoundError, match=r"_examples.*docs"):
        examples_folder()
