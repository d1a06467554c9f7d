"""Tables of small histories: those that keep the rules, and those that break one, each the one it was written for.

More than 400 lines: the two tables are read beside each other, what is right beside what is nearly so.
"""

from __future__ import annotations

import attrs
import pytest

from aegis_pytest.history import Answer, Died, Invoked, Rule
from tests.history.writing import (
    Page,
    believes,
    call,
    claim,
    handled,
    history,
    owner,
    release,
    transfer,
    wrote,
)

UNKNOWN, HELD, FREE, FAILED = Answer.UNKNOWN, Answer.HELD, Answer.FREE, Answer.FAILED

GOOD: dict[str, tuple[Page, ...]] = {
    "nothing at all": (),
    "one after the other": (
        claim(0, 1, "i1", 7),
        claim(2, 3, "i2", answer=HELD, holder="i1"),
        owner(4, 5, "i1", 7),
        release(6, 7, "i1"),
        owner(8, 9),
        claim(10, 11, "i2", 9),
    ),
    "a claim of what is one's own answers its epoch": (claim(0, 1, "i1", 7), claim(2, 3, "i1", 7)),
    "two claims at once, one of which wins": (
        claim(0, 5, "i1", answer=HELD, holder="i2"),
        claim(1, 4, "i2", 3),
    ),
    "a read overlaps a claim and sees it, a later begun one too": (
        claim(0, 9, "i1", 3),
        owner(1, 2, "i1", 3),
        owner(3, 4, "i1", 3),
    ),
    "a claim of unknown outcome took effect": (claim(0, 1, "i1", answer=UNKNOWN), owner(2, 3, "i1", 5)),
    "a claim of unknown outcome takes effect much later": (
        claim(0, 1, "i1", answer=UNKNOWN),
        claim(2, 3, "i2", 4),
        release(4, 5, "i2"),
        owner(6, 7, "i1", 9),
    ),
    "a claim of unknown outcome never takes effect": (claim(0, 1, "i1", answer=UNKNOWN), claim(2, 3, "i2", 4)),
    "a claim of unknown outcome is given up again": (
        claim(0, 1, "i1", answer=UNKNOWN),
        owner(2, 3, "i1", 5),
        believes(2, 3, "i1", 5),
        claim(4, 5, "i2", 6),
    ),
    "a transfer that failed halfway releases": (
        claim(0, 1, "i1", 2),
        transfer(2, 3, "i1", "i2", answer=UNKNOWN),
        owner(4, 5),
    ),
    "a transfer": (claim(0, 1, "i1", 2), transfer(2, 3, "i1", "i2", 8), owner(4, 5, "i2", 8)),
    "what failed did nothing": (
        claim(0, 1, "i1", answer=FAILED),
        release(2, 3, "i1", answer=FREE),
        transfer(4, 5, "i1", "i2", answer=FREE),
        owner(6, 7),
    ),
    "a holder whose belief ended loses it": (
        claim(0, 1, "i1", 2),
        believes(0.5, 3, "i1", 2),
        claim(4, 5, "i2", 6),
        believes(4.5, None, "i2", 6),
    ),
    "who dies before it ever held anything loses what it was given": (
        claim(0, 1, "i1", 2),
        believes(0.5, 3, "i1", 2),
        transfer(2, 4, "i1", "i2", 8),
        (Died(at=3.5, process="p2"),),
        owner(5, 6),
    ),
    "who was killed loses it": (
        claim(0, 1, "i1", 2),
        believes(0.5, None, "i1", 2),
        (Died(at=3, process="p1"),),
        claim(4, 5, "i2", 6),
    ),
    "what was lost with a lease is claimed again, and what is transferred is adopted, unasked": (
        claim(0, 1, "i1", 2),
        believes(0.5, 3, "i1", 2),
        believes(6, 8, "i1", 4),
        transfer(7, 9, "i1", "i2"),
        believes(8.5, None, "i2", 7),
        owner(10, 11, "i2", 7),
    ),
    "who was robbed before he was told that he has it": (
        claim(0, 4, "i1", 3),
        claim(1, 2, "i2", 5, forced=True),
        believes(1.5, None, "i2", 5, forced=True),
        believes(3, 3.5, "i1", 3),
    ),
    "taken by force, with two believers for a moment": (
        claim(0, 1, "i1", 2),
        believes(0.5, 6, "i1", 2),
        claim(3, 4, "i2", 5, forced=True),
        believes(3.5, None, "i2", 5, forced=True),
    ),
    "taken by force, with two believers as long as watches lag": (
        believes(1, 60, "i1", 5),
        believes(11, 61, "i2", 6, forced=True, lag=20.0),
    ),
    "taken by force, a moment ago": (
        claim(0, 1, "i1", 2),
        believes(0.5, None, "i1", 2),
        claim(3, 4, "i2", 5, forced=True),
        believes(3.5, None, "i2", 5, forced=True),
        owner(33, 33.4, "i2", 5),
    ),
    "a new owner that lost its lease before it took up what it was given": (
        claim(0, 1, "i1", 2),
        believes(0.5, 2, "i1", 2),
        believes(0.1, 0.4, "i2", 1),
        transfer(1.5, 3, "i1", "i2", 5),
        owner(4, 5),
    ),
    "a call under its owner's epoch": (
        claim(0, 1, "i1", 2),
        believes(0.5, 9, "i1", 2),
        call(2, 5, "c", "i1", 2),
        handled(3, 4, "c", "i1", 2),
    ),
    "a late handler whose answer was not taken": (
        believes(0.5, 4, "i1", 2),
        call(2, 6, "c", "", 0, answer=UNKNOWN),
        handled(3, 5, "c", "i1", 2),
    ),
    "a transfer that had to wait gives away what was claimed again meanwhile": (
        claim(0, 1, "i1", 3),
        believes(0.5, 3, "i1", 3),
        transfer(2, 7, "i1", "i2", 9, of=3),
        believes(5, 6, "i1", 6),
        believes(6.5, None, "i2", 9),
    ),
    "a transfer that had to wait gives away what was claimed again meanwhile, and its fate is unknown": (
        claim(0, 1, "i1", 2),
        believes(0.5, 10, "i1", 2),
        believes(0.1, 0.4, "i2", 1),
        transfer(5, 25, "i1", "i2", answer=UNKNOWN, of=2),
        believes(12, 20, "i1", 3),
        owner(26, 27, "i2", 4),
    ),
    "who waits for it had it before, was not told of that, and lost it with its lease": (
        claim(0, 1, "i1", 3),
        claim(0.5, 20, "i2", 9),
        release(2, 3, "i1"),
        claim(4, 12, "i1", 6),
        transfer(5, 6, "i1", "i2", answer=HELD, holder="i2"),
        believes(11, 13, "i1", 6),
        release(12.5, 13, "i1"),
    ),
    "who waits for it had it twice, was not told, and lost it with its lease": (
        claim(0, 1, "i1", 3),
        claim(0.5, 30, "i2", 9),
        release(2, 3, "i1"),
        claim(4, 12, "i1", 6),
        claim(5, 6, "i3", answer=HELD, holder="i2"),
        believes(11, 13, "i1", 6),
        release(12.5, 13, "i1"),
        claim(15, 16, "i3", answer=HELD, holder="i2"),
        claim(17, 18, "i1", 7),
        believes(17.5, 20, "i1", 7),
        release(19, 20, "i1"),
    ),
    "two releases at once, of which one carries out both": (
        claim(0, 1, "i1", 3),
        release(2, 5, "i1", epoch=3),
        release(3, 6, "i1"),
        owner(7, 8),
    ),
    "a call with a key runs again under the next owner": (
        believes(0.5, 4, "i1", 2),
        handled(1, 2, "c", "i1", 2),
        believes(5, 9, "i2", 6),
        handled(6, 7, "c", "i2", 6),
        call(1, 8, "c", "i2", 6, once=True),
    ),
    "a message without a key arrives twice": (
        believes(0.5, 9, "i1", 2),
        handled(1, 2, "c", "i1", 2),
        handled(3, 4, "c", "i1", 2),
        call(1, 2.5, "c", "i1", 2),
    ),
    "an old write refused": (wrote(1, 5), wrote(2, 7), wrote(3, 5, accepted=False), wrote(4, 7)),
}

BAD: dict[str, tuple[Rule, tuple[Page, ...]]] = {
    "taken by force, with two believers for a day": (
        Rule.SINGLE_OWNER,
        (believes(1, 86400, "i1", 5), believes(11, 86401, "i2", 6, forced=True), handled(85000, 86000, "c", "i1", 5)),
    ),
    "taken by force, and its holder hears of it when watches have not lagged for long": (
        Rule.SINGLE_OWNER,
        (believes(1, 60, "i1", 5), believes(11, 61, "i2", 6, forced=True, lag=10.0)),
    ),
    "taken by force, and its holder never hears of it": (
        Rule.SINGLE_OWNER,
        (believes(1, None, "i1", 5), believes(11, None, "i2", 6, forced=True), owner(42, 43, "i2", 6)),
    ),
    "two claims succeed": (Rule.LINEARIZABLE, (claim(0, 1, "i1", 3), claim(2, 3, "i2", 4))),
    "two claims succeed, of which one never began to believe": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", 3), claim(2, 3, "i2", 4), believes(2.5, 3, "i2", 4)),
    ),
    "two claims at once succeed": (Rule.LINEARIZABLE, (claim(0, 5, "i1", 3), claim(1, 4, "i2", 4))),
    "the second claim succeeds while the first holder believes": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", 3), believes(0.5, 9, "i1", 3), claim(2, 3, "i2", 4)),
    ),
    "a claim is refused where nobody can have been": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", answer=HELD, holder="i2"), claim(2, 3, "i2", 4)),
    ),
    "who waits for it is seen to hold it, while another does": (
        Rule.LINEARIZABLE,
        (
            claim(0, 1, "i1", 3),
            believes(0.5, 30, "i1", 3),
            claim(0.5, 20, "i2", answer=HELD, holder="i1"),
            claim(4, 5, "i3", answer=HELD, holder="i2"),
        ),
    ),
    "who waited for it is seen to hold it, when it was answered and gave it back": (
        Rule.LINEARIZABLE,
        (
            claim(0, 1, "i1", 3),
            claim(0.5, 10, "i2", 9),
            release(2, 3, "i1"),
            transfer(4, 5, "i1", "i2", answer=HELD, holder="i2"),
            release(11, 12, "i2"),
            claim(13, 14, "i3", answer=HELD, holder="i2"),
        ),
    ),
    "a read sees nobody after a claim": (Rule.LINEARIZABLE, (claim(0, 1, "i1", 3), owner(2, 3))),
    "a read sees what was released": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", 3), release(2, 3, "i1"), owner(4, 5, "i1", 3)),
    ),
    "reads see new, then old": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", 3), transfer(2, 9, "i1", "i2", 5), owner(3, 4, "i2", 5), owner(5, 6, "i1", 3)),
    ),
    "a release succeeds of what another holds": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", 3), release(2, 3, "i2")),
    ),
    "a release of an old epoch takes the new one away": (
        Rule.LINEARIZABLE,
        (
            claim(0, 1, "i1", 3),
            release(2, 3, "i1", answer=UNKNOWN, epoch=3),
            owner(4, 5),
            claim(6, 7, "i1", 5),
            owner(8, 9),
        ),
    ),
    "a transfer is answered and did nothing": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", 3), transfer(2, 3, "i1", "i2", 5), owner(4, 5, "i1", 3)),
    ),
    "an acknowledged claim is gone at the end": (
        Rule.DURABLE,
        (claim(0, 1, "i1", 3), believes(0.5, None, "i1", 3), owner(4, 5)),
    ),
    "an acknowledged claim is somebody else's at the end": (
        Rule.DURABLE,
        (claim(0, 1, "i1", 3), believes(0.5, None, "i1", 3), owner(4, 5, "i2", 2)),
    ),
    "an epoch falls": (
        Rule.DURABLE,
        (claim(0, 1, "i1", 7), release(2, 3, "i1"), claim(4, 5, "i2", 6)),
    ),
    "an epoch returns": (
        Rule.DURABLE,
        (claim(0, 1, "i1", 7), release(2, 3, "i1"), claim(4, 5, "i2", 7)),
    ),
    "two believe at once": (
        Rule.SINGLE_OWNER,
        (believes(0, 5, "i1", 3), believes(4, 9, "i2", 4)),
    ),
    "two believe, the older by force": (
        Rule.SINGLE_OWNER,
        (believes(0, 5, "i1", 3, forced=True), believes(4, None, "i2", 4)),
    ),
    "a handler starts without a claim": (
        Rule.FENCED_CALLS,
        (believes(0, 5, "i1", 3), handled(6, 7, "c", "i1", 3)),
    ),
    "a handler starts with another epoch": (
        Rule.FENCED_CALLS,
        (believes(0, 9, "i1", 3), handled(6, 7, "c", "i1", 2)),
    ),
    "a late answer is taken as good": (
        Rule.FENCED_CALLS,
        (believes(0, 5, "i1", 3), handled(4, 6, "c", "i1", 3), call(3, 7, "c", "i1", 3)),
    ),
    "an answer comes from nowhere": (
        Rule.FENCED_CALLS,
        (believes(0, 5, "i1", 3), call(1, 2, "c", "i1", 3)),
    ),
    "a second release, after the first": (
        Rule.LINEARIZABLE,
        (claim(0, 1, "i1", 3), release(2, 3, "i1", epoch=3), release(4, 5, "i1", epoch=3)),
    ),
    "a call that failed for sure has run": (
        Rule.OUTCOMES,
        (believes(0, 9, "i1", 3), handled(1, 2, "c", "i1", 3), call(0.5, 4, "c", "", 0, answer=FAILED)),
    ),
    "a call runs under two epochs": (
        Rule.OUTCOMES,
        (
            believes(0, 3, "i1", 3),
            handled(1, 2, "c", "i1", 3),
            call(0.5, 2.5, "c", "i1", 3),
            believes(4, 9, "i1", 5),
            handled(5, 6, "c", "i1", 5),
        ),
    ),
    "a call with a key runs twice": (
        Rule.OUTCOMES,
        (
            believes(0, 9, "i1", 3),
            handled(1, 2, "c", "i1", 3),
            handled(3, 4, "c", "i1", 3),
            call(0.5, 5, "c", "i1", 3, once=True),
        ),
    ),
    "an old write is accepted": (Rule.FENCED_WRITES, (wrote(1, 5), wrote(2, 7), wrote(3, 5))),
    "a call has no answer": (Rule.ANSWERED, (claim(0, 1, "i1", answer=None),)),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_history_is_accepted(name: str) -> None:
    """None of its rules is broken."""
    found = history(*GOOD[name]).check()
    assert not found, found[0].text()


@pytest.mark.parametrize("name", BAD)
def test_bad_history_is_refused_for_what_it_breaks(name: str) -> None:
    """The rule that it was written for is among those that it breaks, and the words say so."""
    rule, pages = BAD[name]
    found = [it for it in history(*pages).check() if it.rule is rule]
    assert len(found) == 1
    text = found[0].text()
    assert len(text.splitlines()) <= 40
    assert text.startswith(f"{rule.name} is broken for 'r': ")
    assert any(line.startswith("> ") for line in text.splitlines())


def test_every_rule_is_broken_by_one_of_them() -> None:
    """So that no rule goes untested."""
    assert {rule for rule, _ in BAD.values()} == set(Rule)


def test_a_live_process_must_answer_and_a_dead_one_need_not() -> None:
    """A death answers for all that its process had begun."""
    begun = claim(0, 1, "i1", answer=None)
    assert [it.rule for it in history(begun).check()] == [Rule.ANSWERED]
    assert history(begun, (Died(at=2, process="p1"),)).check() == ()
    assert [it.rule for it in history(begun, (Died(at=2, process="p2"),)).check()] == [Rule.ANSWERED]


@pytest.mark.parametrize("answer", [Answer.DONE, Answer.FAILED, Answer.UNKNOWN])
def test_who_is_owed_an_answer_in_time_does_not_wait_longer(answer: Answer) -> None:
    """Whatever it is, also that nobody waits for it any more; what came in time is good."""
    begun, told = claim(1, 7, "i1", 3, answer=answer)
    assert isinstance(begun, Invoked)
    assert history((attrs.evolve(begun, within=6.0), told)).check() == ()
    (late,) = history((attrs.evolve(begun, within=5.5), told)).check()
    assert late.rule is Rule.ANSWERED
    assert late.message == "a claim by p1 was to be answered within 5.5 s, and was not for 6.000000 s"
    assert [bar.lane for bar in late.bars if bar.blamed] == ["p1: operations"]


def test_death_ends_what_is_owed() -> None:
    """Who dies while it may still wait has lost nothing; who waited for too long before has."""
    (begun,) = claim(1, 2, "i1", answer=None)
    assert isinstance(begun, Invoked)
    owed = (attrs.evolve(begun, within=5.0),)
    assert history(owed, (Died(at=6, process="p1"),)).check() == ()
    assert [it.rule for it in history(owed, (Died(at=6.5, process="p1"),)).check()] == [Rule.ANSWERED]


def test_resources_are_judged_apart() -> None:
    """A breach of one does not hide that of another; they come in the order in which they showed."""
    page = (*claim(0, 1, "i1", 3), *claim(4, 5, "i2", 4))
    other = [
        attrs.evolve(it, at=it.at - 0.5, process=f"q{it.process}", **({"key": "a"} if isinstance(it, Invoked) else {}))
        for it in page
    ]
    found = history(page, tuple(other)).check()
    assert [(it.rule, it.key) for it in found] == [(Rule.LINEARIZABLE, "a"), (Rule.LINEARIZABLE, "r")]
