"""What a violation looks like: as text of at most forty lines, and as a picture."""

from __future__ import annotations

import math
import random
from xml.etree import ElementTree as ET

import pytest

from aegis_pytest.history import Answer, Bar, History, Invoked, Kind, Returned, Rule, Violation
from tests.history.registers import true_history
from tests.history.writing import believes, claim, history, owner, release

SVG = "{http://www.w3.org/2000/svg}"

EXPECTED = """\
LINEARIZABLE is broken for 'r': an order of the operations explains all answers
no order of the operations explains p9's get_owner by i9: i1 epoch 3
by then it can only have been: free, after epoch 3; or held by i2, epoch unknown
      0.000000 to     1.000000 s  p1: operations: claim by i1: epoch 3
      0.500000 to     1.500000 s  p1: believes: i1 holds it, epoch 3 (RELEASED)
      1.600000 to     2.000000 s  p1: operations: release by i1: done
      1.700000 to            … s  p2: operations: claim by i2: unknown
>     4.000000 to     5.000000 s  p9: operations: get_owner by i9: i1 epoch 3"""


def lost_release() -> Violation:
    """A read finds what was released."""
    (found,) = history(
        claim(100, 101, "i1", 3),
        believes(100.5, 101.5, "i1", 3, reason="RELEASED"),
        release(101.6, 102, "i1"),
        claim(101.7, 103, "i2", answer=Answer.UNKNOWN),
        owner(104, 105, "i1", 3),
    ).check()
    return found


def test_text_says_what_is_wrong_and_shows_what_led_to_it() -> None:
    """With times from the first that is shown; str is the same."""
    assert lost_release().text() == EXPECTED
    assert str(lost_release()) == EXPECTED


def test_picture_shows_each_bar_with_its_words() -> None:
    """A file that an XML parser reads; what is blamed is marked, and equal violations give equal pictures."""
    picture = lost_release().svg()
    assert picture == lost_release().svg()
    tree = ET.fromstring(picture)
    bars = tree.findall(f"{SVG}rect")
    assert [bar.get("class") for bar in bars].count("bar blamed") == 1
    assert len(bars) == 5
    words = [text.text or "" for text in tree.findall(f"{SVG}text")]
    assert "claim by i2: unknown …" in words
    assert {"p1: believes", "p1: operations", "p2: operations", "p9: operations"} <= set(words)
    edge = float(tree.get("width") or 0)
    for bar in bars:
        assert 0 <= float(bar.get("x") or -1) <= float(bar.get("x") or 0) + float(bar.get("width") or 0) <= edge


def test_words_of_a_picture_stand_inside_it() -> None:
    """Of the axis and of the bars: those that would go beyond the right edge go to the left."""
    bars = tuple(Bar("p1", f"bar {number} {'w' * 60}", float(number), float(number)) for number in range(21))
    it = Violation(rule=Rule.ANSWERED, key="r", at=1.0, message="", bars=(*bars, Bar("p2", "w" * 60, 13.0, math.inf)))
    tree = ET.fromstring(it.svg())
    edge = float(tree.get("width") or 0)
    for text in tree.findall(f"{SVG}text"):
        at, width = float(text.get("x") or -1), 7 * len(text.text or "")
        began, ended = (at - width, at) if text.get("text-anchor") == "end" else (at, at + width)
        assert began >= 0, text.text
        assert ended <= edge, text.text


@pytest.mark.parametrize("most", [2, 3, 5, 7, 8, 100])
def test_text_has_as_many_lines_as_it_may(most: int) -> None:
    """What is blamed comes first; how many are left out is said."""
    lines = lost_release().text(most).splitlines()
    assert len(lines) == min(most, 8)
    assert any(line.startswith("> ") for line in lines) is (most > 4)
    assert any("are left out" in line for line in lines) is (most in {4, 5, 6, 7})


def test_names_cannot_break_the_picture() -> None:
    """Ids may hold anything."""
    bar = Bar("<lane>", "a & b < c", 1.0, 1.0)
    it = Violation(rule=Rule.ANSWERED, key="<&>", at=1.0, message="", bars=(bar,))
    ET.fromstring(it.svg())
    assert "a & b < c" in it.text()


def test_long_story_is_cut_to_what_is_near() -> None:
    """Forty lines at most, the blamed ones among them, with the number of what is left out."""
    records = true_history(random.Random(5), operations=300)
    end = max(it.at for it in records)
    untrue = (
        Invoked(at=end + 1, process="p9", number=1, kind=Kind.GET_OWNER, key="r0"),
        Returned(at=end + 2, process="p9", number=1, answer=Answer.DONE, owner="nobody", epoch=10**6),
    )
    (violation,) = (it for it in History([*records, *untrue]).check() if it.rule is Rule.LINEARIZABLE)
    lines = violation.text().splitlines()
    assert len(lines) <= 40
    assert sum(line.startswith(">") for line in lines) == 1
    assert any("are left out" in line for line in lines)
