"""The commands of ``aegis``, and how one of them is run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from functools import partial

import trio
from cyclopts import App, CommandCollisionError

from aegis_core import __version__
from aegis_core.cli.demo import demo
from aegis_core.cli.interruption import run_until_signal
from aegis_core.cli.serve import serve
from aegis_core.config import load_settings
from aegis_core.errors import AegisError, ConfigError
from aegis_core.plugins import load_plugins

__all__ = ["build_app", "run"]


def build_app() -> App:
    """Return the program with all its commands, those of plug-ins included.

    Raises:
        ConfigError: The configuration, a plug-in, or the name of a plug-in's command cannot be used.
    """
    app = App(
        name="aegis",
        help="Registry, roles, exclusive ownership and routing for stateful services on Trio.",
        version=f"aegis-ipc {__version__}",
        backend="trio",
    )
    app.command(demo)
    app.command(serve)
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
        The exit status: what the command returned; 1 and the error's sentence on standard error when it raised an
        `AegisError`; 2 for a wrong command line; 128 + the signal's number when it was interrupted.
    """
    try:
        command, bound, _ = build_app().parse_args(arguments)
        call = partial(command, *bound.args, **bound.kwargs)
        if inspect.iscoroutinefunction(command):
            return trio.run(run_until_signal, call) or 0
        return call() or 0
    except AegisError as exc:
        print(f"aegis: {exc}", file=sys.stderr)
        return 1
    except SystemExit as exc:  # The parser has explained a wrong command line and wants to leave.
        return exc.code if isinstance(exc.code, int) else 1
