"""Who believes to hold what, as seen from inside the program: looked at after each step of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from aegis_core.models import EndReason
from aegis_core.node.claims import Claim
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node
from aegis_pytest.history.recorder import Recorder

__all__ = ["BeliefProbe", "watch_beliefs"]

_OTHERS_DOING: Final = frozenset({EndReason.ERASED, EndReason.FORCED})


class BeliefProbe(trio.abc.Instrument):
    """Records when each claim of the watched instances begins and ceases to be held.

    A claim that ceased within a step is noted as held until the step began, and one that was acquired in a step as held
    since that ended: what is noted was believed for sure, so an overlap of two notes is one. A belief that ran out
    while the process was stopped is noted as of its deadline, one that a clock which jumped ahead ended as of the last step.

    Args:
        recorder: Of the process.
        robbed: Told of each claim whose record somebody else deleted or overwrote, while its lease was believed.
        lag: Seconds by which watches may lag from now on.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        robbed: Callable[[Claim], None] = lambda _: None,
        lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._recorder = recorder
        self._robbed = robbed
        self._lag = lag
        self._instances: list[Instance] = []
        self._nodes: list[Node] = []
        self._known: dict[Claim, None] = {}
        self._step = self._looked = recorder.clock()

    def __repr__(self) -> str:
        return f"<BeliefProbe of {len(self._instances)} instances: {len(self._known)} claims held>"

    def watch(self, instance: Instance) -> None:
        """Look at *instance* from now on."""
        self._instances.append(instance)

    def watch_node(self, node: Node) -> None:
        """Look at whatever instances *node* serves from now on."""
        self._nodes.append(node)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note the time."""
        self._step = self._recorder.clock()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note what began and what ceased."""
        self.look()

    def look(self) -> None:
        """Note what began and what ceased since the last look."""
        # The process may be stopped while it looks: what it saw holds of the time before.
        at = self._recorder.clock()
        self.look_for_ends()
        self.look_for_begins(at)

    def look_for_ends(self, step: float | None = None) -> None:
        """Note what ceased since the last look; *step* is when the step began that is over now, if it was not told before."""
        if step is not None:
            self._step = step
        for claim in [claim for claim in self._known if not claim.held]:
            del self._known[claim]
            self._ceased(claim)

    def look_for_begins(self, at: float | None = None) -> None:
        """Note what began since the last look; *at* is when this look began, if that was not now."""
        at = self._recorder.clock() if at is None else at
        for instance in self._watched():
            for claim in instance.claims_table.values():
                if claim not in self._known and claim.held:
                    self._known[claim] = None
                    forced = claim.record.reason == "forced"
                    self._recorder.believes(
                        instance.instance_id,
                        claim.resource_id,
                        claim.epoch,
                        since=at,
                        forced=forced,
                        ttl=instance.ttl,
                        lag=self._lag() if forced else 0.0,
                    )
        self._looked = at

    def is_behind(self, now: float) -> bool:
        """Whether a look at *now* might find something; quicker than to look. For a clock that stands still within a step."""
        if now != self._looked:
            return True
        count = 0
        for node in self._nodes:
            for hosted in node.hosted.values():
                count += len(hosted.claims_table)
        for instance in self._instances:
            count += len(instance.claims_table)
        if count != len(self._known):
            return True
        return any(claim.ended is not None or claim.relinquished for claim in self._known)

    def _watched(self) -> Iterable[Instance]:
        yield from self._instances
        for node in self._nodes:
            yield from node.hosted.values()

    def _ceased(self, claim: Claim) -> None:
        # It was seen to be held at the last look, whatever its clock says now of that time.
        until = max(self._looked, self._recorder.clock() + claim.deadline - trio.current_time())
        reason = claim.ended or claim.interrupted
        if claim.ended is not None or claim.relinquished:
            until = min(until, self._step)
        self._recorder.believed(
            claim.instance.instance_id,
            claim.resource_id,
            claim.epoch,
            until=until,
            reason="the lease ran out" if reason is None else reason.value,
        )
        if claim.ended in _OTHERS_DOING and claim.lease.believed:
            self._robbed(claim)


@contextmanager
def watch_beliefs(recorder: Recorder) -> Iterator[BeliefProbe]:
    """Look at the instances given to `BeliefProbe.watch` while the block runs, within one Trio run."""
    probe = BeliefProbe(recorder)
    trio.lowlevel.add_instrument(probe)
    try:
        yield probe
    finally:
        trio.lowlevel.remove_instrument(probe)
        probe.look()
