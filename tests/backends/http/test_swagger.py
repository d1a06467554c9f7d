"""The page that shows the OpenAPI document: whole, for everybody, and only for this router."""

from __future__ import annotations

import re

import httpx  # noqa: ASYNC127 - the fork has its interface, and may be put in its place
import pytest
import trio

from aegis_backends.http.app import RouterApp
from aegis_backends.http.pages import page
from aegis_backends.http.swagger import POLICY, add_swagger
from aegis_backends.http.tokens import Tokens
from aegis_core.hookspecs import Principal
from tests.backends.http.managed import open_managed
from tests.backends.http.scopes import Answers, make_request

TOKENS = Tokens({"secret": Principal("token", "one")})


async def test_page_and_its_parts_are_shown_to_everybody() -> None:
    """They ask for the document, which holds no secret either; by names that stay right behind a proxy."""
    async with open_managed(TOKENS) as router:
        add_swagger(router.app)
        html = await router.client.get("/docs")
        assert html.headers["content-type"] == "text/html; charset=utf-8"
        named = re.findall(r'(?:src|href)="([^"]+)"', html.text)
        assert len(named) == 4
        for name in named:
            assert re.fullmatch(r"docs/[\w.-]+|data:,", name)
            if name != "data:,":
                part = await router.client.get(f"/{name}")
                assert part.status_code == 200
                assert part.headers["content-security-policy"] == POLICY.decode()
                assert part.headers["x-content-type-options"] == "nosniff"
        start = await router.client.get("/docs/start.js")
        (document,) = re.findall(r'url: "(.*)"', start.text)
        assert (await router.client.get(f"/{document}")).json()["openapi"] == "3.1.0"


async def test_policy_lets_the_page_speak_to_its_router_alone() -> None:
    """No other server, no code in the page itself, no frame around it."""
    rules = dict(rule.split(" ", 1) for rule in POLICY.decode().split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules["script-src"], rules["style-src"], rules["connect-src"]} == {"'self'"}
    assert rules["frame-ancestors"] == "'none'"
    await trio.lowlevel.checkpoint()


async def test_packed_file_is_unpacked_for_who_cannot() -> None:
    """And is the same."""
    async with open_managed() as router:
        add_swagger(router.app)
        path = "/docs/swagger-ui.css"
        packed = await router.client.get(path, headers={"accept-encoding": "gzip"})
        plain = await router.client.get(path, headers={"accept-encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.text == plain.text
        assert ".swagger-ui" in plain.text
        same = await router.client.get(path, headers={"if-none-match": plain.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")


async def test_page_in_process() -> None:
    """As an endpoint, it is a function of the request."""
    answers = Answers()
    response = await page(b"hello", b"text/plain", policy=b"default-src 'none'")(make_request(answers))
    assert response is not None
    assert (response.body, response.status) == (b"hello", 200)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(_served()), base_url="http://localhost") as client:  # type: ignore[arg-type]
        assert (await client.get("/docs")).status_code == 200


async def test_packed_page_is_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those who cannot do that themselves, however many they are."""
    unpacked: list[bytes] = []

    def unpack(data: bytes) -> bytes:
        unpacked.append(data)
        return b"large"

    monkeypatch.setattr("aegis_backends.http.pages.gzip.decompress", unpack)
    endpoint = page(b"small", b"text/plain", policy=b"default-src 'none'", is_packed=True)
    for _ in range(3):
        response = await endpoint(make_request(Answers()))
        assert response is not None
        assert response.body == b"large"
    packed = await endpoint(make_request(Answers(), headers=[(b"accept-encoding", b"gzip")]))
    assert packed is not None
    assert packed.body == b"small"
    assert unpacked == [b"small"]


def _served() -> RouterApp:
    """An application with the page alone; it has no store, which the page does not ask for."""
    app = RouterApp(None, None, None)  # type: ignore[arg-type]
    add_swagger(app)
    return app
