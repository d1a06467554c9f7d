"""What a store promises of keys with a TTL: they go by themselves, in time, never early, and say why."""

from __future__ import annotations

import pytest
import trio

from aegis_core.backend import ABSENT, ANY, Change, Conflict, Delete, DeleteReason, Store
from aegis_pytest.conformance.steps import Mirror, commit, open_mirror, open_peer, open_store, put, transaction
from aegis_pytest.conformance.suite import Suite
from aegis_pytest.harness import Harness

__all__ = ["ExpiryConformance"]

# What adding times of a virtual clock may cost.
ROUNDING = 1e-6


async def wait_gone(mirror: Mirror, key: str) -> Change:
    """Wait until *key* is told to be gone; returns that change."""
    await mirror.wait_for(lambda m: key not in m.values and m.changes_of(key))
    return mirror.changes_of(key)[-1]


async def renew_three_times(harness: Harness, store: Store) -> tuple[int, int, float]:
    """Put a lease and renew it in time, from the start again where a busy machine was late.

    Returns its first and its last revision, and when the last was sent.
    """
    while True:
        before = sent = trio.current_time()
        (first,) = await commit(store, put("lease", b"0", ANY, harness.ttl))
        revision = first
        try:
            for number in range(3):
                before = sent
                await harness.advance(harness.ttl * 0.6)
                sent = trio.current_time()
                (revision,) = await commit(store, put("lease", b"%d" % number, revision, harness.ttl))
        except Conflict:
            if trio.current_time() - before < harness.ttl:
                raise
        else:
            return first, revision, sent


class ExpiryConformance(Suite):
    """TTLs; part of `StoreConformance`."""

    def latest(self, harness: Harness, store: Store, ttl: float) -> float:
        """The most seconds that a key put with *ttl* may be seen."""
        resolution = store.capabilities.ttl_resolution
        return ttl + resolution + harness.expiry_lateness + ROUNDING

    async def test_key_goes_when_its_ttl_ends(self, harness: Harness, clock: object) -> None:
        """The store deletes it by itself, not early, not late, with a revision of its own and the reason EXPIRED."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            before = trio.current_time()
            (revision,) = await commit(store, put("lease", b"1", ABSENT, harness.ttl))
            with trio.fail_after(self.latest(harness, store, harness.ttl)):
                gone = await wait_gone(mirror, "lease")
            assert trio.current_time() - before >= harness.ttl - ROUNDING
            assert gone.reason is DeleteReason.EXPIRED
            assert gone.revision > revision
            assert await store.get("lease") is None
            assert await store.sync() >= gone.revision

    async def test_ttl_is_never_cut_short(self, harness: Harness, clock: object) -> None:
        """A TTL that the store cannot keep as it is becomes longer, not shorter."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            ttl = harness.ttl * 1.4
            before = trio.current_time()
            await commit(store, put("lease", b"1", ABSENT, ttl))
            with trio.fail_after(self.latest(harness, store, ttl)):
                await wait_gone(mirror, "lease")
            assert trio.current_time() - before >= ttl - ROUNDING

    async def test_expired_key_is_absent(self, harness: Harness, clock: object) -> None:
        """It can be created again, and updating what it was conflicts."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            (revision,) = await commit(store, put("lease", b"1", ABSENT, harness.ttl))
            gone = await wait_gone(mirror, "lease")
            with pytest.raises(Conflict):
                await commit(store, put("lease", b"2", revision, harness.ttl))
            with pytest.raises(Conflict):
                await commit(store, Delete("lease", revision))
            (again,) = await commit(store, put("lease", b"3", ABSENT))
            assert again > gone.revision

    async def test_renewal_voids_the_old_ttl(self, harness: Harness, clock: object) -> None:
        """A key that is put again in time lives on, for its new TTL from then."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            first, revision, renewed = await renew_three_times(harness, store)
            await mirror.wait_for(lambda m: bool(m.changes) and m.changes[-1].revision >= revision)
            with trio.fail_after(self.latest(harness, store, harness.ttl)):
                gone = await wait_gone(mirror, "lease")
            assert trio.current_time() - renewed >= harness.ttl - ROUNDING
            assert gone.revision > revision
            assert [change for change in mirror.changes if change.value is None and change.revision > first] == [gone]

    async def test_put_without_ttl_makes_a_key_permanent(self, harness: Harness, clock: object) -> None:
        """Whoever puts a key without TTL means it to stay."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            (revision,) = await commit(store, put("lease", b"1", ABSENT, harness.ttl))
            await commit(store, put("lease", b"2", revision))
            await harness.advance(self.latest(harness, store, harness.ttl) * 1.5)
            await mirror.catch_up(store)
            assert mirror.values == {"lease": b"2"}

    async def test_put_with_ttl_makes_a_key_mortal(self, harness: Harness, clock: object) -> None:
        """A TTL counts over a key that had none."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            (revision,) = await commit(store, put("lease", b"1", ABSENT))
            await commit(store, put("lease", b"2", revision, harness.ttl))
            with trio.fail_after(self.latest(harness, store, harness.ttl)):
                gone = await wait_gone(mirror, "lease")
            assert gone.reason is DeleteReason.EXPIRED

    async def test_deleted_key_does_not_expire(self, harness: Harness, clock: object) -> None:
        """A key goes once: what was deleted, or deleted and made again, is not touched by the old TTL."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            gone, anew = await commit(
                store, put("gone", b"1", ABSENT, harness.ttl), put("anew", b"1", ABSENT, harness.ttl)
            )
            await commit(store, Delete("gone", gone), Delete("anew", anew))
            await commit(store, put("anew", b"2", ABSENT))
            await harness.advance(self.latest(harness, store, harness.ttl) * 1.5)
            await mirror.catch_up(store)
            assert mirror.values == {"anew": b"2"}
            assert all(c.reason is not DeleteReason.EXPIRED for c in mirror.changes)

    async def test_shorter_ttl_is_not_held_up_by_a_longer_one(self, harness: Harness, clock: object) -> None:
        """Keys go in the order of their ends, whatever the order of their puts."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            await commit(store, put("long", ttl=harness.ttl * 3), put("short", ttl=harness.ttl))
            with trio.fail_after(self.latest(harness, store, harness.ttl)):
                await wait_gone(mirror, "short")
            assert "long" in mirror.values
            with trio.fail_after(self.latest(harness, store, harness.ttl * 2)):
                await wait_gone(mirror, "long")

    async def test_many_keys_go_each_once(self, harness: Harness, clock: object) -> None:
        """Leases that end together are all told, and what is permanent beside them stays."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            leases = [f"lease.{n}" for n in range(40)]
            await commit(store, put("kept"), *(put(key, ttl=harness.ttl) for key in leases))
            with trio.fail_after(self.latest(harness, store, harness.ttl)):
                await mirror.wait_for(lambda m: len(m.changes) > 40 and len(m.values) == 1)
            await mirror.catch_up(store)
            assert mirror.values == {"kept": b"v"}
            gone = [change for change in mirror.changes if change.value is None]
            assert sorted(change.key for change in gone) == sorted(leases)
            assert {change.reason for change in gone} == {DeleteReason.EXPIRED}

    async def test_repeated_put_does_not_renew(self, harness: Harness, clock: object) -> None:
        """Repeating a transaction changes nothing, not even the time that is left."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            once = transaction(put("lease", b"1", ABSENT, harness.ttl))
            put_at = trio.current_time()
            revisions = await store.commit(once)
            await harness.advance(harness.ttl * 0.6)
            assert await store.commit(once) == revisions
            await wait_gone(mirror, "lease")
            lived = trio.current_time() - put_at
            assert lived <= self.latest(harness, store, harness.ttl)

    async def test_every_connection_is_told(self, harness: Harness, clock: object) -> None:
        """Keys belong to the store: they stay when who put them leaves, and their end reaches the others."""
        async with open_store(harness) as store, open_mirror(store) as mirror:
            async with open_peer(harness) as peer:
                await commit(peer, put("lease", b"1", ABSENT, harness.ttl), put("kept"))
            await mirror.catch_up(store)
            assert set(mirror.values) == {"lease", "kept"}
            with trio.fail_after(self.latest(harness, store, harness.ttl)):
                gone = await wait_gone(mirror, "lease")
            assert gone.reason is DeleteReason.EXPIRED
            assert set(mirror.values) == {"kept"}

    async def test_get_tells_the_time_left(self, harness: Harness, clock: object) -> None:
        """`Entry.ttl_left` is within the TTL, and None for what is permanent."""
        async with open_store(harness) as store:
            await commit(store, put("lease", ttl=harness.ttl), put("kept"))
            lease, kept = await store.get("lease"), await store.get("kept")
            assert lease is not None
            assert kept is not None
            assert lease.ttl_left is not None
            assert 0 < lease.ttl_left <= self.latest(harness, store, harness.ttl)
            assert kept.ttl_left is None

    async def test_ttl_that_is_too_small_is_refused(self, harness: Harness, clock: object) -> None:
        """Below `min_ttl` a TTL is a ValueError, before anything is sent; so are nothing and less."""
        async with open_store(harness) as store:
            for ttl in (store.capabilities.min_ttl / 2, 0.0, -1.0, float("nan")):
                with pytest.raises(ValueError, match=r"\S"):
                    await commit(store, put("fine"), put("lease", ttl=ttl))
            assert await store.get("fine") is None
