"""The dashboard's files, as they are served."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

import pytest

from aegis_backends.http import dashboard
from aegis_backends.http.tokens import Tokens
from aegis_core.hookspecs import Principal
from tests.backends.http.test_app import open_router

FOLDER: Final = files(dashboard)
MODULES: Final = sorted(file.name for file in FOLDER.iterdir() if file.name.endswith(".js"))


async def test_page_is_for_everybody_and_runs_nothing_else() -> None:
    """Who has no token sees that there is a page, which asks for one; nothing of others runs in it or frames it."""
    tokens = Tokens({"secret": Principal("token", "operator")})
    async with open_router(tokens) as router:
        dashboard.add_dashboard(router.app)
        answer = await router.client.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        linked = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', answer.text)
        assert len(linked) >= 3
        for path in linked:
            assert (await router.client.get(f"/{path}")).status_code == 200
        assert (await router.client.get("/dashboard/__init__.py")).status_code == 404


async def test_page_that_is_known_is_not_sent_again() -> None:
    """But asked for each time, so that after an upgrade nobody sees half of the old one."""
    async with open_router() as router:
        dashboard.add_dashboard(router.app)
        first = await router.client.get("/dashboard/app.js")
        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        assert first.headers["cache-control"] == "no-cache"
        again = await router.client.get("/dashboard/app.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await router.client.get("/dashboard/app.js", headers={"if-none-match": '"other"'})
        assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_what_is_there_and_writes_no_markup(name: str) -> None:
    """Text from the router is never read as HTML, and every import is of a file and a name beside it."""
    source = (FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|localStorage|setAttribute\(\"style", source
    )
    for names, module in re.findall(r"^import \{ ([^}]*) \} from \"\./([\w.]+)\";$", source, flags=re.MULTILINE):
        exported = (FOLDER / module).read_text(encoding="utf-8")
        for imported in names.split(", "):
            assert re.search(rf"^export (?:async )?(?:const|function|class) {imported}\b", exported, flags=re.MULTILINE)
            assert len(re.findall(rf"\b{imported}\b", source)) > 1
