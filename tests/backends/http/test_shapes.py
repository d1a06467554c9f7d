"""Values as JSON: whole, as the standard library would write them, whatever users put into them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import attrs
import pytest

from aegis_backends.http.shapes import JsonText, shape_of
from aegis_core.events import RoleChanged
from aegis_core.models import ClaimReply, Explanation, Role, ServiceInstance

AT = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)
INSTANCE = ServiceInstance(service_name="svc", instance_id="one", lease="tag", registered_at=AT, last_heartbeat=AT)


def nested(depth: int) -> dict[str, object]:
    """A map in a map in a map."""
    found: dict[str, object] = {}
    for _ in range(depth):
        found = {"in": [found]}
    return found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param('ä\n"\\\u2028', 'ä\n"\\\u2028', id="text"),
        pytest.param([True, False, None, 1, -2.5, 10**40], [True, False, None, 1, -2.5, 10**40], id="plain"),
        pytest.param((math.inf, math.nan, 1e300), [None, None, 1e300], id="numbers that are none"),
        pytest.param({"a": [math.nan, b"\x01\xff"]}, {"a": [None, "01ff"]}, id="numbers that are none, deep"),
        pytest.param({b"key": 1, 2: {None: 3}}, {"b'key'": 1, "2": {"null": 3}}, id="odd keys"),
        pytest.param({"at": AT, "set": {1}}, {"at": "2030-01-31T12:00:00+00:00", "set": "{1}"}, id="others"),
        pytest.param([b"\x01", {1}, Role.ACTIVE], ["01", "{1}", "ACTIVE"], id="others in a list"),
        pytest.param((b"\x01", {1}), ["01", "{1}"], id="others alone"),
        pytest.param(MappingProxyType({"a": (AT, Role.ACTIVE)}), {"a": [AT.isoformat(), "ACTIVE"]}, id="ours"),
        pytest.param({"a": MappingProxyType({"b": 1})}, {"a": {"b": 1}}, id="ours in theirs"),
        pytest.param(nested(200), nested(200), id="deep"),
        pytest.param({1: nested(100_000)}, "nested too deeply", id="too deep"),
    ],
)
def test_any_value_is_written(value: object, expected: object) -> None:
    """Nothing raises, and nothing is invalid."""
    assert json.loads(JsonText()(value)) == expected


def test_depth_that_travels_is_written() -> None:
    """As deep as MessagePack lets anything come."""
    assert json.loads(JsonText()({"attributes": nested(250)}))["attributes"]["in"]


def test_classes_show_their_fields_and_some_properties() -> None:
    """Events their kind, replies whether they are a success; nobody a lease."""
    told = json.loads(JsonText()(RoleChanged(service_name="svc", new=Role.ACTIVE, at=AT)))
    assert [told["kind"], told["old"], told["new"], told["at"]] == ["role_changed", None, "ACTIVE", AT.isoformat()]
    assert json.loads(JsonText()(ClaimReply(conflicts={"a": "b"})))["success"] is False
    shown = json.loads(JsonText()(Explanation(resource_id="a", owner=INSTANCE)))
    assert shown["owner"]["status"] == "STANDBY"
    assert "lease" not in shown["owner"]
    assert shown["owner"].keys() == shape_of(ServiceInstance).fields.keys()


def test_text_of_an_instance_is_kept_while_its_record_stays() -> None:
    """And never longer; no more are kept than said."""
    write = JsonText(kept=2)
    assert write(INSTANCE) is write(INSTANCE)
    changed = attrs.evolve(INSTANCE, priority=7)
    assert json.loads(write(changed))["priority"] == 7
    for name in ("two", "three"):
        assert json.loads(write(attrs.evolve(INSTANCE, instance_id=name)))["instance_id"] == name
    assert "1 instances kept" in repr(write)


@attrs.frozen
class Told:
    """One class.

    Args:
        first: Says one thing
            over two lines.
        second: Says another.

    What comes after is about neither.
    """

    first: Mapping[str, int]
    second: int = 0


@attrs.frozen
class ToldMore(Told):
    """Another.

    Args:
        second: Says it better.
    """


def test_docstrings_tell_of_fields() -> None:
    """Those of bases, too."""
    assert shape_of(ToldMore).says == {"first": "Says one thing over two lines.", "second": "Says it better."}
