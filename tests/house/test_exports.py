"""The public face: what is promised is there, what is there is promised."""

from __future__ import annotations

import importlib
import types

import pytest

from tests.house import export_rules, source
from tests.house.source import module

# What code outside this repository may rely on; a name leaves this list with a major version.
PROMISED = frozenset({
    # the program
    "Call", "Claim", "Health", "Instance", "Node", "Outcome", "Resource", "ResourceMetadata",
    "Role", "Service", "open_node",
    # errors
    "AegisError", "CallTimeout", "ConfigError", "Forbidden", "InstanceConflict",
    "InstanceNotFound", "InvalidRequest", "LeaseLost", "Misdirected", "NoInstance", "NodeCrashed",
    "NotOwner", "Overloaded", "RemoteError", "ResourceConflict", "ResourceLimitExceeded",
    "ResourceNotFound", "RoleConflict", "ServiceNotFound", "StoreUnavailable",
    "TransportUnavailable", "Unauthorized", "VersionConflict",
    # events
    "BulkProgress", "InstanceDeregistered", "InstanceHealthChanged", "InstanceLost",
    "InstanceRegistered", "OrphanSwept", "ResourceExpired", "ResourceRegistered",
    "ResourceReleased", "ResourceTransferred", "Resync", "RoleChanged", "ScopeOverran",
})  # fmt: skip


def test_modules_offer_what_they_define() -> None:
    """Each ``__all__`` is sorted and equal to the module's public definitions."""
    assert export_rules.wrong_exports(source.product()) == []


@pytest.mark.parametrize("name", export_rules.PUBLIC_MODULES)
def test_what_a_public_module_offers_is_importable(name: str) -> None:
    """``from module import *`` binds each promised name, and nothing else is public."""
    imported = importlib.import_module(name)
    assert imported.__all__, f"{name} offers nothing"
    for offered in imported.__all__:
        assert not isinstance(getattr(imported, offered), types.ModuleType)


def test_promised_names_are_exported() -> None:
    """Code written against the documented names finds them in `aegis_core`."""
    assert sorted(PROMISED - set(importlib.import_module("aegis_core").__all__)) == []


def test_every_error_and_event_is_exported() -> None:
    """An error or event that can reach the user can be named by the user."""
    errors = importlib.import_module("aegis_core.errors").__all__
    events = importlib.import_module("aegis_core.events").__all__
    assert len(errors) > 20
    assert len(events) > 10
    assert set(errors) | set(events) <= set(importlib.import_module("aegis_core").__all__)


def test_rule_finds_each_kind_of_wrong_export() -> None:
    """A lacking, an unsorted, an untrue and an incomplete ``__all__`` are all found."""
    for name, text in {
        "aegis_core.errors": "class AegisError(Exception): ...",
        "aegis_core.plugins": "__all__ = ['b', 'a']\na = b = 1",
        "aegis_core.codec": "__all__ = ['gone']",
        "aegis_core.names": "__all__ = []\ndef parse(): ...",
    }.items():
        assert len(export_rules.wrong_exports([module(name, text)])) == 1


def test_rule_lets_a_module_offer_what_it_imports_and_hide_what_is_not_public() -> None:
    """A package offers all that it imports from ours; a module may; type variables are nobody's business."""
    text = "from aegis_core.errors import AegisError, ConfigError\n__all__ = ['AegisError']"
    assert len(export_rules.wrong_exports([module("aegis_core", text, package=True)])) == 1
    assert export_rules.wrong_exports([module("aegis_core.backend", text)]) == []
    hiding = "__all__ = ['load']\nT = TypeVar('T')\n_CACHE = {}\ndef load(): ..."
    assert export_rules.wrong_exports([module("aegis_core.names", hiding)]) == []


def test_names_sort_as_the_linter_sorts_them() -> None:
    """Constants come first, then classes, then functions."""
    names = ["open_node", "Role", "ANY", "Call", "rank10", "rank9"]
    assert sorted(names, key=export_rules.lint_order) == [
        "ANY", "Call", "Role", "open_node", "rank9", "rank10",
    ]  # fmt: skip
