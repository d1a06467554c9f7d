"""The dashboard: one page that shows what the router knows, and transfers and drains.

The files beside this one are the page, as the browser gets them: HTML, a style sheet, and ES modules without a build step.
They hold no secrets and ask for no token; what the page shows, it asks the management interface for as anybody would.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import trio

from aegis_backends.http.app import RouterApp
from aegis_backends.http.routing import Endpoint, Request, Response

__all__ = ["POLICY", "add_dashboard"]

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The page runs what this router serves and nothing else, talks to this router alone, and nobody frames it."""

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_FRONT: Final = "index.html"


def add_dashboard(app: RouterApp) -> None:
    """Let *app* answer ``/`` with the page, and ``/dashboard/...`` with its parts."""
    for file in files(__name__).iterdir():
        content_type = _TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None:
            path = "/" if file.name == _FRONT else f"/dashboard/{file.name}"
            app.add_route("GET", path, _page(file.read_bytes(), content_type), is_open=True)


def _page(body: bytes, content_type: bytes) -> Endpoint:
    tag = b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()
    headers = [
        (b"etag", tag),
        (b"cache-control", b"no-cache"),  # kept, and asked for again: after an upgrade nobody sees half of it
        (b"content-security-policy", POLICY),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    ]

    async def send_page(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if request.header(b"if-none-match") == tag:
            return Response(status=304, content_type=content_type, headers=headers)
        return Response(body=body, content_type=content_type, headers=headers)

    return send_page
