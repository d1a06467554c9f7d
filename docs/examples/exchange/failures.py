"""What a run may end with instead of a verdict: said in a sentence each, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator

from aegis_core import AegisError
from exchange.children import ChildFailed
from exchange.journal import JournalError
from exchange.orders import OrdersFileError

FAILURES = (AegisError, ChildFailed, JournalError, OrdersFileError, OSError)
"""What is expected to go wrong on somebody's machine; all else is a mistake in this program."""


def sentences(error: BaseException) -> Iterator[str]:
    """Yield what *error* says; for a group, what each error in it says."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from sentences(part)
    else:
        yield str(error)
