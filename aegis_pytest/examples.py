"""Asynchronous fixtures under hypothesis: every example gets its own.

pytest makes the fixtures of a test once. To pytest-trio such a fixture is a plan that each run carries out, and it
was made for one run: from the second example on, the test would be handed what the first run's fixture left. So the
plans are copied for each example. That reaches into pytest-trio, whose interface ends where hypothesis begins.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace

import pytest
from pytest_trio.plugin import TrioFixture, _trio_test_runner_factory

from aegis_pytest.verdict import noting_failure

__all__ = ["with_fresh_fixtures"]


def with_fresh_fixtures(
    item: pytest.Item, inner_test: Callable[..., Awaitable[object]], tell: Callable[[str], None]
) -> Callable[..., object]:
    """Wrap the *inner_test* of a hypothesis test: a Trio run for each example, by the ``run`` of *item*'s marks.

    A parametrized test has one inner test, which may have been wrapped for another item, whose ``run`` is not this one's.
    *tell* is called with the state at a failure.
    """
    inner_test = getattr(inner_test, "_aegis_inner_test", inner_test)
    run_test = _trio_test_runner_factory(
        SimpleNamespace(obj=noting_failure(inner_test, tell), iter_markers=item.iter_markers)
    )

    @functools.wraps(inner_test)
    def run_example(**kwargs: object) -> None:
        run_test(**_fresh(kwargs, {}))

    run_example._trio_test_runner_wrapped = True  # type: ignore[attr-defined]  # how pytest-trio knows its own
    run_example._aegis_inner_test = inner_test  # type: ignore[attr-defined]
    return run_example


def _fresh(kwargs: Mapping[str, object], made: dict[TrioFixture, TrioFixture]) -> dict[str, object]:
    fresh: dict[str, object] = {}
    for name, value in kwargs.items():
        if isinstance(value, TrioFixture):
            if value not in made:
                made[value] = TrioFixture(value.name, value._func, _fresh(value._pytest_kwargs, made))
            fresh[name] = made[value]
        else:
            fresh[name] = value
    return fresh
