"""Declaring a service: what is accepted, what is refused, and what is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from aegis_core.errors import ConfigError, InvalidRequest
from aegis_core.models import Health
from aegis_core.node.call import Call
from aegis_core.node.claims import Claim
from aegis_core.node.service import Service, declaration_of


def make() -> Service:
    """A service to decorate with."""
    return Service("account-service", version="1.2.3")


async def balance(call: Call, currency: str, digits: int = 2) -> str:
    """A method."""
    return f"{currency} {digits}"


def test_method_is_returned_unchanged() -> None:
    """A test can call the function with a call of its own making, and nothing was put on it."""
    service = make()
    before = dict(vars(balance))
    assert service.method(balance) is balance
    assert vars(balance) == before
    assert service.methods["balance"].function is balance
    assert not service.methods["balance"].idempotent


def test_method_can_have_another_name_and_be_idempotent() -> None:
    """Both are said at the declaration."""
    service = make()
    assert service.method(name="account.balance", idempotent=True)(balance) is balance
    assert service.methods["account.balance"].idempotent
    assert service.idempotent == ("account.balance",)
    assert list(service.methods) == ["account.balance"]


def test_parameters_are_structured_as_annotated() -> None:
    """What does not fit is told with its path, before the function runs."""
    service = make()
    service.method(balance)
    structure = service.methods["balance"].structure
    assert structure({"currency": "EUR"}) == {"currency": "EUR"}
    with pytest.raises(InvalidRequest) as caught:
        structure({"currency": 1, "digits": "two", "more": None})
    assert [problem.path for problem in caught.value.problems] == ["$.currency", "$.digits", "$.more"]


def plain(call: Call) -> int:
    """Not async."""
    return 1


async def stream(call: Call) -> AsyncIterator[int]:  # noqa: ASYNC900 - it is refused
    """An async generator."""
    yield 1


class Handler:
    """An object with an async method."""

    async def __call__(self, call: Call) -> int:
        """Not a function."""
        return 1


@pytest.mark.parametrize("wrong", [plain, stream, Handler(), 5])
def test_only_async_functions_are_methods(wrong: Callable[..., object]) -> None:
    """Anything else is a TypeError that says what is expected, at the declaration."""
    with pytest.raises(TypeError, match="takes an async function"):
        make().method(wrong)  # type: ignore[type-var]
    for decorator in (make().on_acquire, make().on_release, make().health):
        with pytest.raises(TypeError, match="takes an async function"):
            decorator(wrong)  # type: ignore[type-var]


def test_method_must_take_the_call() -> None:
    """The first parameter is the call."""

    async def none() -> int:
        return 1

    async def only_keywords(*, call: Call) -> int:
        return 1

    for wrong in (none, only_keywords):
        with pytest.raises(TypeError, match="must take the call"):
            make().method(wrong)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("with space", "not a method name"), ("aegis.drain", "library's own"), ("balance", "there is a method")],
)
def test_name_of_a_method_must_be_free_and_legal(name: str, problem: str) -> None:
    """Wrong names are found at the declaration."""
    service = make()
    service.method(balance)
    with pytest.raises(ConfigError, match=problem):
        service.method(name=name)(balance)


def test_hooks_are_kept_and_may_be_said_once() -> None:
    """``on_acquire``, ``on_release`` and ``health`` return the function; a second one is refused."""
    service = make()

    @service.on_acquire
    async def load(claim: Claim) -> str:
        return claim.resource_id

    @service.on_release
    async def save(claim: Claim) -> None:
        return None

    @service.health
    async def check() -> Health:
        return Health.ONLINE

    assert (service.acquire_hook, service.release_hook, service.health_hook) == (load, save, check)
    for again in (lambda: service.on_acquire(load), lambda: service.on_release(save), lambda: service.health(check)):
        with pytest.raises(ConfigError, match="one already"):
            again()


def test_declaration_is_checked() -> None:
    """Names, prefixes and times that cannot be are refused, with the key."""
    with pytest.raises(ConfigError, match="not a service name"):
        Service("Account Service")
    with pytest.raises(ConfigError, match="not one string"):
        Service("cart", on_demand="cart:")
    with pytest.raises(ConfigError, match="not allowed"):
        Service("cart", on_demand=("cart *",))
    with pytest.raises(ConfigError, match="idle_release"):
        Service("cart", idle_release=5)
    with pytest.raises(ConfigError, match="idle_release"):
        Service("cart", on_demand=("cart:",), idle_release=0)


def test_service_shows_what_it_is() -> None:
    """Name, version, prefixes and methods can be read."""
    service = Service("cart", version="2.0", on_demand=["cart:", "basket:"], idle_release=60)
    service.method(balance)
    assert (service.name, service.version, service.idle_release) == ("cart", "2.0", 60)
    assert service.on_demand == ("cart:", "basket:")
    assert service.activates("basket:7")
    assert not service.activates("shelf:7")
    assert repr(service) == "<Service 'cart' 2.0: balance>"
    assert repr(make()) == "<Service 'account-service' 1.2.3: no methods>"


def test_function_knows_where_it_was_declared() -> None:
    """One declaration is found; the same one again, by a factory, is no ambiguity."""

    async def method(call: Call, amount: int) -> bool:
        return amount > 0

    for _ in range(2):
        make().method(method)
    declared = declaration_of(method)
    assert (declared.service_name, declared.method) == ("account-service", "method")
    assert declared.parameters.kinds == {"amount": int}
    assert declared.parameters.returns is bool


def test_function_of_no_service_or_of_several_cannot_be_bound() -> None:
    """It is a TypeError that says which it is."""

    async def method(call: Call) -> None:
        return None

    with pytest.raises(TypeError, match="not a method of any service"):
        declaration_of(method)
    with pytest.raises(TypeError, match="not a method of any service"):
        declaration_of(5)  # type: ignore[arg-type]
    make().method(method)
    Service("other").method(name="alias")(method)
    with pytest.raises(TypeError, match=r"account-service.method, other.alias"):
        declaration_of(method)


def test_call_can_be_made_by_hand() -> None:
    """Every field has a default."""
    call = Call()
    assert (call.service_name, call.resource_id, call.claim, call.state) == ("", None, None, None)
    assert Call(state={"a": 1}, epoch=7).epoch == 7
