"""A page of metrics as the official parser reads it."""

from __future__ import annotations

import attrs
from prometheus_client.parser import text_string_to_metric_families

from aegis_core import Node
from aegis_core.observe.metrics import exposition

__all__ = ["Page", "parse", "scrape"]


@attrs.frozen
class Page:
    """One page: its samples by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float | None:
        """The sample with exactly these labels, None if there is none."""
        return self.samples.get((name, frozenset(labels.items())))

    def series(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """All samples of that name, by their labels."""
        return {labels: value for (found, labels), value in self.samples.items() if found == name}


def parse(text: str) -> Page:
    """The page *text*; each family, and each sample, stands on it once."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples
            samples[key] = sample.value
    return Page(samples)


async def scrape(node: Node) -> Page:
    """The metrics of *node*."""
    return parse((await exposition(node)).decode())
