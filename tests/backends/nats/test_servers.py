"""Addresses of servers, what servers say of themselves, and the order to try them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_backends.nats.auth import Credentials, Token, UserPassword
from aegis_backends.nats.dialing import Dialer
from aegis_backends.nats.errors import ConnectionFailed, RemoteProtocolError
from aegis_backends.nats.options import ConnectOptions, TLSOptions
from aegis_backends.nats.servers import ServerAddress, ServerInfo, ServerPool
from aegis_core.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "shown", "credentials"),
    [
        ("nats://one:4333", "nats://one:4333", None),
        ("nats://one", "nats://one:4222", None),
        ("one:4333", "nats://one:4333", None),
        ("tls://one:4333/", "tls://one:4333", None),
        ("nats://[::1]:4333", "nats://[::1]:4333", None),
        ("nats://alice:p%40ss@one", "nats://one:4222", UserPassword("alice", "p@ss")),
        ("nats://s3cret@one", "nats://one:4222", Token("s3cret")),
    ],
)
def test_url_is_read(url: str, shown: str, credentials: Credentials | None) -> None:
    """Scheme and port have defaults; the secrets are kept apart and not shown."""
    address = ServerAddress.parse(url)
    assert str(address) == shown
    assert address.credentials == credentials
    assert "p@ss" not in repr(address)
    assert "s3cret" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nats://",
        "http://one:80",
        "nats://one:port",
        "nats://one:99999",
        "nats://one:0",
        "nats://one/path",
        "nats://one?x=1",
        "nats://.foo",
        "nats://one..two:1",
        f"nats://{'a' * 70}.com",
        "nats://\u00ad",
        "\udcff",
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    """The error tells what one looks like."""
    with pytest.raises(ConfigError, match="is no nats://host:port"):
        ServerAddress.parse(url)


def test_wrong_url_is_told_without_its_password() -> None:
    """What stands before the @ is nobody's business."""
    with pytest.raises(ConfigError) as caught:
        ServerAddress.parse("ftp://alice:hunter2@one")
    assert "hunter2" not in str(caught.value)


def test_info_is_read_with_defaults_for_what_an_old_server_does_not_tell() -> None:
    """Fields that we do not know are left alone."""
    info = ServerInfo.from_fields({
        "server_id": "S", "version": "2.15.1", "max_payload": 5, "headers": True, "api_lvl": 2, "nonce": "n0nce",
        "connect_urls": ["a:1", "b:2"], "ldm": True, "unheard_of": None,
    })  # fmt: skip
    assert (info.server_id, info.max_payload, info.api_level, info.lame_duck) == ("S", 5, 2, True)
    assert info.connect_urls == ("a:1", "b:2")
    assert "n0nce" not in repr(info)
    assert ServerInfo.from_fields({"connect_urls": None}) == ServerInfo()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_payload": "1"},
        {"max_payload": True},
        {"headers": 1},
        {"server_id": None},
        {"connect_urls": "a"},
        {"connect_urls": [1]},
    ],
)
def test_info_with_fields_of_other_types_is_refused(fields: dict[str, object]) -> None:
    """A server that says such things is broken."""
    with pytest.raises(RemoteProtocolError):
        ServerInfo.from_fields(fields)


def test_every_server_is_tried_and_the_last_one_used_comes_last() -> None:
    """The order is random, so that the clients of a dead server spread over the others."""
    pool = ServerPool(["one:1", "two:2", "three:3", "one:1"])
    assert len(pool.servers) == 3
    seen = {tuple(map(str, pool.order())) for _ in range(200)}
    assert len(seen) == 6
    pool.use(pool.servers[1])
    assert {str(pool.order()[-1]) for _ in range(50)} == {"nats://two:2"}


def test_discovered_servers_are_replaced_and_configured_ones_stay() -> None:
    """A cluster tells who belongs to it now."""
    pool = ServerPool(["tls://alice:pw@one:1"])
    (one,) = pool.servers
    pool.discover(["one:1", "10.0.0.2:2", "nonsense:x", "three:3"], one)
    assert repr(pool) == "<ServerPool of tls://one:1, tls://10.0.0.2:2, tls://three:3>"
    assert all(server.credentials == UserPassword("alice", "pw") for server in pool.servers)
    assert [server.tls_name for server in pool.servers] == ["", "one", ""]
    pool.discover(["10.0.0.4:4"], pool.servers[1])
    assert repr(pool) == "<ServerPool of tls://one:1, tls://10.0.0.4:4>"
    assert pool.servers[1].tls_name == "one"


def test_of_too_many_discovered_servers_the_first_are_kept() -> None:
    """A round through all of them must end."""
    pool = ServerPool(["one:1"])
    pool.discover((f"10.0.0.1:{port}" for port in range(1, 10_000)), pool.servers[0])
    assert [server.port for server in pool.servers[1:]] == list(range(1, 257))


@pytest.mark.parametrize("host", [".foo", "a" * 70 + ".com", "\u00ad", "\udcff", "a\x00b"], ids=ascii)
async def test_host_that_cannot_be_looked_up_is_a_failure_to_connect(host: str) -> None:
    """Like any other: whoever dials tries the next server."""
    with pytest.raises(ConnectionFailed):
        await Dialer(ConnectOptions()).dial(ServerAddress(host, 4222))


def test_no_server_at_all_is_a_mistake() -> None:
    """There is no default that one could mean."""
    with pytest.raises(ConfigError, match="at least one URL"):
        ServerPool([])


def test_delays_double_up_to_their_limit_and_chance_halves_them() -> None:
    """Rounds come further apart; no two clients wait alike."""
    options = ConnectOptions(backoff=0.1, max_backoff=1.0)
    assert [options.delay(n, 0.0) for n in (1, 2, 3, 4, 5, 1000)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert options.delay(1, 0.999) == pytest.approx(0.05, rel=0.01)


def test_options_make_sense_or_are_refused() -> None:
    """Neither patience nor a size can be nothing."""
    with pytest.raises(ValueError, match="ping_interval must be positive"):
        ConnectOptions(ping_interval=0)


def test_certificate_that_cannot_be_loaded_is_a_configuration_error(tmp_path: Path) -> None:
    """Told with its parameter and its path, when the connection is opened and not when it is first needed."""
    gone, nonsense = tmp_path / "gone.pem", tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    for options, told in (
        (TLSOptions(ca_file=gone), f"tls_ca: {gone} cannot be read: No such file"),
        (TLSOptions(ca_file=nonsense), f"tls_ca: expected certificates (PEM) in {nonsense}: "),
        (
            TLSOptions(certificate_file=str(nonsense)),
            f"tls_cert: expected a certificate and its key (PEM) in {nonsense}: ",
        ),
        (TLSOptions(certificate_file=nonsense, key_file=gone), f"tls_key: {gone} cannot be read: No such file"),
        (
            TLSOptions(certificate_file=nonsense, key_file=nonsense),
            "tls_cert, tls_key: expected a certificate and its key",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            options.context()
        assert str(caught.value).startswith(f"backend URL: {told}")
