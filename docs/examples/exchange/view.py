"""The run as people see it: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from exchange.audit import Audit, SequentialRun
from exchange.progress import Progress, Row

NOTES_SHOWN = 6
NARROW = 72  # columns
PROBLEMS_SHOWN = 10
HEALTH_STYLES = {"STARTING": "dim", "ONLINE": "green", "DEAD": "red", "LOST": "red", "LEFT": "dim"}


# Not on every system.
termios = importlib.import_module("termios") if importlib.util.find_spec("termios") else None


class View(Protocol):
    """Something that shows a `Progress`; it is asked to `update` a few times a second."""

    def update(self) -> None:
        """Show what is new."""
        ...


class LiveView:
    """A table that is redrawn in place."""

    def __init__(self, progress: Progress, live: Live) -> None:
        self._progress = progress
        self._live = live

    def update(self) -> None:
        """Redraw the table."""
        self._live.update(draw(self._progress), refresh=True)


class PlainView:
    """One line per event, and one per tenth of the orders: for logs and pipes."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._notes = 0
        self._tenths = 0

    def update(self) -> None:
        """Print the lines that are new."""
        progress = self._progress
        for seconds, text in progress.notes[self._notes :]:
            self._print(seconds, text)
        self._notes = len(progress.notes)
        if int(progress.share * 10) > self._tenths:
            self._tenths = int(progress.share * 10)
            owners = ", ".join(f"{row.name} owns {len(row.owned)}" for row in progress.rows.values() if row.owned)
            done = f"{progress.answered:,} of {progress.total:,} orders answered"
            self._print(progress.elapsed, f"{done}; {owners}")

    def _print(self, seconds: float, text: str) -> None:
        self._console.print(f"{seconds:6.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def open_view(progress: Progress, console: Console, *, plain: bool) -> Iterator[View]:
    """Show *progress* while the block runs; what it was in the end stays on the screen.

    Args:
        progress: What to show.
        console: Where.
        plain: Lines instead of a table, also on a terminal.
    """
    view: View
    if plain or not console.is_terminal:
        view = PlainView(progress, console)
        try:
            yield view
        finally:
            view.update()
        return
    # Without a thread of its own: the program says when to draw, between two steps of Trio.
    with _silent_keys(), Live(console=console, auto_refresh=False) as live:
        view = LiveView(progress, live)
        try:
            yield view
        finally:
            view.update()


@contextlib.contextmanager
def _silent_keys() -> Iterator[None]:
    """While the block runs, the terminal does not echo Ctrl-C as ``^C``: beside a full line it moves what is redrawn."""
    if termios is None or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[3] &= ~termios.ECHOCTL
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def draw(progress: Progress) -> RenderableType:
    """Return *progress* as a panel: how far it is, the instances, and what happened last."""
    return Panel(
        Group(_head(progress), Text(), _Instances(progress), Text(), _notes(progress)),
        title="[bold]order books[/bold]",
        title_align="left",
        border_style="cyan",
        padding=(0, 2),
    )


def _head(progress: Progress) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    done = f"[bold]{progress.answered:,}[/bold] of {progress.total:,} orders"
    speed = f"{progress.rate:,.0f}/s  {progress.elapsed:.1f} s"
    grid.add_row(ProgressBar(total=progress.total, completed=progress.answered), f"{done}  [dim]{speed}[/dim]")
    return grid


class _Instances:
    """The table of instances; on a narrow screen without the columns that could be counted or read elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= NARROW
        table = Table(expand=True, box=None, padding=(0, 1), header_style="bold")
        table.add_column("instance", no_wrap=True)
        table.add_column("health", no_wrap=True)
        if wide:
            table.add_column("active", justify="right", no_wrap=True)
            table.add_column("standby", justify="right", no_wrap=True)
        table.add_column("owns", ratio=1)
        table.add_column("calls", justify="right", no_wrap=True)
        if wide:
            table.add_column("fail-overs", justify="right", no_wrap=True)
        for row in self._progress.rows.values():
            cells: list[RenderableType] = [row.name, Text(f"● {row.health}", style=HEALTH_STYLES[row.health])]
            cells += [str(len(row.owned)), str(len(row.waiting))] if wide else []
            cells += [_symbols(row), f"{row.calls:,}"]
            cells += [str(row.fail_overs or "-")] if wide else []
            table.add_row(*cells)
        yield table


def _symbols(row: Row) -> Text:
    return Text(" ".join(sorted(row.owned)) or "-", style="cyan" if row.owned else "dim")


def _notes(progress: Progress) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column()
    shown = progress.notes[-NOTES_SHOWN:]
    for seconds, text in shown:
        grid.add_row(f"{seconds:.1f} s", Text(text))
    for _ in range(NOTES_SHOWN - len(shown)):
        grid.add_row("", "")
    return grid


def print_summary(console: Console, progress: Progress, run: SequentialRun, found: Audit) -> None:
    """Print what the run came to, and whether it equals the sequential one."""
    totals = run.overall
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    epochs = sum(len(tenures) for tenures in found.tenures.values())
    rows = {
        "orders": f"{progress.answered:,} answered, {found.executed:,} in the journals, {progress.total:,} sent",
        "moves": (
            f"{progress.transfers} transfers, {progress.fail_overs} fail-overs, {progress.hand_overs} hand-overs: "
            f"{epochs} tenures of {len(found.tenures)} symbols"
        ),
        "trouble": (
            f"{progress.resent:,} orders sent again, {progress.repeated:,} answered from the journal; "
            f"longest wait {progress.longest_gap:.1f} s"
        ),
        "books": f"{totals.trades:,} trades, {totals.volume:,} lots, {totals.resting_orders:,} orders waiting",
        "time": f"{progress.elapsed:.1f} s, {progress.rate:,.0f} orders/s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print()
    console.print(table, highlight=False)
    console.print()
    if found.differences:
        verdict = Text(f"Not equal to a sequential run, {len(found.differences):,} differences:", style="bold red")
    else:
        equal = "Equal to a sequential run, order by order:\nnone lost, none doubled, none executed by two owners."
        verdict = Text(equal, style="bold green")
    console.print(verdict)


def print_problems(console: Console, problems: Sequence[str]) -> None:
    """Print what is wrong, one line each; many are cut short."""
    for problem in problems[:PROBLEMS_SHOWN]:
        console.print(Text(problem, style="red"), soft_wrap=True)
    if len(problems) > PROBLEMS_SHOWN:
        console.print(Text(f"... and {len(problems) - PROBLEMS_SHOWN:,} more", style="red"))


def save_picture(path: Path, command: str, progress: Progress, run: SequentialRun, found: Audit) -> None:
    """Draw what *command* shows on the screen in the end, as an SVG file that needs no other file."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text(f"$ {command}", style="bold"))
    console.print(draw(progress))
    print_summary(console, progress, run, found)
    svg = console.export_svg(title=command)
    # Without the web fonts that Rich names: nothing is fetched from elsewhere to look at it.
    path.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")
