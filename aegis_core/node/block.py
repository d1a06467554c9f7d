"""What the library's ``async with`` blocks are before they are entered, with errors that say how.

A context manager of the standard library answers who forgets ``async with`` that an ``_AsyncGeneratorContextManager``
has no such attribute, and says nothing at all to who forgets to enter it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NoReturn, ParamSpec, TypeVar

__all__ = ["Block", "block"]

P = ParamSpec("P")
T = TypeVar("T")


class Block(AbstractAsyncContextManager[T, bool | None], Generic[T]):
    """A context manager that was made by a function declared as `block`; it is entered once.

    Args:
        manager: What it runs.
        name: The function's, for messages.
    """

    _entered = True  # of what is never made whole, a copy that fails for one, nobody is warned

    def __init__(self, manager: AbstractAsyncContextManager[T, bool | None], name: str) -> None:
        self._manager = manager
        self._name = name
        self._entered = False

    def __repr__(self) -> str:
        return f"<block of {self._name}(), {'entered' if self._entered else 'not entered'}>"

    async def __aenter__(self) -> T:
        if self._entered:
            raise RuntimeError(f"a block is entered once, and {self._name}() makes a new one: {self._how}")
        self._entered = True
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._manager.__aexit__(kind, exc, traceback)  # noqa: ASYNC102 - it shields what must be

    def __del__(self) -> None:
        if not self._entered:
            # Level 2 is the line that dropped it: where it was made, in the case that matters.
            warnings.warn(f"a block was never entered: {self._how}", RuntimeWarning, stacklevel=2, source=self)

    @property
    def _how(self) -> str:
        return f"write 'async with {self._name}(...)'"

    # Type checkers are not shown these: to them it is an error to use any.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):  # who copies or pickles asks for such, also of a block that lacks its own fields
                raise AttributeError(f"no attribute {name!r}", name=name, obj=self)
            raise AttributeError(f"no attribute {name!r} before the block is entered: {self._how}", name=name, obj=self)

        def __await__(self) -> NoReturn:
            self._refuse()

        def __enter__(self) -> NoReturn:
            self._refuse()

        def __exit__(self, *_: object) -> NoReturn:
            self._refuse()

        def _refuse(self) -> NoReturn:
            self._entered = True  # this error is enough
            raise TypeError(f"it is entered otherwise: {self._how}")


def block(make: Callable[P, AbstractAsyncContextManager[T, bool | None]]) -> Callable[P, Block[T]]:
    """Decorates what `contextlib.asynccontextmanager` made, where users of the library write the ``async with``."""

    @functools.wraps(make)
    def opened(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
        return Block(make(*args, **kwargs), opened.__name__)

    return opened
