"""Instances as the tools of NATS see them: asked by nats-py in a process of its own, read by its classes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from aegis_backends.nats.server import NatsServers, open_servers
from aegis_core.errors import RemoteError
from aegis_core.node.call import Call
from aegis_core.node.instance import Instance
from aegis_core.node.node import Node, open_node
from aegis_core.node.service import Service
from tests.backends.nats.peers import Peer, open_peer
from tests.backends.nats.polling import until

_inboxes = count()


def accounts(version: str = "1.2.3-rc.1") -> Service:
    """A service with two methods, of which one fails when it is told to."""
    service = Service("account-service", version=version)

    @service.method
    async def balance(call: Call, amount: int) -> int:
        if amount < 0:
            raise ValueError("negative")
        return amount

    @service.method(name="close.all")
    async def close(call: Call) -> None:
        return

    return service


def nodes(servers: NatsServers) -> str:
    """What nodes open."""
    return f"{servers.url}?storage=memory"


async def ask(peer: Peer, subject: str, answers: int = 1) -> list[dict[str, Any]]:
    """The first *answers* of whoever is asked."""
    inbox = f"answers.{next(_inboxes)}"
    await peer.do("subscribe", inbox)
    await peer.do("publish", subject, reply=inbox)
    return [json.loads((await peer.message())["payload"]) for _ in range(answers)]


async def wait_seen(peer: Peer, instance: Instance) -> None:
    """Wait until *instance* answers for itself."""
    while "error" in await peer.do("request", f"$SRV.PING.account-service.{instance.instance_id}"):
        pass


@asynccontextmanager
async def seen(version: str = "1.2.3-rc.1") -> AsyncIterator[tuple[Peer, Node, Instance]]:
    """A tool, and an instance that it sees."""
    async with (
        open_servers() as servers,
        open_peer(servers.url) as peer,
        open_node(nodes(servers)) as node,
        node.serve(accounts(version)) as instance,
    ):
        await wait_seen(peer, instance)
        yield peer, node, instance


# The structures that the architecture decision record 32 of NATS defines, with the grammars of its schemas.
NAME = re.compile(r"[a-zA-Z0-9_-]+")
SEMVER = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
STANDARD: Mapping[str, type] = {"type": str, "name": str, "id": str, "version": str, "metadata": dict}
INFO: Mapping[str, type] = {**STANDARD, "description": str, "endpoints": list}
STATS: Mapping[str, type] = {**STANDARD, "started": str, "endpoints": list}
ENDPOINT: Mapping[str, type] = {"name": str, "subject": str, "queue_group": str}
ENDPOINT_INFO: Mapping[str, type] = {**ENDPOINT, "metadata": dict}
ENDPOINT_STATS: Mapping[str, type] = {
    **ENDPOINT,
    **dict.fromkeys(("num_requests", "num_errors", "processing_time", "average_processing_time"), int),
    "last_error": str,
    "data": dict,
}


def assert_fits(
    told: Mapping[str, Any], fields: Mapping[str, type], endpoint: Mapping[str, type] | None = None
) -> None:
    """*told* has these fields and no other, of their types."""
    assert {name: type(value) for name, value in told.items()} == fields
    assert NAME.fullmatch(told["name"])
    if "version" in fields:
        assert SEMVER.fullmatch(told["version"])
    if "metadata" in fields:
        assert all(isinstance(value, str) for value in told["metadata"].values())
    for described in told.get("endpoints", ()):
        assert endpoint is not None
        assert_fits(described, endpoint)


async def test_every_instance_answers_to_all_to_its_name_and_to_itself() -> None:
    """And to nothing else: that there is none of another name, the server itself tells."""
    async with (
        open_servers() as servers,
        open_peer(servers.url) as peer,
        open_node(nodes(servers)) as one,
        open_node(nodes(servers)) as other,
        one.serve(accounts()) as first,
        other.serve(accounts()) as second,
    ):
        await wait_seen(peer, first)
        await wait_seen(peer, second)
        ids = {first.instance_id, second.instance_id}
        for verb in ("PING", "INFO", "STATS"):
            for scope in ("", ".account-service"):
                answers = await ask(peer, f"$SRV.{verb}{scope}", 2)
                assert {answer["id"] for answer in answers} == ids
            (alone,) = await ask(peer, f"$SRV.{verb}.account-service.{first.instance_id}")
            assert alone["id"] == first.instance_id
            told = await peer.do("request", f"$SRV.{verb}.another-service")
            assert told["error"] == "NoRespondersError"
        assert peer.messages == []


async def test_answers_have_the_structure_that_tools_expect() -> None:
    """As the record defines them, and as another implementation reads them."""
    async with seen() as (peer, _, instance):
        (ping,) = await ask(peer, "$SRV.PING")
        (info,) = await ask(peer, "$SRV.INFO")
        (stats,) = await ask(peer, "$SRV.STATS")
    assert_fits(ping, STANDARD)
    assert_fits(info, INFO, ENDPOINT_INFO)
    assert_fits(stats, STATS, ENDPOINT_STATS)
    assert [ping["type"], info["type"], stats["type"]] == [
        "io.nats.micro.v1.ping_response",
        "io.nats.micro.v1.info_response",
        "io.nats.micro.v1.stats_response",
    ]
    read: Sequence[ServicePing | ServiceInfo | ServiceStats] = (
        ServicePing.from_dict(ping),
        ServiceInfo.from_dict(info),
        ServiceStats.from_dict(stats),
    )
    for answer in read:
        assert (answer.name, answer.id) == ("account-service", instance.instance_id)
        assert (answer.version, answer.metadata) == ("1.2.3-rc.1", {})
    started = datetime.fromisoformat(stats["started"])
    assert timedelta(0) <= datetime.now(UTC) - started < timedelta(minutes=5)


async def test_methods_are_endpoints_at_the_subject_of_the_instance() -> None:
    """A method's own name stands beside it where it is no name to NATS."""
    async with seen() as (peer, _, instance):
        (info,) = await ask(peer, "$SRV.INFO")
        (subject,) = {endpoint["subject"] for endpoint in info["endpoints"]}
        assert subject.startswith(f"ipc.instance.{instance.instance_id}.inbox.")
        told = await peer.do("request", subject, payload="nonsense")
        assert "error" not in told  # a refusal, but from a handler
    assert [(e["name"], e["metadata"]["method"], e["queue_group"]) for e in info["endpoints"]] == [
        ("balance", "balance", "instance"),
        ("close_all", "close.all", "instance"),
    ]


async def test_statistics_are_those_of_calls() -> None:
    """By method: how many, how many failed and how at last, and what they took."""
    async with seen() as (peer, node, instance):
        for amount in (1, 2, 3):
            await node.call("account-service", "balance", {"amount": amount})
        for amount in (-1, -2):
            with pytest.raises(RemoteError):
                await node.call("account-service", "balance", {"amount": amount})
        (stats,) = await ask(peer, f"$SRV.STATS.account-service.{instance.instance_id}")
    balance, close = stats["endpoints"]
    assert (balance["num_requests"], balance["num_errors"]) == (5, 2)
    assert balance["last_error"].startswith("REMOTE_ERROR")
    assert "negative" in balance["last_error"]
    assert balance["average_processing_time"] == balance["processing_time"] // 5 > 0
    assert (close["num_requests"], close["num_errors"], close["last_error"]) == (0, 0, "")
    assert close["average_processing_time"] == close["processing_time"] == 0


async def test_instance_that_has_gone_does_not_answer() -> None:
    """The server tells that nobody does."""
    async with open_servers() as servers, open_peer(servers.url) as peer, open_node(nodes(servers)) as node:
        async with node.serve(accounts()) as instance:
            await wait_seen(peer, instance)
        while "answer" in await peer.do("request", "$SRV.PING"):
            pass
        for subject in ("$SRV.PING", "$SRV.STATS.account-service", f"$SRV.INFO.account-service.{instance.instance_id}"):
            assert (await peer.do("request", subject))["error"] == "NoRespondersError"


async def test_unknown_verb_is_not_answered_and_does_no_harm() -> None:
    """Somebody may invent one."""
    async with seen() as (peer, _, instance):
        for subject in ("$SRV.SCHEMA", "$SRV.ping", "$SRV.PING"):
            await peer.do("publish", subject)
        told = await peer.do("request", "$SRV.SCHEMA.account-service", timeout=0.2)
        assert told["error"] == "TimeoutError"
        (ping,) = await ask(peer, "$SRV.PING")
        assert ping["id"] == instance.instance_id


async def test_answer_is_not_written_over_a_key() -> None:
    """Who asks may not be allowed to write there; the instance is, and lends its permission to nobody."""
    async with seen() as (peer, _, instance):
        await peer.do("subscribe", "$KV.service-registry.stranger")
        await peer.do("subscribe", "answers.allowed")
        for reply in ("$KV.service-registry.stranger", "answers.allowed"):
            await peer.do("publish", f"$SRV.PING.account-service.{instance.instance_id}", reply=reply)
        assert (await peer.message())["subject"] == "answers.allowed"


async def test_version_that_is_none_to_nats_is_told_beside() -> None:
    """Tools expect a semantic version, and refuse to read another."""
    async with seen("2026 spring") as (peer, _, _):
        (ping,) = await ask(peer, "$SRV.PING")
    assert (ping["version"], ping["metadata"]) == ("0.0.0", {"version": "2026 spring"})


async def test_server_that_does_not_allow_it_is_no_reason_not_to_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and calls are served."""
    settings = """no_auth_user: tool, authorization { users: [
        { user: tool, password: pw }, { user: alice, password: pw, permissions: { subscribe: { deny: "$SRV.>" } } }
    ] }"""
    async with (
        open_servers(directory=tmp_path, settings=settings) as servers,
        open_node(f"{nodes(servers)}&user=alice&password=pw") as node,
        node.serve(accounts()),
    ):
        await until(lambda: "the tools of NATS do not see account-service-" in caplog.text)
        assert await node.call("account-service", "balance", {"amount": 1}) == 1
