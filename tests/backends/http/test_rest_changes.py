"""The REST interface: what may be done through it, by whom, and in which form."""

from __future__ import annotations

import json

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest

from aegis_backends.http.asked import map_of_body
from aegis_backends.http.rest import ADMIN
from aegis_backends.http.tokens import Tokens
from aegis_core import Call, Service
from aegis_core.hookspecs import Principal, Target, hookimpl
from tests.backends.http.managed import Managed, open_managed

BOOKS = Service("books", version="1.0.0")
TOKENS = Tokens({"a": Principal("token", "ann", is_admin=True), "w": Principal("token", "worker")})


@BOOKS.method
async def depth(call: Call, side: str, *, fail: bool = False) -> dict[str, object]:
    """Say what was asked, or fail."""
    if fail:
        raise ValueError(side)
    return {"side": side, "resource": call.resource_id, "raw": b"\x01\x02"}


@BOOKS.on_acquire
async def adopt(_claim: object) -> None:
    """Take over what is transferred."""


async def post(router: Managed, path: str, **body: object) -> httpx.Response:
    """POST *body* as JSON to *path* below the base of the interface."""
    return await router.client.post(ADMIN + path, json=body)


async def test_resources_are_claimed_transferred_and_released() -> None:
    """In the names of instances that live by heartbeats."""
    async with open_managed() as router:
        for name in ("one", "two"):
            await router.node.registry.register("svc", name)
        owner = {"service_name": "svc", "instance_id": "one"}
        gold = {"tags": ["gold"], "attributes": {"x": [1, None]}}
        answer = await post(router, "/resources/claim", **owner, resource_ids=["a/b", "c"], metadata={"c": gold})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert [answer.json()["success"], answer.json()["registered"]] == [True, ["a/b", "c"]]
        again = {"service_name": "svc", "instance_id": "two", "resource_ids": ["c", "d"]}
        claimed = (await post(router, "/resources/claim", **again)).json()
        assert [claimed["success"], claimed["registered"], claimed["conflicts"]] == [False, ["d"], {"c": "one"}]
        found = (await router.get("/resources/c")).json()
        assert [found["metadata"]["tags"], found["metadata"]["attributes"]] == [["gold"], {"x": [1, None]}]
        move = {"from_instance_id": "one", "to_instance_id": "two", "resource_ids": ["c"], "reason": "test"}
        moved = (await post(router, "/resources/transfer", service_name="svc", **move)).json()
        assert moved["transferred"] == ["c"]
        (told,) = (await router.get("/transfers")).json()["transfers"]
        assert [told["transfer_id"], told["reason"]] == [moved["transfer_id"], "test"]
        released = (await post(router, "/resources/release", **owner, resource_ids=["a/b"])).json()
        assert released["released"] == ["a/b"]
        refused = await post(router, "/resources/release", **owner, resource_ids=["c"])
        assert [refused.status_code, refused.json()["code"]] == [403, "NOT_OWNER"]


async def test_many_resources_are_claimed_and_released_at_once() -> None:
    """With what failed, and why."""
    async with open_managed() as router:
        for name in ("one", "two"):
            await router.node.registry.register("svc", name)
        await router.node.registry.claim("svc", "two", "taken")
        owner = {"service_name": "svc", "instance_id": "one"}
        items = [{"resource_id": "a"}, {"resource_id": "taken"}, {"resource_id": "b", "metadata": {"priority": 3}}]
        bulk = await post(router, "/resources/bulk_register", **owner, resources=items, continue_on_error=True)
        assert bulk.json()["registered"] == ["a", "b"]
        (failed,) = bulk.json()["failed"]
        assert [failed["resource_id"], failed["error_code"], failed["current_owner"]] == [
            *("taken", "RESOURCE_CONFLICT", "two"),
        ]
        bulk = await post(router, "/resources/bulk_release", **owner, resource_ids=["a", "b"], batch_size=2.0)
        assert [bulk.json()["released"], bulk.json()["rollback_performed"]] == [["a", "b"], False]


async def test_instances_are_drained_and_disconnected() -> None:
    """One that a node serves hands over what it holds; a disconnected one is gone."""
    async with (
        open_managed() as router,
        router.node.serve(BOOKS, instance_id="one") as instance,
        router.node.serve(BOOKS, instance_id="two") as other,
    ):
        await instance.claim("a")
        drained = await post(router, "/instances/one/drain")
        assert drained.json()["success"]
        assert instance.claims == {}
        assert (await router.get("/instances/one")).json()["draining"]
        assert other.claims == {} or "a" in other.claims
        await router.node.registry.register("svc", "thin")
        await router.node.registry.claim("svc", "thin", "x")
        gone = (await post(router, "/instances/thin/disconnect", service_name="svc")).json()
        assert gone["released"] == ["x"]
        assert (await router.get("/instances/thin")).status_code == 404
        missing = await post(router, "/instances/thin/drain")
        assert [missing.status_code, missing.json()["code"]] == [404, "INSTANCE_NOT_FOUND"]


async def test_methods_are_called() -> None:
    """With the answer of the owner, or its error as a problem."""
    async with open_managed() as router, router.node.serve(BOOKS, instance_id="one") as instance:
        await instance.claim("a")
        call = {"service_name": "books", "method": "depth", "params": {"side": "bid"}}
        told = (await post(router, "/calls", **call, resource_id="a", trace_id="t-1")).json()
        assert told["result"] == {"side": "bid", "resource": "a", "raw": "0102"}
        assert [told["instance_id"], told["trace_id"]] == ["one", "t-1"]
        failed = await post(router, "/calls", **{**call, "params": {"side": "bid", "fail": True}})
        assert [failed.status_code, failed.json()["code"]] == [500, "REMOTE_ERROR"]
        unknown = await post(router, "/calls", **{**call, "service_name": "none"}, timeout=0.1)
        assert unknown.status_code in (404, 503)


REFUSED: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "$"),
    "no map": (b"[]", "$"),
    "no number of JSON": (b'{"timeout": NaN}', "$"),
    "half a character": (rb'{"service_name": "\ud800"}', "$"),
    "half a character, as bytes": (b'{"service_name": "books", "method": "depth", "message_id": "\xed\xa0\x80"}', "$"),
    "half a character in UTF-16": ('{"service_name": "\ud800"}'.encode("utf-16-le", "surrogatepass"), "$"),
    "too deep": (b"[" * 100_000, "$"),
    "a field is missing": (b'{"service_name": "a"}', "$.method"),
    "another type": (b'{"service_name": "a", "method": 1}', "$.method"),
    "half of one": (b'{"service_name": "a", "method": "m", "require_ack": 1.5}', "$.require_ack"),
    "out of bounds": (b'{"service_name": "a", "method": "m", "timeout": 301}', "$.timeout"),
    "null without a default": (b'{"service_name": null, "method": "m"}', "$.service_name"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_does_not_fit_is_told_with_its_path(name: str) -> None:
    """As everywhere."""
    content, path = REFUSED[name]
    async with open_managed() as router:
        headers = {"content-type": "application/json; charset=utf-8"}
        answer = await router.client.post(f"{ADMIN}/calls", content=content, headers=headers)
        assert answer.status_code == 400
        assert path in [problem["path"] for problem in answer.json()["details"]["problems"]]


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/msgpack"])
async def test_other_forms_than_json_are_refused(content_type: str) -> None:
    """A page of another site can send some of them without asking."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        headers = {"content-type": content_type} if content_type else {}
        answer = await router.client.post(f"{ADMIN}/instances/one/disconnect", content=b"{}", headers=headers)
        assert answer.status_code == 415
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await router.get("/instances/one")).status_code == 200


class Narrow:
    """Holds a token to the service of its name."""

    @hookimpl
    def aegis_authorize(self, principal: Principal, operation: str, target: Target) -> bool | None:
        """No objection to its own."""
        return None if principal.is_admin or target.service_name == principal.name else False


async def test_plug_in_may_refuse_a_token_what_it_shows_the_lease_for() -> None:
    """A lease says whose instance it is, not that its token is for that service."""
    async with open_managed(TOKENS, plugins=(Narrow(),)) as router:
        for service, status in {"worker": 200, "svc": 403}.items():
            lease = (await router.node.registry.register(service, "one")).lease_id
            claim = {"service_name": service, "instance_id": "one", "resource_ids": [service], "lease_id": lease}
            headers = {"authorization": "Bearer w"}
            answer = await router.client.post(f"{ADMIN}/resources/claim", json=claim, headers=headers)
            assert (service, answer.status_code) == (service, status)


async def test_only_who_may_changes_anything() -> None:
    """An admin, or who shows the lease of the instance; what concerns nobody is for all that are known."""
    async with open_managed(TOKENS) as router, router.node.serve(BOOKS, instance_id="served"):
        lease = (await router.node.registry.register("svc", "one")).lease_id
        claim: dict[str, object] = {"service_name": "svc", "instance_id": "one", "resource_ids": ["a"]}
        shown = {**claim, "lease_id": lease}
        forced = {**shown, "force": True}
        wrong = {**claim, "lease_id": "guessed"}
        call = {"service_name": "books", "method": "depth", "params": {"side": "bid"}}
        expected: list[tuple[str, str, dict[str, object], int]] = [
            ("", "/resources/claim", claim, 401),
            ("w", "/resources/claim", claim, 403),
            ("w", "/resources/claim", wrong, 403),
            ("w", "/resources/claim", forced, 403),
            ("w", "/resources/claim", shown, 200),
            ("a", "/resources/release", claim, 200),
            ("w", "/calls", dict(call), 200),
            ("w", "/instances/one/drain", {}, 403),
            ("w", "/instances/one/disconnect", {}, 403),
            ("a", "/instances/one/drain", {}, 200),
            ("a", "/instances/one/disconnect", {}, 200),
        ]
        for token, path, body, status in expected:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            answer = await router.client.post(ADMIN + path, json=body, headers=headers)
            assert (token, path, answer.status_code) == (token, path, status)


async def test_resource_may_be_named_like_an_operation() -> None:
    """It is looked for by GET."""
    async with open_managed() as router:
        await router.node.registry.register("svc", "one")
        await router.node.registry.claim("svc", "one", "claim")
        assert (await router.get("/resources/claim")).json()["owner_instance_id"] == "one"
        refused = await router.client.put(f"{ADMIN}/resources/claim")
        assert [refused.status_code, refused.headers["allow"]] == [405, "POST"]


LARGE = {
    "text": b'{"service_name": "' + b"x" * (1 << 20) + b'"}',
    "lists": b'{"service_name": "books", "z": [' + b"[]," * 100_000 + b"[]]}",
    "maps": b'{"service_name": "books", "z": [' + b"{}," * 100_000 + b"{}]}",
}


@pytest.mark.parametrize("name", LARGE)
async def test_body_is_bounded(name: str) -> None:
    """Far below what nodes write at once, and by what it would be in memory, too."""
    async with open_managed() as router:
        headers = {"content-type": "application/json"}
        answer = await router.client.post(f"{ADMIN}/calls", content=LARGE[name], headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
        assert ("at most 1048576 bytes" if name == "text" else "more than 100000 lists and maps") in answer.text


async def test_large_bulk_fits() -> None:
    """Ten thousand ids with what is said of each."""
    items = [{"resource_id": f"order-book/{n:06}", "metadata": {"tags": ["gold"]}} for n in range(10_000)]
    body = json.dumps({"service_name": "svc", "instance_id": "one", "resources": items}).encode()
    assert isinstance(map_of_body(body, {}), dict)
    assert len(body) < 1 << 20
