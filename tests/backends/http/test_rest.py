"""The REST interface: what it shows, in pages and with tags, and whom it refuses."""

from __future__ import annotations

import json

import pytest

from aegis_backends.http import wire
from aegis_backends.http.rest import ADMIN
from aegis_backends.http.tokens import Tokens
from aegis_core import ResourceMetadata, Role, Service
from aegis_core.hookspecs import Principal, Target, hookimpl
from tests.backends.http.managed import open_managed

SERVICE = Service("order-books", version="1.2.3")


async def test_services_are_shown_with_their_instances() -> None:
    """Under the base and under both aliases; health and role as they are, and no lease."""
    async with (
        open_managed() as router,
        router.node.serve(SERVICE, instance_id="one", role=Role.ACTIVE),
        router.node.serve(SERVICE, instance_id="two", role=Role.STANDBY, metadata={"zone": "a"}),
    ):
        page = (await router.get("/services")).json()
        for alias in ("", "/api"):
            assert (await router.client.get(f"{alias}/services")).json() == page
        assert (page["total_count"], page["has_more"]) == (1, False)
        (service,) = page["services"]
        assert service["service_name"] == "order-books"
        first, second = service["instances"]
        assert [first["instance_id"], first["role"], first["status"], first["health"]] == [
            *("one", "ACTIVE", "ACTIVE", "ONLINE"),
        ]
        assert [second["role"], second["version"], second["metadata"]] == ["STANDBY", "1.2.3", {"zone": "a"}]
        assert second["registered_at"] <= second["last_heartbeat"]
        assert "lease" not in second
        assert (await router.get("/services/order-books")).json() == service
        assert (await router.get("/instances/two")).json() == second
        roles = (await router.get("/services/order-books/roles")).json()
        assert roles["groups"] == {"default": {"active": "one", "standbys": ["two"]}}


async def test_resources_are_found_in_pages() -> None:
    """By all that WIRE names, and by their ids, which may hold slashes."""
    async with open_managed() as router, router.node.serve(SERVICE, instance_id="one") as instance:
        gold = ResourceMetadata(resource_type="book", tags=("gold", "new"), attributes={"depth": 3})
        await instance.claim("book:1", "a/b", metadata=gold)
        await instance.claim("käse@2")
        page = (await router.get("/resources", limit=2)).json()
        assert [found["resource_id"] for found in page["resources"]] == ["book:1", "a/b"]
        assert (page["total_count"], page["has_more"]) == (3, True)
        page = (await router.get("/resources", limit=2, offset=2)).json()
        assert [found["resource_id"] for found in page["resources"]] == ["käse@2"]
        assert not page["has_more"]
        found = (await router.get("/resources", tags=["new", "gold"], include_metadata="false")).json()
        assert found["total_count"] == 2
        assert found["resources"][0]["metadata"] is None
        assert (await router.get("/resources", containing="book")).json()["total_count"] == 1
        assert (await router.get("/resources", instance_id="nobody")).json()["total_count"] == 0
        named = (await router.get("/resources", resource_ids=["a/b", "other"])).json()
        assert [found["resource_id"] for found in named["resources"]] == ["a/b"]
        one = (await router.get("/resources/a%2Fb")).json()
        assert one["owner_instance_id"] == "one"
        assert one["metadata"]["attributes"] == {"depth": 3}
        assert one["epoch"] == instance.claims["a/b"].epoch
        told = (await router.get("/resources/k%C3%A4se%402/explain")).json()
        assert told["owner"]["instance_id"] == "one"
        assert told["lease_left"] > 0
        assert "käse@2 is owned by one" in told["summary"]


async def test_audit_tells_what_moved() -> None:
    """Newest first, of one resource or of one instance."""
    async with open_managed() as router:
        registry = router.node.registry
        for name in ("one", "two"):
            await registry.register("svc", name)
        await registry.claim("svc", "one", "r1", "r2")
        await registry.transfer("svc", ["r1"], "one", "two", reason="first")
        await registry.transfer("svc", ["r2"], "one", "two", reason="second")
        page = (await router.get("/transfers")).json()
        assert [told["reason"] for told in page["transfers"]] == ["second", "first"]
        assert page["transfers"][0]["resource_ids"] == ["r2"]
        assert (await router.get("/transfers", resource_id="r1")).json()["total_count"] == 1
        assert (await router.get("/transfers", instance_id="two", limit=1)).json()["has_more"]
        assert (await router.get("/transfers", instance_id="three")).json()["transfers"] == []


REFUSED = {
    "unknown service": ("/services/none", 404, "SERVICE_NOT_FOUND"),
    "unknown roles": ("/services/none/roles", 404, "SERVICE_NOT_FOUND"),
    "unknown instance": ("/instances/none", 404, "INSTANCE_NOT_FOUND"),
    "unknown resource": ("/resources/none", 404, "RESOURCE_NOT_FOUND"),
    "no resource id": ("/resources/a%20b", 400, "VALIDATION_ERROR"),
    "no number": ("/resources?limit=many", 400, "VALIDATION_ERROR"),
    "huge number": ("/resources?offset=99999999999999999999", 400, "VALIDATION_ERROR"),
    "limit twice": ("/resources?limit=1&limit=2", 400, "VALIDATION_ERROR"),
    "no boolean": ("/resources?include_metadata=yes", 400, "VALIDATION_ERROR"),
    "unknown parameter": ("/services?page=2", 400, "VALIDATION_ERROR"),
    "parameter of the path": ("/services/none?service_name=x", 400, "VALIDATION_ERROR"),
    "ten thousand parameters": ("/services?" + "&".join(["a"] * 3000), 400, "VALIDATION_ERROR"),
    "unknown kind of event": ("/events?kind=nothing", 400, "VALIDATION_ERROR"),
    "unknown filter of events": ("/events?service=x", 400, "VALIDATION_ERROR"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals_are_problem_details(name: str) -> None:
    """With the code of the error, in the type that is made for them."""
    path, status, code = REFUSED[name]
    async with open_managed() as router:
        answer = await router.get(path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert [problem["code"], problem["status"]] == [code, status]


async def test_id_of_two_services_needs_the_service() -> None:
    """Which then is found."""
    async with open_managed() as router:
        for service in ("one", "two"):
            await router.node.registry.register(service, "same")
        answer = await router.get("/instances/same")
        assert answer.status_code == 400
        assert "one, two" in answer.text
        found = await router.get("/instances/same", service_name="two")
        assert found.json()["service_name"] == "two"


async def test_answer_is_not_sent_again_while_it_stays_the_same() -> None:
    """Its tag is that of its bytes: every router that knows the same has the same."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        for path in ("/resources", "/resources?trace_id=t-1", "/transfers"):
            answers = [await router.get(path) for _ in range(2)]
            assert answers[0].headers["etag"] == answers[1].headers["etag"]
        assert (await router.get("/resources", trace_id="t-1")).json()["trace_id"] == "t-1"
        first = await router.get("/services")
        tag = first.headers["etag"]
        assert first.headers["cache-control"] == "no-cache"
        for shown in (tag, f'"other", W/{tag}', "*"):
            again = await router.client.get(f"{ADMIN}/services", headers={"if-none-match": shown})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        await router.node.registry.heartbeat("svc", "one", status="unhealthy")
        changed = await router.client.get(f"{ADMIN}/services", headers={"if-none-match": tag})
        assert changed.status_code == 200
        assert changed.json()["services"][0]["instances"][0]["status"] == "UNHEALTHY"
        head = await router.client.head(f"{ADMIN}/services")
        assert (head.content, head.headers["etag"]) == (b"", changed.headers["etag"])


def showing(token: str) -> dict[str, str]:
    """The headers of a client with *token*."""
    return {"authorization": f"Bearer {token}"} if token else {}


class Discreet:
    """Shows services to nobody but admins."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """What it says."""
        hidden = operation in {"list_services", "events", "watch"} or target.resource_ids == ("secret",)
        return principal.is_admin if hidden else None


async def test_who_may_read_is_a_plugins_to_say() -> None:
    """Tokens name principals; by default all of them may read."""
    tokens = Tokens({"a": Principal("token", "admin", is_admin=True), "w": Principal("token", "worker")})
    async with open_managed(tokens, plugins=(Discreet(),)) as router:
        expected = {
            "/services": {"a": 200, "w": 403, "": 401},
            "/resources": {"a": 200, "w": 200, "": 401},
            "/resources/secret": {"a": 404, "w": 403, "": 401},
            "/events": {"w": 403, "": 401},
        }
        for path, by_token in expected.items():
            for token, status in by_token.items():
                answer = await router.client.get(ADMIN + path, headers=showing(token))
                assert (path, token, answer.status_code) == (path, token, status)
        assert (await router.client.get("/openapi.json")).status_code == 200


async def test_who_may_read_the_store_is_a_plugins_to_say() -> None:
    """By whichever path, because each of them would show what is hidden elsewhere; by default all tokens may."""
    tokens = Tokens({"a": Principal("token", "admin", is_admin=True), "w": Principal("token", "worker")})
    reading = [("GET", wire.STORE), ("GET", f"{wire.KEYS}/resources.secret"), ("POST", wire.SYNC), ("HEAD", wire.WATCH)]
    async with open_managed(tokens, plugins=(Discreet(),)) as discreet, open_managed(tokens) as router:
        for method, path in reading:
            for token, statuses in {"a": [200, 200], "w": [403, 200], "": [401, 401]}.items():
                answers = [
                    await each.client.request(method, path, headers=showing(token)) for each in (discreet, router)
                ]
                assert (path, token, [answer.status_code for answer in answers]) == (path, token, statuses)
        answer = await discreet.client.get(wire.WATCH, headers=showing("w"))
        assert answer.json()["details"]["operation"] == "watch"


async def test_what_json_cannot_hold_is_told_as_text() -> None:
    """Bytes by their digits, numbers that are none as null."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        odd = ResourceMetadata(attributes={"b": b"\x01\xff", "n": 1.5, "deep": [{"x": None, "y": True}]})
        await router.node.registry.claim("svc", "one", "r", metadata=odd)
        told = json.loads((await router.get("/resources/r")).text)
        assert told["metadata"]["attributes"] == {"b": "01ff", "n": 1.5, "deep": [{"x": None, "y": True}]}
        assert told["metadata"]["last_modified"].endswith("+00:00")
        assert "Rest" in repr(router.rest)
