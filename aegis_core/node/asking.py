"""In whose name the current task asks its node for something, where that is not the instance that it names."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aegis_core.principals import Principal

__all__ = ["asker_for", "asking"]

_asker: Final[contextvars.ContextVar[Principal | None]] = contextvars.ContextVar("aegis_asker", default=None)


@contextmanager
def asking(principal: Principal) -> Iterator[None]:
    """What is asked of a node within the block is asked by *principal*: it needs the permissions, and audit names it."""
    token = _asker.set(principal)
    try:
        yield
    finally:
        _asker.reset(token)


def asker_for(instance_id: str) -> Principal:
    """Who asks for what concerns the instance: by default the instance itself."""
    return _asker.get() or Principal("instance", instance_id)
