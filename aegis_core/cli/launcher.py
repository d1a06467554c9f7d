"""What the installed program ``aegis`` starts with: it sees to signals before anything takes time.

Importing any module of ``aegis_core`` imports the library first, which takes a good part of a second, and a Ctrl-C in
the middle of that would show as a traceback. So this module imports nothing of it until `main` runs, and the wheel
carries a copy of it beside the packages (see pyproject.toml), because as ``aegis_core.cli.launcher`` it would come too late.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

__all__ = ["main"]


def main() -> int:
    """Run ``aegis`` with the command line of the process, and return its exit status."""
    signal.signal(signal.SIGINT, _leave)
    from aegis_core.cli import main as run  # noqa: PLC0415 - this is the import that takes time

    return run()


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
