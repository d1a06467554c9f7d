"""Records as lines of files that several processes write, and what is wrong with other lines."""

from __future__ import annotations

import math
import random
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_pytest.history import (
    Answer,
    BeliefBegan,
    BeliefEnded,
    Died,
    Handled,
    History,
    Invoked,
    Kind,
    Record,
    Recorder,
    Returned,
    Wrote,
    from_line,
    record_to,
    to_line,
)
from tests.history.registers import true_history

KINDS: tuple[type[Record], ...] = (Invoked, Returned, BeliefBegan, BeliefEnded, Handled, Wrote, Died)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "float": TIMES,
    "str": st.text(),
    "int": st.integers(),
    "bool": st.booleans(),
    "Kind": st.sampled_from(Kind),
    "Answer": st.sampled_from(Answer),
}
RECORDS = st.one_of(
    [st.builds(kind, **{field.name: FIELDS[str(field.type)] for field in attrs.fields(kind)}) for kind in KINDS]
)


@given(RECORDS)
def test_record_comes_back_from_its_line(record: Record) -> None:
    """Whatever it says, it is one line."""
    line = to_line(record)
    assert "\n" not in line
    assert from_line(line) == record


def test_line_is_plain_json() -> None:
    """Without what says nothing, so that files stay small and can be read by eye."""
    asked = Invoked(at=1.5, process="p", number=3, kind=Kind.CLAIM, key="r:ü", instance="i")
    assert to_line(asked) == (
        '{"record":"Invoked","at":1.5,"process":"p","number":3,"kind":"claim","key":"r:ü","instance":"i"}'
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "Expecting value"),
        ("[]", "a record is a JSON object"),
        ("{}", "'record' is none of Invoked, "),
        ('{"record":"Died","at":1}', "Died lacks process"),
        ('{"record":"Died","at":"1","process":"p"}', "'at' of Died is '1', not of type float"),
        ('{"record":"Died","at":true,"process":"p"}', "'at' of Died is True, not of type float"),
        ('{"record":"Died","at":Infinity,"process":"p"}', "'at' of Died is not finite"),
        ('{"record":"Died","at":1,"process":"p","more":1}', "Died has no 'more'"),
        ('{"record":"Invoked","at":1,"process":"p","number":1,"kind":"x","key":"r"}', "'x' is not a valid Kind"),
    ],
)
def test_what_is_no_record_is_refused(line: str, words: str) -> None:
    """With what is wrong with it."""
    with pytest.raises(ValueError, match=words):
        from_line(line)


def test_files_of_several_processes_are_one_history(tmp_path: Path) -> None:
    """A last line that was cut off, as by a kill, is left out; a file may be empty."""
    records = true_history(random.Random(3), operations=40)
    halves = [tmp_path / "a", tmp_path / "b"]
    for at, path in enumerate(halves):
        with record_to(path) as take:
            for record in records[at::2]:
                take(record)
    (tmp_path / "c").touch()
    with halves[0].open("a") as file:
        file.write('{"record":"Inv')
    read = History.read(*halves, tmp_path / "c")
    assert len(read) == len(records)
    assert set(read) == set(records)
    assert read.check() == ()


def test_wrong_line_is_named(tmp_path: Path) -> None:
    """By file and number."""
    path = tmp_path / "a"
    path.write_text(f"{to_line(Died(at=1, process='p'))}\nnothing\n")
    with pytest.raises(ValueError, match=r"a, line 2: Expecting value"):
        History.read(path)


def test_each_record_is_in_the_file_when_taken(tmp_path: Path) -> None:
    """Before the file is closed: a process may be killed at any time."""
    path = tmp_path / "a"
    with record_to(path) as take:
        take(Died(at=1, process="p"))
        assert path.read_text() == f"{to_line(Died(at=1, process='p'))}\n"


def test_recorder_notes_time_process_and_numbers() -> None:
    """On the clock that it was given."""
    history = History()
    times = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    recorder = Recorder("p", history.append, clock=lambda: next(times))
    first = recorder.invoke(Kind.CLAIM, "r", instance="i")
    second = recorder.invoke(Kind.CALL, "r", call="c")
    recorder.answer(second, Answer.UNKNOWN, said="too late")
    recorder.answer(first, Answer.DONE, epoch=4)
    recorder.believes("i", "r", 4)
    recorder.believed("i", "r", 4, until=5.5, reason="EXPIRED")
    recorder.handled("i", "r", 4, "c", began=5.2)
    assert list(history) == [
        Invoked(at=1, process="p", number=1, kind=Kind.CLAIM, key="r", instance="i"),
        Invoked(at=2, process="p", number=2, kind=Kind.CALL, key="r", call="c"),
        Returned(at=3, process="p", number=2, answer=Answer.UNKNOWN, said="too late"),
        Returned(at=4, process="p", number=1, answer=Answer.DONE, epoch=4),
        BeliefBegan(at=5, process="p", instance="i", key="r", epoch=4),
        BeliefEnded(at=5.5, process="p", instance="i", key="r", epoch=4, reason="EXPIRED"),
        Handled(at=6, process="p", instance="i", key="r", epoch=4, call="c", began=5.2),
    ]
    assert repr(history) == "<History of 7 records>"
    assert math.isfinite(Recorder("q", history.append).clock())
