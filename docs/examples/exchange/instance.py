"""One instance in a process of its own: ``python -m exchange.instance``, started by ``exchange.processes``."""

from __future__ import annotations

import os
import sys

import trio

from exchange.children import Parent
from exchange.failures import FAILURES, sentences
from exchange.life import Life, Plan


async def main() -> int:
    """Live as the first line of standard input says, and do what the others say.

    Returns:
        0 when it was told to leave, 1 when something went wrong, which the parent is told.
    """
    parent = Parent()
    plan = await parent.hear()
    if plan is None:
        return 1
    life = Life(Plan(**plan))
    failures: list[str] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, parent, life)
            nursery.start_soon(_live, parent, life, nursery.cancel_scope)
    except* FAILURES as errors:
        failures.extend(sentences(errors))
    if failures:
        parent.tell({"failed": "; ".join(failures)})
    return 1 if failures else 0


async def _live(parent: Parent, life: Life, scope: trio.CancelScope) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(life.run)
        parent.tell({"ready": True})
    scope.cancel()


async def _obey(parent: Parent, life: Life) -> None:
    while (command := await parent.hear()) is not None:
        match command:
            case {"do": "settle"}:
                life.settle()
            case {"do": "transfer", "symbols": symbols, "target": target}:
                parent.tell({"trouble": await life.transfer(symbols, target)})
            case {"do": "leave"}:
                life.leave()
    # Whoever steered this instance is dead. Nobody would end it: so it dies the same way, without a word.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(trio.run(main))
