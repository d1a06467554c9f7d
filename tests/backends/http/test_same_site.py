"""Pages of other sites, and names that others made point here."""

from __future__ import annotations

import pytest

from aegis_backends.http import wire
from aegis_backends.http.same_site import check_same_site
from aegis_backends.http.tokens import Tokens
from aegis_core.errors import Forbidden
from aegis_core.hookspecs import Principal
from tests.backends.http.managed import open_managed
from tests.backends.http.scopes import make_scope

ADDRESSED = ["localhost", "LocalHost:8700", "127.0.0.1:8700", "127.1.2.3", "[::1]:8700", "[::1]", ""]


@pytest.mark.parametrize("host", ADDRESSED)
def test_this_machine_is_known_by_its_own_names(host: str) -> None:
    """With and without a port; programs may name no host at all."""
    check_same_site(make_scope(headers=[(b"host", host.encode())] if host else []))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8700", "localhost.evil.example", "10.0.0.1", "[::2]:1", ":1", "::1", "[", "[]"],
)
def test_other_names_are_refused(host: str) -> None:
    """Whose owner may have made them point here."""
    with pytest.raises(Forbidden, match="loopback"):
        check_same_site(make_scope(headers=[(b"host", host.encode())]))


@pytest.mark.parametrize("host", ["node.example", "NODE.example:1", "10.1.2.3:8700", "[2001:db8::1]"])
def test_own_names_are_known(host: str) -> None:
    """What a server is known by elsewhere, and the address that the request came to."""
    scope = make_scope(headers=[(b"host", host.encode())])
    scope["server"] = ("2001:db8::1" if "::" in host else "10.1.2.3", 8700)
    check_same_site(scope, {"node.example"})
    scope["server"] = ("10.9.9.9", 8700)
    with pytest.raises(Forbidden, match="loopback"):
        check_same_site(scope, {"other.example"})


@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        ("http://localhost:8700", False),
        ("HTTP://LOCALHOST:8700", False),
        ("https://localhost:8700", True),
        ("http://localhost:8701", True),
        ("http://127.0.0.1:8700", True),
        ("http://evil.example", True),
        ("null", True),
    ],
)
def test_pages_of_other_sites_are_refused(origin: str, *, refused: bool) -> None:
    """Another port is another site."""
    scope = make_scope(headers=[(b"host", b"localhost:8700"), (b"origin", origin.encode())])
    if not refused:
        check_same_site(scope)
        return
    with pytest.raises(Forbidden, match="another site"):
        check_same_site(scope)


async def test_router_without_tokens_listens_to_no_page_of_another_site() -> None:
    """Whatever it asks for, the store included; its health is no secret."""
    async with open_managed() as router:
        for method, path in (("POST", wire.COMMIT), ("POST", wire.SYNC), ("GET", "/services"), ("GET", wire.WATCH)):
            for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
                answer = await router.client.request(method, path, headers=headers)
                assert answer.status_code == 403
                assert answer.json()["code"] == "FORBIDDEN"
                assert "access-control-allow-origin" not in answer.headers
        assert (await router.client.get("/health", headers={"host": "evil.example"})).status_code == 200


async def test_router_with_tokens_has_any_name() -> None:
    """No page knows a token."""
    headers = {"host": "router.example", "origin": "http://other.example", "authorization": "Bearer t"}
    async with open_managed(Tokens({"t": Principal("token", "one")})) as router:
        assert (await router.client.get("/services", headers=headers)).status_code == 200
        assert (await router.client.get("/services", headers={**headers, "authorization": ""})).status_code == 401
