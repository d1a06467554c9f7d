"""Names of a bucket's histories: which is older than which, whatever was put there."""

from __future__ import annotations

import pytest

from aegis_backends.nats.histories import MOST_BEFORE, digest, is_no_newer, next_name

OLD_FORM = b"0123456789abcdef"
"""As nodes of earlier versions put it."""


def name(drawn: int, *, found: bytes, known: bytes) -> bytes:
    """The next one, as it is stored."""
    return next_name(drawn, found=found, known=known).encode()


def test_first_name_follows_none() -> None:
    """It looks like any that earlier versions put."""
    first = name(1, found=b"", known=b"")
    assert first == b"0000000000000001"
    assert is_no_newer(b"", b"")
    assert is_no_newer(b"", first)
    assert is_no_newer(first, first)
    assert not is_no_newer(first, b"")


@pytest.mark.parametrize(
    "first", [OLD_FORM, b"set back by hand", b"\xff\x00\r\n", b"x" * 100_000], ids=["old form", "text", "bytes", "long"]
)
def test_name_is_newer_than_what_it_took_the_place_of(first: bytes) -> None:
    """Whatever that was; and what it carries of it has a length of its own."""
    second = name(2, found=first, known=first)
    assert second.decode() == f"{2:016x} {digest(first)}"
    assert is_no_newer(first, second)
    assert not is_no_newer(second, first)


def test_name_remembers_what_was_known_and_what_has_come_back() -> None:
    """Of a bucket that was set back to a name of before, and of one that was set back to none."""
    first = name(1, found=b"", known=b"")
    second = name(2, found=first, known=first)
    third = name(3, found=first, known=second)
    assert third.decode().split()[1:] == [digest(first), digest(second)]
    fourth = name(4, found=b"", known=third)
    for older in (first, second, third):
        assert is_no_newer(older, fourth)
        assert not is_no_newer(fourth, older)


def test_backup_that_is_restored_again_and_again_stays_known() -> None:
    """While what a name carries stays short; what comes back is remembered, and the newest of the rest."""
    backup = name(1, found=b"", known=b"")
    names = [name(2, found=backup, known=backup)]
    for drawn in range(3, 100):
        assert is_no_newer(backup, names[-1])
        names.append(name(drawn, found=backup, known=names[-1]))
    assert all(len(each.split()) <= 1 + MOST_BEFORE for each in names)
    assert all(is_no_newer(older, names[-1]) for older in names[-MOST_BEFORE:])
    assert not is_no_newer(names[0], names[-1])


def test_two_names_that_follow_one_are_both_newer() -> None:
    """So that nobody puts another one in the place of what somebody else put at the same time."""
    one, other = (name(drawn, found=OLD_FORM, known=OLD_FORM) for drawn in (1, 2))
    assert not is_no_newer(one, other)
    assert not is_no_newer(other, one)


@pytest.mark.parametrize(
    "pattern",
    [
        "{0} {0}",
        "{1} {0} ",
        "{1}  {0}",
        "{1}\n{0}",
        "{1} {0}\n",
        "{1} {2}",
        "{1} \u0661{0}",
        "{1}" + " {0}" * 9,
        "x {0}",
    ],
)
def test_what_is_no_name_of_ours_has_nothing_before_it(pattern: str) -> None:
    """Somebody else wrote it: it is a name as good as any."""
    older = digest(OLD_FORM)
    known = pattern.format(older, f"{7:016x}", older.upper()).encode()
    is_ours = pattern == "{0} {0}"
    assert is_no_newer(OLD_FORM, known) == is_ours
    assert is_no_newer(known, known)
    assert is_no_newer(b"", known)
