"""What the demonstration shows on a narrow terminal, when it is interrupted, and when it cannot begin."""

from __future__ import annotations

import io
import os
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import order_book
import pytest
from exchange.progress import Progress
from exchange.view import draw, open_view
from rich.console import Console


def progress() -> Progress:
    """Four instances with three symbols each."""
    made = Progress(24_000)
    for number in range(4):
        row = made.row(f"exchange-{number}")
        row.health = "STARTING" if number == 3 else "ONLINE"
        row.owned = {f"SYMBOL{3 * number + each}" for each in range(3)}
        row.calls = 1000 + number
    return made


@pytest.mark.parametrize("width", [60, 80, 100])
async def test_the_table_is_readable_at_any_usual_width(width: int) -> None:
    """Each name, state, symbol and number stands whole in a line that fits."""
    console = Console(width=width, file=io.StringIO())
    console.print(draw(progress()))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert {len(line) for line in shown.splitlines()} == {width}
    words = set(shown.replace("│", " ").split())
    assert {f"exchange-{number}" for number in range(4)} <= words
    assert {f"SYMBOL{number}" for number in range(12)} <= words
    assert {"ONLINE", "STARTING", "1,003", "instance", "health", "owns", "calls"} <= words
    assert ("fail-overs" in words) == (width >= 80)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A terminal that is the program's standard input."""
    outside, inside = os.openpty()
    with os.fdopen(inside) as opened, os.fdopen(outside):
        monkeypatch.setattr(sys, "stdin", opened)
        yield opened


async def test_a_terminal_does_not_echo_keys_into_the_table(terminal: TextIO) -> None:
    """Else ``^C`` moves the cursor, and the table is drawn a line too low. Afterwards it echoes as before."""
    before = termios.tcgetattr(terminal)
    assert before[3] & termios.ECHOCTL
    with open_view(progress(), Console(file=io.StringIO(), force_terminal=True), plain=False):
        assert not termios.tcgetattr(terminal)[3] & termios.ECHOCTL
    assert termios.tcgetattr(terminal) == before


@pytest.mark.parametrize("below", ["", "folder"])
async def test_a_file_is_no_folder_for_journals(below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That is said in words; what was there is left alone."""
    taken = tmp_path / "notes.txt"
    taken.write_text("mine", encoding="utf-8")
    assert await order_book.run_demo(journal=taken / below, plain=True) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "the journals need a folder" in told
    assert "notes.txt" in told
    assert "Errno" not in told
    assert taken.is_file()
