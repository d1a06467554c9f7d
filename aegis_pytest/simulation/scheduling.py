"""The order in which Trio runs tasks that are ready at the same time: from a seed.

Trio shuffles them on purpose, by a generator of its own. It has a switch for hypothesis that makes the shuffle depend on
nothing but that generator. The switch is private, so that what is used of it is looked for first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, cast

import trio

__all__ = ["seeded_scheduling"]

_SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"


class _Scheduler(Protocol):
    """What is used of Trio's scheduler."""

    _ALLOW_DETERMINISTIC_SCHEDULING: bool
    _r: random.Random


@contextmanager
def seeded_scheduling(seed: str) -> Iterator[None]:
    """Trio runs that begin in the block schedule their tasks by *seed*.

    Raises:
        RuntimeError: This version of Trio has no such switch any more.
    """
    module: object = getattr(trio._core, "_run", None)
    is_known = isinstance(getattr(module, _SWITCH, None), bool) and isinstance(
        getattr(module, "_r", None), random.Random
    )
    if not is_known:
        raise RuntimeError(f"simulations need a switch in Trio's scheduler that Trio {trio.__version__} does not have")
    scheduler = cast(_Scheduler, module)
    switch, state = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = switch
        scheduler._r.setstate(state)
