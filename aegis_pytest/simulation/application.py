"""What the nodes of a simulation run."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import attrs

from aegis_core import Node

__all__ = ["Application"]


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
