"""How the nodes of a test are closed so that what it left behind shows; see `aegis_pytest.leftovers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio

from aegis_core.node.instance import Instance
from aegis_pytest.leftovers import PATIENCE, Leftover
from aegis_pytest.life import Crew, Life
from aegis_pytest.state_dump import where_tasks_wait

__all__ = ["close_lives", "tell_leftovers"]


async def close_lives(lives: Sequence[Life]) -> list[Leftover]:
    """Close the nodes of *lives*, and tell what was left behind. Returns when nothing of them runs any more."""
    found: list[Leftover] = []
    await _end_work(lives, lambda life: life.tasks, Life.cancel_tasks, found)
    found += await _leaked_claims(lives)
    found += await _unanswered_calls(lives)
    await _end_work(lives, lambda life: life.mains, Life.cancel_mains, found)
    await _end_work(lives, lambda life: life.blocks, Life.leave_blocks, found)
    for life in lives:
        await life.end()
    return found


def tell_leftovers(found: Iterable[Leftover]) -> str:
    """*found* in words, with how to allow it."""
    found = tuple(found)
    kinds = ", ".join(repr(kind) for kind in dict.fromkeys(leftover.kind for leftover in found))
    return "\n".join(
        [
            "the test left behind:",
            *(f"  {leftover.what}" for leftover in found),
            f"(where that is meant: @pytest.mark.aegis_allow({kinds}))",
        ]
    )


async def _leaked_claims(lives: Iterable[Life]) -> list[Leftover]:
    # What was abandoned a moment ago is being given back.
    with trio.move_on_after(PATIENCE):
        while any(_unknown_claims(life) for life in lives):  # noqa: ASYNC110 - of several views, which do not tell
            await trio.sleep(0.1)
    found: list[Leftover] = []
    for life in lives:
        leaks = [
            (claim.resource_id, claim.instance.instance_id, "its own block was entered and never left")
            for claim in life.foreign_bodies()
        ]
        leaks += [
            (target, instance.instance_id, "the store has it, the instance does not know of it")
            for instance, target in _unknown_claims(life)
        ]
        found += [
            Leftover("leaked_claims", f"a claim of {resource_id} by {instance_id} on node {life.name}: {why}")
            for resource_id, instance_id, why in leaks
        ]
    return found


def _unknown_claims(life: Life) -> list[tuple[Instance, str]]:
    """What the node's own view says that its instances hold, and they do not."""
    if life.node is None:
        return []
    snapshot = life.node.runtime.directory.snapshot
    return [
        (instance, target)
        for instance in life.instances
        for target in snapshot.held_by(instance.lease_tag)
        if target not in instance.claims_table
    ]


async def _unanswered_calls(lives: Iterable[Life]) -> list[Leftover]:
    found: list[Leftover] = []
    for life in lives:
        for instance in life.instances:
            server = None if instance.incarnation is None else instance.incarnation.server
            if server is None or not server.running or life.node is None:
                continue
            with trio.move_on_after(life.node.runtime.settings.drain) as patience:
                await server.drained()
            if patience.cancelled_caught:
                calls = "a call" if server.running == 1 else f"{server.running} calls"
                what = f"{calls} to {instance.instance_id} on node {life.name} without an answer"
                found.append(Leftover("unanswered_calls", "\n  ".join([what, *where_tasks_wait()])))
    return found


async def _end_work(
    lives: Iterable[Life], crew_of: Callable[[Life], Crew], end: Callable[[Life], None], found: list[Leftover]
) -> None:
    for life in lives:
        end(life)
    with trio.move_on_after(PATIENCE) as patience:
        for life in lives:
            await crew_of(life).wait_gone()
    if patience.cancelled_caught:
        places = "\n  ".join(where_tasks_wait())
        for life in lives:
            for name in crew_of(life).names:
                what = f"{name}, which goes on {PATIENCE:g} s after it was told to end"
                found.append(Leftover("tasks_left", f"{what}\n  {places}"))
        for life in lives:
            await crew_of(life).wait_gone()
