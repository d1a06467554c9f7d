"""The journal on disk: order, fence, torn tails, damage."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from exchange.journal import (
    Entry,
    Fenced,
    Journal,
    JournalDamaged,
    JournalError,
    Tenure,
    read_journal,
)
from exchange.ledger import Ledger
from exchange.matching import Execution
from exchange.orders import InvalidOrder, Kind, Order, Side


def order(number: int, side: Side = Side.BUY) -> Order:
    """Return a limit order for GOLD."""
    return Order(f"ord-{number}", "GOLD", Kind.LIMIT, side, 5, 100)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "GOLD.journal"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """The ledger of epoch 1, which has executed two orders that met."""
    ledger = Ledger.open(path, "GOLD", epoch=1, owner="one")
    ledger.execute(order(1))
    ledger.execute(order(2, Side.SELL))
    yield ledger
    ledger.close()


def line_of(text: bytes) -> bytes:
    """Return a line of the journal with a fitting checksum."""
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_a_replayed_ledger_is_the_one_that_was_left(path: Path, ledger: Ledger) -> None:
    """The next owner has the same book and the same answers, and the journal names both owners."""
    left = ledger.execute(order(3))
    ledger.close()
    heir = Ledger.open(path, "GOLD", epoch=2, owner="two")
    assert repr(heir.book) == repr(ledger.book)
    assert heir.execute(order(3)) == left
    heir.close()
    records = read_journal(path)
    assert [record for record in records if isinstance(record, Tenure)] == [
        Tenure(1, "one"),
        Tenure(2, "two"),
    ]
    assert len(records) == 5


def test_an_order_that_comes_again_is_answered_and_not_executed(path: Path, ledger: Ledger) -> None:
    """The recorded result is the answer; nothing is written and the book stays."""
    size, before = path.stat().st_size, repr(ledger.book)
    first = ledger.execute(order(1))
    assert first == ledger.execute(order(1))
    assert first == Entry(1, order(1), Execution("ord-1", 1, resting=5))
    assert (path.stat().st_size, repr(ledger.book)) == (size, before)


def test_an_order_id_cannot_be_used_for_another_order(ledger: Ledger) -> None:
    """The same id with other fields is a mistake, not a repetition."""
    with pytest.raises(InvalidOrder, match="was used for a different order"):
        ledger.execute(order(1, Side.SELL))


def test_an_owner_that_was_replaced_is_refused(path: Path, ledger: Ledger) -> None:
    """From the new owner's first moment the old one writes nothing, though its file is still open."""
    heir = Ledger.open(path, "GOLD", epoch=2, owner="two")
    size, before = path.stat().st_size, repr(ledger.book)
    with pytest.raises(Fenced, match="epoch 1 is refused: 'two' holds epoch 2") as caught:
        ledger.execute(order(3))
    assert caught.value.holder == Tenure(2, "two")
    assert (path.stat().st_size, repr(ledger.book)) == (size, before)
    assert heir.execute(order(3)).execution.sequence == 3
    heir.close()


@pytest.mark.parametrize(("epoch", "owner"), [(1, "one"), (2, "other")])
def test_a_lower_or_foreign_epoch_cannot_open(path: Path, ledger: Ledger, epoch: int, owner: str) -> None:
    """The highest epoch in the file and its owner are the only ones besides higher epochs."""
    Ledger.open(path, "GOLD", epoch=2, owner="two").close()
    with pytest.raises(Fenced):
        Ledger.open(path, "GOLD", epoch=epoch, owner=owner)
    Ledger.open(path, "GOLD", epoch=2, owner="two").close()
    assert len(read_journal(path)) == 4


def test_two_writers_under_one_epoch_are_found_out(path: Path, ledger: Ledger) -> None:
    """Should two programs share an epoch, the second to write is stopped instead of diverging."""
    twin = Ledger.open(path, "GOLD", epoch=1, owner="one")
    ledger.execute(order(3))
    with pytest.raises(JournalError, match="somebody else writes under epoch 1"):
        twin.execute(order(4))
    twin.close()


def test_a_torn_last_line_is_cut_off(path: Path, ledger: Ledger) -> None:
    """Whatever part of a line a dying owner left, the heir has all the lines before it."""
    whole = path.read_bytes()
    ledger.execute(order(3))
    ledger.close()
    last = path.read_bytes()[len(whole) :]
    for length in range(len(last)):
        path.write_bytes(whole + last[:length])
        assert len(read_journal(path)) == 3
        Ledger.open(path, "GOLD", epoch=2, owner="two").close()
        assert path.read_bytes() == whole + line_of(b'{"epoch":2,"owner":"two"}')


def test_a_torn_line_of_another_is_cut_off_when_writing(path: Path, ledger: Ledger) -> None:
    """An owner that stays writes behind the last whole line, not behind a piece of one."""
    with path.open("ab") as file:
        file.write(b"0123")
    ledger.execute(order(3))
    assert [type(record) for record in read_journal(path)] == [Tenure, Entry, Entry, Entry]


@pytest.mark.parametrize("line", [1, 2, 3])
def test_one_changed_byte_is_found_wherever_it_is(path: Path, ledger: Ledger, line: int) -> None:
    """A damaged line is named, by the reader and by whoever wants to own the journal."""
    ledger.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"', b"'", 1)
    path.write_bytes(b"".join(lines))
    message = rf"GOLD\.journal: line {line}: its checksum does not fit"
    with pytest.raises(JournalDamaged, match=message):
        read_journal(path)
    with pytest.raises(JournalDamaged, match=message):
        Ledger.open(path, "GOLD", epoch=2, owner="two")


ORDER = b'["ord-3","GOLD","limit","buy",5,100,""]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "neither a tenure nor an entry"),
        (b'{"epoch":2}', "neither a tenure nor an entry"),
        (b'{"epoch":2,"owner":"two","more":1}', "neither a tenure nor an entry"),
        (b'{"epoch":true,"owner":"two"}', "epoch must be a whole number"),
        (b'{"epoch":0,"owner":"two"}', "epoch must be a whole number"),
        (b'{"epoch":1,"owner":"two"}', "a tenure of epoch 1 comes after one of epoch 1"),
        (b'{"epoch":2,"order":%b,"execution":[3,[],5,0]}' % ORDER, "an entry of epoch 2 stands in"),
        (b'{"epoch":1,"order":[],"execution":[3,[],5,0]}', "fields of an order"),
        (
            b'{"epoch":1,"order":["o","GOLD","limit","buy",5,0,""],"execution":[3,[],5,0]}',
            "holds an invalid order: order 'o': price",
        ),
        (
            b'{"epoch":1,"order":["o","GOLD","swap","buy",5,1,""],"execution":[3,[],5,0]}',
            "'swap' is not a valid Kind",
        ),
        (b'{"epoch":1,"order":%b,"execution":[3,[]]}' % ORDER, "fields of an execution"),
        (b'{"epoch":1,"order":%b,"execution":[3,[1],5,0]}' % ORDER, "fields of a trade"),
        (b'{"epoch":1,"order":%b,"execution":[3,[["a",0,1]],5,0]}' % ORDER, "its price must be"),
        (b'{"epoch":1,"order":%b,"execution":[3,[],-5,0]}' % ORDER, "its resting must be"),
    ],
    ids=str,
)
def test_a_forged_line_is_refused(path: Path, ledger: Ledger, text: bytes, message: str) -> None:
    """A fitting checksum does not make a record: types, fields and epochs are checked as well."""
    with path.open("ab") as file:
        file.write(line_of(text))
    with pytest.raises(JournalDamaged, match=f"line 4: .*{message}"):
        read_journal(path)
    with pytest.raises(JournalDamaged, match="line 4"):
        ledger.execute(order(3))


def test_an_endless_line_is_refused(path: Path) -> None:
    """A line longer than any record is not parsed."""
    path.write_bytes(line_of(b'"%b"' % (b"x" * (4 * 1024 * 1024))))
    with pytest.raises(JournalDamaged, match="bytes long"):
        read_journal(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([Entry(1, order(1), Execution("ord-1", 3, resting=5))], "executed a second time"),
        ([Entry(1, order(3), Execution("ord-3", 3, resting=4))], "but the rules give"),
        ([Entry(1, order(3), Execution("ord-3", 4, resting=5))], "but the rules give"),
        (
            [Entry(1, Order("o", "TIN", Kind.MARKET, Side.BUY, 1), Execution("o", 3))],
            "but this book is 'GOLD'",
        ),
    ],
)
def test_entries_that_the_rules_do_not_give_are_refused(
    path: Path, ledger: Ledger, entries: list[Entry], message: str
) -> None:
    """Replaying executes everything again: a doubled, changed or foreign order is found by its line."""
    ledger.close()
    journal = Journal.open(path, epoch=1, owner="one")
    for entry in entries:
        journal.append(entry.order, entry.execution)
    journal.close()
    with pytest.raises(JournalDamaged, match=f"line 4: .*{message}"):
        Ledger.open(path, "GOLD", epoch=2, owner="two")


def test_a_failed_write_leaves_no_trace(path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the order has not happened, in the book or in the file, and may be sent again."""
    size, before = path.stat().st_size, repr(ledger.book)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(descriptor, data[:40])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space left"):
            ledger.execute(order(3))
    assert (path.stat().st_size, repr(ledger.book)) == (size, before)
    assert ledger.execute(order(3)).execution.sequence == 3
    assert len(read_journal(path)) == 4


def test_each_write_reaches_the_disk_when_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fsync every tenure and entry is on the disk before it is answered."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.stat().st_size))
    ledger = Ledger.open(path, "GOLD", epoch=1, owner="one", fsync=True)
    ledger.execute(order(1))
    ledger.close()
    assert synced == [len(line_of(b'{"epoch":1,"owner":"one"}')), path.stat().st_size]


def test_a_closed_journal_refuses(ledger: Ledger) -> None:
    """Writing after closing is a mistake of the program, and closing twice is none."""
    ledger.close()
    ledger.close()
    with pytest.raises(ValueError, match="closed"):
        ledger.execute(order(3))
    assert repr(ledger).endswith("<Journal GOLD.journal epoch 1 closed>>")


def test_a_missing_journal_holds_nothing(tmp_path: Path) -> None:
    """Nobody has owned the symbol yet."""
    assert read_journal(tmp_path / "none.journal") == ()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from exchange.journal import Fenced
from exchange.ledger import Ledger
from exchange.orders import Kind, Order, Side
path, epoch = Path(sys.argv[2]), int(sys.argv[3])
try:
    ledger = Ledger.open(path, "GOLD", epoch=epoch, owner=f"process-{epoch}")
    for number in range(2000):
        ledger.execute(Order(f"{epoch}-{number}", "GOLD", Kind.LIMIT, Side.BUY, 1, 100))
except Fenced:
    print("fenced")
"""


def test_processes_that_write_at_once_leave_a_journal_in_order(path: Path) -> None:
    """Owners of growing epochs that all keep writing are fenced one after the other, and nothing is mixed."""
    examples = str(Path(sys.modules[Ledger.__module__].__file__ or "").parents[1])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, examples, str(path), str(epoch)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for epoch in (1, 2, 3)
    ]
    outputs = [writer.communicate(timeout=60)[0] for writer in writers]
    assert outputs[-1] == ""
    heir = Ledger.open(path, "GOLD", epoch=4, owner="heir")
    heir.close()
    epochs = [record.epoch for record in read_journal(path) if isinstance(record, Tenure)]
    assert epochs == sorted(epochs)
    assert epochs[-2:] == [3, 4]
    assert heir.book.executed >= 2000
