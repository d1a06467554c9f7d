"""What a handler's signature says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from aegis_core.parameters import Parameters, read_parameters

if TYPE_CHECKING:
    from decimal import Decimal

    from aegis_core import Call


async def full(  # type: ignore[empty-body]
    call: Call,
    a: int,
    b: str | None = None,
    *,
    c: list[int],
    d: Any = None,  # noqa: ANN401 - what is read here
    **others: float,
) -> dict[str, int]:
    """A handler with every kind of parameter."""


async def bare(call, a, b=1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """A handler without annotations."""


def test_signature_is_read_as_annotated() -> None:
    """Types, which are required, what further names may be, and the result; the call's own type is not looked at."""
    assert read_parameters(full) == Parameters(
        kinds={"a": int, "b": str | None, "c": list[int], "d": object},
        required=frozenset({"a", "c"}),
        others=float,
        returns=dict[str, int],
    )


def test_what_is_not_annotated_may_be_anything() -> None:
    """No annotation is no restriction."""
    assert read_parameters(bare) == Parameters({"a": object, "b": object}, frozenset({"a"}), None, object)


def test_class_of_the_enclosing_function_is_known() -> None:
    """A handler in a test may use what the test defines, if its body does."""

    @attrs.frozen
    class Local:
        """A class that only this function knows."""

        name: str = ""

    async def handler(call: Call, value: Local) -> Local:
        return attrs.evolve(value, name=Local.__name__)

    assert read_parameters(handler).kinds == {"value": Local}


def test_decorated_handler_shows_its_own_signature() -> None:
    """`functools.wraps` leads to the function behind."""

    @functools.wraps(full)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await full(*args, **kwargs)  # type: ignore[arg-type]

    assert read_parameters(wrapper) == read_parameters(full)


async def unknown(call: Call, price: Decimal) -> None:
    """A handler with a type that only the type checker knows."""


def nothing() -> None:
    """Takes no call."""


def any_number(*calls: object) -> None:
    """Takes no call that can be told apart."""


def keyword_call(*, call: object) -> None:
    """Takes the call by name."""


def several(call: object, *more: object) -> None:
    """Takes parameters without names."""


def by_place(call: object, a: int, /) -> None:
    """Takes a parameter by place."""


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (unknown, "unknown: the type of 'price' is not known at run time.*TYPE_CHECKING"),
        (nothing, "nothing must take the call as its first parameter"),
        (any_number, "any_number must take the call as its first parameter"),
        (keyword_call, "keyword_call must take the call as its first parameter"),
        (several, "several: parameter 'more' has no name that a caller could use"),
        (by_place, "by_place: parameter 'a' has no name that a caller could use"),
        (len, "len is not a function"),
        (object(), "is not a function"),
    ],
)
def test_function_that_cannot_be_a_handler_is_refused(function: Callable[..., object], why: str) -> None:
    """Told to its developer, with its name and the parameter's."""
    with pytest.raises(TypeError, match=why):
        read_parameters(function)
