"""What became of one batch of a bulk operation, as a node finds it: what it could not make ready, lost, or must put back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from aegis_core.engine import bulk
from aegis_core.engine.bulk import BatchOutcome, BulkItem
from aegis_core.engine.decision import Write
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    LeaseLost,
    NoInstance,
    RemoteError,
    StoreUnavailable,
    TransportUnavailable,
)
from aegis_core.models import EndReason, Failure, Outcome, Ownership
from aegis_core.node.claims import Claim
from aegis_core.node.lease import Lease

__all__ = ["because", "failure", "in_doubt", "lost", "overwritten", "telling_lost", "without"]

_log = logging.getLogger("aegis.bulk")

_NO_REFUSALS: Final = frozenset(
    error.code for error in (CallTimeout, LeaseLost, NoInstance, StoreUnavailable, TransportUnavailable)
)


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


def in_doubt(refused: Failure) -> Failure:
    """*refused*, for which a commit of unknown fate may have been carried out; who owns it now is still told."""
    if refused.error_code in _NO_REFUSALS:
        return refused
    reason = f"a commit had no answer, and others have changed the same since; as things are now: {refused.reason}"
    unknown = StoreUnavailable(reason=reason, outcome=Outcome.MAYBE_EXECUTED)
    return attrs.evolve(refused, reason=unknown.message, error_code=unknown.code)


def without(outcome: BatchOutcome, failures: Sequence[Failure]) -> BatchOutcome:
    """*outcome* after all that, with *failures* of what had been done."""
    gone = {known.resource_id for known in failures}
    return BatchOutcome(
        done=tuple(i for i in outcome.done if i not in gone),
        failed=(*outcome.failed, *failures),
        epochs={i: epoch for i, epoch in outcome.epochs.items() if i not in gone},
        undo={i: write for i, write in outcome.undo.items() if i not in gone},
    )
