"""How far long work is: a bar on standard error while that is a terminal, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

__all__ = ["progress"]


@contextmanager
def progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar while the block runs; yields what tells how much of *total* is done by now."""
    console = Console(stderr=True)
    # No thread draws it: what is told is drawn there and then.
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    shown = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    with shown:
        task = shown.add_task(what, total=total)

        def done(so_far: float) -> None:
            shown.update(task, completed=so_far, refresh=True)

        done(0)
        yield done
