"""The search for an order, against one that tries every order; its speed, and its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_pytest.history import Answer, Kind, TooManyConfigurations
from aegis_pytest.history.linearizability import search
from aegis_pytest.history.operations import Operation, tell
from aegis_pytest.history.register import NEVER_HELD, Holding, Register
from tests.history.writing import Page, asked, believes, claim, history, operation, owner, release, transfer

INSTANCES = ("i1", "i2")


def explained(register: Register, state: Holding, left: Sequence[Operation], now: float) -> bool:
    """Whether some order of what is left explains its answers: each takes effect as early as it can, in every order."""
    if all(it.ended == math.inf for it in left):
        return True
    for at, it in enumerate(left):
        point = max(now, it.began)
        if point <= it.ended:
            others = [*left[:at], *left[at + 1 :]]
            if any(explained(register, after, others, point) for after in register.step(state, it)):
                return True
    # Times at which the state may change by itself: now, or when a later one allows it.
    lapse = register.lapses(state) if state.owner else math.inf
    return lapse != math.inf and any(
        explained(register, after, left, max(now, lapse)) for after in register.drift(state, max(now, lapse))
    )


@st.composite
def small_histories(draw: st.DrawFn) -> list[Page]:
    """A few operations and beliefs of two instances, true or not."""
    pages: list[Page] = []
    times = st.integers(0, 12)
    for _ in range(draw(st.integers(1, 5))):
        began, long = draw(times), draw(st.integers(1, 5))
        instance = draw(st.sampled_from(INSTANCES))
        kind = draw(st.sampled_from([Kind.CLAIM, Kind.CLAIM, Kind.RELEASE, Kind.TRANSFER, Kind.GET_OWNER]))
        to = "i2" if instance == "i1" else "i1"
        answer = draw(st.sampled_from([Answer.DONE, Answer.DONE, Answer.HELD, Answer.FREE, Answer.UNKNOWN]))
        epoch = 0
        holder = draw(st.sampled_from(INSTANCES))
        if answer is Answer.DONE and kind is not Kind.RELEASE:
            epoch = draw(st.integers(1, 3))
        told = asked(kind, began, instance, to=to if kind is Kind.TRANSFER else "")
        pages.append(operation(told, began + long, answer, holder, epoch))
    for epoch in draw(st.sets(st.integers(1, 3), max_size=2)):
        began = draw(times)
        until = draw(st.one_of(st.none(), st.integers(began + 1, began + 6)))
        pages.append(believes(began, until, draw(st.sampled_from(INSTANCES)), epoch))
    return pages


@settings(max_examples=200)
@given(small_histories())
def test_search_agrees_with_every_order_tried(pages: list[Page]) -> None:
    """On small histories, true and untrue ones."""
    assert_agreement(pages)


@pytest.mark.thorough
@settings(max_examples=1500)
@given(small_histories())
def test_search_agrees_with_every_order_tried_on_more_histories(pages: list[Page]) -> None:
    """The same for more of them."""
    assert_agreement(pages)


def assert_agreement(pages: list[Page]) -> None:
    """Hold the search against the one that tries every order."""
    (story,) = tell(history(*pages))
    register = Register(story)
    found = search(register.operations, NEVER_HELD, register)
    assert (found is None) == explained(register, NEVER_HELD, register.operations, -math.inf)


def test_search_stops_at_its_limit_and_says_how_far_it_came() -> None:
    """Many claims of unknown outcome, and a limit that is too low for them."""
    pages = [claim(number, number + 0.5, f"i{number}", answer=Answer.UNKNOWN) for number in range(8)]
    told = history(*pages, owner(20, 21, "i3", 5), owner(22, 23, "i1", 6))
    assert told.check() == ()
    with pytest.raises(
        TooManyConfigurations, match=r"more than 3 configurations at 21\.000 s, with 9 operations"
    ) as raised:
        told.check(limit=3)
    assert (raised.value.limit, raised.value.unknown) == (3, 8)


def test_unknown_outcomes_stay_cheap() -> None:
    """Sixty releases and transfers that may still come, among operations that are answered: a small limit does."""
    pages: list[Page] = []
    for turn in range(60):
        at, epoch = 10 * turn, 2 * turn + 1
        pages += [
            claim(at, at + 1, "i1", epoch),
            transfer(at + 2, at + 3, "i1", "i2", answer=Answer.UNKNOWN),
            release(at + 4, at + 5, "i1", answer=Answer.UNKNOWN, epoch=epoch),
            owner(at + 6, at + 7),
        ]
    assert history(*pages).check(limit=2000) == ()


def test_a_thousand_claims_at_once_are_searched() -> None:
    """All overlap, one wins."""
    losers = [claim(0, 10 + number / 1000, f"i{number}", answer=Answer.HELD, holder="winner") for number in range(999)]
    assert history(claim(0, 20, "winner", 1), *losers).check(limit=100) == ()
    found = history(claim(0, 20, "winner", 1), claim(0, 20, "other", 2), *losers).check(limit=100)
    assert len(found) == 1
