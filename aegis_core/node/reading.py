"""The reading of the store's feed, without which no decision can be made: it outlives all that decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from aegis_core.node.directory import Directory

__all__ = ["Reading"]


class Reading:
    """Keeps a node's view level from `start` to the end of the block, whatever is cancelled meanwhile.

    The block lies around the nursery with the node's other tasks: what these do in the end, shielded, is decided on the
    view.

    Args:
        around: The nursery around that of the node.
    """

    def __init__(self, around: trio.Nursery) -> None:
        self._around = around
        self._scope = trio.CancelScope()

    def __enter__(self) -> Self:
        return self

    # An interrupt must not come between the end of the block and that of what is shielded: nothing else would end it.
    @trio.lowlevel.enable_ki_protection
    def __exit__(self, *_: object) -> None:
        self._scope.cancel()

    async def start(self, directory: Directory) -> None:
        """Begin to read into *directory*; returns once that is whole. Cancelled, nothing is left behind.

        What fails after that is raised by the nursery around.

        Raises:
            StoreUnavailable: There is no feed.
        """
        await self._around.start(directory.run, self._scope)
        # Not before: whoever is cancelled while it starts a task waits for the end of that.
        self._scope.shield = True
