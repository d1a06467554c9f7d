"""How often a simulation came to what a rule is about: a rule that never applies is kept by anything."""

from __future__ import annotations

import attrs

from aegis_pytest.history import Answer, BeliefBegan, Handled, History, Invoked, Kind, Returned, Wrote

__all__ = ["Evidence", "evidence_of"]


@attrs.frozen(kw_only=True)
class Evidence:
    """How often each rule was put to the test.

    Args:
        beliefs: Began: S1.
        successions: Of them, such that followed on another instance's belief: S1, L1.
        handlers: Ran under a claim: S2.
        operations: Claims, releases, transfers and reads for which an order was looked for: S3.
        unknown: Of them, such that nobody knows the outcome of.
        fenced: Writes that the storage refused, because they came under an epoch that was over.
        freed: Resources whose owner died, and that were to be free in time: L1.
        promotions: Times that somebody in line was to be promoted in time: L1.
        conflicts: Commits that the store refused, because what they expected did not hold any more: S3.
        calls: Came to a handler, whether under a claim or not.
    """

    beliefs: int = 0
    successions: int = 0
    handlers: int = 0
    operations: int = 0
    unknown: int = 0
    fenced: int = 0
    freed: int = 0
    promotions: int = 0
    conflicts: int = 0
    calls: int = 0

    def __add__(self, other: Evidence) -> Evidence:
        mine, its = attrs.astuple(self), attrs.astuple(other)
        names = [field.name for field in attrs.fields(Evidence)]
        return Evidence(**{name: a + b for name, a, b in zip(names, mine, its, strict=True)})

    def __str__(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in attrs.asdict(self).items())


def evidence_of(history: History, *, freed: int, promotions: int, conflicts: int, calls: int) -> Evidence:
    """What *history* shows, and what was counted while it was made."""
    holders: dict[str, str] = {}
    asked: dict[tuple[str, int], Kind] = {}
    beliefs = successions = handlers = unknown = fenced = answered = 0
    for record in history:
        match record:
            case BeliefBegan():
                beliefs += 1
                successions += holders.get(record.key, record.instance) != record.instance
                holders[record.key] = record.instance
            case Handled():
                handlers += 1
            case Wrote():
                fenced += not record.accepted
            case Invoked() if record.kind is not Kind.CALL:
                asked[record.process, record.number] = record.kind
            case Returned() if (record.process, record.number) in asked and record.answer is not Answer.FAILED:
                answered += 1
                unknown += record.answer is Answer.UNKNOWN
                del asked[record.process, record.number]
            case Returned():
                asked.pop((record.process, record.number), None)
            case _:
                pass
    # Those without an answer were asked by processes that died.
    return Evidence(
        beliefs=beliefs,
        successions=successions,
        handlers=handlers,
        operations=answered + len(asked),
        unknown=unknown + len(asked),
        fenced=fenced,
        freed=freed,
        promotions=promotions,
        conflicts=conflicts,
        calls=calls,
    )
