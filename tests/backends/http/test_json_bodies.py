"""Bodies in JSON from strangers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_backends.http.json_bodies import MOST_CONTAINERS, read_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a\\"[{', max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(PLAIN, st.booleans())
def test_what_json_says_is_read(value: object, escaped: bool) -> None:  # noqa: FBT001
    """With characters as they are, or escaped."""
    assert read_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


REFUSED = {
    "half a pair, as bytes": b'"\xed\xa0\x80"',
    "half a pair, escaped": b'"\\ud800"',
    "half a pair as a key": b'{"\\uDFFF": 1}',
    "pair the wrong way round": b'"\\udc00\\ud800"',
    "no UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16-le"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "no number": b"[NaN]",
    "no JSON": b"{",
    "nothing": b"",
    "many lists": b"[" + b"[]," * MOST_CONTAINERS + b"[]]",
    "many maps": b"[" + b"{}," * MOST_CONTAINERS + b"{}]",
    "brackets without an end": b"[" * (1 << 20),
    "strings without an end": b"[" * (MOST_CONTAINERS + 1) + b'"\\"' * (1 << 18),
    "string that ends in an escape": b"[" * (MOST_CONTAINERS + 1) + b'"\\',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_none_is_refused(name: str) -> None:
    """As every error of a value is."""
    with pytest.raises(ValueError):  # noqa: PT011 - what it says differs
        read_json(REFUSED[name])


def test_text_may_hold_any_number_of_brackets() -> None:
    """They are lists in it that somebody else reads."""
    texts = [json.dumps(["[{"] * MOST_CONTAINERS), "[" * (MOST_CONTAINERS + 1), '\\"[' * MOST_CONTAINERS]
    assert read_json(json.dumps({"texts": texts}).encode()) == {"texts": texts}


def test_lists_that_are_too_deep_are_refused() -> None:
    """Without an end of the program."""
    with pytest.raises(RecursionError):
        read_json(b"[" * 50_000 + b"]" * 50_000)


def test_pair_of_surrogates_is_a_character() -> None:
    """As JSON writes those past the first 65,536."""
    assert read_json(b'"\\ud83d\\ude00"') == "\U0001f600"
