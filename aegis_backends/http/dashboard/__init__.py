"""The dashboard: one page that shows what the router knows, and transfers and drains.

The files beside this one are the page, as the browser gets them: HTML, a style sheet, and ES modules without a build step.
They hold no secrets and ask for no token; what the page shows, it asks the management interface for as anybody would.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from aegis_backends.http.app import RouterApp
from aegis_backends.http.pages import page

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
            app.add_route("GET", path, page(file.read_bytes(), content_type, policy=POLICY), is_open=True)
