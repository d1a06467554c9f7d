"""The permissions in the documentation are enough for what a node does, and for no more; by a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.errors import PermissionDenied
from aegis_backends.nats.opening import open_nats, read_address
from aegis_core import Call, Claim, Role, Service, open_node
from aegis_core.config import parse_backend
from aegis_core.errors import ConfigError
from tests.backends.nats.processes import ServerProcess, running

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "nats-in-production.md"


def documented() -> str:
    """The configuration that the page shows, with passwords."""
    (found,) = re.findall(r"(?ms)^```text\n# permissions\.conf\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    return found.replace("$ADMIN_PASSWORD", "secret").replace("$APP_PASSWORD", "secret")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that is configured as the page says."""
    folder = tmp_path / "server"
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}\n{documented()}') as process:
        yield process


def url(server: ServerProcess, user: str) -> str:
    """The backend as *user* opens it."""
    return f"{server.url}?storage=memory&user=aegis-{user}&password=secret&inbox_prefix=_INBOX_{user}"


async def test_documented_permissions_are_enough_for_a_node(server: ServerProcess) -> None:
    """Once the admin has made the bucket: serving, calling, owning, standing by, transferring; nothing is refused."""
    rooms = Service("rooms")

    @rooms.on_acquire
    async def furnish(claim: Claim) -> None:
        """Nothing to load."""

    @rooms.method
    async def enter(call: Call) -> str:
        assert call.instance is not None
        return call.instance.instance_id

    with pytest.raises(ConfigError, match=r"does not allow this user to publish.*STREAM\.CREATE"):
        async with open_nats(parse_backend(url(server, "app"))):
            pass
    async with open_nats(parse_backend(url(server, "admin"))):
        pass
    with trio.fail_after(30):
        async with (
            open_node(url(server, "app")) as one,
            open_node(url(server, "app")) as other,
            one.serve(rooms, instance_id="one") as first,
            other.serve(rooms, instance_id="other") as second,
        ):
            await first.claim("room")
            assert await other.call("rooms", "enter", resource_id="room") == "one"
            assert await one.call("rooms", "enter", instance_id="other") == "other"
            async with first.own("hall"):
                assert await other.call("rooms", "enter", resource_id="hall") == "one"
            async with second.own("hall", role=Role.STANDBY):
                assert await one.call("rooms", "enter", resource_id="hall") == "other"
            await first.release("room")
            await first.bulk_claim([f"desk:{number}" for number in range(100)])
            await first.transfer("desk:1", "desk:2", to="other")
            for number, owner in ((0, "one"), (1, "other")):
                assert await one.call("rooms", "enter", resource_id=f"desk:{number}") == owner
            assert (await other.registry.query_resources(service_name="rooms")).total_count == 100
    log = (server.folder / "log").read_text(encoding="utf-8")
    violations = re.findall(r"\w+ Violation.*", log)
    assert len(violations) == 1, violations
    assert "STREAM.CREATE" in violations[0]


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.DELETE.KV_service-registry",
        "$JS.API.STREAM.PURGE.KV_service-registry",
        "$JS.API.STREAM.UPDATE.KV_service-registry",
        "$JS.API.STREAM.CREATE.OTHERS",
        "$JS.API.STREAM.NAMES",
        "$KV.others.key",
        "ipc.service.register",
        "_INBOX_app.1",
        "others",
    ],
)
async def test_documented_permissions_allow_nothing_else(server: ServerProcess, subject: str) -> None:
    """What is another's, and what would take the registry away from all."""
    async with open_nats(parse_backend(url(server, "admin"))):
        pass
    settings = read_address(parse_backend(url(server, "app")))
    async with open_connection(settings.servers, settings.options) as connection:
        with pytest.raises(PermissionDenied):
            await connection.request(subject, json.dumps({"name": "OTHERS"}).encode(), timeout=5.0)


@pytest.mark.parametrize("subject", ["_INBOX.>", "_INBOX_admin.>", "$KV.>", "$JS.>", "ipc.service.register", ">"])
async def test_documented_permissions_let_nobody_listen_in(server: ServerProcess, subject: str) -> None:
    """Answers to others, and what is written, past the consumers."""
    settings = read_address(parse_backend(url(server, "app")))
    async with open_connection(settings.servers, settings.options) as connection:
        with pytest.raises(PermissionDenied):
            async with connection.subscribe(subject):
                pass
