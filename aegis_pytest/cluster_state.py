"""How a test's cluster stands, line by line: for the messages of tests that fail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import trio

from aegis_core.node.instance import Instance
from aegis_pytest.call_log import CallLog
from aegis_pytest.event_log import EventLog
from aegis_pytest.faults.kinds import Noted
from aegis_pytest.life import Life
from aegis_pytest.telling import brief, first_lines, show_time

__all__ = ["describe_faults", "describe_lives", "describe_logs"]

_MOST_LINES: Final = 10
_MOST_CLAIMS: Final = 5
_MOST_FAULTS: Final = 3
_LATEST: Final = 4


def describe_lives(lives: Iterable[Life]) -> list[str]:
    """The nodes, with what they serve and hold."""
    lives = tuple(lives)
    if not lives:
        return ["  no nodes"]
    whole = [line for life in lives for line in _describe_life(life, with_claims=True)]
    if len(whole) <= _MOST_LINES:
        return whole
    return first_lines((line for life in lives for line in _describe_life(life, with_claims=False)), _MOST_LINES)


def describe_faults(faults: Iterable[Noted], began: float) -> list[str]:
    """The last faults, and when they were in force, in seconds after *began*."""
    return [
        f"  fault: {brief(fault.what, 100)}, from {show_time(fault.began - began)} "
        + ("on" if fault.ended is None else f"to {show_time(fault.ended - began)}")
        for fault in list(faults)[-_MOST_FAULTS:]
    ]


def describe_logs(logs: Mapping[str, EventLog | CallLog]) -> Iterator[str]:
    """The last that *logs* have, by what they are logs of."""
    for title, log in logs.items():
        lines = [f"    {line}" for line in log.describe(_LATEST)]
        if lines:
            yield f"  last {title}:"
            yield from lines


def _describe_life(life: Life, *, with_claims: bool) -> Iterator[str]:
    node = life.node
    view = "" if node is None else f", its view at revision {node.runtime.directory.snapshot.revision}"
    yield f"  node {life.name}: {life.state}{view}"
    for instance in life.instances:
        yield from _describe_instance(instance, with_claims=with_claims)


def _describe_instance(instance: Instance, *, with_claims: bool) -> Iterator[str]:
    left = instance.deadline - trio.current_time()
    lease = "no lease" if left == -math.inf else f"{max(0.0, left):.1f} s of its lease left"
    running = 0 if instance.incarnation is None else instance.incarnation.server.running
    claims = list(instance.claims.values())
    many = "" if with_claims else f", {len(claims)} claims"
    yield (
        f"    {instance.instance_id}: {instance.role.value} {instance.health.value}, {lease}, "
        f"{running or 'no'} {'call' if running == 1 else 'calls'} without an answer{many}"
    )
    if not with_claims:
        return
    for claim in claims[:_MOST_CLAIMS]:
        state = (
            "ended" if not claim.held else "leaving" if claim.leaving else "ready" if claim.is_ready else "not ready"
        )
        yield f"      {claim.resource_id}: epoch {claim.epoch}, {state}"
    if len(claims) > _MOST_CLAIMS:
        yield f"      and {len(claims) - _MOST_CLAIMS} more"
