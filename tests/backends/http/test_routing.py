"""From a request to its endpoint, and who asks."""

from __future__ import annotations

import pytest
import trio

from aegis_backends.http.routing import Request, Response, Routes, answer
from aegis_backends.http.tokens import EVERYBODY, Tokens
from aegis_core.errors import Overloaded, Unauthorized
from aegis_core.hookspecs import Principal
from tests.backends.http.scopes import Answers, make_request


async def endpoint(_request: Request) -> Response:
    """Answer nothing."""
    await trio.lowlevel.checkpoint()
    return Response()


@pytest.fixture
def routes() -> Routes:
    """A few patterns."""
    made = Routes()
    made.add("GET", "/plain", endpoint)
    made.add("POST", "/plain", endpoint)
    made.add("GET", "/services/{name}", endpoint)
    made.add("DELETE", "/services/{name}", endpoint)
    made.add("GET", "/services/{name}/roles/{group}", endpoint)
    return made


@pytest.mark.parametrize(
    ("method", "path", "parameters"),
    [
        ("GET", "/plain", {}),
        ("HEAD", "/plain", {}),
        ("DELETE", "/services/a%2Fb", {"name": "a/b"}),
        ("GET", "/services/a/roles/b", {"name": "a", "group": "b"}),
    ],
)
def test_path_leads_to_its_endpoint(routes: Routes, method: str, path: str, parameters: dict[str, str]) -> None:
    """With the parts that its pattern names, decoded."""
    assert routes.find(method, path) == (endpoint, parameters)


@pytest.mark.parametrize("path", ["/", "/plain/", "/services/", "/services/a/roles", "/other/a", "plain", ""])
def test_unknown_path_is_not_found(routes: Routes, path: str) -> None:
    """An empty segment is no parameter."""
    found = routes.find("GET", path)
    assert isinstance(found, Response)
    assert found.status == 404


def test_other_method_is_told_which_are_allowed(routes: Routes) -> None:
    """In the header that is made for it."""
    found = routes.find("PUT", "/services/a")
    assert isinstance(found, Response)
    assert (found.status, found.headers) == (405, [(b"allow", b"DELETE, GET")])


def test_one_endpoint_each(routes: Routes) -> None:
    """A second one for the same method and pattern is a mistake."""
    with pytest.raises(ValueError, match="GET /plain has an endpoint already"):
        routes.add("GET", "/plain", endpoint)


async def test_endpoint_is_answered_for() -> None:
    """By its response, by its error as problem details, or by nothing when it has sent one itself."""
    answers = Answers()
    await answer(endpoint, make_request(answers))
    assert answers.status == 200

    async def crowded(_request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        raise Overloaded(limit=1, asked=2)

    answers = Answers()
    await answer(crowded, make_request(answers))
    assert answers.status == 429
    assert (b"retry-after", b"1") in answers.headers

    async def silent(_request: Request) -> None:
        await trio.lowlevel.checkpoint()

    answers = Answers()
    await answer(silent, make_request(answers))
    assert answers.messages == []


def test_request_shows_its_headers_and_query() -> None:
    """Of repeated parameters the last."""
    request = make_request(Answers(), query=b"a=1&a=2&b=%20", headers=[(b"x-y", b"z")])
    assert request.query == {"a": "2", "b": " "}
    assert request.header(b"x-y") == b"z"
    assert request.header(b"other") == b""


def test_token_names_its_principal() -> None:
    """Shown as a bearer token, in any spelling of the scheme; kept, and shown in a repr, by hash and name alone."""
    worker = Principal("token", "worker")
    tokens = Tokens({"secret": worker})
    assert tokens
    assert tokens.principal(b"bearer  secret ", "GET /") == worker
    assert "secret" not in repr(tokens)
    assert "token:worker" in repr(tokens)


@pytest.mark.parametrize("shown", [b"", b"Bearer", b"Bearer other", b"Basic secret", b"secret", b"Bearer \xff"])
def test_unknown_token_is_refused(shown: bytes) -> None:
    """Whatever else is in the header."""
    with pytest.raises(Unauthorized):
        Tokens({"secret": Principal("token", "worker")}).principal(shown, "GET /")


def test_without_tokens_everybody_is_let_in() -> None:
    """As one who may do everything."""
    tokens = Tokens()
    assert not tokens
    assert tokens.principal(b"", "GET /") is EVERYBODY
    assert "nobody" in repr(tokens)
