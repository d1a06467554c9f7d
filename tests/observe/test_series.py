"""Numbers by labels: counted, spread over buckets, and never more series than a family may have."""

from __future__ import annotations

from aegis_core.observe.series import Counts, Distribution


def test_counts_add_up_by_labels() -> None:
    """Each combination of labels has a number of its own."""
    counts = Counts("a_total", "A.", "x", "y")
    counts.add("1", "2")
    counts.add("1", "2", amount=3)
    counts.add("1", "3")
    assert list(counts.samples()) == [("", {"x": "1", "y": "2"}, 4), ("", {"x": "1", "y": "3"}, 1)]
    assert repr(counts) == "<Counts a_total: 2 series>"


def test_distribution_counts_a_value_in_its_bucket_and_all_above() -> None:
    """A bound belongs to its bucket; buckets are cumulative, and count and sum are there."""
    spread = Distribution("a_seconds", "A.", bounds=(1.0, 2.5))
    for value in (0.5, 1.0, 2.0, 9.0):
        spread.observe(value)
    assert list(spread.samples()) == [
        ("_bucket", {"le": "1"}, 2),
        ("_bucket", {"le": "2.5"}, 3),
        ("_bucket", {"le": "+Inf"}, 4),
        ("_count", {}, 4),
        ("_sum", {}, 12.5),
    ]
    assert repr(spread) == "<Distribution a_seconds: 1 series>"


def test_series_beyond_the_most_count_as_other() -> None:
    """However many labels come, a family has that many series and one more."""
    counts = Counts("a_total", "A.", "x", most=2)
    spread = Distribution("a_seconds", "A.", "x", bounds=(1.0,), most=2)
    for at in range(10):
        counts.add(str(at))
        spread.observe(0.5, str(at))
    counts.add("1")
    assert [(labels["x"], value) for _, labels, value in counts.samples()] == [("0", 1), ("1", 2), ("other", 8)]
    assert [labels["x"] for suffix, labels, _ in spread.samples() if suffix == "_count"] == ["0", "1", "other"]
