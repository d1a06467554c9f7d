"""From a URL to a backend: its parameters, buckets old and new, and a server that dies and comes back."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import trio

from aegis_backends.nats import open_nats, remove_bucket
from aegis_backends.nats.auth import CredentialsFile, NkeySeed, Token, UserPassword
from aegis_backends.nats.bucket import BucketSettings, new_config, shortcomings, upgraded
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.jetstream import JetStreamError, parse_acknowledgement, parse_delivery
from aegis_backends.nats.opening import read_address
from aegis_backends.nats.server import NatsServers, open_servers
from aegis_core.backend import (
    ABSENT,
    Backend,
    BackendAddress,
    Conflict,
    Delete,
    Indeterminate,
    Put,
    Resync,
    Store,
    StoreUnavailable,
    Transaction,
)
from aegis_core.config import parse_backend
from aegis_core.errors import ConfigError
from aegis_pytest.conformance.steps import open_mirror


def address(servers: NatsServers, **parameters: str) -> BackendAddress:
    """A backend on *servers*."""
    return BackendAddress(servers.url, "nats", servers.location, parameters)


def store_of(backend: Backend) -> Store:
    """The store of *backend*."""
    assert backend.store is not None
    return backend.store


async def commit_through(store: Store, transaction: Transaction) -> tuple[int, ...]:
    """Commit, for as long as it takes."""
    while True:
        try:
            return await store.commit(transaction)
        except (StoreUnavailable, Indeterminate):
            await trio.sleep(0.02)


def test_secrets_of_a_url_are_not_shown() -> None:
    """Neither by what it was split into nor by what was made of it."""
    for url in (
        "nats://u:s3cret@one,u:s3cret@two",
        "nats://s3cret@one",
        "nats://one?user=u&password=s3cret",
        "nats://one?token=s3cret",
    ):
        parsed = parse_backend(url)
        settings = read_address(parsed)
        assert "s3cret" not in repr(parsed) + repr(settings)
        assert "one" in repr(settings)
    assert "token" in repr(parsed)


def test_url_says_it_all() -> None:
    """Servers, bucket, credentials, TLS."""
    url = "nats://one:4222,two?bucket=b&storage=memory&replicas=3&user=u&password=p&tls_first=true&inbox_prefix=_I"
    settings = read_address(parse_backend(url))
    assert settings.servers == ("nats://one:4222", "nats://two")
    assert settings.bucket == BucketSettings(name="b", storage="memory", replicas=3)
    assert settings.options.credentials == UserPassword("u", "p")
    assert settings.options.tls is not None
    assert settings.options.tls.handshake_first
    assert settings.options.inbox_prefix == "_I"
    plain = read_address(parse_backend("nats://one"))
    assert plain.bucket == BucketSettings(name="service-registry", storage="file", replicas=1)
    assert plain.options.credentials is None
    assert plain.options.tls is None


def test_url_knows_every_kind_of_credentials(tmp_path: Path) -> None:
    """A token, a credentials file, an nkey seed in a file."""
    seed = tmp_path / "seed"
    seed.write_text("SU1\n", encoding="utf-8")
    assert read_address(parse_backend("nats://one?token=t")).options.credentials == Token("t")
    assert read_address(parse_backend("nats://one?creds=/c")).options.credentials == CredentialsFile(Path("/c"))
    assert read_address(parse_backend(f"nats://one?nkey={seed}")).options.credentials == NkeySeed("SU1")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nats://", "which server"),
        ("nats://one?bukket=b", "no such parameter.*bucket"),
        ("nats://one?bucket=a.b", "no bucket's name"),
        ("nats://one?storage=tape", "expected file or memory"),
        ("nats://one?replicas=2", "expected 1, 3 or 5"),
        ("nats://one?user=u", "come together"),
        ("nats://one?token=t&creds=c", "not both"),
        ("nats://one?tls_first=yes", "expected true or false"),
        ("nats://one?nkey=/there/is/none", "cannot be read"),
    ],
)
def test_wrong_url_says_what_is_wrong(url: str, told: str) -> None:
    """And what would be right."""
    with pytest.raises(ConfigError, match=told):
        read_address(parse_backend(url))


def test_old_bucket_is_upgraded_and_another_kind_is_refused() -> None:
    """What it has of its own stays; what cannot hold a registry is named."""
    settings = BucketSettings(name="reg")
    config = new_config(settings, 5)
    assert upgraded(settings, config) is None
    assert shortcomings(settings, config) == []
    old = {**config, "max_age": 30, "max_msgs_per_subject": 5, "allow_atomic": False, "subject_delete_marker_ttl": 0}
    assert upgraded(settings, {**old, "placement": "x"}) == {**config, "placement": "x"}
    wrong = shortcomings(settings, {**old, "subjects": ["a"], "retention": "interest", "sources": [1], "max_age": 0})
    assert len(wrong) == 6


def test_answers_of_jetstream_are_read() -> None:
    """Acknowledgements, refusals, and where a delivered message stands; nonsense is an error or nothing."""
    assert parse_acknowledgement(b'{"stream":"s","seq":9,"count":3}').count == 3
    with pytest.raises(JetStreamError) as caught:
        parse_acknowledgement(b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 7"},"seq":0}')
    assert (caught.value.last, caught.value.passes) == (7, False)
    assert parse_acknowledgement(b'{"stream":"KV_a-b","seq":12}') == parse_acknowledgement(b'{"seq":12, "stream":"s"}')
    assert parse_acknowledgement(b'{"stream":"s", "seq":120,"domain":"d"}').sequence == 120
    for nonsense in (b"", b"[]", b'{"seq":0}', b'{"stream":"s","seq":0}', b'{"stream":"s","seq":-1}'):
        with pytest.raises(JetStreamError):
            parse_acknowledgement(nonsense)
    short = parse_delivery("$JS.ACK.s.c.1.2.3.4.5")
    assert short == parse_delivery("$JS.ACK.domain.account.s.c.1.2.3.4.5.x")
    assert short is not None
    assert (short.stream, short.consumer, short.stored_at, short.pending) == (2, 3, 4, 5)
    assert parse_delivery("$JS.ACK.s.c.1.x.3.4.5") is None
    assert parse_delivery("_INBOX.1") is None


async def test_nobody_there_is_store_unavailable() -> None:
    """And who is refused is told to mend the configuration."""
    with pytest.raises(StoreUnavailable):
        async with open_nats(BackendAddress("nats://127.0.0.1:1", "nats", "127.0.0.1:1")):
            pass
    async with open_servers() as servers:
        with pytest.raises(ConfigError) as caught:
            async with open_nats(address(servers, replicas="3", bucket="three")):
                pass
    assert "replicas: " in str(caught.value)
    assert "one server keeps 1" in str(caught.value)
    assert "Run a newer one" not in str(caught.value)


async def test_bucket_of_another_kind_does_not_blame_the_server() -> None:
    """What is wrong with it is all that is said, on a server that is new enough."""
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        work = {"name": "KV_work", "subjects": ["$KV.work.>"], "retention": "workqueue"}
        await connection.request("$JS.API.STREAM.CREATE.KV_work", json.dumps(work).encode(), timeout=5.0)
        with pytest.raises(ConfigError, match="the bucket 'work' cannot") as caught:
            async with open_nats(address(servers, bucket="work")):
                pass
    assert "Run a newer one" not in str(caught.value)


async def test_bucket_of_an_old_program_is_upgraded_in_place() -> None:
    """With what is in it; numbers of a new one begin at the microseconds since 1970."""
    async with open_servers() as servers, open_connection([servers.url]) as connection:
        old = {"name": "KV_old", "subjects": ["$KV.old.>"], "max_msgs_per_subject": 5, "max_age": 60 * 10**9}
        await connection.request("$JS.API.STREAM.CREATE.KV_old", json.dumps(old).encode(), timeout=5.0)
        await connection.request("$KV.old.a", b"kept", timeout=5.0)
        async with open_nats(address(servers, bucket="old")) as backend:
            store = store_of(backend)
            entry = await store.get("a")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"kept", 1)
            assert store.capabilities.durable
            first, second = await store.commit(Transaction("t", [Put("b", b"1", ABSENT, 5.0), Delete("a", 1)]))
            assert 1 < first < second < 100
        async with open_nats(address(servers, storage="memory")) as backend:
            (revision,) = await store_of(backend).commit(Transaction("t", [Put("a", b"1", ABSENT)]))
            assert revision > 10**15
            assert not store_of(backend).capabilities.durable


async def test_store_survives_its_server() -> None:
    """Killed and started again: the watch goes on without a new snapshot, and what was acknowledged is there."""
    async with open_servers() as servers, open_nats(address(servers)) as backend:
        store = store_of(backend)
        (server,) = servers.servers
        async with open_mirror(store) as mirror:
            await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
            await server.kill()
            with pytest.raises((StoreUnavailable, Indeterminate)):
                await store.commit(Transaction("t2", [Put("b", b"1", ABSENT)]))
            with pytest.raises(StoreUnavailable):
                await store.sync()
            await server.start()
            with trio.fail_after(60):
                (revision,) = await commit_through(store, Transaction("t2", [Put("b", b"1", ABSENT)]))
                await mirror.wait_revision(revision)
            assert mirror.values == {"a": b"1", "b": b"1"}
            assert not any(isinstance(item, Resync) for batch in mirror.batches for item in batch)


async def test_bucket_that_is_gone_is_made_anew_and_told() -> None:
    """A server in memory forgets everything when it dies: the readers get a new, empty snapshot."""
    async with open_servers() as servers, open_nats(address(servers, storage="memory")) as backend:
        store = store_of(backend)
        (server,) = servers.servers
        async with open_mirror(store) as mirror:
            (before,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
            await server.kill()
            await server.start()
            with trio.fail_after(60):
                (after,) = await commit_through(store, Transaction("t2", [Put("b", b"1", ABSENT)]))
                await mirror.wait_revision(after)
            assert after > before
            assert mirror.values == {"b": b"1"}
            assert any(isinstance(item, Resync) for batch in mirror.batches for item in batch)


async def test_bucket_is_removed_with_all_that_is_in_it() -> None:
    """Who opens it again finds nothing, and removing what is not there is nothing wrong."""
    async with open_servers() as servers:
        where = address(servers, storage="memory", bucket="mine")
        async with open_nats(where) as backend:
            await store_of(backend).commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
            assert backend.open_messages is not None
            async with backend.open_messages():
                pass
        for _ in range(2):
            await remove_bucket(where)
            async with open_connection([servers.url]) as connection:
                told = await connection.request("$JS.API.STREAM.NAMES", timeout=10.0)
            assert json.loads(told.payload)["total"] == 0
        async with open_nats(where) as backend:
            assert await store_of(backend).get("a") is None


async def test_bucket_of_a_server_that_is_not_there_cannot_be_removed() -> None:
    """The error is the one that opening it raises."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        location = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(StoreUnavailable):
            await remove_bucket(BackendAddress(f"nats://{location}", "nats", location))


async def test_revision_of_a_deletion_is_nothing_to_expect() -> None:
    """To the server it is a message like any other; here it is a conflict."""
    async with open_servers() as servers, open_nats(address(servers, storage="memory")) as backend:
        store = store_of(backend)
        (put,) = await store.commit(Transaction("t1", [Put("a", b"1", ABSENT)]))
        (gone,) = await store.commit(Transaction("t2", [Delete("a", put)]))
        with pytest.raises(Conflict):
            await store.commit(Transaction("t3", [Put("a", b"2", gone)]))
        with pytest.raises(ValueError, match="id"):
            await store.commit(Transaction("", [Put("a", b"2", ABSENT)]))
        assert await store.get("not a key") is None
    with pytest.raises(StoreUnavailable):
        await store.sync()
