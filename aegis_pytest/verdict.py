"""How a test ended: whether it failed, and by what."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from aegis_pytest.state_dump import describe_state

__all__ = ["left_by_exception", "noting_failure", "only_leaf"]

R = TypeVar("R")

_failed: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("aegis test failed", default=False)


def noting_failure(test: Callable[..., Awaitable[R]], tell: Callable[[str], None]) -> Callable[..., Awaitable[R]]:
    """Wrap a test function so that `left_by_exception` knows, and *tell* is called with the state at that moment."""

    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> R:
        __tracebackhide__ = True
        try:
            return await test(*args, **kwargs)
        except BaseException:
            _failed.set(True)
            tell(describe_state())
            raise

    return run


def left_by_exception() -> bool:
    """Whether the test of this Trio run was left by an exception, a skip among them: then nobody asks what it left behind."""
    return _failed.get()


def only_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What one task raised, without the groups that nurseries put around it; *group* itself if there is more than one.

    Raise it outside of the ``except`` that caught *group*, lest it gets the group for its context.
    """
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        first, *others = leaf.exceptions
        if others:
            return group
        leaf = first
    return leaf
