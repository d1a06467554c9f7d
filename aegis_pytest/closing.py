"""How the nodes of a test are closed so that what it left behind shows; see `aegis_pytest.leftovers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs
import trio

from aegis_core.node.instance import Instance
from aegis_pytest.leftovers import PATIENCE, Leftover
from aegis_pytest.life import Crew, Life
from aegis_pytest.state_dump import where_tasks_wait
from aegis_pytest.telling import first_lines

__all__ = ["close_lives", "tell_leftovers"]

_MOST_OF_A_KIND: Final = 6
_MOST_TASKS: Final = 6
_LOOK: Final = 0.1


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
    kinds = dict.fromkeys(leftover.kind for leftover in found)
    lines = ["the test left behind:"]
    for kind in kinds:
        of_kind = [leftover for leftover in found if leftover.kind == kind]
        lines += first_lines((f"  {leftover.what}" for leftover in of_kind), _MOST_OF_A_KIND)
        lines += (f"  {place}" for place in of_kind[-1].places)
    allow = ", ".join(map(repr, kinds))
    return "\n".join([*lines, f"(where that is meant: @pytest.mark.aegis_allow({allow}))"])


async def _leaked_claims(lives: Iterable[Life]) -> list[Leftover]:
    # What was abandoned a moment ago is being given back.
    with trio.move_on_after(PATIENCE):
        while any(_unknown_claims(life) for life in lives):  # noqa: ASYNC110 - of several views, which do not tell
            await trio.sleep(_LOOK)
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
    """The calls that had come before this, and have no answer when the drain time is over: others may go on calling."""
    began = trio.current_time()
    busy = [
        (life.node.runtime.settings.drain, instance.incarnation.server, f"{instance.instance_id} on node {life.name}")
        for life in lives
        for instance in life.instances
        if life.node is not None and instance.incarnation is not None
    ]
    with trio.move_on_after(max((drain for drain, _, _ in busy), default=0.0)):  # they drain at the same time
        while any(server.running_since(began) for _, server, _ in busy):  # noqa: ASYNC110 - of several, which do not tell
            await trio.sleep(_LOOK)
    left = [(server.running_since(began), who) for _, server, who in busy]
    return _with_places(
        Leftover("unanswered_calls", f"{'a call' if count == 1 else f'{count} calls'} to {who} without an answer")
        for count, who in left
        if count
    )


async def _end_work(
    lives: Iterable[Life], crew_of: Callable[[Life], Crew], end: Callable[[Life], None], found: list[Leftover]
) -> None:
    for life in lives:
        end(life)
    with trio.move_on_after(PATIENCE) as patience:
        for life in lives:
            await crew_of(life).wait_gone()
    if patience.cancelled_caught:
        found += _with_places(
            Leftover("tasks_left", f"{name}, which goes on {PATIENCE:g} s after it was told to end")
            for life in lives
            for name in crew_of(life).names
        )
        for life in lives:
            await crew_of(life).wait_gone()


def _with_places(found: Iterable[Leftover]) -> list[Leftover]:
    """*found*, with where tasks wait now."""
    leftovers = list(found)
    return [
        *leftovers[:-1],
        *(attrs.evolve(last, places=tuple(where_tasks_wait(_MOST_TASKS))) for last in leftovers[-1:]),
    ]
