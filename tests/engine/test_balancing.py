"""Balancers: who gets the next call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from aegis_core.engine.balancing import (
    Balancer,
    ConsistentHash,
    HashRing,
    LeastPending,
    RoundRobin,
    Weighted,
    rendezvous,
)
from aegis_core.models import ServiceInstance
from tests.engine.driver import candidate

Candidates = tuple[ServiceInstance, ...]


def several(*names: str, service: str = "svc", **fields: object) -> Candidates:
    """Candidates of one service."""
    return tuple(candidate(name, service, **fields) for name in names)


def chosen(
    balancer: Balancer,
    candidates: Candidates,
    count: int = 1,
    *,
    key: str | None = None,
    busy: Mapping[str, int] | None = None,
) -> str:
    """The ids of those that get *count* calls, one after the other."""
    load = busy or {}
    return "".join(
        balancer.choose(candidates, key=key, pending=lambda i: load.get(i.instance_id, 0)).instance_id
        for _ in range(count)
    )


def test_round_robin_takes_each_in_turn() -> None:
    """For each service by itself, so that services called in turns do not disturb each other."""
    balancer = RoundRobin()
    mine, other = several("a", "b", "c"), several("x", "y", service="other")
    assert [chosen(balancer, mine) + chosen(balancer, other) for _ in range(4)] == ["ax", "by", "cx", "ay"]


def test_least_pending_takes_the_least_busy() -> None:
    """Among equals each in turn."""
    balancer = LeastPending()
    three = several("a", "b", "c")
    assert chosen(balancer, three, 6, busy={"a": 2, "b": 1, "c": 3}) == "bbbbbb"
    assert chosen(balancer, three, 6) == "abcabc"
    assert set(chosen(balancer, three, 6, busy={"a": 1, "b": 1, "c": 1})) == set("abc")


@pytest.mark.parametrize(
    ("first", "second", "third", "shares"),
    [
        pytest.param({"weight": 5}, {"weight": 1}, {"weight": 2.0}, {"a": 50, "b": 10, "c": 20}, id="weight"),
        pytest.param({"priority": 3}, {}, {"weight": 4}, {"a": 30, "b": 10, "c": 40}, id="priority"),
        pytest.param({"weight": True}, {"weight": -1}, {"weight": "9"}, {"a": 26, "b": 27, "c": 27}, id="nonsense"),
    ],
)
def test_weighted_takes_in_proportion(
    first: dict[str, object], second: dict[str, object], third: dict[str, object], shares: dict[str, int]
) -> None:
    """By metadata; what is no weight counts as one."""
    three = tuple(candidate(n, metadata=m) for n, m in zip("abc", (first, second, third), strict=True))
    counted = Counter(chosen(Weighted(), three, 80))
    assert all(abs(counted[name] - share) <= 1 for name, share in shares.items())


def test_weighted_spreads_evenly_over_time() -> None:
    """The heavy one does not get all its calls at once; an instance's own priority is its weight, too."""
    pair = (candidate("a", priority=3), candidate("b"))
    assert chosen(Weighted(), pair, 8) in {"aaabaaab", "aabaaaba", "aabaaaab", "aaabaaba"}


def test_weighted_goes_on_when_candidates_change() -> None:
    """Nobody is flooded for having been away, and each service counts by itself."""
    balancer = Weighted()
    chosen(balancer, several("a", "b"), 100)
    counted = Counter(chosen(balancer, several("a", "b", "c"), 30))
    assert all(9 <= counted[name] <= 11 for name in "abc")
    assert set(chosen(balancer, several("x", service="other"), 3)) == {"x"}
    same = several("a", "b", "c")
    assert Counter(chosen(balancer, same, 30))["c"] == 10


def test_consistent_hash_keeps_keys_together() -> None:
    """The same on every node; without a key each in turn."""
    three = several("a", "b", "c")
    first, second = ConsistentHash(), ConsistentHash()
    keys = [f"k{i}" for i in range(300)]
    assert [chosen(first, three, key=k) for k in keys] == [chosen(second, several("a", "b", "c"), key=k) for k in keys]
    assert chosen(first, three, 6) == "abcabc"


def test_consistent_hash_moves_only_a_share_of_the_keys() -> None:
    """What an instance leaves goes to the others; what stays, stays."""
    balancer = ConsistentHash()
    keys = [f"k{i}" for i in range(1000)]
    before = {k: chosen(balancer, several("a", "b", "c", "d"), key=k) for k in keys}
    after = {k: chosen(balancer, several("a", "b", "d"), key=k) for k in keys}
    assert all(after[k] == before[k] for k in keys if before[k] != "c")
    shares = Counter(before.values())
    assert all(120 < share < 400 for share in shares.values())


def test_a_ring_is_prepared_once_for_the_same_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal ones in another tuple are the same, too."""
    made: list[int] = []
    prepare = HashRing.__init__

    def count(self: HashRing, candidates: Candidates) -> None:
        made.append(len(candidates))
        prepare(self, candidates)

    monkeypatch.setattr(HashRing, "__init__", count)
    balancer = ConsistentHash()
    three = several("a", "b", "c")
    for group in (three, three, several("a", "b", "c"), several("a", "b"), three):
        chosen(balancer, group, key="k")
    assert made == [3, 2, 3]


def test_rendezvous_moves_only_what_it_must() -> None:
    """A key belongs to one of the candidates, whatever their order."""
    four, three = several("a", "b", "c", "d"), several("d", "b", "a")
    keys = [f"k{i}" for i in range(400)]
    moved = [k for k in keys if rendezvous(four, k) != rendezvous(three, k)]
    assert all(rendezvous(four, k).instance_id == "c" for k in moved)
    assert 50 < len(moved) < 150
