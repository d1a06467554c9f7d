"""Events and errors as values: how they compare and how they show themselves."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

from aegis_core import ResourceConflict, ResourceExpired, ResourceReleased

AT = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


def test_events_are_equal_when_their_kind_and_all_their_fields_are() -> None:
    """A reader can compare what came with what was expected, and put events into sets."""
    one, same = (ResourceReleased(resource_id="a", at=AT, epoch=7) for _ in range(2))
    assert one == same
    assert len({one, same}) == 1
    assert one != ResourceReleased(resource_id="a", at=AT, epoch=8)
    assert one != ResourceExpired(resource_id="a", at=AT, epoch=7)
    assert pickle.loads(pickle.dumps(one)) == one


def test_event_shows_its_kind_and_fields() -> None:
    """What a failed assertion prints tells which event it was."""
    shown = repr(ResourceReleased(resource_id="a", at=AT, epoch=7, reason="released"))
    assert shown.startswith("ResourceReleased(service_name='', instance_id='', resource_id='a', revision=0, at=")
    assert shown.endswith(", epoch=7, reason='released')")


def test_error_shows_its_class_and_what_it_carries() -> None:
    """For a debugger; people read its text."""
    assert (
        repr(ResourceConflict(resource_id="a", owner="one"))
        == "ResourceConflict(owner='one', resource_id='a', conflicts={}, reason='')"
    )
