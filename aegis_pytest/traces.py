"""What a test shows of where it failed: the lines of the user's that led to it, and nothing twice.

An error of the library's is shown at the last of them. A task of a nursery that began in the library's own code
(``nursery.start_soon(node.call, ...)``) has none: then it is the nursery's.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import pytest

from aegis_core.errors import AegisError
from aegis_pytest.state_dump import from_users_code, is_refusal, passes_users_code, to_users_code

__all__ = ["leaves", "led_by", "says_nothing", "shortened", "users_trace"]

_MOST_PARTS: Final = 4
_OF_A_NURSERY: Final = "Exceptions from Trio nursery"


def leaves(exc: BaseException | None) -> Iterator[BaseException]:
    """*exc*, or what it is a group of. Each that came by no line of the user's has that of the nursery around it."""
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            for leaf in leaves(part):
                yield led_by(leaf, exc)
    elif exc is not None:
        yield exc


def users_trace(exc: BaseException) -> TracebackType | None:
    """Where *exc* came from in code of the user's; of what the library did not mean to raise, also where it was raised."""
    if not _is_told(exc):
        return from_users_code(exc.__traceback__)
    return _users_part(exc.__traceback__)


def shortened(exc: BaseException) -> BaseException:
    """*exc* as a test shows it: with its `users_trace`; of a group, equal parts once.

    The group itself is shown, too, if its parts differ, or it is more than a nursery's; whole, if it has a class of its own.
    """
    if not isinstance(exc, BaseExceptionGroup):
        if is_refusal(exc):
            exc.__cause__, exc.__suppress_context__ = None, True  # its message says it
        return exc.with_traceback(users_trace(exc))
    if type(exc) not in {ExceptionGroup, BaseExceptionGroup}:
        return exc.with_traceback(users_trace(exc))
    parts: dict[str, list[BaseException]] = {}
    # What the library says is often the effect of what the user's code did.
    for part in map(shortened, sorted(exc.exceptions, key=_is_told)):
        parts.setdefault("".join(traceback.format_exception(part)), []).append(part)
    for part, *others in parts.values():
        if others:
            part.add_note(f"({len(others) + 1} failed in this way)")
    shown = [part for part, *_ in parts.values()]
    if len(shown) == 1 and says_nothing(exc):
        return led_by(shown[0], exc)
    group = exc.derive(shown[:_MOST_PARTS])
    group.__cause__, group.__context__ = exc.__cause__, exc.__context__
    group.__suppress_context__ = exc.__suppress_context__
    for note in getattr(exc, "__notes__", ()):
        group.add_note(note)
    if len(shown) > _MOST_PARTS:
        group.add_note(f"({len(shown) - _MOST_PARTS} that failed in other ways are left out; --full-trace shows them)")
    return group.with_traceback(_users_part(exc.__traceback__))


def says_nothing(group: BaseExceptionGroup[BaseException]) -> bool:
    """Whether a nursery made *group*, so that nobody misses it who sees its parts; and nobody has noted anything on it since."""
    explained = group.__cause__ is not None or group.__context__ is not None or getattr(group, "__notes__", None)
    return group.message == _OF_A_NURSERY and not explained


def _is_told(exc: BaseException) -> bool:
    """Whether the message of *exc* says what is wrong, so that nobody needs to see where in the library it was found."""
    return isinstance(exc, AegisError | pytest.UsageError | pytest.fail.Exception) or is_refusal(exc)


def led_by(leaf: BaseException, group: BaseExceptionGroup[BaseException]) -> BaseException:
    """*leaf*, with the lines of the user's in the traceback of *group* before its own, if that has none."""
    trace = leaf.__traceback__
    if not passes_users_code(trace):
        for entry in reversed([*_entries(_users_part(group.__traceback__))]):
            trace = TracebackType(trace, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
        leaf.__traceback__ = trace
    return leaf


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    return to_users_code(from_users_code(trace)) if passes_users_code(trace) else None


def _entries(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next
