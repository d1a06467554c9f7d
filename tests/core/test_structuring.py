"""Parameters and results, strictly as a handler is annotated."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given

from aegis_core import codec
from aegis_core.errors import InvalidRequest, Problem, RemoteError
from tests.core import wire_values

T = TypeVar("T")


class Side(enum.Enum):
    """An enumeration of words."""

    BUY = "buy"
    SELL = "sell"


class Level(enum.IntEnum):
    """An enumeration of numbers."""

    LOW = 1


class Word(enum.StrEnum):
    """An enumeration that is text."""

    A = "a"


class UserId(str):
    """A kind of text."""

    __slots__ = ()


Cents = NewType("Cents", int)


@attrs.frozen
class Price:
    """A class with a default, and a rule of its own."""

    amount: int = attrs.field(validator=attrs.validators.ge(0))
    currency: str = "EUR"


@attrs.frozen
class Order:
    """A class of classes, which holds itself."""

    order_id: str
    price: Price
    side: Side = Side.BUY
    tags: tuple[str, ...] = ()
    parts: list[Order] = attrs.field(factory=list)


@dataclass
class Size:
    """A dataclass."""

    width: int


class Options(TypedDict):
    """A typed dictionary."""

    depth: int


class Place(NamedTuple):
    """A named tuple."""

    x: int
    y: str = ""


@attrs.frozen
class Box(Generic[T]):
    """A generic class."""

    item: T


@attrs.frozen
class Cat:
    """One of two classes that are told apart by their fields."""

    lives: int


@attrs.frozen
class Dog:
    """The other one."""

    tricks: int


@pytest.mark.parametrize(
    ("kind", "sent", "made"),
    [
        (int, 1, 1),
        (float, 1, 1.0),
        (float, 1.5, 1.5),
        (bool, True, True),
        (bytes, b"x", b"x"),
        (type(None), None, None),
        (object, [1], [1]),
        (Any, {"a": 1}, {"a": 1}),
        (list, [1, "a"], [1, "a"]),
        (dict, {"a": 1}, {"a": 1}),
        (Side, "sell", Side.SELL),
        (Level, 1, Level.LOW),
        (Word, "a", Word.A),
        (UserId, "u1", UserId("u1")),
        (Cents, 5, 5),
        (Annotated[int, "seconds"], 5, 5),
        (Literal["a", 1], 1, 1),
        (list[int], [1, 2], [1, 2]),
        (Sequence[int], [1], [1]),
        (Collection[int], [1], [1]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (frozenset[int], [1], frozenset({1})),
        (AbstractSet[int], [1], frozenset({1})),
        (deque[int], [1], deque([1])),
        (dict[str, Price], {"a": {"amount": 1}}, {"a": Price(1)}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (Counter[str], {"a": 1}, Counter({"a": 1})),
        (int | None, None, None),
        (int | str, "a", "a"),
        (int | Price | None, {"amount": 1}, Price(1)),
        (Cat | Dog, {"tricks": 3}, Dog(3)),
        (Cat | Dog | int, {"lives": 9}, Cat(9)),
        (list[int] | dict[str, int], {"a": 1}, {"a": 1}),
        (Size, {"width": 1}, Size(1)),
        (Options, {"depth": 1}, {"depth": 1}),
        (Place, [1, "a"], Place(1, "a")),
        (Box[int], {"item": 1}, Box(1)),
        (datetime, "2026-01-31T12:00:00+08:00", datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=8)))),
        (datetime, msgpack.Timestamp(0), datetime(1970, 1, 1, tzinfo=UTC)),
        (date, "2026-01-31", date(2026, 1, 31)),
        (time, "12:30", time(12, 30)),
        (timedelta, 90, timedelta(seconds=90)),
        (Decimal, "1.50", Decimal("1.50")),
        (UUID, "00000000-0000-0000-0000-000000000005", UUID(int=5)),
        (
            Order,
            {"order_id": "o", "price": {"amount": 1}, "parts": [{"order_id": "p", "price": {"amount": 2}}]},
            Order("o", Price(1), parts=[Order("p", Price(2))]),
        ),
    ],
)
def test_fitting_value_is_made_what_is_annotated(kind: object, sent: object, made: object) -> None:
    """Plain data becomes the annotated type."""
    result = codec.structure_result(sent, kind)
    assert result == made
    assert type(result) is type(made)


@pytest.mark.parametrize(
    ("kind", "sent", "told"),
    [
        (int, "1", "expected int, got str @ $"),
        (int, True, "expected int, got bool @ $"),
        (int, 1.0, "expected int, got float @ $"),
        (bool, 1, "expected bool, got int @ $"),
        (float, True, "expected float, got bool @ $"),
        (str, b"x", "expected str, got bytes @ $"),
        (Side, "hold", "'hold' is none of 'buy', 'sell' @ $"),
        (Side, [], "[] is none of 'buy', 'sell' @ $"),
        (Level, True, "True is none of 1 @ $"),
        (Word, 5, "5 is none of 'a' @ $"),
        (UserId, 5, "expected str, got int @ $"),
        (Cents, "5", "expected int, got str @ $"),
        (Literal["a", 1], True, "True is none of 'a', 1 @ $"),
        (Literal["a", 1], [], "[] is none of 'a', 1 @ $"),
        (list[int], "123", "expected a list, got str @ $"),
        (list[int], {1: 2}, "expected a list, got dict @ $"),
        (list[int], [1, "2", 3, None], "expected int, got str @ $[1]; expected int, got NoneType @ $[3]"),
        (set[object], [[1]], "unhashable type: 'list' @ $"),
        (tuple[int, str], [1], "expected 2 elements, got 1 @ $"),
        (tuple[int, str], ["a", 1], "expected int, got str @ $[0]; expected str, got int @ $[1]"),
        (dict[str, int], [1], "expected a map, got list @ $"),
        (dict[str, int], {"a": "b"}, "expected int, got str @ $['a']"),
        (dict[str, int], {1: 1}, "expected str, got int @ $[1]"),
        (Counter[str], [1], "'list' object has no attribute 'items' @ $"),
        (int | str, None, "expected int | str, got NoneType @ $"),
        (int | Price | None, {"amount": "1"}, "expected int, got str @ $.amount"),
        (Cat | Dog | int, "x", "expected Cat | Dog | int, got str @ $"),
        (Price, [1], "expected a map, got list @ $"),
        (Price, {"amount": 1, "q": 1, 5: 1}, "extra fields found (5, q) @ $"),
        (Price, {"amount": -1}, "'amount' must be >= 0: -1 @ $"),
        (Size, {"width": "1"}, "expected int, got str @ $.width"),
        (Options, {}, "required field missing @ $.depth"),
        (Options, [], "expected a map, got list @ $"),
        (Place, "ab", "expected a list, got str @ $"),
        (Box[int], {"item": "x"}, "expected int, got str @ $.item"),
        (datetime, "2026-01-31T12:00:00", "expected a time with its offset, e.g. 2030-01-31T12:00:00+00:00 @ $"),
        (datetime, 5, "expected str, got int @ $"),
        (Decimal, "x", "'x' has not the right form @ $"),
        (UUID, "x", "'x' has not the right form @ $"),
        (timedelta, "90", "expected float, got str @ $"),
        (
            Order,
            {"price": {"amount": 1}, "parts": [{"order_id": 5, "price": None}]},
            (
                "required field missing @ $.order_id; expected str, got int @ $.parts[0].order_id; "
                "expected a map, got NoneType @ $.parts[0].price"
            ),
        ),
    ],
)
def test_unfit_value_is_told_with_its_path(kind: object, sent: object, told: str) -> None:
    """Nothing is coerced; every problem is named where it is."""
    with pytest.raises(RemoteError) as caught:
        codec.structure_result(sent, kind)
    assert caught.value.kind == "InvalidResult"
    assert caught.value.remote_message == told


@pytest.mark.parametrize("sent", [1e300, float("nan"), float("inf")])
def test_time_span_past_all_bounds_is_refused(sent: float) -> None:
    """What the platform cannot represent is a problem like any other."""
    with pytest.raises(RemoteError):
        codec.structure_result(sent, timedelta)


KINDS = (
    list[int],
    dict[str, Price],
    Order,
    int | Price | None,
    Cat | Dog,
    Side,
    Place,
    Box[int],
    Options,
    Counter[str],
)


@given(wire_values.anything)
def test_anything_fits_or_is_refused(value: object) -> None:
    """No value from the wire raises anything but the documented error."""
    for kind in KINDS:
        try:
            codec.structure_result(value, kind)
        except RemoteError as exc:
            assert "@ $" in exc.remote_message  # noqa: PT017 - either outcome is right


def test_problems_are_bounded() -> None:
    """A million wrong elements cost no more than the first twenty, and the answer stays short."""
    with pytest.raises(RemoteError) as caught:
        codec.structure_result(["x"] * 1_000_000, list[int])
    assert caught.value.remote_message.count("@") == 20
    with pytest.raises(RemoteError) as caught:
        codec.structure_result({f"k{n}": 1 for n in range(100_000)}, Price)
    assert len(caught.value.remote_message) < 1000


def test_data_nested_without_end_is_refused() -> None:
    """The recursion of a class that holds itself ends with the interpreter's stack, not with the process."""
    deep: object = []
    for _ in range(480):
        deep = [{"order_id": "o", "price": {"amount": 1}, "parts": deep}]
    with pytest.raises(RemoteError, match="nested too deeply"):
        codec.structure_result(deep, list[Order])


@pytest.mark.parametrize("kind", [complex, type, Callable[[], None], Price | Order | Cat | Cat | Box[int] | Box[str]])
def test_type_that_cannot_be_sent_is_refused_when_it_is_looked_at(kind: object) -> None:
    """A mistake of the developer, told before any call."""
    with pytest.raises(TypeError, match="cannot be made of what travels"):
        codec.structure_result(1, kind)


# --- Parameters ---------------------------------------------------------------------------------


async def place(
    call: object, symbol: str, amount: int = 1, *, side: Side = Side.BUY, price: Price | None = None
) -> None:
    """A handler with plain types and others."""


async def ping(call: object) -> None:
    """A handler without parameters."""


async def relay(call, payload, hops=0):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """A handler without annotations."""


async def tally(call: object, **counts: int) -> None:
    """A handler that takes whatever is named."""


def refused(function: Callable[..., object], params: Mapping[str, object]) -> tuple[Problem, ...]:
    """What is wrong with *params*."""
    with pytest.raises(InvalidRequest) as caught:
        codec.structure_params(function)(params)
    return caught.value.problems


def test_parameters_are_structured_from_annotations() -> None:
    """Given ones are made what they are annotated; defaults are left to Python."""
    structure = codec.structure_params(place)
    assert structure({"symbol": "X", "side": "sell", "price": {"amount": 5}}) == {
        "symbol": "X",
        "side": Side.SELL,
        "price": Price(5),
    }
    assert structure({"symbol": "X"}) == {"symbol": "X"}


def test_every_problem_of_the_parameters_is_told_at_once() -> None:
    """Wrong, unknown and missing ones, in the order of their paths."""
    wrong = {"symbl": "X", "amount": "1", "price": {"amount": "1", "q": 2}}
    assert refused(place, wrong) == (
        Problem("$.amount", "expected int, got str"),
        Problem("$.price", "extra fields found (q)"),
        Problem("$.price.amount", "expected int, got str"),
        Problem("$.symbl", "unknown; the parameters are symbol, amount, side, price"),
        Problem("$.symbol", "missing"),
    )


def test_handler_without_parameters_takes_none() -> None:
    """An unknown parameter is refused there, too."""
    assert codec.structure_params(ping)({}) == {}
    assert refused(ping, {"a": 1}) == (Problem("$.a", "no parameter is taken"),)


def test_handler_without_annotations_gets_what_came() -> None:
    """The very mapping is passed on, once its names are right."""
    params = {"payload": {"any": [b"thing"]}}
    assert codec.structure_params(relay)(params) is params
    assert refused(relay, {"hops": 1}) == (Problem("$.payload", "missing"),)


def test_handler_may_take_any_names() -> None:
    """``**kwargs`` takes what is not named, each value as annotated."""
    assert codec.structure_params(tally)({"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert refused(tally, {"a": 1, "b": "2"}) == (Problem("$.b", "expected int, got str"),)


def test_problems_of_parameters_are_bounded() -> None:
    """However many are wrong, and however long their names."""
    problems = refused(ping, {f"{n:05}" + "x" * 10_000: n for n in range(1000)})
    assert len(problems) == 20
    assert max(len(problem.path) for problem in problems) <= 202


async def with_callback(call: object, then: Callable[[], None]) -> None:
    """A handler with a parameter that nobody can send."""


def test_handler_with_a_type_that_cannot_be_sent_is_refused() -> None:
    """Told when it is looked at, not when it is called."""
    with pytest.raises(TypeError, match="Callable"):
        codec.structure_params(with_callback)


def test_plain_types_need_no_converter() -> None:
    """Cattrs is imported with the first handler that needs it; most start without."""
    script = (
        "import sys\n"
        "from aegis_core import codec\n"
        "async def plain(call, a: int, b: str, c: dict, d=None): ...\n"
        "codec.structure_params(plain)({'a': 1, 'b': 'x', 'c': {}})\n"
        "try: codec.structure_params(plain)({'a': 'x'})\n"
        "except Exception: pass\n"
        "print('cattrs' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
