"""The commands of ``aegis``, and how one of them is run."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio
from cyclopts import App, CommandCollisionError

from aegis_core import __version__
from aegis_core.cli.exit_statuses import ExitStatus, remedy_for, status_of
from aegis_core.cli.interruption import run_until_signal
from aegis_core.cli.output import tell
from aegis_core.config import load_settings
from aegis_core.errors import AegisError, ConfigError
from aegis_core.plugins import load_plugins

__all__ = ["COMMANDS", "build_app", "run"]

COMMANDS: Final = {
    "bench": "bench",
    "call": "call",
    "claim": "claim",
    "demo": "demo",
    "disconnect": "instances",
    "doctor": "doctor",
    "drain": "instances",
    "explain": "resources",
    "resources": "resources",
    "roles": "roles",
    "serve": "serve",
    "services": "services",
    "top": "top",
    "transfer": "transfer",
    "watch": "watch",
}
"""Every command with the module that has the function of its name."""


def build_app(asked: str = "") -> App:
    """Return the program with all its commands, those of plug-ins included.

    Args:
        asked: If it is one of `COMMANDS`, the program is good for that one only: neither the modules of the others are
            imported, nor plug-ins, one of which may be what ``aegis doctor`` is to find.

    Raises:
        ConfigError: The configuration, a plug-in, or the name of a plug-in's command cannot be used.
    """
    app = App(
        name="aegis",
        help="Registry, roles, exclusive ownership and routing for stateful services on Trio.",
        version=f"aegis-ipc {__version__}",
        backend="trio",
    )
    for name, module in COMMANDS.items():
        where = f"aegis_core.cli.{module}"
        app.command(
            f"{where}:{name}" if asked in COMMANDS else getattr(importlib.import_module(where), name), name=name
        )
    app.register_install_completion_command(help="Install completion of commands and options for the current shell.")
    if asked in COMMANDS:
        return app
    # No node is opened here: a backend is named only because settings have to have one.
    for name, command in load_plugins(load_settings("memory://")).commands().items():
        try:
            app.command(command, name=name)
        except CommandCollisionError as exc:
            raise ConfigError(key="aegis_register_cli", problem=f"the command {name!r} is taken") from exc
    return app


def run(arguments: Sequence[str]) -> int:
    """Run the command that *arguments* ask for, until it ends or a signal comes.

    A command returns its exit status, or None for 0. An async command runs on Trio.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit status: what the command returned; that of `status_of`, and one line on standard error, when it raised
        an `AegisError`; 2 for a wrong command line; 128 + the signal's number when it was interrupted.
    """
    try:
        command, bound, _ = build_app(*arguments[:1]).parse_args(arguments)
        call = partial(command, *bound.args, **bound.kwargs)
        status = trio.run(run_until_signal, call) if inspect.iscoroutinefunction(command) else call()
        sys.stdout.flush()
        return status or ExitStatus.DONE
    except AegisError as exc:
        return _explain(exc)
    except BaseExceptionGroup as group:
        expected, others = group.split(AegisError)
        if expected is None or others is not None:
            raise
        return _explain(_first(expected))
    except BrokenPipeError:
        # Who read it has left. What is still in the buffer must not be written as the interpreter ends, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.BROKEN_PIPE
    except SystemExit as exc:  # The parser has explained a wrong command line and wants to leave.
        return exc.code if isinstance(exc.code, int) else ExitStatus.FAILED


def _explain(exc: AegisError) -> int:
    """Say in one line what happened and what to do about it; the exit status."""
    remedy = remedy_for(exc)
    tell(f"{exc} ({remedy})" if remedy else str(exc))
    return status_of(exc)


def _first(group: BaseExceptionGroup[AegisError]) -> AegisError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, AegisError)
    return found
