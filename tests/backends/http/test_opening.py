"""What the URL of the HTTP backend may say, and what opening it makes of that."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from aegis_backends.http import open_http, open_http_transport
from aegis_backends.http.app import RouterApp, serve_router
from aegis_backends.http.opening import HttpOptions, read_options
from aegis_backends.http.tokens import Tokens
from aegis_backends.memory import MemoryCluster
from aegis_core.backend import ABSENT, BackendAddress, Put, Transaction, TransportUnavailable
from aegis_core.config import parse_backend
from aegis_core.errors import ConfigError, StoreUnavailable
from aegis_core.hookspecs import Principal
from tests.backends.http.peers import PATIENCE, permit_all


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://router", HttpOptions(scheme="http", routers=(("router", 8700),))),
        ("https://a:1,b,[::1]:2,[::2]", HttpOptions(
            scheme="https", routers=(("a", 1), ("b", 8700), ("::1", 2), ("::2", 8700)))),
        ("http://a/?timeout=2.5&listen=0.0.0.0:7000&advertise=10.0.0.7:80", HttpOptions(
            scheme="http", routers=(("a", 8700),), timeout=2.5, listen=("0.0.0.0", 7000), advertise=("10.0.0.7", 80))),
        ("https://a?ca_file=ca&cert_file=cert&key_file=key", HttpOptions(
            scheme="https", routers=(("a", 8700),), ca_file="ca", cert_file="cert", key_file="key")),
    ],
    ids=["one", "several", "addresses", "files"],
)  # fmt: skip
def test_url_says_who_and_how(url: str, expected: HttpOptions) -> None:
    """Routers, and parameters."""
    assert read_options(parse_backend(url)) == expected


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ("", "backend"),
        (",", "backend"),
        ("a:b", "backend"),
        ("a:99999", "backend"),
        (":80", "backend"),
        ("secret@a", "backend"),
        ("a?bucket=x", "bucket"),
        ("a?timeout=0", "timeout"),
        ("a?timeout=inf", "timeout"),
        ("a?timeout=soon", "timeout"),
        ("a?listen=:x", "listen"),
        ("a?advertise=x:y", "advertise"),
        ("a?token_file=/nowhere/at/all", "token_file"),
    ],
)
def test_what_cannot_be_is_a_config_error(location: str, key: str) -> None:
    """That names the parameter, and shows no secret."""
    with pytest.raises(ConfigError) as caught:
        read_options(parse_backend(f"http://{location}"))
    assert caught.value.key == key
    assert "secret" not in caught.value.problem.replace("a secret in a URL", "")


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """One word each, which no repr shows."""
    (tmp_path / "good").write_text("s3cret\n")
    for name, text in {"empty": " \n", "two": "a b", "umlaut": "ä"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="token_file"):
            read_options(parse_backend(f"http://a?token_file={tmp_path / name}"))
    found = read_options(parse_backend(f"http://a?token_file={tmp_path}/good&call_token_file={tmp_path}/good"))
    assert (found.token, found.call_token) == ("s3cret", "s3cret")
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize("parameter", ["ca_file", "cert_file"])
async def test_certificate_that_cannot_be_read_is_a_config_error(parameter: str, tmp_path: Path) -> None:
    """One that is not there, and one that is none; told with its parameter and its path."""
    (tmp_path / "no.pem").write_text("nothing")
    for name in ("missing.pem", "no.pem"):
        with pytest.raises(ConfigError, match=f"backend URL: {parameter}: .*{name}"):
            async with open_http(parse_backend(f"https://127.0.0.1:1?{parameter}={tmp_path / name}")):
                pass
        options = HttpOptions(scheme="http", routers=(), cert_file=str(tmp_path / name))
        with pytest.raises(ConfigError, match=f"backend URL: cert_file: .*{name}"):
            options.server_tls()


async def test_no_router_is_store_unavailable() -> None:
    """Known soon, and told which was tried."""
    with trio.fail_after(PATIENCE), pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1: .*Connection refused"):
        async with open_http(parse_backend("http://127.0.0.1:1")):
            pass


@pytest.mark.parametrize("opened", [open_http, open_http_transport])
def test_without_its_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[[BackendAddress], object]
) -> None:
    """As a `ConfigError`."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "aegis_backends.http.opening", raising=False)
    monkeypatch.delattr("aegis_backends.http.opening", raising=False)
    with pytest.raises(ConfigError, match=r"aegis-ipc\[http\]"):
        opened(parse_backend("http://a"))


async def test_transport_is_lent_to_a_backend_that_has_none(tmp_path: Path) -> None:
    """By the parameters of its own URL, on loopback, with its secret; what else stands in the URL is the backend's."""
    (tmp_path / "calls").write_text("call-secret")
    url = f"file:///somewhere?pages=3&call_token_file={tmp_path}/calls"
    async with (
        open_http_transport(parse_backend(url)) as serving,
        open_http_transport(parse_backend(url)) as calling,
        open_http_transport(parse_backend("file:///somewhere")) as strange,
        serving.listen("a-1", "t", lambda inbound: inbound.respond(b"answer")) as endpoint,
    ):
        assert endpoint.partition("127.0.0.1")[0] == "http://"
        assert serving.scheme == "http"
        assert await calling.request(endpoint, b"", timeout=PATIENCE) == b"answer"
        with pytest.raises(TransportUnavailable, match="answered 401"):
            await strange.request(endpoint, b"", timeout=PATIENCE)


async def test_lent_transport_speaks_tls(tmp_path: Path) -> None:
    """With a certificate in the URL."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    url = f"file:///somewhere?ca_file={tmp_path}/ca.pem&cert_file={tmp_path}/node.pem"
    async with (
        open_http_transport(parse_backend(url)) as serving,
        open_http_transport(parse_backend(url)) as calling,
        serving.listen("a-1", "t", lambda inbound: inbound.respond(b"answer")) as endpoint,
    ):
        assert endpoint.partition("127.0.0.1")[0] == "https://"
        assert await calling.request(endpoint, b"", timeout=PATIENCE) == b"answer"


async def test_routers_and_instances_may_be_reached_by_tls_and_tokens(tmp_path: Path) -> None:
    """With certificates of one authority, and secrets from files; without them nobody is let in."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(tls)
    (tmp_path / "token").write_text("router-secret")
    (tmp_path / "calls").write_text("call-secret")
    tokens = Tokens({"router-secret": Principal("token", "nodes")})
    async with MemoryCluster("tls").open() as memory, trio.open_nursery() as nursery:
        store = memory.store
        assert store is not None

        async def commit(_principal: Principal, transaction: Transaction) -> tuple[int, ...]:
            return await store.commit(transaction)

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        app = RouterApp(store, commit, permit_all, tokens=tokens)
        server = await nursery.start(partial(serve_router, app, [listener], tls=tls))
        port = listener.socket.getsockname()[1]
        router = f"https://127.0.0.1:{port}?ca_file={tmp_path}/ca.pem"
        with pytest.raises(StoreUnavailable, match=r"asks for a token: .* token_file=PATH"):
            async with open_http(parse_backend(router)):
                pass
        (tmp_path / "another").write_text("guessed")
        with pytest.raises(StoreUnavailable, match="does not know this token"):
            async with open_http(parse_backend(f"{router}&token_file={tmp_path}/another")):
                pass
        with pytest.raises(StoreUnavailable, match="certificate"):
            async with open_http(parse_backend(router.partition("?")[0])):
                pass
        known = f"{router}&token_file={tmp_path}/token&cert_file={tmp_path}/node.pem"
        async with (
            open_http(parse_backend(f"{known}&call_token_file={tmp_path}/calls")) as one,
            open_http(parse_backend(f"{known}&call_token_file={tmp_path}/calls")) as other,
            open_http(parse_backend(known)) as stranger,
        ):
            assert one.store is not None
            async with one.store.watch() as feed:
                await one.store.commit(Transaction("t", (Put("k", b"v", ABSENT),)))
                assert await feed.receive()
            (serving,), (calling,), (strange,) = one.transports, other.transports, stranger.transports
            assert serving.scheme == "https"
            async with serving.listen("a-1", "t", lambda inbound: inbound.respond(b"answer")) as endpoint:
                assert await calling.request(endpoint, b"", timeout=PATIENCE) == b"answer"
                with pytest.raises(Exception, match="answered 401"):
                    await strange.request(endpoint, b"", timeout=PATIENCE)
        assert server.statistics.cut == {"tls": 1}
        nursery.cancel_scope.cancel()


async def test_address_is_chosen_taken_or_open_to_all(caplog: pytest.LogCaptureFixture) -> None:
    """A taken one is a `ConfigError`; one that others reach needs a call token, or a warning says so."""
    async with MemoryCluster("taken").open() as memory, trio.open_nursery() as nursery:
        assert memory.store is not None
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        at = f"127.0.0.1:{listener.socket.getsockname()[1]}"

        async def commit(_principal: Principal, transaction: Transaction) -> tuple[int, ...]:
            raise NotImplementedError

        await nursery.start(serve_router, RouterApp(memory.store, commit, permit_all), [listener])
        with pytest.raises(ConfigError, match="listen"):
            async with open_http(parse_backend(f"http://{at}?listen={at}")):
                pass
        async with open_http(parse_backend(f"http://{at}?listen=localhost:0&advertise=node:80")) as backend:
            assert backend.transports[0].endpoint("a", "b") == "http://node:80/instances/a/b"
        assert "no call token" not in caplog.text
        async with open_http(parse_backend(f"http://{at}?listen=0.0.0.0:0")):
            assert "no call token: whoever reaches 0.0.0.0:" in caplog.text
        nursery.cancel_scope.cancel()
