"""What an application has left when all has healed for long: whether everybody is told who holds what, and he does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import trio

from aegis_core import AegisError, Node
from aegis_core.errors import ResourceNotFound
from aegis_pytest.simulation.process import Process

__all__ = ["not_well_again"]

_APART: Final = 0.01
"""Seconds between two resources, of which an application may have many."""

_UNDER_WAY: Final = 2.0
"""Seconds, besides the time of ten messages, after which an instance has heard of what it has in the store, or lost there."""


async def not_well_again(living: Mapping[str, Process], keys: Collection[str], *, latency: float) -> list[str]:
    """What is wrong with *keys*, which the application held or waited for, although nothing goes wrong any more; in words.

    It claims and calls nothing: that is the application's, which goes on meanwhile.

    Args:
        living: The processes that live, by node. Of one whose application has closed its node nothing is asked.
        keys: Resource ids.
        latency: The most seconds from a node to the store.
    """
    found: list[str] = []
    for key in keys:
        await trio.sleep(_APART)
        for process in living.values():
            found += await _asked(process, key, living, _UNDER_WAY + 10 * latency)
    return found


async def _asked(process: Process, key: str, living: Mapping[str, Process], patience: float) -> list[str]:
    """What is wrong with what *process* is told of *key*."""
    node = process.node
    try:
        before = await _unheld(node, key, living)
        if before is None:
            return []
        await trio.sleep(patience)
        after = await _unheld(node, key, living)
    except AegisError as exc:
        wrong = f"{process.name} cannot tell who owns {key}: {exc}"
    else:
        if after != before:
            return []
        wrong = f"{process.name} is told that {before[0]} owns {key}, which does not believe so"
    return [] if node.runtime.closed else [f"nothing is wrong any more, but {wrong}"]


async def _unheld(node: Node, key: str, living: Mapping[str, Process]) -> tuple[str, int] | None:
    """Whom *node* is told to own *key*, and since which epoch; None if that is nobody, or somebody who believes so."""
    try:
        owned = await node.registry.get_owner(key)
    except ResourceNotFound:
        return None
    claims = (process.claims.get(key) for process in living.values())
    is_held = any(it is not None and it.held and it.instance.instance_id == owned.owner_instance_id for it in claims)
    return None if is_held else (owned.owner_instance_id, owned.epoch)
