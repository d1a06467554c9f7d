"""The page on subjects is about what routers take and answer: every subject, every field, every default."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

import attrs
import pytest

from aegis_core.router.wire import SUBJECTS, Subject
from tests.docs.test_pages import DOCS

TEXT = (DOCS / "reference" / "subjects.md").read_text(encoding="utf-8")
ROWS = re.findall(r"(?m)^\| `(ipc\.\S+)` \[`(\S+)`\] \| (.*?) \| (.*?) \| (.*?) \|$", TEXT)
LITERALS: dict[str, object] = {"nil": None, "true": True, "false": False, "[]": (), "{}": {}, '""': ""}


def parts(column: str) -> Iterator[tuple[str, str | None]]:
    """The fields of a column with what stands behind ``=``, without what is said of them in brackets."""
    for part in re.split(r"[,;] ", re.sub(r" ?\([^)]*\)|(?<!=) \[[^\]]*\]", "", column)):
        name, equals, default = part.partition("=")
        yield name, default if equals else None


def row_of(subject: Subject) -> tuple[str, str, str]:
    """Queue group, request and reply, as the page has them."""
    ((queue, request, reply),) = (row[1:4] for row in ROWS if row[0] == subject.name)
    return queue, request, reply


def default_of(field: attrs.Attribute[object]) -> object:
    """What a field is that is not given, as it travels; its factory is called."""
    if field.default is attrs.NOTHING:
        return None
    made = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
    return made.value if isinstance(made, enum.Enum) else made


def test_every_subject_has_a_row() -> None:
    """And no other has."""
    assert [row[0] for row in ROWS] == [subject.name for subject in SUBJECTS]


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_fields_of_a_request_are_those_that_are_read(subject: Subject) -> None:
    """With their defaults; those without one are required, or anything will do."""
    queue, request, _ = row_of(subject)
    assert queue == subject.queue
    shown = dict(parts(request))
    fields = {field.name: field for field in attrs.fields(subject.operation.request) if field.name != "trace_id"}
    assert shown.keys() == fields.keys()
    for name, text in shown.items():
        default = default_of(fields[name])
        if text is None:
            assert default is None, name
        elif text in LITERALS:
            assert default == LITERALS[text], name
        elif "{" not in text:
            assert str(default) == text.strip('"'), name


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_fields_of_a_reply_are_named(subject: Subject) -> None:
    """All that is answered."""
    _, _, reply = row_of(subject)
    told = set(re.findall(r"\w+", reply)) | {"trace_id"}
    missing = {field.name for field in attrs.fields(subject.operation.reply)} - told
    assert not missing
