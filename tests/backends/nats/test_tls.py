"""TLS to real servers, in both orders, with each thing wrong that can be wrong."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from aegis_backends.nats.connection import Connection, ConnectionState, open_connection
from aegis_backends.nats.errors import AuthorizationFailed, ConnectionFailed
from aegis_backends.nats.options import ConnectOptions, TLSOptions
from tests.backends.nats.issuing import Certificates
from tests.backends.nats.polling import until
from tests.backends.nats.processes import running, running_cluster
from tests.backends.nats.scripted import Client, open_scripted

QUICK = ConnectOptions(connect_attempts=1, connect_timeout=20.0, backoff=0.01, max_backoff=0.05)
FIRST = "handshake_first: true"


def trusting(authority: Path, *, first: bool = False, certificates: Certificates | None = None) -> ConnectOptions:
    """Trust servers whose certificate *authority* has signed, and show the client's of *certificates*."""
    tls = TLSOptions(ca_file=authority, handshake_first=first)
    if certificates is not None:
        tls = attrs.evolve(tls, certificate_file=certificates.client, key_file=certificates.client_key)
    return attrs.evolve(QUICK, tls=tls)


async def assert_works(connection: Connection) -> None:
    """What is asked is answered, also where it takes many pieces of TLS."""
    question = bytes(range(256)) * 2000

    async with connection.listen("ask", lambda message: connection.publish(message.reply, message.payload)):
        assert (await connection.request("ask", question, timeout=10)).payload == question


@pytest.mark.parametrize("order", ["INFO first", "TLS first"])
async def test_everything_works_over_tls_and_again_after_a_loss(order: str, tmp_path: Path) -> None:
    """Whether the server speaks in the clear first, or TLS from the first byte."""
    first = order == "TLS first"
    certificates = Certificates(tmp_path / "certificates")
    with running(tmp_path / "server", certificates.settings(FIRST if first else "")) as server:
        async with open_connection([server.url], trusting(certificates.authority, first=first)) as connection:
            assert connection.server.tls_required
            await assert_works(connection)
            server.kill()
            await connection.wait_state(ConnectionState.RECONNECTING)
            server.start()
            await connection.wait_connects(1)
            await assert_works(connection)


async def test_server_that_asks_for_tls_gets_it_without_an_option(tmp_path: Path) -> None:
    """By the certificates that the system trusts, to which ours does not belong."""
    certificates = Certificates(tmp_path / "certificates")
    with (
        running(tmp_path / "server", certificates.settings()) as server,
        pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        async with open_connection([server.url], QUICK):
            pass


async def test_server_that_offers_tls_gets_it_where_it_is_wanted(tmp_path: Path) -> None:
    """By option, or by URL; who does not want it speaks in the clear."""
    certificates = Certificates(tmp_path / "certificates")
    with running(tmp_path / "server", certificates.settings() + "allow_non_tls: true\n") as server:
        async with open_connection([server.url], trusting(certificates.authority)) as connection:
            await assert_works(connection)
        async with open_connection([server.url], QUICK) as connection:
            assert connection.server.tls_available
            await assert_works(connection)
        with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
            async with open_connection([server.url.replace("nats:", "tls:")], QUICK):
                pass


@pytest.mark.parametrize("url_scheme", ["nats", "tls"])
async def test_server_without_tls_is_refused_where_tls_is_wanted(url_scheme: str, tmp_path: Path) -> None:
    """No secret leaves in the clear because of a server's configuration, or of somebody in between."""
    certificates = Certificates(tmp_path / "certificates")
    options = trusting(certificates.authority) if url_scheme == "nats" else QUICK
    with running(tmp_path / "server") as server, pytest.raises(ConnectionFailed, match="the server offers none"):
        async with open_connection([server.url.replace("nats:", f"{url_scheme}:")], options):
            pass


@pytest.mark.parametrize("settings", ["", FIRST])
async def test_authority_that_is_not_trusted_ends_the_handshake(settings: str, tmp_path: Path) -> None:
    """The error says what is wrong with the certificate; nothing was told to that server."""
    certificates, others = Certificates(tmp_path / "certificates"), Certificates(tmp_path / "others")
    with (
        running(tmp_path / "server", certificates.settings(settings)) as server,
        pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED") as caught,
    ):
        async with open_connection([server.url], trusting(others.authority, first=bool(settings))):
            pass
    assert not isinstance(caught.value, AuthorizationFailed)


async def test_certificate_must_be_for_the_name_that_was_asked_for(tmp_path: Path) -> None:
    """That is the host of the URL, unless an option names another."""
    certificates = Certificates(tmp_path / "certificates", "nats.example.com")
    options = trusting(certificates.authority)
    assert options.tls is not None
    named = attrs.evolve(options, tls=attrs.evolve(options.tls, server_hostname="nats.example.com"))
    with running(tmp_path / "server", certificates.settings()) as server:
        async with open_connection([server.url], named) as connection:
            await assert_works(connection)
        with pytest.raises(ConnectionFailed, match="IP address mismatch"):
            async with open_connection([server.url], options):
                pass


async def test_client_shows_its_certificate_to_a_server_that_asks(tmp_path: Path) -> None:
    """It can be all that a client logs in with; one without, or a stranger's, is refused."""
    certificates, others = Certificates(tmp_path / "certificates"), Certificates(tmp_path / "others")
    settings = certificates.settings("verify_and_map: true")
    users = (
        'authorization { users: [ { user: "robot@tests.example", permissions: { publish: ">", subscribe: ">" } } ] }'
    )
    with running(tmp_path / "server", settings + users) as server:
        options = trusting(certificates.authority, certificates=certificates)
        async with open_connection([server.url], options) as connection:
            await assert_works(connection)
        # That the server refused its certificate, a client of TLS 1.3 learns when it reads, if it does before it writes
        # to the closed socket.
        refused = "(?i)certificate.required|unknown.ca|bad.certificate|broken|reset|closed"
        for wrong in (None, others):
            with pytest.raises(ConnectionFailed, match=refused):
                async with open_connection([server.url], trusting(certificates.authority, certificates=wrong)):
                    pass


async def test_wrong_order_is_found_out(tmp_path: Path) -> None:
    """Each side waits for the other, or is told nonsense; in either case not for long."""
    certificates = Certificates(tmp_path / "certificates")
    options = trusting(certificates.authority, first=True)
    with (
        running(tmp_path / "server", certificates.settings()) as server,
        pytest.raises(ConnectionFailed, match="WRONG_VERSION_NUMBER"),
    ):
        async with open_connection([server.url], options):
            pass
    options = attrs.evolve(trusting(certificates.authority), connect_timeout=0.5)
    with (
        running(tmp_path / "other", certificates.settings(FIRST)) as server,
        pytest.raises(ConnectionFailed, match=r"no answer within 0\.5 s"),
    ):
        async with open_connection([server.url], options):
            pass


async def test_servers_that_others_tell_of_are_known_by_the_first_ones_name(tmp_path: Path) -> None:
    """A cluster tells bare addresses; its certificates are for the name that its clients use."""
    certificates = Certificates(tmp_path / "certificates", "localhost")
    with running_cluster(tmp_path, 2, certificates.settings()) as (one, two):
        url = one.url.replace("127.0.0.1", "localhost")
        async with open_connection([url], trusting(certificates.authority)) as connection:
            await until(lambda: any(str(two.port) in known for known in connection.server.connect_urls))
            one.kill()
            await connection.wait_connects(1)
            await assert_works(connection)


async def test_what_was_said_before_tls_is_not_believed() -> None:
    """Whoever sits in between could have put it there, to be taken for the server's once TLS is up."""

    async def script(client: Client) -> None:
        await client.stream.send_all(b'INFO {"headers":true,"tls_required":true}\r\nPONG\r\n')

    async with open_scripted(script) as url:
        with pytest.raises(ConnectionFailed, match="more before TLS than its INFO"):
            async with open_connection([url], QUICK):
                pass


async def test_server_that_stops_in_the_middle_of_a_handshake_is_given_up() -> None:
    """The time to connect includes TLS."""

    async def script(client: Client) -> None:
        await client.stream.send_all(b'INFO {"headers":true,"tls_required":true}\r\n')

    async with open_scripted(script) as url:
        with pytest.raises(ConnectionFailed, match=r"no answer within 0\.2 s"):
            async with open_connection([url], attrs.evolve(QUICK, connect_timeout=0.2)):
                pass
