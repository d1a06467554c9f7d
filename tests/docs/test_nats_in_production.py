"""The servers of the page on production: configured as printed, but for names and ports, and opened as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.opening import read_address
from aegis_backends.nats.server import NatsServers
from aegis_core import Service, open_node
from aegis_core.config import parse_backend
from tests.backends.nats.issuing import Certificates
from tests.backends.nats.processes import running
from tests.docs.test_pages import DOCS

TEXT = (DOCS / "how-to" / "nats-in-production.md").read_text(encoding="utf-8")


async def claim_something(url: str) -> None:
    """What a program does that uses the registry."""
    async with open_node(url) as node, node.serve(Service("account-service")) as instance:
        await instance.claim("account:42")


async def test_three_servers_as_configured_keep_the_bucket_three_times(tmp_path: Path) -> None:
    """With the names, addresses and folders of this machine in the places of theirs, and nothing else changed."""
    (configuration,) = re.findall(r"(?ms)^```text\n(server_name: n1\n.*?)^```$", TEXT)
    (url,) = re.findall(r"`(nats://n1:4222,n2:4222,n3:4222\S+)&creds=\S+`", TEXT)
    # On free ports, as one's own cluster has them, in the place of the one port of three machines.
    servers = NatsServers(3, tmp_path)
    await servers.start()
    used = [(server.directory / "server.conf").read_text(encoding="utf-8") for server in servers.servers]
    routes = [re.findall(r'listen: "(\S+)", routes', text)[0] for text in used]
    await servers.stop()
    for server in servers.servers:
        text = configuration.replace("server_name: n1", f"server_name: {server.name}")
        text = text.replace("/var/lib/nats", str(server.directory / "kept"))
        text = text.replace("0.0.0.0:6222", routes[servers.servers.index(server)])
        for number, route in enumerate(routes, 1):
            text = text.replace(f"nats://n{number}:6222", f"nats://{route}")
            url = url.replace(f"n{number}:4222", servers.servers[number - 1].url.removeprefix("nats://"))
        server.configure(server.port, f'listen: "127.0.0.1:{server.port}"\n{text}')
    try:
        for server in servers.servers:
            server.spawn()
        for server in servers.servers:
            await server.wait_ready()
        with trio.fail_after(60):
            await claim_something(url)
            settings = read_address(parse_backend(url))
            async with open_connection(settings.servers, settings.options) as connection:
                told = await connection.request("$JS.API.STREAM.INFO.KV_service-registry", b"", timeout=10)
        assert b'"num_replicas":3' in told.payload
        assert b'"storage":"file"' in told.payload
    finally:
        with trio.CancelScope(shield=True):
            await servers.stop()


@pytest.mark.parametrize(
    ("server_has", "parameters"),
    [
        pytest.param("", "tls_ca={ca}", id="authority"),
        pytest.param("verify: true", "tls_ca={ca}&tls_cert={cert}&tls_key={key}", id="certificate asked for"),
        pytest.param("handshake_first: true", "tls_ca={ca}&tls_first=true", id="handshake first"),
        pytest.param("", "tls_ca={ca}&tls_hostname=n1.example", id="another name"),
    ],
)
async def test_parameters_of_the_section_on_tls_open_a_node(server_has: str, parameters: str, tmp_path: Path) -> None:
    """Each for the servers that the section names it for."""
    section = TEXT.partition("### TLS\n")[2].partition("\n## ")[0]
    assert all(f"`{name}" in section for name in re.findall(r"tls_\w+", parameters))
    names = ["n1.example"] if "tls_hostname" in parameters else []
    made = Certificates(tmp_path / "certificates", *names)
    folder = tmp_path / "server"
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}\n{made.settings(server_has)}') as server:
        given = parameters.format(ca=made.authority, cert=made.client, key=made.client_key)
        with trio.fail_after(60):
            await claim_something(f"{server.url}?storage=memory&{given}")
