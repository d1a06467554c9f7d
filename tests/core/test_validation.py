"""What no state of a store could take, and what every store could."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aegis_core.backend import ABSENT, ANY, Capabilities, Delete, Operation, Put, Transaction
from aegis_core.names import resource_id_problem, target_key
from aegis_core.validation import is_key, validate_transaction

LIMITS = Capabilities(min_ttl=1.0, max_transaction=2, max_value=3)


@pytest.mark.parametrize("text", ["a", "A-Z_0/9=2E.x", ".".join("k" * 1750)], ids=["short", "mixed", "longest"])
def test_key_is_tokens_joined_by_dots(text: str) -> None:
    """Letters, digits and four signs, up to 3,500 characters."""
    assert is_key(text)


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a\n", "é", "a:b", "k" * 3501], ids=range(9))
def test_anything_else_is_no_key(text: str) -> None:
    """No empty token, no other character, no more of them."""
    assert not is_key(text)


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=255))
def test_key_of_every_resource_is_one(resource_id: str) -> None:
    """What the names of resources are escaped to is within the alphabet."""
    assume(resource_id_problem(resource_id) is None)
    assert is_key(target_key(resource_id))


@pytest.mark.parametrize("expect", [ABSENT, ANY, 7])
def test_what_is_at_the_limits_is_fine(expect: int) -> None:
    """As many operations, bytes, seconds and characters as are allowed."""
    operations = (Put("a", b"123", expect, ttl=1.0), Delete("b", expect))
    validate_transaction(Transaction("~" * 128, operations), LIMITS)


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        pytest.param([Put(key, b"", ANY) for key in "abc"], "at most 2 operations, this one 3", id="operations"),
        pytest.param([Put("a", b"1234", ANY)], "at most 3 bytes, that of 'a' 4", id="value"),
        pytest.param([Put("a", b"", ANY, ttl=0.9)], "at least 1 s, that of 'a' 0.9", id="ttl"),
        pytest.param([Put("a", b"", ANY, ttl=math.nan)], "at least 1 s, that of 'a' nan", id="no number"),
        pytest.param([Put("a", b"", ANY, ttl=math.inf)], "at least 1 s, that of 'a' inf", id="endless"),
        pytest.param([Put("a", b"", ANY), Put("b c", b"", ANY)], "'b c' is not a key", id="key of a put"),
        pytest.param([Delete("b c", ABSENT)], "'b c' is not a key", id="key of a check"),
    ],
)
def test_what_is_refused_is_named(operations: list[Operation], told: str) -> None:
    """A limit that is passed is told with what passes it."""
    with pytest.raises(ValueError, match=told):
        validate_transaction(Transaction("t", operations), LIMITS)


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb: c", "a\n", "é", "1" * 129], ids=range(6))
def test_id_is_visible_ascii(name: str) -> None:
    """An id could stand in a header as it is: nobody puts a line of his own there."""
    with pytest.raises(ValueError, match="is no transaction's id: 1 to 128"):
        validate_transaction(Transaction(name, [Delete("a", ANY)]), LIMITS)
