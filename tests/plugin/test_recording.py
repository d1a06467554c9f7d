"""Handled calls, kept in a file and replayed against another instance."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis_core import Call, Instance, RemoteError, ResourceNotFound, Service, codec
from aegis_pytest.call_log import CallLog
from aegis_pytest.cluster import Cluster
from aegis_pytest.recording import MAX_FILE, Recording

rooms = Service("rooms", version="1")


@rooms.on_acquire
async def open_book(_claim: object) -> list[str]:
    """Nobody yet."""
    return []


@rooms.method
async def book(call: Call, guest: str) -> dict[str, object]:
    """Enter a guest."""
    if guest in call.state:
        raise ValueError(f"{guest} is here already")
    call.state.append(guest)
    return {"guests": list(call.state), "epoch": call.epoch, "raw": b"\x00"}


@rooms.method
async def greet(call: Call, guest: str) -> str:
    """Without a resource."""
    assert call.instance is not None
    return f"{guest}, this is {call.instance.service.version}"


async def record(cluster: Cluster, calls: CallLog) -> Recording:
    """Four calls, one of which fails, at an instance that is gone afterwards."""
    instance = await cluster.serve("old", rooms)
    await instance.claim("room:7")
    caller = await cluster.node("caller")
    for guest in ("Ada", "Eve"):
        await caller.call("rooms", "book", {"guest": guest}, resource_id="room:7", idempotency_key=guest)
    with pytest.raises(RemoteError):
        await caller.call("rooms", "book", {"guest": "Ada"}, resource_id="room:7")
    await caller.call("rooms", "greet", {"guest": "Ada"})
    with pytest.raises(ResourceNotFound):
        await caller.call("rooms", "book", {"guest": "Ada"}, resource_id="room:8")
    await instance.release("room:7")
    return calls.recording("rooms")


async def successor(cluster: Cluster, service: Service = rooms) -> Instance:
    """An instance that owns the room now."""
    instance = await cluster.serve("new", service)
    await instance.claim("room:7")
    return instance


async def test_recording_is_replayed_from_its_file(
    aegis_cluster: Cluster, aegis_calls: CallLog, tmp_path: Path
) -> None:
    """Requests, answers and order come back as they were; another instance of the program answers the same."""
    recorded = await record(aegis_cluster, aegis_calls)
    recorded.write(tmp_path / "calls")
    read = Recording.read(tmp_path / "calls")
    assert list(map(str, read.calls)) == list(map(str, recorded.calls))
    assert [call.request.params["guest"] for call in read.calls] == ["Ada", "Eve", "Ada", "Ada"]
    assert [call.request.idempotency_key for call in read.calls] == ["Ada", "Eve", None, None]
    assert repr(read) == "<Recording of 4 calls>"
    instance, caller = await successor(aegis_cluster), await aegis_cluster.node("caller")
    await read.replay(caller, instance, ignoring=["$.epoch"])
    assert len(aegis_calls.of("rooms", instance_id=instance.instance_id)) == 4


async def test_same_calls_give_the_same_file(aegis_cluster: Cluster, aegis_calls: CallLog, tmp_path: Path) -> None:
    """Nothing in it belongs to the moment; written again it is the same."""
    recorded = await record(aegis_cluster, aegis_calls)
    recorded.write(tmp_path / "one")
    Recording.read(tmp_path / "one").write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert all(call.request.trace_id == "" for call in Recording.read(tmp_path / "one").calls)


async def test_what_differs_is_told(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """By path in results; whole, where it is no result on both sides. All calls are replayed."""
    recorded = await record(aegis_cluster, aegis_calls)
    others = Service("rooms", version="2")
    others.on_acquire(open_book)
    others.method(greet)

    @others.method(name="book")
    async def book_again(call: Call, guest: str) -> dict[str, object]:
        call.state.append(guest.lower())
        return {"guests": list(call.state), "epoch": str(call.epoch), "floor": 3}

    instance, caller = await successor(aegis_cluster, others), await aegis_cluster.node("caller")
    with pytest.raises(AssertionError) as caught:
        await recorded.replay(caller, instance, ignoring=["$.raw", "$.epoch"])
    epoch = next(iter(instance.claims.values())).epoch
    assert str(caught.value).splitlines() == [
        f"{instance.instance_id} answers 4 of the 4 recorded calls differently:",
        "  call 1, rooms.book(guest='Ada') of room:7:",
        "    $.guests[0]: recorded 'Ada', answered 'ada'",
        "    $.floor: recorded nothing, answered 3",
        "  call 2, rooms.book(guest='Eve') of room:7:",
        "    $.guests[0]: recorded 'Ada', answered 'ada'",
        "    $.guests[1]: recorded 'Eve', answered 'eve'",
        "    $.floor: recorded nothing, answered 3",
        "  call 3, rooms.book(guest='Ada') of room:7:",
        "    recorded RemoteError: ValueError: Ada is here already",
        f"    answered {{'guests': ['ada', 'eve', 'ada'], 'epoch': '{epoch}', 'floor': 3}}",
        "  call 4, rooms.greet(guest='Ada'):",
        "    $: recorded 'Ada, this is 1', answered 'Ada, this is 2'",
    ]
    instance_again = (await aegis_cluster.serve("newer", others)).instance_id
    await instance.transfer("room:7", to=instance_again)
    last = (await aegis_cluster.wait_owner("room:7", "newer")).instance
    with pytest.raises(AssertionError) as caught:
        await recorded.replay(caller, last, ignoring=["$.raw", "$.epoch", "$.floor", "$.guests[]"])
    assert "answers 2 of the 4 recorded calls differently" in str(caught.value)


async def test_single_path_may_stand_for_itself(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """It ignores what it names, and nothing else."""
    recorded = await record(aegis_cluster, aegis_calls)
    instance, caller = await successor(aegis_cluster), await aegis_cluster.node("caller")
    with pytest.raises(AssertionError, match=r"\$\.epoch: recorded"):
        await recorded.replay(caller, instance, ignoring="$.guests")


@pytest.mark.parametrize("path", ["$", "", "epoch", ".epoch"])
async def test_path_that_is_none_within_a_result_is_refused(
    aegis_cluster: Cluster, aegis_calls: CallLog, path: str
) -> None:
    """It would ignore everything, or nothing. Before anything is sent."""
    recorded = await record(aegis_cluster, aegis_calls)
    instance, caller = await successor(aegis_cluster), await aegis_cluster.node("caller")
    before = len(aegis_calls)
    with pytest.raises(
        pytest.UsageError, match=rf"^ignoring: '{re.escape(path)}' is no path within a result; name what"
    ):
        await recorded.replay(caller, instance, ignoring=["$.epoch", path])
    assert len(aegis_calls) == before


async def test_many_differences_are_told_in_a_few_lines(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Five differences of a call, and thirteen lines of all; the others are counted."""
    lists = Service("lists")

    @lists.method
    async def count(call: Call) -> list[str]:
        assert call.instance is not None
        return [call.instance.instance_id] * 20

    caller = await aegis_cluster.node("caller")
    one, two = [await aegis_cluster.serve(name, lists) for name in "ab"]
    for _ in range(9):
        await caller.call("lists", "count", instance_id=one.instance_id)
    with pytest.raises(AssertionError) as caught:
        await aegis_calls.recording("lists", "count").replay(caller, two)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("answers 9 of the 9 recorded calls differently:")
    assert len(lines) == 1 + 13
    assert (lines[6], lines[-1]) == ("    and 16 more lines", "  and 19 more lines")


async def test_what_is_no_number_is_the_same_again(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """A handler that answers NaN answers as it did, though NaN equals nothing."""
    means = Service("means")

    @means.method
    async def mean(call: Call, numbers: list[float]) -> float:
        return sum(numbers) / len(numbers) if numbers else math.nan

    caller, instance = await aegis_cluster.node("caller"), await aegis_cluster.serve("a", means)
    for numbers in ([], [1.0, 2.0]):
        await caller.call("means", "mean", {"numbers": numbers})
    await aegis_calls.recording("means").replay(caller, instance)


async def test_replay_against_who_cannot_answer_is_refused(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Before anything is sent: it would be another one that answers, or nobody."""
    recorded = await record(aegis_cluster, aegis_calls)
    caller, before = await aegis_cluster.node("caller"), len(aegis_calls)
    instance = await aegis_cluster.serve("new", rooms)
    with pytest.raises(pytest.UsageError, match=r"a recorded call concerns 'room:7', which .* has not claimed"):
        await recorded.replay(caller, instance)
    stranger = await aegis_cluster.serve("new", Service("cars"))
    with pytest.raises(pytest.UsageError, match=r"a call of service 'rooms' cannot be replayed against .* 'cars'"):
        await recorded.replay(caller, stranger)
    assert len(aegis_calls) == before


async def test_recording_without_calls_is_not_replayed(aegis_cluster: Cluster, aegis_calls: CallLog) -> None:
    """Whatever the instance does, it would answer the same."""
    instance, caller = await successor(aegis_cluster), await aegis_cluster.node("caller")
    with pytest.raises(pytest.UsageError, match=r"^the recording has no calls, which every instance answers"):
        await aegis_calls.recording("rooms").replay(caller, instance)


GOOD = codec.encode_plain({"format": "aegis-recording-1", "calls": []})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not MessagePack"),
        (GOOD[:-1], "not MessagePack"),
        (GOOD + b"\x00", "not MessagePack"),
        (codec.encode_plain([1]), "it does not say its format"),
        (codec.encode_plain({"format": "aegis-recording-2", "calls": []}), "format is aegis-recording-2, this version"),
        (codec.encode_plain({"format": "aegis-recording-1", "calls": {}}), "it does not say its format"),
        (
            codec.encode_plain({"format": "aegis-recording-1", "calls": [b""]}),
            "call 1: expected a request and an answer",
        ),
        (codec.encode_plain({"format": "aegis-recording-1", "calls": [[b"?", b""]]}), "call 1: invalid request"),
        (codec.encode_plain({"format": "aegis-recording-1", "calls": [0] * 400_000}), "exceeds"),
        (bytes(MAX_FILE + 1), "more than 67108864 bytes"),
    ],
    ids=["empty", "cut", "long", "list", "newer", "map", "call", "request", "many", "large"],
)
def test_file_that_is_no_recording_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    """With what is wrong with it."""
    path = tmp_path / "calls"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"calls is no recording: .*{why}"):
        Recording.read(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    """By the one error that is promised."""
    path = tmp_path / "calls"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no recording"):
        Recording.read(path)


async def test_recording_of_too_many_calls_is_not_written(
    aegis_cluster: Cluster, aegis_calls: CallLog, tmp_path: Path
) -> None:
    """What is written can be read."""
    (call, *_) = (await record(aegis_cluster, aegis_calls)).calls
    with pytest.raises(ValueError, match="100001 calls are too many"):
        Recording((call,) * 100_001).write(tmp_path / "calls")
    Recording((call,) * 1000).write(tmp_path / "calls")
    assert len(Recording.read(tmp_path / "calls").calls) == 1000
