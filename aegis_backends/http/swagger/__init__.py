"""The page that shows the OpenAPI document to people: Swagger UI, whole, so that it needs no other server.

The packed files beside this one are ``swagger-ui.css`` and ``swagger-ui-bundle.js`` of the npm package ``swagger-ui-dist``
5.35.0 as they are (Apache License 2.0, with parts under the licences that are named beside them). To renew them, take both from
another version and pack them by ``gzip -9n``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from aegis_backends.http.app import RouterApp
from aegis_backends.http.pages import page

__all__ = ["POLICY", "add_swagger"]

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'"
)
"""The page runs what this router serves and nothing else, talks to this router alone, and nobody frames it."""

_HTML: Final = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AegisIPC router</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
_START: Final = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
_SCRIPT: Final = b"text/javascript; charset=utf-8"


def add_swagger(app: RouterApp) -> None:
    """Let *app* answer ``/docs`` with the page, and ``/docs/...`` with its parts."""
    here = files(__name__)
    css, bundle = (here / "swagger-ui.css.gz").read_bytes(), (here / "swagger-ui-bundle.js.gz").read_bytes()
    for path, answer in (
        ("/docs", page(_HTML, b"text/html; charset=utf-8", policy=POLICY)),
        ("/docs/start.js", page(_START, _SCRIPT, policy=POLICY)),
        ("/docs/swagger-ui.css", page(css, b"text/css; charset=utf-8", policy=POLICY, is_packed=True)),
        ("/docs/swagger-ui-bundle.js", page(bundle, _SCRIPT, policy=POLICY, is_packed=True)),
    ):
        app.add_route("GET", path, answer, is_open=True)
