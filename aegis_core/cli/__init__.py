"""The ``aegis`` command line. Its packages come with ``pip install 'aegis-ipc[cli]'``.

This module imports next to nothing, so that `main` can see to signals before the long imports begin.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from aegis_core.cli import interruption

__all__ = ["main"]

_CLI_PACKAGES = ("cyclopts", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``aegis`` as a program: the caller exits with what it returns.

    From here to the end of the process SIGINT and SIGTERM end it without a traceback.

    Args:
        arguments: The command line without the program's name; ``sys.argv[1:]`` when None.

    Returns:
        The exit status: 0 for success, 1 when the command failed, 2 for a wrong command line or a missing
        package, 128 + the signal's number (130 for Ctrl-C) when it was interrupted.
    """
    interruption.leave_at_signals()
    for package in _CLI_PACKAGES:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as exc:
            if exc.name != package:
                raise
            print(
                f"aegis: the package {package!r} is missing. The command line needs the extra 'cli': "
                "pip install 'aegis-ipc[cli]'",
                file=sys.stderr,
            )
            return 2
    from aegis_core.cli.app import run  # noqa: PLC0415 - not before its packages are known to be there

    return run(sys.argv[1:] if arguments is None else arguments)
