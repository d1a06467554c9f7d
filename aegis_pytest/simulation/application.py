"""What the nodes of a simulation run."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Awaitable, Callable

import attrs
import pytest

from aegis_core import Node

__all__ = ["Application", "Misuse"]


class Misuse(Exception):
    """What was given as the application cannot be run: no scenario is to blame for that."""


@attrs.frozen
class Application:
    """What the nodes of a simulation run.

    Args:
        main: The application, whose bare ``open_node()`` is the node. Without one, each node serves an instance that does
            what the scenario's acts say.
        work: ``await work(node, random)`` besides, on each node: calls, say. It dies with the node.
        setup: Called before each run of a scenario: makes anew what the application keeps outside of its nodes.
    """

    main: Callable[[], Awaitable[object]] | None = None
    work: Callable[[Node, random.Random], Awaitable[object]] | None = None
    setup: Callable[[], object] | None = None

    @property
    def arguments(self) -> str:
        """What it is made of, by name, as a call of ``aegis_simulation`` takes it: ``main, work=ask``.

        What has no name by which it can be written, a lambda or a partial, is ``...``.
        """
        named = {"": self.main, "work=": self.work, "setup=": self.setup}
        return ", ".join(f"{option}{_written(fn)}" for option, fn in named.items() if fn is not None)

    def set_up(self) -> None:
        """Make anew what the application keeps outside of its nodes.

        Raises:
            pytest.UsageError: *setup* is an async function, or none at all.
        """
        __tracebackhide__ = True
        if self.setup is None:
            return
        wanted = "setup= takes a synchronous function, which is called outside of any Trio run"
        if not callable(self.setup):
            raise pytest.UsageError(f"{wanted}, got {self.setup!r}")
        given = self.setup()
        if inspect.iscoroutine(given):
            given.close()
            name = given.__name__
            raise pytest.UsageError(
                f"{wanted}: write 'def {name}()' instead of 'async def {name}()', or setup=partial(trio.run, {name})"
            )

    def checked(self) -> Application:
        """This application; what it is made of tells, when it is run, if that was no async function.

        Raises:
            pytest.UsageError: That can be seen at once, or it cannot be called as it will be.
        """
        __tracebackhide__ = True
        main = None if self.main is None else _checked(self.main, "main")
        work = None if self.work is None else _checked(self.work, "work", "node", "random")
        return attrs.evolve(self, main=main, work=work)


def _checked(fn: Callable[..., Awaitable[object]], option: str, *takes: str) -> Callable[..., Awaitable[object]]:
    __tracebackhide__ = True
    given: object = fn  # what it should be is no proof of what it is
    called = f"{option}({', '.join(takes)})"
    wanted = f"{option}= takes an async function that is called as 'await {called}'"
    if inspect.iscoroutine(given):
        given.close()
        raise pytest.UsageError(f"{wanted}, got what {given.__name__}(...) returns: write '{given.__name__}' alone")
    if not callable(given):
        raise pytest.UsageError(f"{wanted}, got {given!r}")
    try:
        signature = inspect.signature(given)
        signature.bind(*takes, **{name: None for name in signature.parameters if name == "task_status"})
    except TypeError as exc:
        raise pytest.UsageError(f"{wanted}, and {_name(given)} cannot be: {exc}") from None
    except ValueError:
        pass  # it does not tell what it takes
    if inspect.iscoroutinefunction(given):
        return fn

    @functools.wraps(fn)
    async def run(*args: object, **kwargs: object) -> object:
        awaitable: object = fn(*args, **kwargs)
        if not inspect.isawaitable(awaitable):
            raise Misuse(f"{wanted}, and {_name(fn)} returned {awaitable!r}: write 'async def {_name(fn)}(...)'")
        return await awaitable

    return run


def _name(fn: object) -> str:
    """As who wrote the test knows *fn*: ``ask``, ``Bank.open``; of a partial, what it calls."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name: str = getattr(fn, "__qualname__", repr(fn))
    return name.rpartition("<locals>.")[2]


def _written(fn: object) -> str:
    """As a test writes *fn*, or ``...`` where that takes more than its name."""
    name = _name(fn)
    is_named = hasattr(fn, "__qualname__") and all(map(str.isidentifier, name.split(".")))
    return name if is_named else "..."
