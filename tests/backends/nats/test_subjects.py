"""What can be published to, and what can be subscribed to."""

from __future__ import annotations

import pytest

from aegis_backends.nats.errors import LocalProtocolError
from aegis_backends.nats.subjects import check_pattern, check_queue, check_subject

LITERAL = ["a", "a.b.c", "$JS.API.INFO", "a*.b>", "ä.ö", "\udcff.x", "1"]
PATTERNS = ["*", ">", "a.*.c", "a.>", "*.>"]
NEITHER = ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nPUB b 0", "a\x00", "\x7f"]


@pytest.mark.parametrize("subject", LITERAL)
def test_literal_subject_is_good_for_both(subject: str) -> None:
    """One can publish to it and subscribe to it."""
    check_subject(subject)
    check_pattern(subject)


@pytest.mark.parametrize("subject", PATTERNS)
def test_pattern_can_only_be_subscribed_to(subject: str) -> None:
    """The server would take it as a literal subject; nobody means that."""
    check_pattern(subject)
    with pytest.raises(LocalProtocolError, match="wildcard"):
        check_subject(subject)


@pytest.mark.parametrize("subject", NEITHER)
def test_what_is_no_subject_is_refused(subject: str) -> None:
    """Empty tokens, and whatever would end the word or the line."""
    with pytest.raises(LocalProtocolError):
        check_subject(subject)
    with pytest.raises(LocalProtocolError):
        check_pattern(subject)


def test_full_wildcard_comes_last() -> None:
    """Nothing can follow "all that follows"."""
    with pytest.raises(LocalProtocolError, match="last token"):
        check_pattern("a.>.b")


def test_queue_group_has_a_name_of_one_word() -> None:
    """White space would make it another argument."""
    check_queue("")
    check_queue("workers")
    with pytest.raises(LocalProtocolError):
        check_queue("two words")
