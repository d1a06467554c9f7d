"""Ending what does not end when it is cancelled, because it waits in a block that is shielded from that.

Which scopes a task is in is Trio's private knowledge; what is used of it is in `lift_shields`.
"""

from __future__ import annotations

import os
from typing import Final

import pytest_trio
import trio

from aegis_pytest.state_dump import all_tasks

__all__ = ["lift_shields"]

_WAITING: Final = tuple(module.__path__[0] + os.sep for module in (trio, pytest_trio))  # not trio_asyncio's


def lift_shields(within: trio.CancelScope) -> None:
    """Let the cancellation of *within* reach every task in it; but a fixture that waits for its users goes on doing that."""
    for task in all_tasks():
        if all(frame.f_code.co_filename.startswith(_WAITING) for frame, _ in task.iter_await_frames()):
            continue
        inner: list[trio.CancelScope] = []
        status = task._cancel_status
        while status._scope is not within and status._parent is not None:
            inner.append(status._scope)
            status = status._parent
        if status._scope is within:
            for scope in inner:
                scope.shield = False
