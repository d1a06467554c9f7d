"""The permissions in the documentation are enough for what a node does, and for no more; by a real server."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from aegis_backends.nats.bus import NatsBus
from aegis_backends.nats.connection import Connection, open_connection
from aegis_backends.nats.errors import PermissionDenied
from aegis_backends.nats.opening import open_nats, read_address
from aegis_core import Call, Claim, Role, Service, open_node
from aegis_core.config import parse_backend
from aegis_core.errors import ConfigError
from aegis_core.router.router import open_router
from aegis_core.router.wire import serve_subjects
from tests.backends.nats.processes import ServerProcess, running
from tests.router.wired import Client, OldInstance

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "how-to" / "nats-in-production.md"
SUBJECTS = DOCS / "reference" / "subjects.md"


def documented(page: Path = PAGE, name: str = "permissions") -> str:
    """The configuration that a page shows, with passwords."""
    (found,) = re.findall(rf"(?ms)^```text\n# {name}\.conf\n(.*?)^```$", page.read_text(encoding="utf-8"))
    return re.sub(r"\$[A-Z0-9_]+_PASSWORD", "secret", found)


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
    with trio.fail_after(60):
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
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.KV_service-registry",
        "$JS.API.CONSUMER.CREATE.KV_service-registry.>",
        "$KV.service-registry.>",
        "_INBOX_app.>",
    ],
)
async def test_permission_that_is_missing_is_named_at_once(subject: str, tmp_path: Path) -> None:
    """Whichever it is that a registry cannot be read without: nobody waits for what somebody else has to change."""
    text = documented()
    before, user, rest = text.partition('user: "aegis-app"')
    without = before + user + rest.replace(f'"{subject}"', '"nothing"', 1)
    assert without != text
    with running(tmp_path, f'jetstream {{ store_dir: "{tmp_path}" }}\n{without}') as server:
        async with open_nats(parse_backend(url(server, "admin"))):
            pass
        named = re.escape(subject.removesuffix(">"))
        with trio.fail_after(60), pytest.raises(ConfigError, match=f"does not allow this user to .*{named}"):
            async with open_node(url(server, "app")):
                pass


async def test_documented_permissions_are_enough_for_a_router_and_its_clients(server: ServerProcess) -> None:
    """Registering, claiming, serving, calling, events; nothing is refused."""
    async with open_nats(parse_backend(url(server, "admin"))):
        pass
    settings = read_address(parse_backend(url(server, "client")))
    heard: list[str] = []
    with trio.fail_after(60):
        async with (
            open_node(url(server, "router")) as node,
            open_router(node) as router,
            open_connection(settings.servers, settings.options) as connection,
        ):
            bus = NatsBus(connection)
            assert router.bus is not None
            client, old = Client(bus, "_INBOX_client"), OldInstance(bus, "thin", by_reply=True)
            async with (
                serve_subjects(router, router.bus),
                bus.subscribe("ipc.events.>", lambda message: heard.append(message.subject)),
                bus.subscribe("ipc.ack.>", lambda message: heard.append(message.subject)),
                old.listen(),
            ):
                who = {"service_name": "rooms", "instance_id": "thin", "lease_id": "secret"}
                assert (await client.ask("service.register", **who))["success"]
                assert (await client.ask("resource.register", **who, resource_ids=["lobby"]))["success"]
                call = {"service_name": "rooms", "method": "enter", "resource_id": "lobby", "message_id": "m"}
                for _ in range(2):
                    assert (await client.ask("route.request", **call, require_ack=True))["instance_id"] == "thin"
                assert (await client.ask("message.status", message_id="m"))["state"] == "acknowledged"
                old.by_reply = False
                assert (await client.ask("route.request", **{**call, "message_id": "n"}))["success"]
                assert (await client.ask("service.unregister", **who))["released"] == ["lobby"]
    assert {"ipc.events.resource_registered.rooms", "ipc.ack.m"} <= set(heard)
    assert "Violation" not in (server.folder / "log").read_text(encoding="utf-8")


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


# --- Clients of the subjects that may do a part --------------------------------------------------------------------


@attrs.define(eq=False)
class Clients:
    """A router, and its two clients."""

    url: str
    caller: Client
    room: NatsBus

    def ask_as_room(self) -> Client:
        """The instance's own requests."""
        return Client(self.room, "_INBOX_room_1")


@asynccontextmanager
async def clients(folder: Path) -> AsyncIterator[Clients]:
    """On a server that is configured as the page of the subjects says, and has a router with all permissions."""
    users = documented(SUBJECTS, "clients").replace("users: [", "users: [{user: router, password: secret}", 1)
    with running(folder, f'jetstream {{ store_dir: "{folder}" }}\n{users}') as server, trio.fail_after(60):
        opened = {}
        async with AsyncExitStack() as stack:
            backend = f"{server.url}?storage=memory&user=router&password=secret"
            router = await stack.enter_async_context(open_router(await stack.enter_async_context(open_node(backend))))
            assert router.bus is not None
            await stack.enter_async_context(serve_subjects(router, router.bus))
            for user, inbox in (("rooms-caller", "_INBOX_caller"), ("room-1", "_INBOX_room_1")):
                address = f"{server.url}?user={user}&password=secret&inbox_prefix={inbox}"
                settings = read_address(parse_backend(address))
                connection = open_connection(settings.servers, settings.options)
                opened[user] = NatsBus(await stack.enter_async_context(connection))
            yield Clients(server.url, Client(opened["rooms-caller"], "_INBOX_caller"), opened["room-1"])


async def test_documented_permissions_let_clients_do_their_part(tmp_path: Path) -> None:
    """One serves and claims, the other calls and looks."""
    async with clients(tmp_path / "server") as both:
        instance, caller = OldInstance(both.room, "room-1"), both.caller
        who = {"service_name": "rooms", "instance_id": "room-1", "lease_id": "secret"}
        async with instance.listen():
            assert (await both.ask_as_room().ask("service.register", **who))["success"]
            assert (await both.ask_as_room().ask("service.heartbeat", **who))["envelope"]["success"]
            assert (await both.ask_as_room().ask("resource.register", **who, resource_ids=["lobby"]))["success"]
            call = {"service_name": "rooms", "method": "enter", "resource_id": "lobby", "message_id": "m"}
            assert (await caller.ask("route.request", **call))["instance_id"] == "room-1"
            assert (await caller.ask("message.status", message_id="m"))["state"] == "acknowledged"
            assert (await caller.ask("resource.query", service_name="rooms"))["total_count"] == 1
            assert (await both.ask_as_room().ask("service.unregister", **who))["released"] == ["lobby"]
    assert "Violation" not in (tmp_path / "server" / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        *(("rooms-caller", f"ipc.{name}") for name in ("service.register", "resource.register", "resource.transfer")),
        *(("rooms-caller", f"ipc.{name}") for name in ("response.x", "instance.room-1.inbox", "events.x.rooms")),
        *(("room-1", f"ipc.{name}") for name in ("route.request", "resource.transfer", "instance.room-2.inbox")),
        ("room-1", "$KV.service-registry.resources.lobby"),
    ],
)
async def test_documented_permissions_let_clients_do_no_more(user: str, subject: str, tmp_path: Path) -> None:
    """Whatever somebody else's part is."""
    await refused(user, tmp_path, lambda connection: connection.request(subject, b"", timeout=5.0))


@pytest.mark.parametrize("subject", ["ipc.instance.room-2.inbox", "ipc.instance.>", "ipc.service.register", "_INBOX.>"])
@pytest.mark.parametrize("user", ["rooms-caller", "room-1"])
async def test_documented_permissions_let_clients_hear_no_more(user: str, subject: str, tmp_path: Path) -> None:
    """Least of all the calls of others."""

    async def listen(connection: Connection) -> None:
        async with connection.subscribe(subject):
            pass

    await refused(user, tmp_path, listen)


async def refused(user: str, folder: Path, act: Callable[[Connection], Awaitable[object]]) -> None:
    """The server denies *user* what *act* does."""
    inbox = {"rooms-caller": "_INBOX_caller", "room-1": "_INBOX_room_1"}[user]
    with running(folder / "server", documented(SUBJECTS, "clients")) as server, trio.fail_after(60):
        settings = read_address(parse_backend(f"{server.url}?user={user}&password=secret&inbox_prefix={inbox}"))
        async with open_connection(settings.servers, settings.options) as connection:
            with pytest.raises(PermissionDenied):
                await act(connection)
