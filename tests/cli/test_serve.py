"""``aegis serve``: what it takes, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio
import trustme

from aegis_backends.http.serving import read_tokens
from aegis_backends.memory import MemoryCluster
from aegis_backends.nats.bus import NatsBus
from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.opening import read_address
from aegis_backends.nats.server import NatsServers
from aegis_core import Call, Claim
from aegis_core.cli.serve import serve
from aegis_core.config import parse_backend
from aegis_core.errors import CallTimeout, ConfigError, Forbidden, StoreUnavailable, Unavailable
from aegis_core.hookspecs import Principal
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.cli.running import PROGRAM
from tests.conformance.test_nats import one_server
from tests.observe.scraping import parse
from tests.router.processes import PATIENCE, open_router
from tests.router.wired import Client

__all__ = ["one_server"]

TOKENS = """
[nodes]
token = "n-secret"

[operators]
token = "o-secret"
admin = true
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_signal_ends_it_once_what_is_under_way_is_answered(number: signal.Signals) -> None:
    """With exit status 0: whoever watches goes to the next router."""
    async with open_router("--backend", "memory://", "--http", "127.0.0.1:0") as router:
        async with httpx.AsyncClient(base_url=router.url, timeout=PATIENCE) as client:
            assert (await client.get("/health")).status_code == 200
            async with client.stream("GET", "/api/v1/store/watch") as watch:
                assert watch.status_code == 200
                router.process.send_signal(number)
                with trio.fail_after(PATIENCE):
                    async for _ in watch.aiter_raw():
                        pass
        with trio.fail_after(PATIENCE):
            assert await router.process.wait() == 0


async def test_nodes_meet_at_it_with_tokens_and_certificates(tmp_path: Path) -> None:
    """One that shows no token is not let in; one that is no admin changes its own alone."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "tokens.toml").write_text(TOKENS)
    (tmp_path / "nodes").write_text("n-secret")
    (tmp_path / "operators").write_text("o-secret")
    files = ("--tokens", "tokens.toml", "--certificate", "cert.pem", "--key", "key.pem")
    arguments = [str(tmp_path / part) if "." in part else part for part in files]
    service = Service("svc", version="1.0.0")
    async with open_router("--backend", "memory://", "--http", "127.0.0.1:0", *arguments) as router:
        url = f"{router.url}?ca_file={tmp_path}/ca.pem"
        with pytest.raises(StoreUnavailable, match="asks for a token"):
            async with open_node(url):
                pass
        async with (
            open_node(f"{url}&token_file={tmp_path}/nodes") as node,
            open_node(f"{url}&token_file={tmp_path}/nodes") as other,
            open_node(f"{url}&token_file={tmp_path}/operators") as operator,
            node.serve(service, instance_id="one") as instance,
        ):
            await instance.claim("mine")
            with pytest.raises(Forbidden, match="token:nodes may only act for itself"):
                await other.registry.disconnect("svc", "one")
            assert (await other.registry.get_owner("mine")).owner_instance_id == "one"
            assert await operator.registry.disconnect("svc", "one") == ("mine",)


async def test_metrics_are_told_where_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``/metrics``, for who may ask; elsewhere there is no such page."""
    arguments = ("--backend", "memory://", "--http", "127.0.0.1:0")
    async with open_router(*arguments) as router, httpx.AsyncClient(base_url=router.url, timeout=PATIENCE) as client:
        assert (await client.get("/metrics")).status_code == 404
    monkeypatch.setenv("AEGIS_METRICS_ENABLED", "true")
    async with open_router(*arguments) as router, httpx.AsyncClient(base_url=router.url, timeout=PATIENCE) as client:
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        page = parse(answer.text)
        assert page.value("ipc_transport_reconnects_total") == 0
        # Who has no host, and who asks for another protocol.
        for request in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nConnection: upgrade\r\n\r\n",
        ):
            async with await trio.open_tcp_stream("127.0.0.1", httpx.URL(router.url).port or 0) as stream:
                await stream.send_all(request)
                assert await stream.receive_some()
        page = parse((await client.get("/metrics")).text)
        for reason in ("malformed", "upgrade"):
            assert page.value("ipc_http_clients_cut_total", reason=reason) == 1


async def test_router_needs_some_connections() -> None:
    """With a few it would refuse its own nodes."""
    with pytest.raises(ConfigError, match="needs 16 connections or more, not 15"):
        await serve(http="127.0.0.1:0", backend="memory://", connections=15)


async def refused(node: Node) -> object:
    """What a call through *node* comes to, in as much time as it needs to come to anything."""
    for timeout in (0.5, 5.0):
        with suppress(CallTimeout):
            return await node.call("rooms", "where", timeout=timeout)
    return await node.call("rooms", "where", timeout=PATIENCE)


async def test_router_reaches_instances_that_listen_on_http(tmp_path: Path) -> None:
    """With the token that they ask for: it calls them for others, and has them hand over."""
    (tmp_path / "token").write_text("c-secret")
    rooms = Service("rooms", version="1.0.0")

    @rooms.method
    async def where(call: Call) -> str:
        """Who answers."""
        assert call.instance is not None
        return call.instance.instance_id

    @rooms.on_acquire
    async def adopt(_claim: Claim) -> None:
        """Take over what is transferred."""

    arguments = ("--backend", "memory://", "--http", "127.0.0.1:0", "--call-token", str(tmp_path / "token"))
    async with open_router(*arguments) as router:
        url = f"{router.url}?call_token_file={tmp_path}/token"
        async with (
            open_node(url) as node,
            httpx.AsyncClient(base_url=f"{router.url}/api/v1/admin/", timeout=PATIENCE) as client,
            node.serve(rooms, instance_id="one") as one,
            node.serve(rooms, instance_id="two"),
        ):
            await one.claim("lobby")
            asked = {"service_name": "rooms", "method": "where", "resource_id": "lobby"}
            async with open_node(router.url) as unknown:
                # In the pause before the last attempt or in the middle of it, however long the first connections take.
                with pytest.raises(Unavailable, match="answered 401"):
                    await refused(unknown)
            assert (await client.post("calls", json=asked)).json()["result"] == "one"
            move = {"from_instance_id": "one", "to_instance_id": "two", "resource_ids": ["lobby"]}
            moved = await client.post("resources/transfer", json={"service_name": "rooms", **move})
            assert moved.json()["transferred"] == ["lobby"]
            assert (await client.post("calls", json=asked)).json()["result"] == "two"


async def test_router_without_http_reaches_them_too(tmp_path: Path, one_server: NatsServers) -> None:
    """It may be asked on its subjects to call an instance that a node behind another router serves."""
    (tmp_path / "token").write_text("c-secret")
    rooms = Service("rooms", version="1.0.0")

    @rooms.method
    async def where(call: Call) -> str:
        """Who answers."""
        assert call.instance is not None
        return call.instance.instance_id

    arguments = (
        "--backend",
        f"{one_server.url}?storage=memory&bucket=without-http",
        "--call-token",
        str(tmp_path / "token"),
    )
    settings = read_address(parse_backend(one_server.url))
    async with open_router(*arguments, "--http", "127.0.0.1:0") as other:
        url = f"{other.url}?call_token_file={tmp_path}/token"
        async with open_node(url) as node, node.serve(rooms, instance_id="one", ttl=120) as one:
            await one.claim("lobby")
            async with open_router(*arguments), open_connection(settings.servers, settings.options) as connection:
                await other.kill()
                client = Client(NatsBus(connection), "_INBOX.test")
                call = {"service_name": "rooms", "method": "where", "resource_id": "lobby"}
                with trio.fail_after(PATIENCE):
                    answer = await client.ask("route.request", **call, timeout=30)
                assert (answer["success"], answer["result"]) == (True, "one"), answer


WRONG_TOKENS = {
    "no TOML": "[",
    "nothing": "",
    "no token": "[nodes]\nadmin = true",
    "no table": "nodes = 1",
    "something else": '[nodes]\ntoken = "x"\nrole = "y"',
    "admin of another kind": '[nodes]\ntoken = "x"\nadmin = "yes"',
    "empty": '[nodes]\ntoken = ""',
    "two words": '[nodes]\ntoken = "s3cret x"',
    "no ASCII": '[nodes]\ntoken = "s3cretä"',
    "the same twice": '[a]\ntoken = "s3cret"\n[b]\ntoken = "s3cret"',
}


@pytest.mark.parametrize("name", WRONG_TOKENS)
def test_wrong_tokens_are_a_config_error(name: str, tmp_path: Path) -> None:
    """That names the file, and shows none of them."""
    path = tmp_path / "tokens.toml"
    path.write_text(WRONG_TOKENS[name])
    with pytest.raises(ConfigError) as caught:
        read_tokens(path)
    assert caught.value.source == str(path)
    assert "s3cret" not in str(caught.value)


def test_tokens_are_read_with_their_principals(tmp_path: Path) -> None:
    """By the name of their table."""
    (tmp_path / "tokens.toml").write_text(TOKENS)
    tokens = read_tokens(tmp_path / "tokens.toml")
    assert tokens.principal(b"Bearer n-secret", "x") == Principal("token", "nodes")
    assert tokens.principal(b"Bearer o-secret", "x") == Principal("token", "operators", is_admin=True)


async def test_what_it_cannot_serve_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is none or taken, the world without tokens, files that are not there."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        taken = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        for http in ("127.0.0.1:port", taken):
            with pytest.raises(ConfigError, match="http"):
                await serve(http=http, backend="memory://")
    with pytest.raises(ConfigError, match="give it tokens"):
        await serve(http="0.0.0.0:0", backend="memory://")
    with pytest.raises(ConfigError, match=r"certificate, key: \S+missing\.pem: "):
        await serve(http="127.0.0.1:0", backend="memory://", certificate=tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match="cannot be read"):
        await serve(http="127.0.0.1:0", backend="memory://", tokens=tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="call_token"):
        await serve(http="127.0.0.1:0", backend="memory://", call_token=tmp_path / "missing")
    with pytest.raises(ConfigError, match="ca"):
        await serve(http="127.0.0.1:0", backend="memory://", ca=tmp_path / "missing.pem")
    monkeypatch.setattr("aegis_core.cli.serve._REACH", "aegis_backends.nothing")
    for option in ("call_token", "ca"):
        given = {option: tmp_path / "token"}
        with pytest.raises(ConfigError, match=rf"{option}.*aegis-ipc\[http\]"):
            await serve(backend="memory://", **given)  # type: ignore[arg-type]
    monkeypatch.setattr("aegis_core.cli.serve._FACE", "aegis_backends.nothing")
    with pytest.raises(ConfigError, match=r"aegis-ipc\[http\]"):
        await serve(http="127.0.0.1:0", backend="memory://")


WRONG_OPTIONS = {
    "no port": ({"http": "8700"}, "for this machine alone it is 127.0.0.1:8700"),
    "no certificate": ({"http": "127.0.0.1:0", "key": Path("key.pem")}, "nothing would be encrypted"),
    "nobody's rate": ({"http": "127.0.0.1:0", "rate": 0.0}, "more than 0, got 0"),
    "tokens without HTTP": ({"tokens": Path("tokens.toml")}, "tokens: it concerns HTTP alone"),
    "rate without HTTP": ({"rate": 5.0}, "rate: it concerns HTTP alone"),
    "nothing that others reach": ({}, "no subjects that others could reach"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
async def test_options_that_would_not_do_what_they_seem_to_are_refused(name: str) -> None:
    """Rather than to serve without what somebody relies on."""
    options, problem = WRONG_OPTIONS[name]
    with pytest.raises(ConfigError, match=problem):
        await serve(backend="memory://", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("level", "shown"), [("", True), ("ERROR", False)])
async def test_warnings_are_shown_unless_settings_say_what_is(level: str, shown: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a case
    """On standard error: somebody should read what a router without tokens lets everybody do."""
    environment = {**os.environ, **({"AEGIS_LOG_LEVEL": level} if level else {})}
    with (tmp_path / "errors").open("wb") as errors:
        process = await trio.lowlevel.open_process(
            [*PROGRAM, "serve", "--backend", "memory://", "--http", "127.0.0.1:0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    with trio.fail_after(PATIENCE):
        assert await process.stdout.receive_some()
        process.terminate()
        assert await process.wait() == 0
    assert ("WARNING aegis.http: the router knows no tokens" in (tmp_path / "errors").read_text()) is shown


async def test_router_that_cannot_serve_takes_no_requests(
    one_server: NatsServers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its subjects are served last, so that none of theirs is lost with it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        with pytest.raises(ConfigError, match="in use"):
            await serve(
                http=f"127.0.0.1:{listener.socket.getsockname()[1]}",
                backend=f"nats://{one_server.location}?bucket=unserved&storage=memory",
            )
    assert "serving" not in capsys.readouterr().out


async def test_second_signal_ends_it_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """In the middle of what is under way."""
    async with MemoryCluster("x").open(), trio.open_nursery() as nursery:
        statuses: list[int] = []
        ended = trio.Event()

        @nursery.start_soon
        async def run() -> None:
            statuses.append(await serve(http="127.0.0.1:0", backend="memory://"))
            ended.set()

        said = url = ""
        with trio.fail_after(PATIENCE):
            while not url:
                await trio.sleep(0.01)
                said += capsys.readouterr().out
                url = said.partition("serving http://")[2].strip()
        host, _, port = url.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"POST /api/v1/store/commit HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            await trio.sleep(0.05)
            began = trio.current_time()
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(0.05)
            signal.raise_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                await ended.wait()
            assert trio.current_time() - began < 5.0
        assert statuses == [0]
