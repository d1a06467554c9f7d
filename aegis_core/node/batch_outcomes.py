"""What became of one batch of a bulk operation, as a node finds it: what it could not make ready, lost, or must put back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import attrs

from aegis_core.engine import bulk
from aegis_core.engine.bulk import BatchOutcome, BulkItem
from aegis_core.engine.decision import Write
from aegis_core.errors import AegisError, LeaseLost, RemoteError
from aegis_core.models import EndReason, Failure, Ownership
from aegis_core.node.claims import Claim
from aegis_core.node.lease import Lease

__all__ = ["because", "failure", "lost", "overwritten", "telling_lost", "without"]

_log = logging.getLogger("aegis.bulk")


def because(write: Write, reason: str | None) -> Write:
    """*write* of an ownership record, with *reason* if there is one."""
    record = write.record
    if reason is None or not isinstance(record, Ownership):
        return write
    return attrs.evolve(write, record=attrs.evolve(record, reason=reason))


def overwritten(outcome: BatchOutcome) -> dict[str, Write]:
    """The part of the undoing that puts back what was written over."""
    return {target: write for target, write in outcome.undo.items() if write.record is not None}


def lost(ids: Iterable[str], lease: Lease | None) -> BatchOutcome:
    """The outcome of a batch of which nothing was done because the instance's *lease* was lost."""
    reason = EndReason.ERASED if lease is None or lease.ended is None else lease.ended
    return BatchOutcome(failed=tuple(failure(i, LeaseLost(resource_id=i, reason=reason)) for i in ids))


def telling_lost(outcome: BatchOutcome, claims: Iterable[Claim]) -> BatchOutcome:
    """*outcome* of a release under a lease that was lost: whoever may own *claims* now, that is why they fail."""
    told = {claim.resource_id: failure(claim.resource_id, claim.lost()) for claim in claims if claim.ended is not None}
    return attrs.evolve(outcome, failed=tuple(told.get(known.resource_id, known) for known in outcome.failed))


def failure(resource_id: str, exc: Exception) -> Failure:
    """How it is told that a resource did not become ready."""
    if not isinstance(exc, AegisError):
        _log.error("on_acquire of %s failed", resource_id, exc_info=exc, extra={"resource_id": resource_id})
        exc = RemoteError(kind=type(exc).__name__, remote_message=str(exc))
    (told,) = bulk.failed_batch([BulkItem(resource_id=resource_id)], exc).failed
    return told


def without(outcome: BatchOutcome, failures: Sequence[Failure]) -> BatchOutcome:
    """*outcome* after all that, with *failures* of what had been done."""
    gone = {known.resource_id for known in failures}
    return BatchOutcome(
        done=tuple(i for i in outcome.done if i not in gone),
        failed=(*outcome.failed, *failures),
        epochs={i: epoch for i, epoch in outcome.epochs.items() if i not in gone},
        undo={i: write for i, write in outcome.undo.items() if i not in gone},
    )
