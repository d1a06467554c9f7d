"""How a test ended: whether it failed, and by what.

A test may fail twice: by its own assertion, and by what its fixtures raise when they are torn down, or by its limit when
they are not done with that in time. What its reader looks for is the first: the rest is noted on it.
"""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import attrs
import pytest
import trio

from aegis_pytest.state_dump import describe_state, from_users_code, is_dumped
from aegis_pytest.telling import brief, first_lines
from aegis_pytest.traces import leaves, led_by, says_nothing

__all__ = [
    "Failure",
    "drop_cancellations",
    "left_by_exception",
    "noting_failure",
    "only_leaf",
    "own_failure",
    "what_failed_first",
]

_MOST_BESIDES: Final = 4

R = TypeVar("R")


@attrs.frozen
class Failure:
    """What a test function itself failed by.

    Args:
        raised: It.
        cancelled: The test had been cancelled by then, so that something else may have failed before.
    """

    raised: BaseException
    cancelled: bool


_left: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("aegis test left by an exception", default=False)
_failure: trio.lowlevel.RunVar[Failure | None] = trio.lowlevel.RunVar("aegis test's failure", default=None)


def noting_failure(test: Callable[..., Awaitable[R]], tell: Callable[[str], None]) -> Callable[..., Awaitable[R]]:
    """Wrap a test function so that `left_by_exception` and `own_failure` know, and *tell* gets the state at that moment."""

    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> R:
        __tracebackhide__ = True
        try:
            return await test(*args, **kwargs)
        except BaseException as exc:
            _left.set(True)
            raised = _as_failure(exc)
            if raised is not None and not is_dumped():  # else it was stopped, and this is how it unwound
                # Of what it cancelled itself it has left the scopes.
                _failure.set(Failure(raised, cancelled=trio.current_effective_deadline() == -math.inf))
            tell(describe_state())
            raise

    return run


def left_by_exception() -> bool:
    """Whether the test of this Trio run was left by an exception, a skip among them: then nobody asks what it left behind."""
    return _left.get()


def own_failure() -> Failure | None:
    """What the test function of this Trio run itself failed by; None if it passed, was skipped, cancelled, or stopped."""
    return _failure.get()


def only_leaf(exc: BaseException) -> BaseException:
    """What one task raised, without the groups that nurseries put around it; a group of more than one, or of the user's, stays.

    Raise it outside of the ``except`` that caught *exc*, lest it gets the group for its context.
    """
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1 and says_nothing(exc):
        exc = led_by(exc.exceptions[0], exc)
    return exc


def what_failed_first(own: Failure | None, raised: BaseException | None) -> BaseException | None:
    """What a test is shown by of what it *own* failed by and all that was *raised*; the rest is noted on it, a line for each.

    That is its own failure, but for one that it came to when it had been cancelled: something else failed before.
    """
    if own is None:
        return raised
    besides = _besides(own.raised, raised)
    if not besides or not own.cancelled:
        _note(own.raised, besides)
        return own.raised
    if len(besides) > 1:
        return raised
    _note(besides[0], [*leaves(own.raised)])
    return besides[0]


def drop_cancellations(failure: BaseException) -> None:
    """Take those out of the contexts of *failure* that are cancellations: they are how it reached the test, and explain nothing."""
    exc: BaseException | None = failure
    seen: set[int] = set()  # contexts may go round in a circle
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        context = exc.__context__
        while context is not None and id(context) not in seen and _is_cancellation(context):
            seen.add(id(context))
            context = context.__context__
        exc.__context__ = context
        exc = context


def _is_cancellation(exc: BaseException) -> bool:
    return all(isinstance(leaf, trio.Cancelled) for leaf in leaves(exc))


def _besides(own: BaseException, raised: BaseException | None) -> list[BaseException]:
    known = set(map(id, leaves(own)))
    return [leaf for leaf in leaves(raised) if id(leaf) not in known and not isinstance(leaf, trio.Cancelled)]


def _note(failure: BaseException, besides: Sequence[BaseException]) -> None:
    for line in first_lines([f"besides, {_in_short(leaf)}" for leaf in besides], _MOST_BESIDES, indent=""):
        failure.add_note(line)


def _as_failure(exc: BaseException) -> BaseException | None:
    """What of *exc* makes a test fail; None for a cancellation, a skip, or what ends the whole session."""
    if isinstance(exc, BaseExceptionGroup):
        cancelled, rest = exc.split(trio.Cancelled)
        # A group that is split loses its class, if that has no `derive`.
        exc = exc if rest is None else only_leaf(exc if cancelled is None else rest)
    if isinstance(exc, pytest.xfail.Exception):
        return None
    return exc if isinstance(exc, Exception | pytest.fail.Exception) else None


def _in_short(exc: BaseException) -> str:
    message = brief(f"{type(exc).__name__}: {exc}", 120)
    frames = traceback.extract_tb(from_users_code(exc.__traceback__))
    return f"{message} ({Path(frames[0].filename).name}:{frames[0].lineno} in {frames[0].name})" if frames else message
