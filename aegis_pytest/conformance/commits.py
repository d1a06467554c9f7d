"""What a store's commits promise: expectations, atomicity, revisions, repeats, limits.

One file of this length, because the promises of `aegis_core.backend.Store.commit` are best read beside each other.
"""

from __future__ import annotations

import random

import pytest
import trio

from aegis_core.backend import (
    ABSENT,
    ANY,
    Conflict,
    Delete,
    Operation,
    Put,
    Store,
    Transaction,
)
from aegis_pytest.conformance.steps import (
    abandoned_after,
    cancelled_everywhere,
    commit,
    open_mirror,
    open_store,
    open_two,
    put,
    transaction,
)
from aegis_pytest.conformance.suite import Suite
from aegis_pytest.harness import Harness

__all__ = ["CommitConformance"]

GOOD_KEYS = ("a", "a.b", "A-Z_0/9=2E.x", "-", "resources.account=3A42", ".".join("k" * 1750))
GOOD_IDS = ("1", "".join(map(chr, range(33, 127))), "~" * 128)
BAD_IDS = ("", "a b", "a\r\nb: c", "é", "1" * 129)
BAD_KEYS = ("", ".", "a.", ".a", "a..b", "a b", "a*", "a.>", "a\n", "é", "a:b", "$a", "k" * 3501)


async def value_of(store: Store, key: str) -> bytes | None:
    """The value that *store*'s consistent read shows under *key*."""
    async with open_mirror(store) as mirror:
        await mirror.catch_up(store)
        return mirror.values.get(key)


async def contend(store: Store, key: str, name: bytes, won: list[bytes]) -> None:
    """Try to create *key*; note *name* in *won* if that succeeded."""
    try:
        await commit(store, put(key, name, ABSENT), put(f"{key}.by", name))
    except Conflict:
        return
    won.append(name)


class CommitConformance(Suite):
    """Commits; part of `StoreConformance`."""

    # --- One key ---

    async def test_put_expecting_absence_creates(self, harness: Harness, clock: object) -> None:
        """A key that was not there has the value and the revision of the put."""
        async with open_store(harness) as store:
            (revision,) = await commit(store, put("a.b", b"1", ABSENT))
            assert revision > 0
            entry = await store.get("a.b")
            assert entry is not None
            assert (entry.value, entry.revision, entry.ttl_left) == (b"1", revision, None)

    async def test_put_expecting_absence_of_what_is_there_conflicts(self, harness: Harness, clock: object) -> None:
        """The second to create a key is told, and the first one's value stays."""
        async with open_store(harness) as store:
            await commit(store, put("a", b"first", ABSENT))
            with pytest.raises(Conflict) as caught:
                await commit(store, put("a", b"second", ABSENT))
            assert caught.value.key in ("a", None)
            assert await value_of(store, "a") == b"first"

    async def test_put_expecting_a_revision_replaces_that_one_only(self, harness: Harness, clock: object) -> None:
        """An update from what was read succeeds once; from anything else it conflicts and changes nothing."""
        async with open_store(harness) as store:
            (first,) = await commit(store, put("a", b"1", ABSENT))
            (second,) = await commit(store, put("a", b"2", first))
            assert second > first
            for stale in (first, second + 1):
                with pytest.raises(Conflict):
                    await commit(store, put("a", b"3", stale))
            assert await value_of(store, "a") == b"2"

    async def test_put_expecting_a_revision_of_nothing_conflicts(self, harness: Harness, clock: object) -> None:
        """An update does not create."""
        async with open_store(harness) as store:
            (other,) = await commit(store, put("other"))
            with pytest.raises(Conflict):
                await commit(store, put("a", b"1", other))
            assert await value_of(store, "a") is None

    async def test_put_without_condition_holds_always(self, harness: Harness, clock: object) -> None:
        """ANY creates, replaces and creates again."""
        async with open_store(harness) as store:
            (first,) = await commit(store, put("a", b"1", ANY))
            (second,) = await commit(store, put("a", b"2", ANY))
            (third,) = await commit(store, Delete("a", ANY))
            (fourth,) = await commit(store, put("a", b"3", ANY))
            assert 0 < first < second < third < fourth
            assert await value_of(store, "a") == b"3"

    async def test_delete_expecting_a_revision_deletes_that_one_only(self, harness: Harness, clock: object) -> None:
        """A deletion from what was read succeeds; from an older revision, or of nothing, it conflicts."""
        async with open_store(harness) as store:
            (first,) = await commit(store, put("a", b"1"))
            (second,) = await commit(store, put("a", b"2"))
            with pytest.raises(Conflict):
                await commit(store, Delete("a", first))
            assert await value_of(store, "a") == b"2"
            (third,) = await commit(store, Delete("a", second))
            assert third > second
            assert await value_of(store, "a") is None
            assert await store.get("a") is None
            with pytest.raises(Conflict):
                await commit(store, Delete("a", second))

    async def test_delete_without_condition_holds_even_for_nothing(self, harness: Harness, clock: object) -> None:
        """Deleting with ANY what is not there is no error, and has a revision like every operation."""
        async with open_store(harness) as store:
            (before,) = await commit(store, put("other"))
            (revision,) = await commit(store, Delete("a", ANY))
            assert revision > before

    async def test_delete_expecting_absence_only_checks(self, harness: Harness, clock: object) -> None:
        """It answers ABSENT where nothing is, conflicts where something is, and deletes neither."""
        async with open_store(harness) as store:
            assert await commit(store, Delete("a", ABSENT)) == (ABSENT,)
            await commit(store, put("a", b"1"))
            with pytest.raises(Conflict):
                await commit(store, Delete("a", ABSENT))
            assert await value_of(store, "a") == b"1"

    async def test_deleted_key_is_absent(self, harness: Harness, clock: object) -> None:
        """After a deletion the key can be created, and its old revision is worth nothing."""
        async with open_store(harness) as store:
            (first,) = await commit(store, put("a", b"1"))
            (gone,) = await commit(store, Delete("a", first))
            with pytest.raises(Conflict):
                await commit(store, put("a", b"2", first))
            _, again = await commit(store, Delete("a", ABSENT), put("b"))
            (revision,) = await commit(store, put("a", b"3", ABSENT))
            assert gone < again < revision
            assert await value_of(store, "a") == b"3"

    async def test_values_are_bytes_unchanged(self, harness: Harness, clock: object) -> None:
        """Every byte comes back, and an empty value is no deletion."""
        async with open_store(harness) as store:
            every = bytes(range(256)) * 3
            await commit(store, put("every", every), put("empty", b""))
            async with open_mirror(store) as mirror:
                await mirror.catch_up(store)
                assert mirror.values == {"every": every, "empty": b""}
            entry = await store.get("every")
            assert entry is not None
            assert entry.value == every

    async def test_get_of_nothing_is_none(self, harness: Harness, clock: object) -> None:
        """A key that never was has no entry."""
        async with open_store(harness) as store:
            assert await store.get("a") is None

    # --- Several keys ---

    async def test_transaction_changes_all_of_its_keys(self, harness: Harness, clock: object) -> None:
        """Puts, deletes and checks hold together; each has its place in the answer, in growing order."""
        async with open_store(harness) as store:
            old, doomed = await commit(store, put("old", b"1"), put("doomed"))
            revisions = await commit(
                store,
                put("new", b"n", ABSENT),
                Delete("nothing", ABSENT),
                put("old", b"2", old),
                Delete("doomed", doomed),
                put("any", b"a"),
            )
            assert revisions[1] == ABSENT
            assert doomed < revisions[0] < revisions[2] < revisions[3] < revisions[4]
            async with open_mirror(store) as mirror:
                await mirror.catch_up(store)
                assert mirror.values == {"new": b"n", "old": b"2", "any": b"a"}
                assert mirror.revisions == {
                    "new": revisions[0],
                    "old": revisions[2],
                    "any": revisions[4],
                }

    @pytest.mark.parametrize("position", range(4))
    @pytest.mark.parametrize("failing", ["create", "update", "delete", "check"])
    async def test_failed_expectation_anywhere_changes_nothing(
        self, harness: Harness, clock: object, failing: str, position: int
    ) -> None:
        """Wherever in a transaction the failing operation stands, no key changes and no watch tells anything."""
        async with open_store(harness) as store:
            kept, doomed, _, stale = await commit(
                store, put("kept", b"1"), put("doomed", b"1"), put("there", b"1"), put("stale", b"0")
            )
            await commit(store, put("stale", b"1", stale))
            operations: list[Operation] = [
                put("kept", b"2", kept),
                Delete("doomed", doomed),
                put("new", b"2", ABSENT),
            ]
            wrong: dict[str, Operation] = {
                "create": put("there", b"2", ABSENT),
                "update": put("stale", b"2", stale),
                "delete": Delete("stale", stale),
                "check": Delete("there", ABSENT),
            }
            operations.insert(position, wrong[failing])
            async with open_mirror(store) as mirror:
                told = len(mirror.changes)
                with pytest.raises(Conflict) as caught:
                    await commit(store, *operations)
                assert caught.value.key in (wrong[failing].key, None)
                await commit(store, put("after"))
                await mirror.catch_up(store)
                assert [change.key for change in mirror.changes[told:]] == ["after"]
                before = dict.fromkeys(("kept", "doomed", "there", "stale"), b"1")
                assert mirror.values == {**before, "after": b"v"}

    async def test_one_of_many_contenders_wins(self, harness: Harness, clock: object) -> None:
        """Of all who create one key at once, over two connections, exactly one succeeds, and its value is there."""
        async with open_two(harness) as (a, b):
            for key in ("one", "two", "three"):
                won: list[bytes] = []
                async with trio.open_nursery() as nursery:
                    for number in range(8):
                        nursery.start_soon(contend, a, key, b"a%d" % number, won)
                        nursery.start_soon(contend, b, key, b"b%d" % number, won)
                assert len(won) == 1
                assert await value_of(b, key) == await value_of(a, f"{key}.by") == won[0]

    async def test_no_update_is_lost_among_contenders(self, harness: Harness, clock: object) -> None:
        """Counters that several tasks raise by compare-and-set end at the number of their successes."""
        async with open_two(harness) as (a, b):
            (revision,) = await commit(a, put("counter", b"0"))

            async def raise_five_times(store: Store) -> None:
                at, value = revision, 0
                async with open_mirror(store) as mirror:
                    for _ in range(5):
                        while True:
                            try:
                                (at,) = await commit(store, put("counter", b"%d" % (value + 1), at))
                                value += 1
                                break
                            except Conflict:
                                await mirror.catch_up(store)
                                assert mirror.revisions["counter"] > at, "the view does not show why it conflicted"
                                at = mirror.revisions["counter"]
                                value = int(mirror.values["counter"])

            async with trio.open_nursery() as nursery:
                for store in (a, b, a, b):
                    nursery.start_soon(raise_five_times, store)
            assert await value_of(a, "counter") == b"20"

    @pytest.mark.parametrize("seed", range(4))
    async def test_store_equals_a_dict_on_a_random_walk(self, harness: Harness, clock: object, seed: int) -> None:
        """Any sequence of transactions over two connections does what it would do to a dict."""
        rng = random.Random(seed)
        model: dict[str, tuple[bytes, int]] = {}
        last = 0
        async with open_two(harness) as (a, b):
            for step in range(60):
                operations: list[Operation] = []
                holds = True
                for key in rng.sample("abcde", rng.randint(1, 3)):
                    actual = model[key][1] if key in model else ABSENT
                    expect = rng.choice((actual, actual, actual, ANY, ABSENT, max(last - 1, 1)))
                    holds &= expect in (actual, ANY)
                    value = b"%d" % step
                    operations.append(Delete(key, expect) if rng.random() < 0.3 else put(key, value, expect))
                try:
                    revisions = await commit(rng.choice((a, b)), *operations)
                except Conflict:
                    assert not holds, f"step {step}: {operations} on {model}"
                    continue
                assert holds, f"step {step}: {operations} on {model}"
                for op, revision in zip(operations, revisions, strict=True):
                    if isinstance(op, Delete) and op.expect == ABSENT:
                        assert revision == ABSENT
                        continue
                    assert revision > last
                    last = revision
                    if isinstance(op, Put):
                        model[op.key] = (op.value, revision)
                    else:
                        model.pop(op.key, None)
            async with open_mirror(b) as mirror:
                await mirror.catch_up(b)
                assert {k: (v, mirror.revisions[k]) for k, v in mirror.values.items()} == model

    # --- Revisions ---

    async def test_revisions_grow_over_all_keys_and_connections(self, harness: Harness, clock: object) -> None:
        """There is one order of all changes."""
        async with open_two(harness) as (a, b):
            revisions = [
                revision
                for n in range(10)
                for revision in await commit((a, b)[n % 2], put(f"k.{n % 3}"), put(f"l.{n}"))
            ]
            assert revisions == sorted(set(revisions))
            assert revisions[0] > 0

    async def test_revisions_do_not_return_when_the_store_is_made_anew(self, harness: Harness, clock: object) -> None:
        """What somebody kept from an earlier store of that name can be told from what is there now."""
        last = 0
        for _ in range(3):
            async with open_store(harness) as store:
                assert await store.get("a") is None
                revisions = await commit(store, *(put(f"a.{n}") for n in range(50)))
                assert revisions[0] > last
                last = revisions[-1]

    # --- Repeats ---

    @pytest.mark.parametrize("expect", [ABSENT, ANY])
    async def test_repeated_put_is_applied_once(self, harness: Harness, clock: object, expect: int) -> None:
        """The same transaction again answers as before and changes nothing, over whatever connection."""
        async with open_two(harness) as (a, b):
            once = transaction(put("a", b"1", expect))
            async with open_mirror(a) as mirror:
                revisions = await a.commit(once)
                assert await a.commit(once) == revisions
                assert await b.commit(once) == revisions
                await commit(a, put("after"))
                await mirror.catch_up(a)
                assert [change.key for change in mirror.changes] == ["a", "after"]
                assert mirror.revisions["a"] == revisions[0]

    async def test_repeated_delete_is_applied_once(self, harness: Harness, clock: object) -> None:
        """A deletion is recognised as one's own, though nothing is left of the key."""
        async with open_store(harness) as store:
            (revision,) = await commit(store, put("a"))
            once = transaction(Delete("a", revision))
            revisions = await store.commit(once)
            assert await store.commit(once) == revisions
            with pytest.raises(Conflict):
                await commit(store, Delete("a", revision))

    async def test_repeated_transaction_of_several_keys_is_applied_once(self, harness: Harness, clock: object) -> None:
        """Puts, deletes and checks are recognised together, even where the check would fail by now."""
        async with open_store(harness) as store:
            (revision,) = await commit(store, put("doomed"))
            once = transaction(Delete("none", ABSENT), put("a", b"1", ABSENT), Delete("doomed", revision), put("b"))
            revisions = await store.commit(once)
            await commit(store, put("none"))
            assert await store.commit(once) == revisions

    @pytest.mark.parametrize("overwritten", ["a", "b", "c"])
    async def test_repeat_is_recognised_when_one_key_was_overwritten(
        self, harness: Harness, clock: object, overwritten: str
    ) -> None:
        """One key that still bears the transaction proves it; the overwritten one is left as it is."""
        async with open_store(harness) as store:
            (doomed,) = await commit(store, put("b"))
            once = transaction(put("a", b"1"), Delete("b", doomed), put("c", b"1"))
            revisions = await store.commit(once)
            await commit(store, put(overwritten, b"2"))
            assert await store.commit(once) == revisions
            assert await value_of(store, overwritten) == b"2"

    async def test_refused_transaction_may_be_repeated(self, harness: Harness, clock: object) -> None:
        """A conflict is no decision for ever: once its expectation holds, the same transaction commits."""
        async with open_store(harness) as store:
            (revision,) = await commit(store, put("a", b"0"))
            later = transaction(put("b", b"1"), put("a", b"1", ABSENT))
            with pytest.raises(Conflict):
                await store.commit(later)
            await commit(store, Delete("a", revision))
            revisions = await store.commit(later)
            assert revisions[0] > revision
            assert await value_of(store, "b") == await value_of(store, "a") == b"1"

    # --- Limits ---

    @pytest.mark.parametrize("key", GOOD_KEYS, ids=range(len(GOOD_KEYS)))
    async def test_key_of_the_alphabet_is_kept(self, harness: Harness, clock: object, key: str) -> None:
        """Every legal key comes back as it was given."""
        async with open_store(harness) as store:
            await commit(store, put(key, b"1", ABSENT))
            async with open_mirror(store) as mirror:
                assert mirror.values == {key: b"1"}

    @pytest.mark.parametrize("key", BAD_KEYS, ids=range(len(BAD_KEYS)))
    async def test_key_outside_the_alphabet_is_refused(self, harness: Harness, clock: object, key: str) -> None:
        """An illegal key is a ValueError for each kind of operation, and nothing is sent."""
        async with open_store(harness) as store:
            for operation in (put(key), Delete(key, ANY), Delete(key, ABSENT)):
                with pytest.raises(ValueError, match=r"\S"):
                    await commit(store, put("fine"), operation)
            assert await value_of(store, "fine") is None

    @pytest.mark.parametrize("number", range(len(GOOD_IDS)))
    async def test_id_of_visible_characters_settles(self, harness: Harness, clock: object, number: int) -> None:
        """By every legal id a repeat is recognised, from a key that it wrote and from one that it deleted."""
        async with open_store(harness) as store:
            made = Transaction(GOOD_IDS[number], (put("a", b"1", ABSENT), Delete("b", ANY)))
            revisions = await store.commit(made)
            assert await store.commit(made) == revisions
            await commit(store, put("a", b"2"))
            assert await store.commit(made) == revisions

    @pytest.mark.parametrize("number", range(len(BAD_IDS)))
    async def test_transaction_with_another_id_is_refused(self, harness: Harness, clock: object, number: int) -> None:
        """An id that is empty, too long or no visible ASCII is a ValueError, and nothing is sent."""
        async with open_store(harness) as store:
            with pytest.raises(ValueError, match=r"\S"):
                await store.commit(Transaction(BAD_IDS[number], (put("a"),)))
            assert await value_of(store, "a") is None

    async def test_transaction_may_be_as_long_as_said_and_no_longer(self, harness: Harness, clock: object) -> None:
        """`max_transaction` operations commit; one more is a ValueError."""
        async with open_store(harness) as store:
            most = store.capabilities.max_transaction
            operations = [put(f"k.{n}", b"%d" % n, ABSENT) for n in range(most)]
            with pytest.raises(ValueError, match=r"\S"):
                await commit(store, *operations, put("one-more"))
            revisions = await commit(store, *operations)
            assert list(revisions) == sorted(set(revisions))
            async with open_mirror(store) as mirror:
                assert mirror.values == {op.key: op.value for op in operations}

    async def test_value_may_be_as_large_as_said_and_no_larger(self, harness: Harness, clock: object) -> None:
        """`max_value` bytes are stored; one more is a ValueError."""
        async with open_store(harness) as store:
            most = store.capabilities.max_value
            with pytest.raises(ValueError, match=r"\S"):
                await commit(store, put("small"), put("large", b"x" * (most + 1)))
            await commit(store, put("large", b"x" * most))
            async with open_mirror(store) as mirror:
                assert {k: len(v) for k, v in mirror.values.items()} == {"large": most}

    # --- Cancellation ---

    @pytest.mark.parametrize("expect", [ABSENT, ANY])
    async def test_cancelled_commit_is_settled_by_repeating_it(
        self, harness: Harness, clock: object, expect: int
    ) -> None:
        """Wherever a commit is cancelled, the same transaction commits once in all, then or never later."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            settled: dict[str, int] = {}

            async def attempt(checkpoints: int) -> tuple[object, ...]:
                keys = f"a.{len(settled)}", f"b.{len(settled)}"
                once = transaction(*(put(key, b"1", expect) for key in keys))
                done = await abandoned_after(checkpoints, store.commit, once)
                revisions = await store.commit(once)
                assert done in ((), (revisions,))
                settled.update(zip(keys, revisions, strict=True))
                return done

            await cancelled_everywhere(attempt)
            assert len(settled) > 2
            await harness.advance(harness.ttl)
            await mirror.catch_up(store)
            assert mirror.revisions == settled
            assert len(mirror.changes) == len(settled)
