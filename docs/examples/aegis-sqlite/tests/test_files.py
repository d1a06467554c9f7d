"""Files that are not as they should be: each is refused, or survived, with words that say what to do.

One file of this length, because it is the list of what can be wrong with a file.
"""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path

import pytest
import trio
from aegis_sqlite import open_sqlite

from aegis_core import ConfigError, Service, open_node
from aegis_core.backend import (
    ABSENT,
    ANY,
    Change,
    Delete,
    Indeterminate,
    Put,
    Resync,
    Store,
    StoreUnavailable,
    Synced,
    Transaction,
)
from aegis_core.config import parse_backend
from aegis_pytest.conformance.steps import open_mirror

NOBODY = 65534
PATIENCE = 30.0

_numbers = count(1)


@asynccontextmanager
async def open_store(path: Path, parameters: str = "") -> AsyncIterator[Store]:
    """The store in the file *path*."""
    async with open_sqlite(parse_backend(f"sqlite://{path}{parameters}")) as backend:
        assert backend.store is not None
        yield backend.store


async def commit(store: Store, *operations: Put | Delete) -> tuple[int, ...]:
    """Commit *operations* as one new transaction."""
    return await store.commit(Transaction(f"tx-{next(_numbers)}", operations))


def edit(path: Path, *statements: str) -> None:
    """Change the file behind the backend's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def files_that_do_not_grow(path: Path) -> Iterator[None]:
    """No file of this process can be longer than *path* is: what a full disk does to who writes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_a_user() -> Iterator[None]:
    """Without the rights of root, whom no mode of a file stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def close(folder: Path) -> None:
    """Let nobody write into *folder*."""
    folder.chmod(0o555)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can read, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# --- What is refused when it is opened ---


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """And left as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("Remember the milk. " * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt: it is no SQLite database"):
        async with open_store(path):
            pass
    assert path.read_text() == "Remember the milk. " * 100


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """Nothing is written into it."""
    path = tmp_path / "bookmarks.db"
    edit(path, "CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program's database"):
        async with open_store(path):
            pass
    assert path.read_bytes() == before


async def test_newer_format_is_refused(tmp_path: Path) -> None:
    """With what to do."""
    path = tmp_path / "registry.db"
    async with open_store(path):
        pass
    edit(path, "PRAGMA user_version = 2")
    with pytest.raises(ConfigError, match=r"newer aegis-sqlite \(format 2, this one knows 1\): update this one"):
        async with open_store(path):
            pass


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite://", "expected sqlite:///PATH-OF-A-FILE"),
        ("sqlite:///tmp/", "expected sqlite:///PATH-OF-A-FILE"),
        ("sqlite:///no/such/folder/registry.db", "there is no folder /no/such/folder"),
        ("sqlite:///tmp/registry.db?max_sise=1", "did you mean max_size"),
        ("sqlite:///tmp/registry.db?max_size=much", "max_size: expected a number above 0, got 'much'"),
        ("sqlite:///tmp/registry.db?timeout=0", "timeout: expected a number above 0, got '0'"),
        ("sqlite:///tmp/registry.db?timeout=nan", "timeout: expected a number above 0, got 'nan'"),
    ],
    ids=["nothing", "folder", "no folder", "misspelt", "no number", "zero", "nan"],
)
async def test_url_that_cannot_be_is_refused(url: str, problem: str) -> None:
    """Before anything is made."""
    with pytest.raises(ConfigError) as caught:
        async with open_sqlite(parse_backend(url)):
            pass
    assert problem in str(caught.value)


async def test_file_that_may_not_be_written_is_refused(open_folder: Path) -> None:
    """It would not do to find out at the first claim."""
    path = open_folder / "registry.db"
    async with open_store(path):
        pass
    path.chmod(0o444)
    with as_a_user(), pytest.raises(ConfigError, match=r"registry\.db: this program may not write it"):
        async with open_store(path):
            pass


async def test_folder_that_may_not_be_written_is_refused(open_folder: Path) -> None:
    """SQLite keeps its log beside the file."""
    path = open_folder / "registry.db"
    async with open_store(path):
        pass
    path.chmod(0o666)
    close(open_folder)
    with as_a_user(), pytest.raises(StoreUnavailable, match=r"registry\.db: .*(may not write it|cannot be opened)"):
        async with open_store(path):
            pass


async def test_damaged_file_is_refused(tmp_path: Path) -> None:
    """With what to do, and not with half of its contents."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store:
        for number in range(50):
            await commit(store, Put(f"k.{number}", b"v" * 2000, ANY))
    damaged = bytearray(path.read_bytes())
    damaged[8192:40960] = b"\xa5" * (40960 - 8192)
    path.write_bytes(damaged)
    with pytest.raises(StoreUnavailable, match="it is damaged"):
        async with open_store(path):
            pass


async def test_locked_file_is_refused_after_a_while(tmp_path: Path) -> None:
    """And opened as soon as it is free."""
    path = tmp_path / "registry.db"
    async with open_store(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"locked the file for 0\.2 s"):
            async with open_store(path, "?timeout=0.2"):
                pass
    async with open_store(path) as store:
        assert await commit(store, Put("a", b"1", ABSENT))


async def test_path_may_hold_what_urls_cannot(tmp_path: Path) -> None:
    """It is percent-encoded there."""
    async with open_store(tmp_path / "my%20registry%3F.db") as store:
        await commit(store, Put("a", b"1", ABSENT))
    assert (tmp_path / "my registry?.db").exists()


# --- What happens while it is open ---


async def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """Commits are refused as NOT_SENT, reads go on, and when there is room again so do commits."""
    path = tmp_path / "registry.db"
    kept: dict[str, bytes] = {}
    async with open_store(path, "?max_size=1") as store:

        async def fill() -> None:
            for number in range(1000):
                await commit(store, Put(f"big.{number}", b"v" * 50_000, ABSENT), Put(f"small.{number}", b"s", ABSENT))
                kept.update({f"big.{number}": b"v" * 50_000, f"small.{number}": b"s"})

        with pytest.raises(StoreUnavailable, match="no room is left, on the disk or within max_size"):
            await fill()
        assert 5 < len(kept) < 50
        async with open_mirror(store) as mirror:
            await mirror.catch_up(store)
            assert mirror.values == kept
            await commit(store, Delete("big.0", ANY))
            await commit(store, Put("again", b"v" * 40_000, ABSENT))
            await mirror.catch_up(store)
            assert len(mirror.values["again"]) == 40_000


async def test_disk_that_fails_at_the_last_moment_leaves_the_fate_open(tmp_path: Path) -> None:
    """Where it is to be made permanent nobody knows what is on the disk: the same transaction, repeated, commits once."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store, open_mirror(store) as mirror:
        await commit(store, Put("before", b"v", ABSENT))
        once = Transaction("once", (Put("a", b"1" * 50_000, ABSENT), Put("b", b"1", ABSENT)))
        with files_that_do_not_grow(path.with_name("registry.db-wal")), pytest.raises(Indeterminate):
            await store.commit(once)
        revisions = await store.commit(once)
        assert await store.commit(once) == revisions
        await mirror.catch_up(store)
        assert (mirror.revisions["a"], mirror.revisions["b"]) == revisions
        assert len(mirror.changes) == 3


async def test_locked_file_stops_commits_and_no_reads(tmp_path: Path) -> None:
    """They are refused after the patience that the URL gives them, and go on as soon as they can."""
    path = tmp_path / "registry.db"
    async with open_store(path, "?timeout=0.2") as store, open_mirror(store) as mirror:
        await commit(store, Put("a", b"1", ABSENT))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"locked the file for 0\.2 s"):
                await commit(store, Put("a", b"2", ANY))
            await mirror.catch_up(store)
            assert mirror.values == {"a": b"1"}
        await commit(store, Put("a", b"3", ANY))
        await mirror.catch_up(store)
        assert mirror.values == {"a": b"3"}


async def test_cancelled_commit_does_not_wait_for_the_lock(tmp_path: Path) -> None:
    """A deadline is a deadline: whoever renews a lease must be able to give up in time."""
    path = tmp_path / "registry.db"
    async with open_store(path, "?timeout=3600") as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with trio.fail_after(PATIENCE):
                with trio.move_on_after(0.1) as scope:
                    await commit(store, Put("a", b"1", ABSENT))
                assert scope.cancelled_caught
        assert await store.get("a") is None


async def test_expiry_waits_for_the_lock_and_comes(tmp_path: Path) -> None:
    """While others have the file nothing expires, which is late and never early; nobody's task dies of it."""
    path = tmp_path / "registry.db"
    async with open_store(path, "?timeout=0.1") as store, open_mirror(store) as mirror:
        await commit(store, Put("lease", b"1", ABSENT, 0.1))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await trio.sleep(0.5)
            await mirror.catch_up(store)
            assert mirror.values == {"lease": b"1"}
        with trio.fail_after(PATIENCE):
            await mirror.wait_for(lambda m: not m.values)


async def test_replaced_file_is_noticed(tmp_path: Path) -> None:
    """Who opens the path gets another store: two owners of one resource, if nobody noticed."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store:
        await commit(store, Put("a", b"1", ABSENT))
        path.unlink()
        with pytest.raises(StoreUnavailable, match="No such file"):
            await commit(store, Put("a", b"2", ANY))
        async with open_store(path) as other:
            for read in (store.sync, lambda: commit(store, Put("a", b"3", ANY))):
                with pytest.raises(StoreUnavailable, match="it was replaced by another file"):
                    await read()
            assert await commit(other, Put("a", b"4", ABSENT))


async def test_file_damaged_while_open_ends_no_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Reads say what is wrong, watches wait and say so in the log; nothing raises where nobody can catch it."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store, store.watch() as feed:
        await feed.receive()
        for number in range(50):
            await commit(store, Put(f"k.{number}", b"v" * 2000, ANY))
        edit(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (path.stat().st_size - 4096))
        drop_caches(path)
        with pytest.raises(StoreUnavailable, match="it is damaged"):
            await store.get("k.7")
        with trio.move_on_after(0.3):
            await feed.receive()
            pytest.fail("it told something")
        assert "a watch waits" in caplog.text


def drop_caches(path: Path) -> None:
    """Have every connection read the file again: its header says that another has written."""
    with path.open("r+b") as file:
        file.seek(24)
        file.write(os.urandom(4))


async def test_damaged_record_hides_no_other(tmp_path: Path) -> None:
    """A value that is no record of ours, put there by hand, costs its own key and nothing else."""
    path = tmp_path / "registry.db"
    async with (
        open_node(f"sqlite://{path}") as node,
        node.serve(Service("rooms", version="1.0.0"), instance_id="whole") as instance,
    ):
        await instance.claim("room:7")
        edit(path, "UPDATE entries SET value = x'00ff00ff' WHERE key LIKE 'resources.%'")
        async with open_node(f"sqlite://{path}") as witness:
            (view,) = await witness.registry.list_services()
            assert [found.instance_id for found in view.instances] == ["whole"]
            assert witness.owner_of("room:7") is None


# --- What a file survives ---


async def test_store_outlives_everybody(tmp_path: Path) -> None:
    """Closed and opened again it is as it was, at a higher revision for whatever comes."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store:
        (first,) = await commit(store, Put("a", b"1", ABSENT))
    async with open_store(path) as store:
        entry = await store.get("a")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"1", first)
        assert await commit(store, Put("a", b"2", first)) > (first,)


async def test_lease_ends_while_nobody_is_there(tmp_path: Path) -> None:
    """Whoever opens the file next ends it."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store:
        await commit(store, Put("lease", b"1", ABSENT, 0.2))
    await trio.sleep(0.3)
    async with open_store(path) as store, open_mirror(store) as mirror:
        with trio.fail_after(PATIENCE):
            await mirror.wait_for(lambda m: not m.values)


async def test_restart_of_the_machine_gives_leases_their_ttl_again(tmp_path: Path) -> None:
    """The clock has begun anew: what it said of their ends is far away now, and means nothing."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store:
        await commit(store, Put("lease", b"1", ABSENT, 0.5), Put("long", b"1", ABSENT, 3600.0))
    edit(path, "UPDATE entries SET ends_at = ends_at + 1e6")
    reopened = time.monotonic()
    async with open_store(path) as store, open_mirror(store) as mirror:
        entry = await store.get("long")
        assert entry is not None
        assert entry.ttl_left is not None
        assert 3600 - PATIENCE < entry.ttl_left <= 3600
        with trio.fail_after(PATIENCE):
            await mirror.wait_for(lambda m: "lease" not in m.values)
        assert time.monotonic() - reopened >= 0.5


async def test_revisions_do_not_return_with_a_backup(tmp_path: Path) -> None:
    """What was committed after the copy was made is gone; its numbers are not given out again."""
    path, copy = tmp_path / "registry.db", tmp_path / "copy.db"
    async with open_store(path) as store:
        await commit(store, Put("a", b"1", ABSENT))
    shutil.copyfile(path, copy)
    async with open_store(path) as store:
        (lost,) = await commit(store, Put("a", b"2", ANY))
    shutil.copyfile(copy, path)
    async with open_store(path) as store:
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == b"1"
        assert await commit(store, Put("a", b"3", entry.revision)) > (lost,)


async def test_forgotten_deletions_cost_a_new_snapshot_and_leave_no_row(tmp_path: Path) -> None:
    """A reader that is behind them is told so; the file does not grow with what is gone."""
    path = tmp_path / "registry.db"
    async with open_store(path) as store, store.watch() as feed:
        await commit(store, *(Put(f"k.{number}", b"v", ABSENT) for number in range(10)))
        while not any(isinstance(item, Change) for item in await feed.receive()):
            pass
        await commit(store, *(Delete(f"k.{number}", ANY) for number in range(9)))
        edit(path, "UPDATE entries SET ends_at = 0 WHERE value IS NULL")
        (last,) = await commit(store, Put("after", b"v", ABSENT))
        told = list(await feed.receive())
        assert isinstance(told[0], Resync)
        assert [item.key for item in told if isinstance(item, Change)] == ["k.9", "after"]
        assert isinstance(told[-1], Synced)
        assert told[-1].revision >= last
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (2,)
