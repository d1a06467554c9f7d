"""The whole demonstration, as a user starts it: a process of its own, real time, real signals."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from exchange.audit import journal_path, run_sequentially
from exchange.journal import Journal
from exchange.ledger import Ledger
from exchange.orders import Kind, Order, Side

from tests.examples.running import AEGIS, EQUAL, ORDERS, Demo, assert_nothing_left


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    """The demonstration."""
    return Demo(tmp_path)


def test_every_order_is_executed_once_whatever_happens_to_the_instances(demo: Demo, tmp_path: Path) -> None:
    """With all 24,000 orders: symbols move, an instance dies, another comes, one leaves; exit status 0."""
    picture = tmp_path / "demo.svg"
    status, printed = demo.run("--save-svg", picture)
    assert EQUAL in printed
    assert status == 0
    assert "24,000 answered, 24,000 in the journals, 24,000 sent" in printed
    moves = re.search(r"(\d+) transfers, (\d+) fail-overs, (\d+) hand-overs", printed)
    assert moves is not None
    assert all(int(count) > 0 for count in moves.groups())
    repeats = re.search(r"(\d+) orders sent again, (\d+) answered from the journal", printed)
    assert repeats is not None
    assert all(int(count) > 0 for count in repeats.groups())
    for line in ("killed exchange-", "exchange-4 registered", "is lost: its lease ended", "leaves in peace"):
        assert line in printed
    assert list(demo.temporary.iterdir()) == []
    drawn = picture.read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert "url(http" not in drawn


def test_journals_that_are_kept_answer_the_same_orders_again(demo: Demo) -> None:
    """A second run over the same journals executes nothing anew, and equals the sequential run as well."""
    assert demo.run_few("--seed", "2")[0] == 0
    before = {path.name: path.read_text().count('"order"') for path in demo.journals.iterdir()}
    status, printed = demo.run_few("--plain")
    assert EQUAL in printed
    assert status == 0
    assert {path.name: path.read_text().count('"order"') for path in demo.journals.iterdir()} == before


def test_an_order_that_nobody_sent_is_a_difference(demo: Demo) -> None:
    """A journal with one order too many makes the run fail, and the order is named."""
    ledger = Ledger.open(journal_path(demo.journals, "TIN"), "TIN", epoch=1, owner="ghost")
    ledger.execute(Order("ghost-1", "TIN", Kind.LIMIT, Side.BUY, 1, 1))
    ledger.close()
    status, printed = demo.run_few()
    assert status == 1
    assert "Not equal to a sequential run" in printed
    assert EQUAL not in printed
    assert "TIN: order" in printed
    assert "but a sequential run gives" in printed


def test_an_order_that_was_executed_twice_is_found(demo: Demo) -> None:
    """A journal in which an order stands twice is refused, and the order and its line are named."""
    order = next(order for order in ORDERS if order.symbol == "TIN")
    execution = run_sequentially(ORDERS).executions[order.order_id]
    journal = Journal.open(journal_path(demo.journals, "TIN"), epoch=1, owner="twice")
    journal.append(order, execution)
    journal.append(order, execution)
    journal.close()
    status, printed = demo.run_few()
    assert status == 1
    assert f"TIN.journal: line 3: order '{order.order_id}' was executed a second time" in printed


def test_a_damaged_journal_stops_the_run(demo: Demo) -> None:
    """The file and the line are named, without a traceback."""
    journal_path(demo.journals, "TIN").write_text("scribble\n")
    status, printed = demo.run_few()
    assert status == 1
    assert "TIN.journal: line 1: its checksum does not fit" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--orders", "missing.csv"], "missing.csv: cannot be read"),
        (
            ["--backend", "pigeon://x"],
            "--backend: pigeon://x: expected memory, nats, memory://name or nats://host:port",
        ),
    ],
)
def test_what_cannot_be_run_is_explained(demo: Demo, options: Sequence[str], message: str) -> None:
    """One sentence and exit status 1."""
    status, printed = demo.run(*options)
    assert status == 1
    assert message in printed


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.thorough), 2])
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("registered", marks=pytest.mark.thorough),
        "moving",
        pytest.param("killed", marks=pytest.mark.thorough),
        pytest.param("is lost", marks=pytest.mark.thorough),
        "leaves in peace",
    ],
)
def test_ctrl_c_ends_the_run_at_any_moment(demo: Demo, moment: str, times: int) -> None:
    """Exit status 130, no traceback, no process and no file left; pressed twice, too."""
    process = demo.start("--orders", demo.orders)
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            break
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert_nothing_left(demo, process)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("attr._make", marks=pytest.mark.thorough),
        "trio._core._run",
        pytest.param("aegis_core", marks=pytest.mark.thorough),
        pytest.param("cyclopts.core", marks=pytest.mark.thorough),
        "exchange.view",
    ],
)
def test_ctrl_c_during_the_imports_shows_no_traceback(demo: Demo, module: str) -> None:
    """The first half second is a moment like any other."""
    process = demo.start("--orders", demo.orders, PYTHONPROFILEIMPORTTIME="1")
    assert process.stderr is not None
    for line in process.stderr:
        if line.rpartition("|")[2].strip() == module:
            break
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Traceback" not in printed
    assert_nothing_left(demo, process)


@pytest.mark.parametrize("backend", ["memory", pytest.param("nats", marks=pytest.mark.thorough)])
def test_a_terminal_shows_a_live_table_and_gets_its_cursor_back(demo: Demo, backend: str) -> None:
    """On a terminal the table is drawn in place; Ctrl-C leaves the terminal as it was, with no process that has it."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [AEGIS, "demo", "--orders", demo.orders, "--backend", backend],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(demo.temporary), "COLUMNS": "110", "TERM": "xterm-256color"},
    )
    os.close(terminal)
    shown = b""
    interrupted = False
    while True:
        try:
            shown += os.read(controller, 65536)
        except OSError:  # The last process that had the terminal is gone.
            break
        if b"killed exchange" in shown and not interrupted:
            interrupted = True
            process.send_signal(signal.SIGINT)
    os.close(controller)
    assert process.wait(timeout=60) == 130
    text = shown.decode()
    assert "fail-overs" in text
    assert "exchange-3" in text
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
