"""Who may import whom, checked on the source; each rule is first shown to bite."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.house import import_rules, source
from tests.house.source import Module, module

Rule = Callable[[Iterable[Module]], list[str]]


@pytest.mark.parametrize(
    "rule",
    [
        import_rules.impure_engine,
        import_rules.upward_imports,
        import_rules.backends_by_name,
        import_rules.outside_doorways,
        import_rules.nameless_modules,
    ],
    ids=lambda rule: rule.__name__,
)
def test_packages_keep_the_rule(rule: Rule) -> None:
    """No module of the three packages breaks the rule."""
    assert rule(source.product()) == []


def test_every_file_is_named_for_what_it_holds() -> None:
    """Tests and examples keep the naming rule, too."""
    assert import_rules.nameless_modules(source.everything()) == []


def test_nothing_is_mocked() -> None:
    """No file of the project uses a mock library."""
    assert len(source.tests()) > 30
    assert import_rules.mocks(source.everything()) == []


def test_the_rules_saw_every_part() -> None:
    """The rules are not kept because nothing was read."""
    names = {read.name for read in source.product()}
    assert len(names) > 30
    for part in (
        "aegis_core.engine",
        "aegis_core.node",
        "aegis_core.cli",
        "aegis_backends.memory",
        "aegis_pytest.conformance",
    ):
        assert part in names
    assert sum(len(read.imports) for read in source.product()) > 200


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (import_rules.impure_engine, "aegis_core.engine.roles", "import trio"),
        (import_rules.impure_engine, "aegis_core.engine.roles", "import msgpack"),
        (import_rules.impure_engine, "aegis_core.engine.roles", "from time import monotonic"),
        (import_rules.impure_engine, "aegis_core.engine", "from aegis_core import codec"),
        (import_rules.impure_engine, "aegis_core.engine", "from aegis_core.node import node"),
        (import_rules.impure_engine, "aegis_core.engine.x", "import aegis_backends.memory"),
        (import_rules.upward_imports, "aegis_core.node.lease", "from aegis_core import router"),
        (import_rules.upward_imports, "aegis_core.node.lease", "import aegis_core.cli"),
        (import_rules.upward_imports, "aegis_core.router.wire", "import aegis_core.cli"),
        (import_rules.upward_imports, "aegis_core.models", "from aegis_core.router import wire"),
        (import_rules.backends_by_name, "aegis_core.plugins", "import aegis_backends.memory"),
        (import_rules.backends_by_name, "aegis_core.node", "def f():\n    import aegis_pytest"),
        (import_rules.backends_by_name, "aegis_backends.nats", "from aegis_core import Node"),
        (import_rules.backends_by_name, "aegis_backends.nats", "import aegis_core.node.lease"),
        (import_rules.backends_by_name, "aegis_backends.nats", "import aegis_pytest.faults"),
        (import_rules.outside_doorways, "aegis_core.events", "from cattrs import Converter"),
        (import_rules.outside_doorways, "aegis_core.node.client", "import pluggy"),
        (import_rules.outside_doorways, "aegis_core.config", "import some_new_thing"),
        (import_rules.outside_doorways, "aegis_core.router", "import prometheus_client as p"),
        (import_rules.nameless_modules, "aegis_core.node.utils", ""),
        (import_rules.nameless_modules, "aegis_core.node._helpers", ""),
        (import_rules.nameless_modules, "aegis_core.service_registry", ""),
        (import_rules.nameless_modules, "tests.node.test_lease_manager", ""),
        (import_rules.mocks, "tests.node.test_lease", "from unittest import mock"),
        (import_rules.mocks, "tests.node.test_lease", "def f():\n    from unittest.mock import patch"),
        (import_rules.mocks, "tests.node.test_lease", "def test_it(mocker): ..."),
    ],
)
def test_rule_bites(rule: Rule, name: str, text: str) -> None:
    """Each kind of violation is found, wherever in the module it stands."""
    assert len(rule([module(name, text)])) == 1


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (import_rules.impure_engine, "aegis_core.engine.roles", "from aegis_core import models"),
        (import_rules.impure_engine, "aegis_core.engine.roles", "import attrs, datetime, enum"),
        (import_rules.impure_engine, "aegis_core.node.lease", "import trio, aegis_core.codec"),
        (import_rules.upward_imports, "aegis_core.cli.serve", "import aegis_core.router"),
        (import_rules.backends_by_name, "aegis_backends.nats", "from aegis_core import errors"),
        (import_rules.backends_by_name, "aegis_pytest.cluster", "from aegis_core import Node"),
        (import_rules.outside_doorways, "aegis_core.codec", "import msgpack, json, trio"),
        (import_rules.outside_doorways, "aegis_core.cli.app", "from rich.live import Live"),
        (import_rules.nameless_modules, "aegis_core.node.service", ""),
        (import_rules.mocks, "tests.node.test_lease", "import unittest\ndef test_it(monkeypatch): ..."),
    ],
)
def test_rule_lets_pass_what_it_should(rule: Rule, name: str, text: str) -> None:
    """What the layout is made of is no violation."""
    assert rule([module(name, text)]) == []
