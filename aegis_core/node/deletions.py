"""Deleting the records by which a registration holds things, so that who asks learns whether this deleted them.

Others may take a record at the same moment, by force or by a transfer, or delete it, too. So nothing counts but the commit:
whoever's deleted the record has released it. Several that want the same stray gone wait for one commit, which is the first
one's who asks for it; the others find that it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

import attrs
import trio

from aegis_core.engine import resources
from aegis_core.engine.decision import Decision
from aegis_core.engine.snapshot import Snapshot
from aegis_core.errors import AegisError
from aegis_core.models import Shown
from aegis_core.node.commit import Attempt, Committer
from aegis_core.node.runtime import Runtime

if TYPE_CHECKING:
    from aegis_core.node.claims import Claim

__all__ = ["Deleted", "Deletions"]

_log = logging.getLogger("aegis.claims")

Deleted = dict[str, bool | None]
"""By target, whether it was deleted by this; None where nobody knows: it may have been, or is later."""


@attrs.define(eq=False, repr=False)
class _Deletion(Shown):
    """Strays that are being deleted.

    Args:
        told: What came of each; None until it is known.
        asked: Those whose release somebody asked for: to that one it is told as done.
        over: Set when it is.
    """

    told: Deleted
    asked: set[str]
    over: trio.Event = attrs.field(factory=trio.Event)


class Deletions:
    """The deletions of one registration.

    Args:
        runtime: The node.
        committer: How decisions reach the store.
        tag: Of the lease that the records name.
        is_taken: Whether somebody here has a target, or is about to, other than by claims that are being moved: what is
            believed must not be deleted.
    """

    def __init__(
        self, runtime: Runtime, committer: Committer, tag: str, is_taken: Callable[[str, Collection[Claim]], bool]
    ) -> None:
        self._most: Final = runtime.store.capabilities.max_transaction
        self._committer = committer
        self._tag = tag
        self._is_taken = is_taken
        self._under_way: dict[str, _Deletion] = {}

    def __repr__(self) -> str:
        return f"<Deletions of {self._tag}: {len(self._under_way)} strays>"

    async def delete(self, moving: Collection[Claim], *, timeout: float) -> Deleted:
        """Delete the records of claims that the caller has wound down, within *timeout* seconds."""
        return await self._delete([claim.resource_id for claim in moving], timeout, moving)

    async def delete_strays(self, targets: Sequence[str], *, timeout: float, asked: bool) -> Deleted:
        """Delete the records of *targets*, as far as they are strays still when that is decided.

        Args:
            targets: What to delete; what is being deleted already is waited for.
            timeout: Seconds.
            asked: Whether it is a release that somebody asked for: the first who does is told that this deleted it.
        """
        others = {target: deletion for target in targets if (deletion := self._under_way.get(target)) is not None}
        first = {target for target, deletion in others.items() if asked and target not in deletion.asked}
        for target in first:
            others[target].asked.add(target)
        own = [target for target in targets if target not in others]
        deletion = _Deletion(dict.fromkeys(own), set(own) if asked else set())
        self._under_way.update(dict.fromkeys(own, deletion))
        try:
            if own:
                deletion.told = await self._delete(own, timeout, ())
        finally:
            for target in own:
                del self._under_way[target]
            deletion.over.set()
        told = dict(deletion.told)
        for target, other in others.items():
            await other.over.wait()
            is_deleted = other.told[target]
            told[target] = False if is_deleted and target not in first else is_deleted
        return told

    async def _delete(self, targets: Sequence[str], timeout: float, moving: Collection[Claim]) -> Deleted:
        told: Deleted = dict.fromkeys(targets)
        for at in range(0, len(targets), self._most):
            part, attempt = targets[at : at + self._most], Attempt()

            def decide(view: Snapshot, part: Sequence[str] = part) -> Decision[tuple[str, ...]]:
                chosen = [target for target in part if not self._is_taken(target, moving)]
                return resources.give_up(view, chosen, lease=self._tag)

            try:
                gone = await self._committer.decide(decide, timeout=timeout, what="the release", attempt=attempt)
            except AegisError as exc:
                _log.log(logging.WARNING if moving else logging.DEBUG, "a release is not recorded yet: %s", exc)
                break
            for target in part:
                told[target] = target in gone or (None if attempt.doubts(target) else False)
        return told
